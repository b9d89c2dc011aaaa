#!/usr/bin/env bash
# Builds the images of deploy/docker without Docker, starts each service's and asks it for its health.
# Usage: scripts/images.sh [TARGET ...]   (without: all; TORCH=cpu for a loader without CUDA)
# For root on Debian 12: gets buildah and mmdebstrap if they are missing. The base is Debian without documentation and
# locales; BASE names another image instead. PIP_INDEX_URL and UV_DEFAULT_INDEX name a mirror of the package index.
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
run=()
tidy() {
    [ ${#run[@]} = 0 ] || kill "${run[@]}" 2>/dev/null || true
    [ -n "${IMAGES:-}" ] || rm -rf "$work"
}
trap tidy EXIT
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

base="${BASE:-}"
if [ -z "$base" ]; then
    base=localhost/modelkeep/base
    echo "images: making a base"
    mmdebstrap --quiet --variant=essential --include=python3,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        bookworm "$work/base.tar"
    made="$(buildah from scratch)"
    buildah add --quiet "$made" "$work/base.tar" / >/dev/null
    buildah commit --quiet --rm "$made" "$base" >/dev/null
    rm "$work/base.tar"
fi

# A service as Compose would start it, but on loopback without TLS; exits when it is ready.
try() {
    local service="$1" prefix="MODELKEEP_${1^^}" container began=$SECONDS
    container="$(buildah from "localhost/modelkeep/$service")"
    local env=(--env "${prefix}_HOST=127.0.0.1" --env "${prefix}_PORT=0" --env "${prefix}_INSECURE=true"
        --env "${prefix}_METRICS_PORT=$2")
    command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs run --isolation chroot \
        "${env[@]}" "$container" -- python -P -m "modelkeep_$service" >"$work/$service.log" 2>&1 &
    run+=($!)
    until buildah run --isolation chroot "${env[@]}" "$container" -- python -P -m "modelkeep_$service" --health; do
        if [ $((SECONDS - began)) -gt 180 ] || ! kill -0 "${run[-1]}" 2>/dev/null; then
            tail -20 "$work/$service.log" >&2
            echo "images: $service does not become ready" >&2
            exit 1
        fi
        sleep 1
    done
    kill "${run[-1]}"
    wait "${run[-1]}" || true
    buildah rm "$container" >/dev/null
}

port=19464
for target in "${targets[@]}"; do
    echo "images: building $target"
    buildah bud --quiet --isolation chroot --format docker --file deploy/docker/Dockerfile --target "$target" \
        --build-arg "BASE=$base" --build-arg "TORCH=${TORCH:-cuda}" --build-arg "PIP_INDEX_URL=${PIP_INDEX_URL:-}" \
        --build-arg "UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-}" --tag "localhost/modelkeep/$target" . >/dev/null
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
