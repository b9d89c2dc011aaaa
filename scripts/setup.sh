#!/usr/bin/env bash
# Makes .venv as the pinned requirements say. Usage: scripts/setup.sh [run|dev]
#   run  what the services, the client and the command line need
#   dev  that, and what the tests and checks need (the default)
# A stamp holding a hash of the requirements makes a second call cost nothing.
# PYTHON chooses the interpreter (3.11 or newer); VENV another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

level="${1:-dev}"
venv="${VENV:-.venv}"
case "$level" in
run) files=(requirements/build.txt requirements/all.txt) ;;
dev) files=(requirements/build.txt requirements/all.txt requirements/dev.txt) ;;
*) echo "setup: unknown level '$level'; say run or dev" >&2 && exit 2 ;;
esac

# The place is part of the key: an environment holds absolute paths, a copied one must be made anew.
key() { { echo "$PWD/$venv"; cat pyproject.toml scripts/setup.sh requirements/build.txt requirements/all.txt requirements/dev.txt; } | sha256sum | cut -d' ' -f1; }
want="$(key)"
current() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.modelkeep-$1" 2>/dev/null)" = "$want" ]; }
if current dev || { [ "$level" = run ] && current run; }; then exit 0; fi

mkdir -p .cache
if command -v flock >/dev/null; then # two makes at once: the second waits, then finds the work done
    exec 9>.cache/setup.lock
    flock 9
    if current dev || { [ "$level" = run ] && current run; }; then exit 0; fi
fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python >= 3.11 found; install one, or name it: make ${MAKECMDGOALS:-setup} PYTHON=/path/to/python3" >&2
    exit 1
}

if ! new_enough "$venv/bin/python" || ! grep -qsF "$PWD/$venv" "$venv/bin/activate"; then
    python="$(find_python)"
    echo "setup: making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv"; then
        echo "setup: $python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
fi

args=()
for file in "${files[@]}"; do args+=(-r "$file"); done
pin="$(grep '^uv==' requirements/build.txt)"
started=$SECONDS
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$pin" && "$venv/bin/uv" --version >/dev/null; then
    # The link mode is stated since a cache on another volume would only warn and then copy.
    install=("$venv/bin/uv" pip install --python "$venv/bin/python" --quiet)
    export UV_LINK_MODE="${UV_LINK_MODE:-hardlink}"
else
    echo "setup: uv cannot be had here; going on with pip (slower)" >&2
    install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    without_uv="$(mktemp)"
    trap 'rm -f "$without_uv"' EXIT
    grep -v '^uv==' requirements/build.txt > "$without_uv"
    args[1]="$without_uv"
fi
echo "setup: installing the pinned requirements ($level) with $(basename "${install[0]}")"
"${install[@]}" "${args[@]}"
"${install[@]}" --no-deps --no-build-isolation -e .
# Byte code of what the loader's helpers import, once and here: else the first load would pay for it. Compiling
# whole packages (pip's default) takes five times as long, most of it for modules that nobody imports.
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -W ignore -c '
import accelerate, torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
' >/dev/null 2>&1 || echo "setup: note: torch or diffusers cannot be imported here; the loader will say why" >&2
echo "$want" > "$venv/.modelkeep-$level"
echo "setup: done in $((SECONDS - started)) s"
