#!/usr/bin/env bash
# Makes .venv as the pinned requirements say. Usage: scripts/setup.sh [run|dev]
#   run  what the services, the client and the command line need
#   dev  that, and what the tests and checks need (the default)
# TORCH says which torch the loader gets: cuda (as the package index has it; the default), cpu (torch's own builds for
# processors), none (no torch: record, download and install run, the loader does not). It is remembered.
# A stamp holding a hash of the requirements makes a second call cost nothing.
# PYTHON chooses the interpreter (3.11 or newer); VENV another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

level="${1:-dev}"
venv="${VENV:-.venv}"
case "$level" in
run | dev) ;;
*) echo "setup: unknown level '$level'; say run or dev" >&2 && exit 2 ;;
esac
case "${TORCH:-}" in
'' | none | cpu | cuda) ;;
*) echo "setup: unknown TORCH='$TORCH'; say none, cpu or cuda" >&2 && exit 2 ;;
esac
if [ "$level-${TORCH:-}" = dev-none ]; then
    echo "setup: the tests and checks need torch; say TORCH=cpu, or nothing" >&2
    exit 2
fi

# What the environment has already is kept: another build in its place would be fetched for nothing.
has() { cat "$venv/.modelkeep-torch" 2>/dev/null || { [ ! -f "$venv/.modelkeep-dev" ] && [ ! -f "$venv/.modelkeep-run" ]; } || echo cuda; }
had="$(has)"
torch="${TORCH:-${had:-cuda}}"
case "$level-$had-$torch" in
dev-*-none) torch=cuda ;;
*-cuda-cpu | *-cpu-cuda)
    echo "setup: note: $venv has torch for $had already, and keeps it; for $torch first: make clean" >&2
    torch="$had"
    ;;
*-cuda-* | *-cpu-*) torch="$had" ;;
esac

# The place is part of the key: an environment holds absolute paths, a copied one must be made anew.
key() { { echo "$PWD/$venv $torch"; cat pyproject.toml scripts/setup.sh requirements/*.txt; } | sha256sum | cut -d' ' -f1; }
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

# Measured with the pins of the day: what is fetched, and what lies on the disk then.
size_of() {
    case "$1" in
    none) echo "70 MB to fetch, 0.3 GB on the disk" ;;
    cpu) echo "some 0.5 GB to fetch, 1.5 GB on the disk" ;;
    cuda) echo "3.1 GB to fetch, 5.9 GB on the disk; at 20 MB/s three minutes" ;;
    esac
}
tell_sizes() {
    echo "setup: TORCH=$torch: $(size_of "$torch") (less where the cache of uv has it)"
    if [ "$torch" = cuda ]; then
        echo "setup: less is to be had: TORCH=cpu ($(size_of cpu)), and for make run"
        echo "setup: TORCH=none, without a loader ($(size_of none))"
    fi
}

if ! new_enough "$venv/bin/python" || ! grep -qsF "$PWD/$venv" "$venv/bin/activate"; then
    python="$(find_python)"
    tell_sizes
    echo "setup: making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv"; then
        echo "setup: $python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
elif [ "${had:-none}" = none ] && [ "$torch" != none ]; then
    tell_sizes
fi

pin="$(grep '^uv==' requirements/build.txt)"
build=requirements/build.txt
started=$SECONDS
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$pin" && "$venv/bin/uv" --version >/dev/null; then
    # The link mode is stated since a cache on another volume would only warn and then copy.
    install=("$venv/bin/uv" pip install --python "$venv/bin/python")
    export UV_LINK_MODE="${UV_LINK_MODE:-hardlink}"
else
    echo "setup: uv cannot be had here; going on with pip (slower)" >&2
    install=("$venv/bin/python" -m pip install --disable-pip-version-check)
    build="$(mktemp)"
    trap 'rm -f "$build"' EXIT
    grep -v '^uv==' requirements/build.txt > "$build" || true
fi
with="$(basename "${install[0]}")"

# A terminal gets the bars; elsewhere a line for each large file, and no list of what was installed.
fetch() {
    if [ -t 2 ]; then
        "${install[@]}" "$@"
    else
        { "${install[@]}" "$@" 2>&1 >/dev/null | { grep -vE '^ [+~-] |^ +(Downloaded|Building|Built) |^(Using|Resolved|Prepared|Installed|Audited|Checked) ' || true; } >&2; return "${PIPESTATUS[0]}"; }
    fi
}
requirements() {
    local file
    case "$torch" in
    none) file=requirements/none.txt ;;
    cpu) file=requirements/cpu.txt ;;
    cuda) file=requirements/all.txt ;;
    esac
    args=(-r "$build" -r "$file")
    if [ "$level" = dev ]; then args+=(-r requirements/dev.txt); fi
}
requirements
echo "setup: installing the pinned requirements ($level, TORCH=$torch) with $with"
if [ "$torch" = cpu ]; then
    if [ "$with" != uv ] || ! fetch --torch-backend cpu "${args[@]}"; then
        torch=cuda
        echo "setup: torch's builds for processors cannot be had here; going on with what the package index has:" >&2
        echo "setup: $(size_of cuda)" >&2
        requirements
        fetch "${args[@]}"
    fi
else
    fetch "${args[@]}"
fi
"${install[@]}" --quiet --no-deps --no-build-isolation -e .
if [ "$torch" != none ]; then
    # Byte code of what the loader's helpers import, once and here: else the first load would pay for it. Compiling
    # whole packages (pip's default) takes five times as long, most of it for modules that nobody imports.
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -W ignore -c '
import accelerate, torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
' >/dev/null 2>&1 || echo "setup: note: torch or diffusers cannot be imported here; the loader will say why" >&2
fi
echo "$torch" > "$venv/.modelkeep-torch"
key > "$venv/.modelkeep-$level"
echo "setup: done in $((SECONDS - started)) s"
