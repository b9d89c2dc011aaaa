#!/bin/sh
# Leases of the loader: leases.sh                      who holds what
#                       leases.sh watch [SECONDS]      a snapshot, then the journal, until Ctrl-C or SECONDS
#                       leases.sh drain [SECONDS [WHY]]  no new leases; ask all back, to end within SECONDS
#                       leases.sh undrain              give leases again
set -eu
. "$(dirname "$0")/common.sh"
usage="usage: leases.sh [watch [SECONDS] | drain [SECONDS [WHY]] | undrain]"
[ $# -le 3 ] || die "$usage"
service=modelkeep.loader.v1.LoaderService
case "${1-}" in
"") call "$LOADER" "$service/ListLeases" '{}' ;;
watch)
    if [ $# -eq 2 ]; then
        # The end of the time is how this watch is meant to end, and no error: DeadlineExceeded is code 64 + 4.
        call "$LOADER" "$service/WatchLeases" '{}' -max-time "$2" || [ $? -eq 68 ]
    else
        call "$LOADER" "$service/WatchLeases" '{}'
    fi
    ;;
drain)
    if [ $# -ge 2 ]; then
        asked="{\"timeout\": \"$2s\", \"revoke\": true, \"why\": $(quoted "${3-}")}"
    else
        asked='{}'
    fi
    call "$LOADER" "$service/Drain" "$asked"
    ;;
undrain) call "$LOADER" "$service/Undrain" '{}' ;;
*) die "$usage" ;;
esac
