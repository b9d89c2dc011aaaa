#!/bin/sh
# Look at once where models are, and list those whose files are gone: missing.sh
set -eu
. "$(dirname "$0")/common.sh"
call "$INSTALL" modelkeep.install.v1.InstallService/CheckModels '{}' >&2
call "$RECORD" modelkeep.record.v1.RecordService/ListModels '{"filter": {"missing": true}, "page_size": 1000}'
