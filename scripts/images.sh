#!/usr/bin/env bash
# Builds the images of deploy/docker without Docker, and starts them as Compose would: scripts/compose_images.py.
# Usage: scripts/images.sh [TARGET ...]   (without: all; TORCH=cpu for a loader without CUDA)
# For root on Debian 12: gets buildah, mmdebstrap and iproute2 if they are missing. The base is Debian without documentation,
# locales and Perl's modules; BASE names another image instead. PIP_INDEX_URL and UV_DEFAULT_INDEX name a mirror of the
# package index; what is fetched is trusted by this machine's authorities. STORAGE_DRIVER=overlay spares what vfs does, which
# copies every layer, but needs a filesystem that overlayfs can lie on.
# What it builds lies below IMAGES (a temporary folder that goes at the end, unless it is named).
set -euo pipefail
cd "$(dirname "$0")/.."
most_mb=250 # of a service without torch, uncompressed
python="${VENV:-.venv}/bin/python"
targets=(tools) # it makes the certificates for all
for target in "${@:-record download install gateway loader}"; do
    # shellcheck disable=SC2206  # the default is five words
    [ "$target" = tools ] || targets+=($target)
done

[ "$(id -u)" = 0 ] || { echo "images: needs root, as buildah does here" >&2; exit 1; }
missing=()
command -v buildah >/dev/null || missing+=(buildah)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
    get=(env DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends "${missing[@]}")
    "${get[@]}" >/dev/null || { apt-get update -qq && "${get[@]}" >/dev/null; }
fi

work="${IMAGES:-$(mktemp -d)}"
mkdir -p "$work"
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-vfs}")
buildah() { command buildah "${storage[@]}" "$@"; }
tidy() {
    buildah umount --all >/dev/null 2>&1 || true
    [ -n "${IMAGES:-}" ] || rm -rf "$work"
}
trap tidy EXIT

base="${BASE:-}"
if [ -z "$base" ]; then
    base=localhost/modelkeep/base
    echo "images: making a base"
    mmdebstrap --quiet --variant=essential --include=python3,python3-venv,ca-certificates,libstdc++6 \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='rm -r "$1"/usr/share/perl "$1"/usr/lib/*/perl' \
        bookworm "$work/base.tar"
    made="$(buildah from scratch)"
    buildah add --quiet "$made" "$work/base.tar" / >/dev/null
    buildah commit --quiet --rm "$made" "$base" >/dev/null
    rm "$work/base.tar"
fi

authorities=/etc/ssl/certs/ca-certificates.crt
for target in "${targets[@]}"; do
    echo "images: building $target"
    buildah bud --quiet --layers --isolation chroot --format docker --file deploy/docker/Dockerfile --target "$target" \
        --build-arg "BASE=$base" --build-arg "TORCH=${TORCH:-cuda}" --build-arg "PIP_INDEX_URL=${PIP_INDEX_URL:-}" \
        --build-arg "UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-}" --volume "$authorities:$authorities:ro" \
        --build-arg "PIP_CERT=$authorities" --tag "localhost/modelkeep/$target" . >/dev/null
    container="$(buildah from "localhost/modelkeep/$target")"
    size="$(du -sm --apparent-size "$(buildah mount "$container")" | cut -f1)"
    buildah rm "$container" >/dev/null
    echo "images: $target: $size MB"
    case "$target" in
    record | download | install)
        [ "$size" -lt "$most_mb" ] || { echo "images: $target is larger than $most_mb MB" >&2; exit 1; }
        ;;
    esac
done
BUILDAH="buildah ${storage[*]}" "$python" scripts/compose_images.py "$work" "${targets[@]}"
