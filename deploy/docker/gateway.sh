#!/bin/sh
# Makes Envoy's configuration of its arguments (python -P -m modelkeep.gateway --help) and becomes Envoy. The files by which
# it reads certificates again when they are replaced lie where a read-only root lets it write.
set -eu
umask 077
python -P -m modelkeep.gateway "$@" --secrets-at /tmp/secrets --write-secrets /tmp/secrets > /tmp/envoy.yaml
exec envoy -c /tmp/envoy.yaml --disable-hot-restart
