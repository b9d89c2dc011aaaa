#!/usr/bin/env bash
# Builds the dashboard into clients/dashboard/dist, which is committed: Node is not needed to run it.
# Usage: scripts/dashboard.sh [--check]   (--check: builds elsewhere, and fails where what is committed differs)
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --check ]; then
    scripts/npm.sh clients/dashboard clients/typescript
    cd clients/dashboard
    npm run --silent check
    npm run --silent build -- --logLevel error
    exit
fi

if ! command -v npm >/dev/null; then
    [ -n "${CI:-}" ] || { echo "dashboard: not checked, since there is no Node here" && exit; }
    echo "dashboard: npm is missing" >&2
    exit 1
fi
# What was found equal once is not built again, in whichever folder of this user it lies.
sources=(clients/dashboard clients/typescript/src clients/typescript/package-lock.json)
hash="$(find "${sources[@]}" -name node_modules -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)"
known="${TMPDIR:-/tmp}/modelkeep-dashboard-$(id -u)"
if [ -e "$known/$hash" ]; then exit 0; fi
scripts/npm.sh clients/dashboard clients/typescript
cd clients/dashboard
npm run --silent check
built="$(mktemp -d)"
trap 'rm -rf "$built"' EXIT
npm run --silent build -- --logLevel error --outDir "$built" --emptyOutDir
if ! diff -rq "$built" dist; then
    echo "dashboard: clients/dashboard/dist is not what its sources make: run \`make dashboard\`, and commit it" >&2
    exit 1
fi
mkdir -p "$known"
touch "$known/$hash"
