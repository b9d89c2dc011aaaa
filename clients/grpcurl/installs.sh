#!/bin/sh
# Steer an install: installs.sh pause|resume|retry|delete ID
set -eu
. "$(dirname "$0")/common.sh"
service=modelkeep.install.v1.InstallService
case "${1-}/$#" in
pause/2) call "$INSTALL" "$service/PauseInstall" "{\"id\": $(quoted "$2")}" ;;
resume/2) call "$INSTALL" "$service/ResumeInstall" "{\"id\": $(quoted "$2")}" ;;
retry/2) call "$INSTALL" "$service/RetryInstall" "{\"ids\": [$(quoted "$2")]}" ;;
delete/2) call "$INSTALL" "$service/DeleteInstall" "{\"id\": $(quoted "$2")}" ;;
*) die "usage: installs.sh pause|resume|retry|delete ID" ;;
esac
