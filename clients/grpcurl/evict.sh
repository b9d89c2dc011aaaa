#!/bin/sh
# Drop a model's components from the loader's memory: evict.sh KEY [SUBMODEL], or evict.sh --all for everything
# that no lease holds.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] && [ -n "$1" ] || die "usage: evict.sh KEY [SUBMODEL] | --all"
if [ "$1" = --all ]; then
    wanted=""
else
    wanted=$(component "$1" "${2-}")
fi
call "$LOADER" modelkeep.loader.v1.LoaderService/EvictModel "{$wanted}"
