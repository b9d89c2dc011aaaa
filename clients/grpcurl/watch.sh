#!/bin/sh
# Follow installs: watch.sh [ID [SECONDS]]. A snapshot first, then every change, until Ctrl-C, SECONDS or the
# end of install ID.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -le 2 ] || die "usage: watch.sh [ID [SECONDS]]"
ids=""
[ $# -eq 0 ] || ids="\"ids\": [$(quoted "$1")], \"until_ended\": true"
if [ $# -eq 2 ]; then
    # The end of the time is how this watch is meant to end, and no error: DeadlineExceeded is code 64 + 4.
    call "$INSTALL" modelkeep.install.v1.InstallService/WatchInstalls "{$ids}" -max-time "$2" || [ $? -eq 68 ]
else
    call "$INSTALL" modelkeep.install.v1.InstallService/WatchInstalls "{$ids}"
fi
