#!/bin/sh
# List the tags that models have, with their number: tags.sh [BEGINNING]
set -eu
. "$(dirname "$0")/common.sh"
call "$RECORD" modelkeep.record.v1.RecordService/ListTags "{\"prefix\": $(quoted "${1:-}"), \"page_size\": 1000}"
