#!/bin/sh
# Register every model in a folder where it lies, and list what was found: scan.sh /absolute/folder
set -eu
. "$(dirname "$0")/common.sh"
[ $# = 1 ] || die "usage: scan.sh /absolute/folder"
service=modelkeep.install.v1.InstallService
scan=$(call "$INSTALL" $service/ScanDirectory "{\"path\": $(quoted "$1")}" |
    sed -n 's/^ *"id": "\([0-9]*\)".*/\1/p' | head -n 1)
until call "$INSTALL" $service/WaitScan "{\"id\": \"$scan\"}" | grep -q '"ended": true'; do :; done
call "$INSTALL" $service/ListScanFindings "{\"id\": \"$scan\", \"page_size\": 1000}"
