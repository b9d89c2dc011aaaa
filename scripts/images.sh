#!/usr/bin/env bash
# Builds the images of deploy/docker without Docker, starts each service's and asks it for its health.
# Usage: scripts/images.sh [TARGET ...]   (without: all; TORCH=cpu for a loader without CUDA)
# For root on Debian 12: gets buildah and mmdebstrap if they are missing. The base is Debian without documentation,
# locales and Perl's modules; BASE names another image instead. PIP_INDEX_URL and UV_DEFAULT_INDEX name a mirror of the
# package index; what is fetched is trusted by this machine's authorities. STORAGE_DRIVER=overlay spares what vfs does, which
# copies every layer, but needs a filesystem that overlayfs can lie on.
# What it builds lies below IMAGES (a temporary folder that goes at the end, unless it is named).
set -euo pipefail
cd "$(dirname "$0")/.."
most_mb=250 # of a service without torch, uncompressed
targets=("$@")
[ $# -gt 0 ] || targets=(record download install gateway tools loader)

[ "$(id -u)" = 0 ] || { echo "images: needs root, as buildah does here" >&2; exit 1; }
missing=()
for program in buildah mmdebstrap; do command -v "$program" >/dev/null || missing+=("$program"); done
if [ ${#missing[@]} -gt 0 ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends "${missing[@]}" >/dev/null
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

# A service with the environment and user of its image and a read-only root, as Compose starts it, but on loopback without
# TLS and with empty memory for volumes; ends when it is ready. It has no namespaces of its own but that of mounts.
try() {
    local service="$1" prefix="MODELKEEP_${1^^}" container root user env
    container="$(buildah from "localhost/modelkeep/$service")"
    root="$(buildah mount "$container")"
    user="$(buildah inspect --format '{{.OCIv1.Config.User}}' "$container")"
    mapfile -t env < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | grep .)
    env+=("${prefix}_HOST=127.0.0.1" "${prefix}_PORT=0" "${prefix}_METRICS_PORT=$2" "${prefix}_INSECURE=true")
    # shellcheck disable=SC2016  # the inner shell's own variables
    root="$root" user="$user" service="$service" log="$work/$service.log" unshare --mount --pid --fork --kill-child bash -euc '
        mount --bind "$root" "$root"
        mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        for volume in /var/lib/modelkeep /run/modelkeep; do
            mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs "$root$volume"
        done
        inside() { chroot --userspec="$user" --groups= "$root" env -i "$@"; }
        inside "$@" python -P -m "modelkeep_$service" >"$log" 2>&1 &
        until inside "$@" python -P -m "modelkeep_$service" --health; do
            if [ $SECONDS -gt 180 ] || ! kill -0 $! 2>/dev/null; then
                tail -20 "$log" >&2
                echo "images: $service does not become ready" >&2
                exit 1
            fi
            sleep 1
        done
        kill $!
        wait $! || [ $? = 143 ]
    ' try "${env[@]}"
    buildah rm "$container" >/dev/null
}

authorities=/etc/ssl/certs/ca-certificates.crt
port=19464
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
        try "$target" $((port += 1))
        ;;
    loader) try "$target" $((port += 1)) ;;
    esac
done
