#!/bin/sh
# Makes Envoy's configuration of its arguments (python -P -m modelkeep.gateway --help) and becomes Envoy.
set -eu
umask 077
python -P -m modelkeep.gateway "$@" > /tmp/envoy.yaml
exec envoy -c /tmp/envoy.yaml --disable-hot-restart
