#!/bin/sh
# Show the limits of downloads, or set those that JSON names: limits.sh ['{"maxParallelDownloads": 3}']
set -eu
. "$(dirname "$0")/common.sh"
if [ $# -eq 0 ]; then
    call "$DOWNLOAD" modelkeep.download.v1.DownloadService/GetLimits '{}'
else
    call "$DOWNLOAD" modelkeep.download.v1.DownloadService/SetLimits "$1"
fi
