#!/bin/sh
# Keep a component in the loader's memory: pin.sh KEY [SUBMODEL]. Loads it if it is not there; unpin.sh takes it back.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: pin.sh KEY [SUBMODEL]"
call "$LOADER" modelkeep.loader.v1.LoaderService/PinModel "{\"components\": [{$(component "$1" "${2-}")}], \"load\": true}"
