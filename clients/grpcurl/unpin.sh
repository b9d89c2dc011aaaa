#!/bin/sh
# Let pinned components be dropped again when room is needed: unpin.sh KEY [SUBMODEL]. Without SUBMODEL: all of the
# model's that are pinned.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: unpin.sh KEY [SUBMODEL]"
call "$LOADER" modelkeep.loader.v1.LoaderService/UnpinModel "{\"components\": [{$(component "$1" "${2-}")}]}"
