#!/usr/bin/env bash
# All checks that run no test, two at a time. Each is run even when an earlier one failed; the last lines name the failed ones.
# Usage: scripts/check.sh [NAME ...]   (without names: all)
set -uo pipefail
cd "$(dirname "$0")/.."
bin="${VENV:-.venv}/bin"
python="$bin/python"

checks=(lint format types proto-lint proto-format proto-current proto-breaking imports layout parity text spelling dashboard)
describe() {
    case "$1" in
    lint) "$bin/ruff" check --quiet . ;;
    format) "$bin/ruff" format --quiet --check . || { "$bin/ruff" format --check . && false; } ;;
    types) "$bin/mypy" --no-error-summary services clients/python tests scripts deploy ;;
    proto-lint) "$bin/buf" lint proto ;;
    proto-format) "$bin/buf" format --diff --exit-code proto ;;
    proto-current) "$python" scripts/proto.py --check ;;
    proto-breaking) "$python" scripts/baseline.py ;;
    imports) "$bin/lint-imports" --no-cache 2>&1 | sed -n '/^Contracts/,$p' | grep -v KEPT; return "${PIPESTATUS[0]}" ;;
    layout) "$python" scripts/check_layout.py ;;
    parity) "$python" scripts/check_parity.py ;;
    text) "$python" scripts/check_text.py ;;
    spelling) "$bin/codespell" ;;
    dashboard) scripts/dashboard.sh --check ;;
    *) echo "check: no check named '$1'; there are: ${checks[*]}" >&2; return 2 ;;
    esac
}

told="$(mktemp -d)"
trap 'rm -rf "$told"' EXIT
run() {
    local started=$SECONDS result=0
    describe "$1" >"$told/$1" 2>&1 || result=$?
    echo "$result $((SECONDS - started))" >"$told/$1.result"
}

failed=()
tell() {
    local result took
    read -r result took <"$told/$1.result"
    if [ "$result" = 0 ]; then
        printf '%-14s ok      %3d s\n' "$1" "$took"
    else
        printf '%s\n%-14s FAILED  %3d s\n' "$(cat "$told/$1")" "$1" "$took"
        failed+=("$1")
    fi
}

# mypy takes as long as all the others, and one processor: they run beside it.
names=("${@:-${checks[@]}}")
case " ${names[*]} " in *" types "*) run types & ;; esac
for name in "${names[@]}"; do
    [ "$name" = types ] || { run "$name" && tell "$name"; }
done
wait
case " ${names[*]} " in *" types "*) tell types ;; esac
if [ ${#failed[@]} -gt 0 ]; then
    echo "check: failed: ${failed[*]} (make fix mends format, imports' order and simple lint)" >&2
    exit 1
fi
