#!/usr/bin/env bash
# Gets what folders with a package-lock.json need into their node_modules, once. Usage: scripts/npm.sh FOLDER ...
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v npm >/dev/null; then
    echo "npm: it is not here. Install Node 20 or newer and run this again; \`make test\` does not need it." >&2
    exit 1
fi
for folder in "$@"; do
    # Two that come at once wait for each other.
    exec {lock}>"${TMPDIR:-/tmp}/modelkeep-npm-$(id -u).lock"
    flock "$lock"
    seen="$folder/node_modules/.modelkeep-lock"
    if ! cmp -s "$folder/package-lock.json" "$seen"; then
        npm ci --prefix "$folder" --silent
        cp "$folder/package-lock.json" "$seen"
    fi
    exec {lock}>&-
done
