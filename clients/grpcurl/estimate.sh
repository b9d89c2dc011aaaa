#!/bin/sh
# Tell what loading a component would take, and load nothing: estimate.sh KEY [SUBMODEL]
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: estimate.sh KEY [SUBMODEL]"
call "$LOADER" modelkeep.loader.v1.LoaderService/EstimateLoad "{\"components\": [{$(component "$1" "${2-}")}]}"
