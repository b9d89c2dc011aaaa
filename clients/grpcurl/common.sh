# Shared by the scripts here: where the services are, and how grpcurl is called. POSIX sh; sourced.
#
# GRPCURL                             the program (default: grpcurl)
# MODELKEEP_CLIENT_<SERVICE>_ADDRESS  where a service is (default: the ports of `modelkeep up`)

GRPCURL=${GRPCURL:-grpcurl}
RECORD=${MODELKEEP_CLIENT_RECORD_ADDRESS:-127.0.0.1:50051}
INSTALL=${MODELKEEP_CLIENT_INSTALL_ADDRESS:-127.0.0.1:50053}
LOADER=${MODELKEEP_CLIENT_LOADER_ADDRESS:-127.0.0.1:50054}

die() {
    echo "$*" >&2
    exit 2
}

command -v "$GRPCURL" >/dev/null ||
    die "grpcurl is not here: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3, or set GRPCURL"

# A text as a JSON string.
quoted() {
    printf '"%s"' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# call ADDRESS METHOD JSON [FLAGS...]: the request goes through stdin, so that no token is in `ps`.
call() {
    address=$1 method=$2 body=$3
    shift 3
    printf '%s' "$body" | "$GRPCURL" -plaintext "$@" -d @ "$address" "$method"
}
