#!/bin/sh
# Install a model: install.sh PATH-OR-URL. Prints the job; watch.sh ID follows it.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -eq 1 ] || die "usage: install.sh PATH-OR-URL"
case $1 in
*://*) source="{\"url\": $(quoted "$1")}" ;;
/*) source="{\"local_path\": $(quoted "$1")}" ;;
*) source="{\"local_path\": $(quoted "$PWD/$1")}" ;;
esac
call "$INSTALL" modelkeep.install.v1.InstallService/ImportModel "{\"source\": $source}"
