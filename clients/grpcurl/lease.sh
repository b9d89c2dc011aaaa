#!/bin/sh
# Keep a component in the loader's memory: lease.sh KEY [SUBMODEL [SECONDS]].
# Without SECONDS the lease lives until Ctrl-C; SUBMODEL is like vae, or "" for a model that is one component.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 3 ] || die "usage: lease.sh KEY [SUBMODEL [SECONDS]]"
components="\"components\": [{$(component "$1" "${2-}")}]"
if [ $# -eq 3 ]; then
    call "$LOADER" modelkeep.loader.v1.LoaderService/AcquireLease \
        "{$components, \"delivery\": \"DELIVERY_NONE\", \"ttl\": \"$3s\"}"
else
    call "$LOADER" modelkeep.loader.v1.LoaderService/HoldModel \
        "{$components, \"delivery\": \"DELIVERY_NONE\", \"label\": \"lease.sh\"}"
fi
