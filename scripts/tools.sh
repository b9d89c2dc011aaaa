#!/usr/bin/env bash
# Builds the Go programs that some tests and measurements use into .cache/bin. Usage: scripts/tools.sh [grpcurl|ghz ...]
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A modules=(
    [grpcurl]=github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
    [ghz]=github.com/bojand/ghz/cmd/ghz@v0.120.0
)
for tool in "${@:-grpcurl}"; do
    module="${modules[$tool]:?"no tool named $tool"}"
    built=".cache/bin/.$tool-${module##*@}"
    [ -x ".cache/bin/$tool" ] && [ -e "$built" ] && continue
    if ! command -v go >/dev/null; then
        echo "tools: $tool is built with Go (1.21 or newer), which is not here. Install Go and run this again;" >&2
        echo "       \`make test\` needs neither." >&2
        exit 1
    fi
    echo "tools: building $tool ${module##*@}"
    mkdir -p .cache/bin
    GOBIN="$PWD/.cache/bin" go install "$module"
    touch "$built"
done
