#!/bin/sh
# Copy the store of the records into a file beside it, while it goes on: backup.sh [NAME]
set -eu
. "$(dirname "$0")/common.sh"
call "$RECORD" modelkeep.record.v1.RecordService/BackUpStore "{\"name\": $(quoted "${1:-}")}"
