#!/bin/sh
# List models: list.sh [WORD...]. Only those that have all of the words, if any are given.
set -eu
. "$(dirname "$0")/common.sh"
call "$RECORD" modelkeep.record.v1.RecordService/ListModels \
    "{\"filter\": {\"text\": $(quoted "$*")}, \"view\": \"MODEL_VIEW_BASIC\", \"page_size\": 1000}"
