#!/usr/bin/env bash
# Recompiles requirements/*.txt from pyproject.toml. Present pins stay unless named: scripts/pins.sh [-P package ...]
# The files hold versions only, no index address, so that any index or mirror serves them.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile --universal --python-version 3.11 --no-header --no-annotate --quiet --no-emit-index-url "$@"; }

printf 'uv\nhatchling>=1.27\neditables>=0.5\n' | compile - -o requirements/build.txt "$@"
compile pyproject.toml --extra all -o requirements/all.txt "$@"
# Without torch, for TORCH=none: no loader, no demo.
compile pyproject.toml --extra record --extra download --extra install --extra gateway --extra cli -c requirements/all.txt -o requirements/none.txt "$@"
# For TORCH=cpu: torch needs none of these then.
grep -vE '^(cuda|nvidia|triton)' requirements/all.txt > requirements/cpu.txt
compile pyproject.toml --extra dev -c requirements/all.txt -o requirements/.dev.txt "$@"
# dev.txt is what the tests and checks need on top of all.txt.
grep -vxFf requirements/all.txt requirements/.dev.txt > requirements/dev.txt
rm requirements/.dev.txt
