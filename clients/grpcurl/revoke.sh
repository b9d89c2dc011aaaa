#!/bin/sh
# End somebody's lease: revoke.sh LEASE_ID [WHY [SECONDS]]. Its holder is told why, and may go on for SECONDS (none
# without); what it has mapped goes on working there.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 3 ] || die "usage: revoke.sh LEASE_ID [WHY [SECONDS]]"
call "$LOADER" modelkeep.loader.v1.LoaderService/RevokeLease \
    "{\"leaseId\": $(quoted "$1"), \"why\": $(quoted "${2-}"), \"grace\": \"${3-0}s\"}"
