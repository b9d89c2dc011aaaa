#!/bin/sh
# Say anew where a model is, after its files were moved: relink.sh KEY PATH.
set -eu
. "$(dirname "$0")/common.sh"
[ $# -eq 2 ] || die "usage: relink.sh KEY PATH"
case $2 in
/*) path=$2 ;;
*) path=$PWD/$2 ;;
esac
call "$INSTALL" modelkeep.install.v1.InstallService/RelinkModel "{\"key\": $(quoted "$1"), \"path\": $(quoted "$path")}"
