#!/bin/sh
# Look a source up: downloads.sh resolve SOURCE [VARIANT [REVISION]]
# Fetch it: downloads.sh add SOURCE FOLDER [VARIANT [REVISION]], or several files as one download, each by its address
# and its path beneath the folder: downloads.sh add-files FOLDER ADDRESS PATH [ADDRESS PATH]…
# Steer downloads: downloads.sh start-all|pause-all|cancel-all [QUEUE], downloads.sh retry ID,
# or downloads.sh fail ID [MESSAGE]
set -eu
. "$(dirname "$0")/common.sh"
service=modelkeep.download.v1.DownloadService
# remote SOURCE VARIANT REVISION: a repository (owner/name), a page of Civitai, an address, a path.
remote() {
    printf '{"source": %s, "variant": %s, "revision": %s}' "$(quoted "$1")" "$(quoted "$2")" "$(quoted "$3")"
}

# files ADDRESS PATH…: a list of files.
files() {
    between=
    while [ $# -gt 1 ]; do
        printf '%s{"url": %s, "path": %s}' "$between" "$(quoted "$1")" "$(quoted "$2")"
        between=', '
        shift 2
    done
}

usage="usage: downloads.sh resolve SOURCE [VARIANT [REVISION]], downloads.sh add SOURCE FOLDER [VARIANT [REVISION]],
downloads.sh add-files FOLDER ADDRESS PATH [ADDRESS PATH]…, downloads.sh start-all|pause-all|cancel-all [QUEUE],
downloads.sh retry ID, downloads.sh fail ID [MESSAGE]"
what="${1-}"
if [ "$what" = add-files ]; then
    [ $# -ge 4 ] && [ $(($# % 2)) -eq 0 ] || die "$usage"
    folder=$2
    shift 2
    set -- "{\"files\": {\"files\": [$(files "$@")]}}" "$folder"
    call "$DOWNLOAD" "$service/CreateDownload" "{\"source\": $1, \"destination\": $(quoted "$2/")}"
    exit
fi
case "$what/$#" in
resolve/[234]) call "$DOWNLOAD" "$service/ResolveSource" "{\"source\": $(remote "$2" "${3-}" "${4-}")}" ;;
add/[345])
    source="{\"remote\": $(remote "$2" "${4-}" "${5-}")}"
    call "$DOWNLOAD" "$service/CreateDownload" "{\"source\": $source, \"destination\": $(quoted "$3/")}"
    ;;
start-all/[12]) call "$DOWNLOAD" "$service/StartAllDownloads" "{\"queue\": $(quoted "${2-}")}" ;;
pause-all/[12]) call "$DOWNLOAD" "$service/PauseAllDownloads" "{\"queue\": $(quoted "${2-}")}" ;;
cancel-all/[12]) call "$DOWNLOAD" "$service/CancelAllDownloads" "{\"queue\": $(quoted "${2-}")}" ;;
retry/2) call "$DOWNLOAD" "$service/RetryDownload" "{\"id\": $(quoted "$2")}" ;;
fail/[23]) call "$DOWNLOAD" "$service/FailDownload" "{\"id\": $(quoted "$2"), \"message\": $(quoted "${3-}")}" ;;
*) die "$usage" ;;
esac
