# Shared by the scripts here: where the services are, and how grpcurl is called. POSIX sh; sourced.
#
# GRPCURL                             the program (default: grpcurl)
# MODELKEEP_CLIENT_<SERVICE>_ADDRESS  where a service is: HOST:PORT or unix:PATH (default: the ports of `modelkeep up`)
# MODELKEEP_TOKEN_FILE                the token to show (default: that of the suite on MODELKEEP_DATA_DIR, or on
#                                     ./modelkeep-data; none is needed over unix:PATH, or to look)
# MODELKEEP_CA_FILE                   the services' authorities: over TCP they are called by TLS
# MODELKEEP_CERT_FILE, MODELKEEP_KEY_FILE  the certificate to show them, and its key

GRPCURL=${GRPCURL:-grpcurl}
RECORD=${MODELKEEP_CLIENT_RECORD_ADDRESS:-127.0.0.1:50051}
DOWNLOAD=${MODELKEEP_CLIENT_DOWNLOAD_ADDRESS:-127.0.0.1:50052}
INSTALL=${MODELKEEP_CLIENT_INSTALL_ADDRESS:-127.0.0.1:50053}
LOADER=${MODELKEEP_CLIENT_LOADER_ADDRESS:-127.0.0.1:50054}
TOKEN_FILE=${MODELKEEP_TOKEN_FILE:-${MODELKEEP_DATA_DIR:-modelkeep-data}/run/tokens/owner}

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

# The fields that name a model, or a component of one: component KEY [SUBMODEL]; SUBMODEL as the Python client has it.
component() {
    submodel=$(printf '%s' "${2-}" | tr '[:lower:]' '[:upper:]')
    printf '"key": %s' "$(quoted "$1")"
    [ -z "$submodel" ] || printf ', "submodel": %s' "$(quoted "SUB_MODEL_TYPE_$submodel")"
}

# call ADDRESS METHOD JSON [FLAGS...]: request and token go through stdin and the environment, so that `ps` has none.
call() {
    address=$1 method=$2 body=$3
    shift 3
    how=-plaintext
    case $address in
    unix:*) ;;
    *)
        if [ -n "${MODELKEEP_CA_FILE:-}" ]; then
            how=-cacert
            set -- "$MODELKEEP_CA_FILE" "$@"
            [ -z "${MODELKEEP_CERT_FILE:-}" ] ||
                set -- "$@" -cert "$MODELKEEP_CERT_FILE" -key "${MODELKEEP_KEY_FILE:-$MODELKEEP_CERT_FILE}"
        fi
        if [ -r "$TOKEN_FILE" ]; then
            MODELKEEP_TOKEN=$(cat "$TOKEN_FILE") && export MODELKEEP_TOKEN
            # shellcheck disable=SC2016  # grpcurl expands it
            set -- "$@" -expand-headers -H 'authorization: Bearer ${MODELKEEP_TOKEN}'
        fi
        ;;
    esac
    printf '%s' "$body" | "$GRPCURL" "$how" "$@" -d @ "$address" "$method"
}
