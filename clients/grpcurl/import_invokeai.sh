#!/bin/sh
# Register the models of an InvokeAI where they lie, or with `plan` only tell what would be: import_invokeai.sh /root [plan]
set -eu
. "$(dirname "$0")/common.sh"
[ $# = 1 ] || [ "${2:-}" = plan ] || die "usage: import_invokeai.sh /absolute/root [plan]"
plan=false
[ $# = 1 ] || plan=true
call "$INSTALL" modelkeep.install.v1.InstallService/ImportInvokeAI \
    "{\"root\": $(quoted "$1"), \"validate_only\": $plan}"
