#!/bin/sh
# Tell how full the loader's memory is: capacity.sh [SECONDS]. With SECONDS: whenever that changes, for so long.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -le 1 ] || die "usage: capacity.sh [SECONDS]"
if [ $# -eq 1 ]; then
    # The end of the time is how this watch is meant to end, and no error: DeadlineExceeded is code 64 + 4.
    call "$LOADER" modelkeep.loader.v1.LoaderService/WatchCapacity '{}' -max-time "$1" || [ $? -eq 68 ]
else
    call "$LOADER" modelkeep.loader.v1.LoaderService/GetCapacity '{}'
fi
