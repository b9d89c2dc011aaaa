#!/bin/sh
# List the models whose files are gone: missing.sh
set -eu
. "$(dirname "$0")/common.sh"
call "$RECORD" modelkeep.record.v1.RecordService/ListModels '{"filter": {"missing": true}, "page_size": 1000}'
