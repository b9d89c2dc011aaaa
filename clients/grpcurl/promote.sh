#!/bin/sh
# Bring back to its accelerators what a lease was demoted from: promote.sh LEASE_ID [SECONDS], with the lease's secret
# on standard input, as the grant has it (leaseSecret). SECONDS is the longest wait for room; without it there is none.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: printf %s SECRET | promote.sh LEASE_ID [SECONDS]"
secret=$(cat)
call "$LOADER" modelkeep.loader.v1.LoaderService/PromoteLease \
    "{\"leaseId\": $(quoted "$1"), \"leaseSecret\": $(quoted "$secret"), \"maxWait\": \"${2-0}s\"}"
