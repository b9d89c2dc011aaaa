#!/bin/sh
# Makes Envoy's configuration of its arguments (python -P -m modelkeep.gateway --help) and becomes Envoy. The files by which
# it reads certificates again when they are replaced lie where a read-only root lets it write.
set -eu
umask 077
made="${TMPDIR:-/tmp}/envoy"
mkdir -p "$made"
python -P -m modelkeep.gateway "$@" --secrets-at "$made/secrets" --write-secrets "$made/secrets" > "$made/envoy.yaml"
exec envoy -c "$made/envoy.yaml" --disable-hot-restart
