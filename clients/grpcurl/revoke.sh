#!/bin/sh
# End somebody's lease: revoke.sh LEASE_ID [WHY]. Its holder is told why; what it has mapped goes on working there.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: revoke.sh LEASE_ID [WHY]"
call "$LOADER" modelkeep.loader.v1.LoaderService/RevokeLease "{\"leaseId\": $(quoted "$1"), \"why\": $(quoted "${2-}")}"
