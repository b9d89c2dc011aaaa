#!/bin/sh
# Write all records of one moment, message by message; with a type (lora, vae, …) those alone: export.sh [TYPE]
set -eu
. "$(dirname "$0")/common.sh"
filter={}
[ $# -eq 0 ] || filter="{\"types\": [$(quoted "MODEL_TYPE_$(printf '%s' "$1" | tr 'a-z-' 'A-Z_')")]}"
call "$RECORD" modelkeep.record.v1.RecordService/ExportModels "{\"filter\": $filter}"
