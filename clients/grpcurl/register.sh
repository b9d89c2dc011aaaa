#!/bin/sh
# Register a local model where it lies, or copy it into models_dir first: register.sh PATH [copy]. Prints its key.
set -eu
. "$(dirname "$0")/common.sh"
case $#/${2-} in
1/) method=RegisterPath ;;
2/copy) method=InstallPath ;;
*) die "usage: register.sh PATH [copy]" ;;
esac
case $1 in
/*) path=$1 ;;
*) path=$PWD/$1 ;;
esac
call "$INSTALL" modelkeep.install.v1.InstallService/$method "{\"path\": $(quoted "$path")}"
