#!/bin/sh
# Say that what a lease has on accelerators is not used any more: demote.sh LEASE_ID, with the lease's secret on
# standard input, as the grant has it (leaseSecret). The lease goes on and keeps its components in the host's memory.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -eq 1 ] || die "usage: printf %s SECRET | demote.sh LEASE_ID"
secret=$(cat)
call "$LOADER" modelkeep.loader.v1.LoaderService/DemoteLease \
    "{\"leaseId\": $(quoted "$1"), \"leaseSecret\": $(quoted "$secret")}"
