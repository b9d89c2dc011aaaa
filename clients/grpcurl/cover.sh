#!/bin/sh
# The picture that stands for a model: cover.sh set KEY FILE, cover.sh get KEY FILE (which prints nothing), or
# cover.sh rm KEY.
set -eu
. "$(dirname "$0")/common.sh"
service=modelkeep.record.v1.RecordService
case $#/${1-} in
3/set)
    [ -r "$3" ] || die "$3 cannot be read"
    image=$(base64 <"$3" | tr -d '\n')
    call "$RECORD" $service/SetCoverImage "{\"key\": $(quoted "$2"), \"image\": \"$image\"}"
    ;;
3/get)
    answer=$(call "$RECORD" $service/GetCoverImage "{\"key\": $(quoted "$2")}")
    printf '%s\n' "$answer" | sed -n 's/^  "image": "\(.*\)"$/\1/p' | base64 -d >"$3"
    ;;
2/rm) call "$RECORD" $service/DeleteCoverImage "{\"key\": $(quoted "$2")}" ;;
*) die "usage: cover.sh set KEY FILE | get KEY FILE | rm KEY" ;;
esac
