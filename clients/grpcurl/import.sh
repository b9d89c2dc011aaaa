#!/bin/sh
# Import up to 100 records, the lines that `modelkeep export` writes: import.sh skip|replace|fail [--dry-run] <FILE
# What is there already and is not equal is left, is replaced, or makes it fail.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -ge 1 ] || die "usage: import.sh skip|replace|fail [--dry-run] <FILE"
dry=false
[ "${2:-}" != --dry-run ] || dry=true
models=$(grep -v '^{"format": ' | paste -sd, -)
call "$RECORD" modelkeep.record.v1.RecordService/ImportModels "{\"models\": [$models], \"validate_only\": $dry,
    \"on_conflict\": $(quoted "IMPORT_CONFLICT_$(printf '%s' "$1" | tr a-z A-Z)")}"
