#!/bin/sh
# Install a model: install.sh SOURCE [VARIANT], a path, an address or a repository. Prints the job; watch.sh ID follows it.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -eq 1 ] || [ $# -eq 2 ] || die "usage: install.sh SOURCE [VARIANT]"
variant=${2+", \"variant\": $(quoted "$2")"}
if [ -e "$1" ]; then
    case $1 in
    /*) source="{\"local_path\": $(quoted "$1")}" ;;
    *) source="{\"local_path\": $(quoted "$PWD/$1")}" ;;
    esac
else
    source="{\"remote\": {\"source\": $(quoted "$1")$variant}}"
fi
call "$INSTALL" modelkeep.install.v1.InstallService/ImportModel "{\"source\": $source}"
