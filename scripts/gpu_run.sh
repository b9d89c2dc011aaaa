#!/usr/bin/env bash
# The tests and benchmarks that need a GPU, on a machine that has one and torch, but no network.
#   scripts/gpu_run.sh pack [FOLDER]   here: the pinned packages besides torch, as wheels, into FOLDER (.gpu)
#   scripts/gpu_run.sh run [FOLDER]    there, in a copy of the tree with FOLDER: makes an environment of these and of
#                                      what is there, runs the cuda tests and benchmarks, writes FOLDER/log (or $OUT/log)
# GPU_PYTHON   the interpreter there (default: python3), which has torch and what torch needs
# GPU_VERSION  its version, for pack (default: 3.12)
# GPU_ARGS     more arguments for pytest, such as "-k lending"
# GPU_ONLY     "tests" or "benches" runs these alone
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:-}"
folder="$(realpath -m "${2:-.gpu}")"
limit_mb=64

# torch and what it needs are there; formatters, type checkers and generators are not needed.
left_out='^(torch|triton|nvidia-[a-z-]*(cu13)?|cuda-[a-z]+|numpy|ruff|mypy|mypy-[a-z]+|buf-bin|grpcio-tools|codespell|types-[a-z]+|import-linter|grimp|librt|ast-serialize|hatchling|editables|trove-classifiers|uv|pillow|colorama|sympy|mpmath|networkx|setuptools|jinja2|markupsafe|hf-xet|httpx2-jsfetch)=='
source_only='^(varint|forbiddenfruit)=='

pack() {
    local version="${GPU_VERSION:-3.12}" platforms=() glibc
    for glibc in 39 38 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    mkdir -p "$folder/wheels"
    rm -f "$folder"/wheels/*.whl
    # The pins without their conditions: what is for another system is left out by name.
    cat requirements/all.txt requirements/dev.txt | sed 's/ *;.*//' | grep -vE "$left_out|$source_only" > "$folder/pins.txt"
    grep -hE '^nvidia-ml-py==' requirements/all.txt | sed 's/ *;.*//' >> "$folder/pins.txt"
    "${VENV:-.venv}/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version "$version" --implementation cp "${platforms[@]}" -d "$folder/wheels" -r "$folder/pins.txt"
    # These are to be had as source only, and have no compiled part.
    sed 's/ *;.*//' requirements/all.txt requirements/dev.txt | grep -E "$source_only" > "$folder/pins.txt"
    "${VENV:-.venv}/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$folder/wheels" -r "$folder/pins.txt"
    local size_mb
    size_mb="$(du -sm "$folder/wheels" | cut -f1)"
    echo "gpu_run: $(ls "$folder"/wheels/*.whl | wc -l) wheels, $size_mb MB, for Python $version"
    if [ "$size_mb" -gt "$limit_mb" ]; then
        echo "gpu_run: more than $limit_mb MB; leave more out (left_out in this script)" >&2
        exit 1
    fi
}

# An environment with what was packed, then what the machine has: processes that the services start look into nothing else.
environment() {
    local python="${GPU_PYTHON:-python3}" venv="$folder/venv" packages
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv"
    "$python" -m pip --quiet --disable-pip-version-check --python "$venv/bin/python" install --no-index --no-deps --no-compile "$folder"/wheels/*.whl
    packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    {
        printf '%s\n' "$PWD/services" "$PWD/clients/python"
        "$python" -c 'import site, sysconfig; print(*dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]), sep="\n")'
    } > "$packages/machine.pth"
    mkdir "$packages/modelkeep-0.1.0.dist-info"
    printf 'Metadata-Version: 2.1\nName: modelkeep\nVersion: 0.1.0\n' > "$packages/modelkeep-0.1.0.dist-info/METADATA"
}

run() {
    local python="$folder/venv/bin/python" log="${OUT:-$folder}/log" status=0 files
    environment
    export PYTHONUNBUFFERED=1
    files="$(grep -rlE 'mark\.cuda' tests --include='test_*.py')"
    {
        date -u
        nvidia-smi -L 2>&1 || echo "nvidia-smi: none"
        "$python" - <<'EOF'
import modelkeep, sys, torch
from modelkeep.devices.driver import DeviceGoneError
from modelkeep.devices.drivers import open_driver

print("Python", sys.version.split()[0], "torch", torch.__version__, "modelkeep", modelkeep.__file__)
try:
    for facts in (driver := open_driver("cuda")).devices():
        print(facts, driver.memory(facts.name))
except DeviceGoneError as error:
    print(f"skipped: no CUDA ({error})")
EOF
        if [ "${GPU_ONLY:-tests}" = tests ]; then
            # shellcheck disable=SC2086
            "$python" -m pytest -q -m cuda -p no:cacheprovider $files ${GPU_ARGS:-} || status=$?
        fi
        if [ "${GPU_ONLY:-benches}" = benches ]; then
            "$python" tests/bench/run.py cuda || status=$?
        fi
    } 2>&1 | tee "$log"
    exit "$status"
}

case "$what" in
pack) pack ;;
run) run ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
esac
