#!/usr/bin/env bash
# Builds the dashboard into clients/dashboard/dist, which is committed: Node is not needed to run it.
# Usage: scripts/dashboard.sh [--check]   (--check: builds elsewhere, and fails where what is committed differs)
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/npm.sh clients/dashboard clients/typescript
cd clients/dashboard
npm run --silent check
if [ "${1:-}" != --check ]; then
    npm run --silent build -- --logLevel warn
    exit
fi
built="$(mktemp -d)"
trap 'rm -rf "$built"' EXIT
npm run --silent build -- --logLevel warn --outDir "$built" --emptyOutDir
if ! diff -rq "$built" dist; then
    echo "dashboard: clients/dashboard/dist is not what its sources make: run \`make dashboard\`, and commit it" >&2
    exit 1
fi
