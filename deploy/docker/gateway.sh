#!/bin/sh
# Makes Envoy's configuration of its arguments (python -P -m modelkeep.gateway --help), runs Envoy, and drains it at SIGTERM,
# which by itself would cut every stream and call. The files by which it reads certificates again when they are replaced lie
# where a read-only root lets it write, and the socket of its administration where nobody else gets to.
set -eu
umask 077
trap 'exit 0' TERM INT # which the first process of a container has to ask for
delay_s="$MODELKEEP_GATEWAY_DRAIN_DELAY_S" limit_s="$MODELKEEP_GATEWAY_DRAIN_S"
for seconds in "$delay_s" "$limit_s"; do # else a mistake would show in a drain, and cut what is under way
    case "$seconds" in
    '' | . | *[!0-9.]* | *.*.*)
        echo "modelkeep gateway: MODELKEEP_GATEWAY_DRAIN_DELAY_S and _DRAIN_S are seconds, and not '$seconds'" >&2
        exit 78
        ;;
    esac
done
made="${TMPDIR:-/tmp}/envoy"
mkdir -p "$made"
python -P -m modelkeep.gateway "$@" --secrets-at "$made/secrets" --write-secrets "$made/secrets" \
    --admin-socket "$made/admin.sock" > "$made/envoy.yaml"
told=
drain() {
    told=yes
    trap '' TERM INT
    python -P -m modelkeep.gateway.drain "$made/admin.sock" --delay-s "$delay_s" --limit-s "$limit_s" || true
    kill "$envoy" || true
}
# Else it takes a thread for each processor of the host, however few this container may use.
envoy -c "$made/envoy.yaml" --disable-hot-restart --concurrency 2 &
envoy=$!
trap drain TERM INT
code=0
wait "$envoy" || code=$?
if [ -n "$told" ]; then # it was the signal that ended the wait
    code=0
    wait "$envoy" || code=$?
fi
exit "$code"
