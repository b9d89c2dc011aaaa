"""What each reason of an error says besides its message: the keys of its metadata, and what helps.

The comments of ``modelkeep.errors.v1.ErrorReason`` name the same keys; a test holds them against this table,
and against every place that raises. Needs neither grpc nor protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Situation(NamedTuple):
    """What an error of one reason may say."""

    #: Keys that its metadata may have.
    keys: tuple[str, ...]
    #: What helps in every such case, where nothing better is said: a sentence. "{name}" is one of the keys.
    remedy: str


#: Keys that an error of any reason may have: what to do about it, as a sentence; of a job's error also what
#: was being fetched or installed, and where the finished download is kept; of a load, which component.
COMMON_KEYS: Final = ("remedy", "source", "kept_path", "component")
#: Keys that the Python client and the command line add to errors that they make by themselves: which service
#: was asked, where; which file was read, in which root; the unknown reason; which models a name fits.
CLIENT_KEYS: Final = ("service", "address", "path", "root_id", "reason", "keys")

_AGAIN: Final = "Send the request again."

#: By the reason's name.
SITUATIONS: Final[Mapping[str, Situation]] = {
    "INTERNAL": Situation(
        ("request_id", "id"), "Look up the request id in the service's log, and report what stands there."
    ),
    "FIELD_INVALID": Situation(("fields",), "Correct these fields, and send the request again."),
    "INVALID_MODEL_CONFIG": Situation(
        ("fields",), "Correct these fields, or choose the type and format that have them."
    ),
    "PAGE_TOKEN_MISMATCH": Situation(("fields",), "List again without a page token."),
    "REQUEST_ID_REUSED": Situation(("request_id",), "Take a new request_id for each new request."),
    "RESUME_TOKEN_EXPIRED": Situation(
        ("revision", "oldest_revision"), "Watch again without a resume token: a snapshot comes first."
    ),
    "RESUME_TOKEN_FOREIGN": Situation(
        ("collection",), "Watch again without a resume token: a snapshot comes first."
    ),
    "UNKNOWN_MODEL": Situation(
        ("key", "name", "base", "type", "path"), "ListModels shows the models that there are."
    ),
    "UNKNOWN_COVER_IMAGE": Situation(("key",), "SetCoverImage gives the model one."),
    "UNKNOWN_JOB": Situation(
        ("id",), "ListInstalls and ListDownloads show the jobs; one that was pruned is forgotten."
    ),
    "UNKNOWN_LEASE": Situation(
        ("lease_id",),
        "ListLeases shows those that are alive; a holder asks for a new one: AcquireLease or HoldModel.",
    ),
    "DUPLICATE_MODEL": Situation(("key",), "Leave the key empty: the service then makes one."),
    "DUPLICATE_PATH": Situation(
        ("path", "key"), "Use the model {key}, or delete its record before the path is given to another."
    ),
    "AMBIGUOUS_MODEL": Situation(
        ("name", "base", "type", "count"), "ListModels with this name shows them; use the key of one."
    ),
    "INSTALL_IN_PROGRESS": Situation(("id",), "Wait for the install {id}, or cancel it, and import again."),
    "DESTINATION_EXISTS": Situation(("path", "id"), "Move {path} away, or choose another destination."),
    "ETAG_MISMATCH": Situation(("key", "etag"), "Read it again, and decide anew with the present etag."),
    "MANY_MISSING": Situation(
        ("key", "path"), "Mount what is away and sync again; if the files are gone for good, sync with force."
    ),
    "STORE_FILE_BROKEN": Situation(
        ("path", "line", "column"), "Mend {path} there, or put back a copy; it is read again by itself."
    ),
    "WRONG_STATE": Situation(
        ("id", "state", "allowed"), "Look at the job's state; one that has ended does not run again."
    ),
    "MODEL_NOT_FOUND_ON_DISK": Situation(
        ("key", "path"), "Put the files back to {path}, or uninstall the model {key} and install it again."
    ),
    "INVALID_MODEL": Situation(
        ("path", "detail", "missing", "setting"),
        "Fetch anew what is incomplete; what the files do not tell, say in the overrides of the install.",
    ),
    "SUBMODEL_REQUIRED": Situation(
        ("key", "available", "loadable"), "Name one of these components: {available}."
    ),
    "MODEL_IN_USE": Situation(
        ("key", "holders"), "End what holds it (ListLeases names them), or revoke the leases, and try again."
    ),
    "MODEL_PINNED": Situation(
        ("key", "components"), "Take the pins back (UnpinModel, `modelkeep cache unpin`), and try again."
    ),
    "UNSAFE_FORMAT": Situation(("path", "format"), "Use the model's safetensors files in their place."),
    "FORBIDDEN_PATH": Situation(
        ("path", "setting", "detail"), "Name a path beneath an allowed root, or allow another by the setting."
    ),
    "FORBIDDEN_ADDRESS": Situation(
        ("host", "address", "setting"),
        "Take the file from a public address, or allow private ones by the setting.",
    ),
    "FORBIDDEN_TICKET": Situation((), "Ask for a new ticket with the lease's id."),
    "ROOT_MISMATCH": Situation(
        ("expected_root_id", "actual_root_id"),
        "Mount the folder that the record means, or start the service with the right models_dir.",
    ),
    "WRONG_HOST": Situation(("expected_boot_id", "actual_boot_id"), "Ask the loader on this very host."),
    "TOKEN_REQUIRED": Situation(
        ("host", "status", "said", "id", "needs", "kept_under", "terms"),
        "Give an access token of the source, or keep one for it with `modelkeep auth login`.",
    ),
    "TOKEN_REJECTED": Situation(
        ("host", "status", "said", "credential"),
        "Check that the token is valid and may read the file; give another one.",
    ),
    "LICENSE_NOT_ACCEPTED": Situation(
        ("host", "status", "said"), "Accept the terms at {host}, and give a token of that account."
    ),
    "PURCHASE_REQUIRED": Situation(
        ("host", "status", "said"), "Buy access at {host}, and give a token of that account."
    ),
    "EARLY_ACCESS": Situation(
        ("host", "status", "said", "deadline"), "Wait for that date, or give a token of an account that may."
    ),
    "ADDRESS_EXPIRED": Situation(
        ("host", "status", "said", "needs"), "Give a new address of the same file; what is there is kept."
    ),
    "RAM_EXHAUSTED": Situation(
        ("bytes_short", "budget_bytes", "holders", "setting"),
        "End leases that hold memory, or raise ram_budget_bytes.",
    ),
    "VRAM_EXHAUSTED": Situation(
        ("device", "bytes_short", "budget_bytes", "holders"),
        'End leases that hold memory of {device}, or ask for the device "cpu".',
    ),
    "LEASES_EXHAUSTED": Situation(
        ("limit", "setting", "principal"), "Release leases that are not used any more, or raise the setting."
    ),
    "DISK_FULL": Situation(
        ("path", "bytes_short", "needed_bytes", "free_bytes"), "Make room on the file system of {path}."
    ),
    "QUEUE_FULL": Situation(("limit",), "Try again when some of the jobs have ended."),
    "WATCHER_TOO_SLOW": Situation(("resume_token",), "Watch again from the resume token, and read faster."),
    "SERVER_BUSY": Situation(("class", "limit"), "Try again after the delay that RetryInfo names."),
    "CHECKSUM_MISMATCH": Situation(
        ("path", "expected", "actual", "quarantined_path"),
        "Check the address and the hash: the bytes are others than expected.",
    ),
    "SOURCE_NOT_FOUND": Situation(
        ("source", "path", "host", "status", "said", "max_redirects", "available"),
        "Check the path or the address of the source.",
    ),
    "SOURCE_DISABLED": Situation(
        ("host", "status", "said"), "Take another version of the model, or another model."
    ),
    "SOURCE_CHANGED": Situation(("source", "changes"), "Start again once the source changes no more."),
    "NOT_A_MODEL_FILE": Situation(
        ("host", "content_type", "content_encoding", "setting", "said", "detail"),
        "Give the address of the file itself.",
    ),
    "UPSTREAM_UNAVAILABLE": Situation(
        (
            *("peer", "service", "address", "attempts", "max_attempts", "ignored_variables"),
            *("host", "status", "said", "proxy"),
        ),
        "Start what does not answer, or try again later.",
    ),
    "SERVER_DRAINING": Situation(("resume_token",), _AGAIN),
    "DEVICE_UNAVAILABLE": Situation(
        ("device", "why"), 'Ask for another device than {device}, such as "cpu".'
    ),
    "CANCELLED": Situation(("id",), "Make a new job if it is wanted after all."),
    "DEADLINE_EXCEEDED": Situation(
        ("limit_seconds", "id"), "Ask again with the same request_id, and allow more time."
    ),
    "CREDENTIALS_MISSING": Situation(
        (), "Send `authorization: Bearer TOKEN`, or call through the UNIX socket as its owner."
    ),
    "CREDENTIALS_INVALID": Situation((), "Take the token of the suite that runs now: `modelkeep token`."),
    "ROLE_REQUIRED": Situation(
        ("role", "method", "principal", "field"),
        "Call with credentials that have one of these roles: {role}.",
    ),
    "UNKNOWN_SUBMODEL": Situation(
        ("key", "submodel", "loadable"), "Name one of the components that can be lent: {loadable}."
    ),
    "LEASE_REVOKED": Situation(
        ("lease_id", "why"), "Ask for a new lease if that is what the operator wants."
    ),
    "FAILED_BY_CALLER": Situation(("id",), "Ask the one who failed it; the message may tell why."),
    "XET_ONLY": Situation(
        ("source", "path", "size"), "Fetch the file with the hub's own client, and install it by its path."
    ),
    "AMBIGUOUS_SOURCE": Situation(("source", "choices"), "Name one of these: {choices}."),
    "UNKNOWN_VARIANT": Situation(
        ("source", "variant", "available"), "Take one of these variants: {available}."
    ),
    "RATE_LIMITED": Situation(
        ("host", "status", "said"), "Wait as long as RetryInfo says; {host} allows more with an access token."
    ),
}


def is_general(reason: str, metadata: Mapping[str, str]) -> bool:
    """Whether what an error says to do is what helps in every case of its reason."""
    told = metadata.get("remedy", "")
    return not told or told == _general(reason, metadata)


def remedy_of(reason: str, metadata: Mapping[str, str]) -> str:
    """What helps against an error; "" where it takes facts that the error does not have."""
    if told := metadata.get("remedy"):
        return told
    return _general(reason, metadata)


def _general(reason: str, metadata: Mapping[str, str]) -> str:
    situation = SITUATIONS.get(reason)
    try:
        return situation.remedy.format(**metadata) if situation is not None else ""
    except KeyError:
        return ""
