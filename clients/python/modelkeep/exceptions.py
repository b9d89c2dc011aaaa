"""Every error of the suite, as one tree. Services raise them; the client raises the same ones.

::

    Exception
    └── ModelkeepError                        reason INTERNAL        code INTERNAL
        ├── InvalidRequestException           (bad input; the caller must change the request)
        │   ├── FieldInvalidException         FIELD_INVALID          INVALID_ARGUMENT
        │   ├── InvalidModelConfigException   INVALID_MODEL_CONFIG   INVALID_ARGUMENT
        │   ├── PageTokenMismatchException    PAGE_TOKEN_MISMATCH    INVALID_ARGUMENT
        │   ├── RequestIdReusedException      REQUEST_ID_REUSED      INVALID_ARGUMENT
        │   ├── ResumeTokenForeignException   RESUME_TOKEN_FOREIGN   INVALID_ARGUMENT
        │   └── ResumeTokenExpiredException   RESUME_TOKEN_EXPIRED   OUT_OF_RANGE
        ├── NotFoundException                 (there is no such thing)
        │   ├── UnknownModelException         UNKNOWN_MODEL          NOT_FOUND
        │   ├── UnknownSubmodelException      UNKNOWN_SUBMODEL       NOT_FOUND
        │   ├── ModelImageFileNotFoundException  UNKNOWN_COVER_IMAGE NOT_FOUND
        │   ├── UnknownJobIDException         UNKNOWN_JOB            NOT_FOUND
        │   └── UnknownLeaseException         UNKNOWN_LEASE          NOT_FOUND
        │       └── LeaseRevokedException     LEASE_REVOKED          NOT_FOUND
        ├── ConflictException                 (somebody was there first)
        │   ├── DuplicateModelException       DUPLICATE_MODEL        ALREADY_EXISTS
        │   │   ├── DuplicatePathException    DUPLICATE_PATH         ALREADY_EXISTS
        │   │   └── AmbiguousModelException   AMBIGUOUS_MODEL        FAILED_PRECONDITION
        │   ├── InstallInProgressException    INSTALL_IN_PROGRESS    ALREADY_EXISTS
        │   ├── DestinationExistsException    DESTINATION_EXISTS     ALREADY_EXISTS
        │   ├── EtagMismatchException         ETAG_MISMATCH          ABORTED
        │   ├── ManyMissingException          MANY_MISSING           FAILED_PRECONDITION
        │   ├── StoreFileBrokenException      STORE_FILE_BROKEN      FAILED_PRECONDITION
        │   └── WrongStateException           WRONG_STATE            FAILED_PRECONDITION
        ├── ModelUnusableException            (known, but it cannot be used as it is)
        │   ├── ModelNotFoundException        MODEL_NOT_FOUND_ON_DISK FAILED_PRECONDITION
        │   ├── InvalidModelException         INVALID_MODEL          FAILED_PRECONDITION
        │   ├── SubmodelRequiredException     SUBMODEL_REQUIRED      FAILED_PRECONDITION
        │   ├── ModelInUseException           MODEL_IN_USE           FAILED_PRECONDITION
        │   ├── ModelPinnedException          MODEL_PINNED           FAILED_PRECONDITION
        │   └── UnsafeFormatException         UNSAFE_FORMAT          FAILED_PRECONDITION
        ├── AccessException                   (not allowed, or not with these credentials)
        │   ├── CredentialsMissingException   CREDENTIALS_MISSING    UNAUTHENTICATED
        │   ├── CredentialsInvalidException   CREDENTIALS_INVALID    UNAUTHENTICATED
        │   ├── RoleRequiredException         ROLE_REQUIRED          PERMISSION_DENIED
        │   ├── ForbiddenPathException        FORBIDDEN_PATH         PERMISSION_DENIED
        │   ├── ForbiddenAddressException     FORBIDDEN_ADDRESS      PERMISSION_DENIED
        │   ├── ForbiddenTicketException      FORBIDDEN_TICKET       PERMISSION_DENIED
        │   ├── RootMismatchException         ROOT_MISMATCH          FAILED_PRECONDITION
        │   ├── WrongHostException            WRONG_HOST             FAILED_PRECONDITION
        │   ├── TokenRequiredException        TOKEN_REQUIRED         FAILED_PRECONDITION
        │   ├── TokenRejectedException        TOKEN_REJECTED         FAILED_PRECONDITION
        │   ├── LicenseNotAcceptedException   LICENSE_NOT_ACCEPTED   FAILED_PRECONDITION
        │   ├── PurchaseRequiredException     PURCHASE_REQUIRED      FAILED_PRECONDITION
        │   ├── EarlyAccessException          EARLY_ACCESS           FAILED_PRECONDITION
        │   └── AddressExpiredException       ADDRESS_EXPIRED        FAILED_PRECONDITION
        ├── ExhaustedException                (no room; free some, or wait)
        │   ├── RamExhaustedException         RAM_EXHAUSTED          RESOURCE_EXHAUSTED
        │   ├── VramExhaustedException        VRAM_EXHAUSTED         RESOURCE_EXHAUSTED
        │   ├── DiskFullException             DISK_FULL              RESOURCE_EXHAUSTED
        │   ├── LeasesExhaustedException      LEASES_EXHAUSTED       RESOURCE_EXHAUSTED
        │   ├── QueueFullException            QUEUE_FULL             RESOURCE_EXHAUSTED
        │   ├── WatcherTooSlowException       WATCHER_TOO_SLOW       RESOURCE_EXHAUSTED
        │   ├── ServerBusyException           SERVER_BUSY            RESOURCE_EXHAUSTED
        │   └── RateLimitedException          RATE_LIMITED           RESOURCE_EXHAUSTED
        ├── SourceException                   (what the source served is not what was asked for)
        │   ├── ChecksumMismatchException     CHECKSUM_MISMATCH      DATA_LOSS
        │   ├── SourceNotFoundException       SOURCE_NOT_FOUND       FAILED_PRECONDITION
        │   ├── SourceDisabledException       SOURCE_DISABLED        FAILED_PRECONDITION
        │   ├── SourceChangedException        SOURCE_CHANGED         FAILED_PRECONDITION
        │   ├── NotAModelFileException        NOT_A_MODEL_FILE       FAILED_PRECONDITION
        │   ├── AmbiguousSourceException      AMBIGUOUS_SOURCE       FAILED_PRECONDITION
        │   ├── UnknownVariantException       UNKNOWN_VARIANT        FAILED_PRECONDITION
        │   └── XetOnlyException              XET_ONLY               FAILED_PRECONDITION
        ├── UnavailableException              (try again; nothing is wrong with the request)
        │   ├── UpstreamUnavailableException  UPSTREAM_UNAVAILABLE   UNAVAILABLE
        │   ├── ServerDrainingException       SERVER_DRAINING        UNAVAILABLE
        │   └── DeviceUnavailableException    DEVICE_UNAVAILABLE     UNAVAILABLE
        ├── FailedByCallerException           FAILED_BY_CALLER       ABORTED
        ├── CancelledException                CANCELLED              CANCELLED
        └── DeadlineExceededException         DEADLINE_EXCEEDED      DEADLINE_EXCEEDED

``reason`` is the name of a value of ``modelkeep.errors.v1.ErrorReason`` without its prefix, ``code``
the name of a gRPC status code. This module imports neither grpc nor protobuf, so that domain code
may raise these and every program may catch them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelkeep._access_errors import AccessException as AccessException
from modelkeep._access_errors import AddressExpiredException as AddressExpiredException
from modelkeep._access_errors import CredentialsInvalidException as CredentialsInvalidException
from modelkeep._access_errors import CredentialsMissingException as CredentialsMissingException
from modelkeep._access_errors import EarlyAccessException as EarlyAccessException
from modelkeep._access_errors import ForbiddenAddressException as ForbiddenAddressException
from modelkeep._access_errors import ForbiddenPathException as ForbiddenPathException
from modelkeep._access_errors import ForbiddenTicketException as ForbiddenTicketException
from modelkeep._access_errors import LicenseNotAcceptedException as LicenseNotAcceptedException
from modelkeep._access_errors import PurchaseRequiredException as PurchaseRequiredException
from modelkeep._access_errors import RoleRequiredException as RoleRequiredException
from modelkeep._access_errors import RootMismatchException as RootMismatchException
from modelkeep._access_errors import TokenRejectedException as TokenRejectedException
from modelkeep._access_errors import TokenRequiredException as TokenRequiredException
from modelkeep._access_errors import WrongHostException as WrongHostException
from modelkeep._error import FieldViolation as FieldViolation
from modelkeep._error import ModelkeepError as ModelkeepError
from modelkeep._sources import AmbiguousSourceException as AmbiguousSourceException
from modelkeep._sources import ChecksumMismatchException as ChecksumMismatchException
from modelkeep._sources import NotAModelFileException as NotAModelFileException
from modelkeep._sources import SourceChangedException as SourceChangedException
from modelkeep._sources import SourceDisabledException as SourceDisabledException
from modelkeep._sources import SourceException as SourceException
from modelkeep._sources import SourceNotFoundException as SourceNotFoundException
from modelkeep._sources import UnknownVariantException as UnknownVariantException
from modelkeep._sources import XetOnlyException as XetOnlyException


class InvalidRequestException(ModelkeepError):
    """The request itself is wrong: change it and try again."""


class FieldInvalidException(InvalidRequestException):
    """One or more fields have a bad value; ``violations`` says which and why."""

    reason = "FIELD_INVALID"
    code = "INVALID_ARGUMENT"


class InvalidModelConfigException(InvalidRequestException):
    """A model's configuration does not validate as any known kind of model."""

    reason = "INVALID_MODEL_CONFIG"
    code = "INVALID_ARGUMENT"


class PageTokenMismatchException(InvalidRequestException):
    """The page token belongs to another query, or is no page token."""

    reason = "PAGE_TOKEN_MISMATCH"
    code = "INVALID_ARGUMENT"


class RequestIdReusedException(InvalidRequestException):
    """This request_id was already used for a request with another body."""

    reason = "REQUEST_ID_REUSED"
    code = "INVALID_ARGUMENT"


class ResumeTokenForeignException(InvalidRequestException):
    """The resume token was issued by another store (a restored back-up is one)."""

    reason = "RESUME_TOKEN_FOREIGN"
    code = "INVALID_ARGUMENT"


class ResumeTokenExpiredException(InvalidRequestException):
    """The resume token is older than the history that is kept: start with a snapshot."""

    reason = "RESUME_TOKEN_EXPIRED"
    code = "OUT_OF_RANGE"


class NotFoundException(ModelkeepError):
    """There is no such thing."""


class UnknownModelException(NotFoundException):
    """No record has this key (or name, base and type)."""

    reason = "UNKNOWN_MODEL"
    code = "NOT_FOUND"


class UnknownSubmodelException(NotFoundException):
    """The main model has no component of this name; the metadata names those that can be lent."""

    reason = "UNKNOWN_SUBMODEL"
    code = "NOT_FOUND"


class ModelImageFileNotFoundException(NotFoundException):
    """No picture stands for the model."""

    reason = "UNKNOWN_COVER_IMAGE"
    code = "NOT_FOUND"


class UnknownJobIDException(NotFoundException):
    """No job of this queue has this id."""

    reason = "UNKNOWN_JOB"
    code = "NOT_FOUND"


class UnknownLeaseException(NotFoundException):
    """No lease has this id, or it has ended."""

    reason = "UNKNOWN_LEASE"
    code = "NOT_FOUND"


class LeaseRevokedException(UnknownLeaseException):
    """An operator has ended the lease; what this process has mapped goes on working."""

    reason = "LEASE_REVOKED"
    code = "NOT_FOUND"


class ConflictException(ModelkeepError):
    """The request collides with something that is already there."""


class DuplicateModelException(ConflictException):
    """A record with this key exists already."""

    reason = "DUPLICATE_MODEL"
    code = "ALREADY_EXISTS"


class DuplicatePathException(DuplicateModelException):
    """Another record has this path: one record a path."""

    reason = "DUPLICATE_PATH"
    code = "ALREADY_EXISTS"


class AmbiguousModelException(DuplicateModelException):
    """Several records share this name, base and type: use the key."""

    reason = "AMBIGUOUS_MODEL"
    code = "FAILED_PRECONDITION"


class InstallInProgressException(ConflictException):
    """The same source, or perhaps the same, is being installed otherwise; the metadata has the job's id."""

    reason = "INSTALL_IN_PROGRESS"
    code = "ALREADY_EXISTS"


class DestinationExistsException(ConflictException):
    """There is a file at the destination, and it is never silently replaced."""

    reason = "DESTINATION_EXISTS"
    code = "ALREADY_EXISTS"


class EtagMismatchException(ConflictException):
    """The resource changed since its etag was read: read it again."""

    reason = "ETAG_MISMATCH"
    code = "ABORTED"


class ManyMissingException(ConflictException):
    """So many models are gone at once, or all of a folder, that a disk may be away: their records stay."""

    reason = "MANY_MISSING"
    code = "FAILED_PRECONDITION"


class StoreFileBrokenException(ConflictException):
    """The file of records was changed by hand and cannot be read: mend it at the line that is named."""

    reason = "STORE_FILE_BROKEN"
    code = "FAILED_PRECONDITION"


class WrongStateException(ConflictException):
    """The job is not in a state that allows this call."""

    reason = "WRONG_STATE"
    code = "FAILED_PRECONDITION"


class ModelUnusableException(ModelkeepError):
    """The model is known, but cannot be used as it is."""


class ModelNotFoundException(ModelUnusableException):
    """The record is there, the files at its path are not."""

    reason = "MODEL_NOT_FOUND_ON_DISK"
    code = "FAILED_PRECONDITION"


class InvalidModelException(ModelUnusableException):
    """The model's files are broken, or of no kind that can be handled."""

    reason = "INVALID_MODEL"
    code = "FAILED_PRECONDITION"


class SubmodelRequiredException(ModelUnusableException):
    """A main model has several components: say which one."""

    reason = "SUBMODEL_REQUIRED"
    code = "FAILED_PRECONDITION"


class ModelInUseException(ModelUnusableException):
    """Leases hold the model's components; the metadata names the holders."""

    reason = "MODEL_IN_USE"
    code = "FAILED_PRECONDITION"


class ModelPinnedException(ModelUnusableException):
    """Components of the model are pinned in the loader's memory; the metadata names them."""

    reason = "MODEL_PINNED"
    code = "FAILED_PRECONDITION"


class UnsafeFormatException(ModelUnusableException):
    """The file may run code when it is read (a pickle), and is refused."""

    reason = "UNSAFE_FORMAT"
    code = "FAILED_PRECONDITION"


class ExhaustedException(ModelkeepError):
    """No room: free some, or wait."""


class RamExhaustedException(ExhaustedException):
    """The RAM budget cannot hold it; the metadata says how many bytes are short and who holds them."""

    reason = "RAM_EXHAUSTED"
    code = "RESOURCE_EXHAUSTED"


class VramExhaustedException(ExhaustedException):
    """An accelerator has no room for it; the metadata says how many bytes are short and who holds them."""

    reason = "VRAM_EXHAUSTED"
    code = "RESOURCE_EXHAUSTED"


class LeasesExhaustedException(ExhaustedException):
    """The caller, or all callers together, hold as many leases as the loader gives."""

    reason = "LEASES_EXHAUSTED"
    code = "RESOURCE_EXHAUSTED"


class DiskFullException(ExhaustedException):
    """The file system has no room for it."""

    reason = "DISK_FULL"
    code = "RESOURCE_EXHAUSTED"


class QueueFullException(ExhaustedException):
    """The queue takes no more jobs."""

    reason = "QUEUE_FULL"
    code = "RESOURCE_EXHAUSTED"


class WatcherTooSlowException(ExhaustedException):
    """The reader of a watch stalled; the metadata has its last resume token."""

    reason = "WATCHER_TOO_SLOW"
    code = "RESOURCE_EXHAUSTED"


class ServerBusyException(ExhaustedException):
    """Too many calls at once, or too little left for one more: try again after the given delay."""

    reason = "SERVER_BUSY"
    code = "RESOURCE_EXHAUSTED"


class RateLimitedException(ExhaustedException):
    """The source answers no more requests for a while: RetryInfo has how long."""

    reason = "RATE_LIMITED"
    code = "RESOURCE_EXHAUSTED"


class UnavailableException(ModelkeepError):
    """Nothing is wrong with the request: try again."""


class UpstreamUnavailableException(UnavailableException):
    """A peer or a remote host does not answer."""

    reason = "UPSTREAM_UNAVAILABLE"
    code = "UNAVAILABLE"


class ServerDrainingException(UnavailableException):
    """The server is shutting down: connect again."""

    reason = "SERVER_DRAINING"
    code = "UNAVAILABLE"


class DeviceUnavailableException(UnavailableException):
    """The accelerator cannot be used, or is gone: ask for another device."""

    reason = "DEVICE_UNAVAILABLE"
    code = "UNAVAILABLE"


class FailedByCallerException(ModelkeepError):
    """A caller has put the job into state ERROR; the message is its own."""

    reason = "FAILED_BY_CALLER"
    code = "ABORTED"


class CancelledException(ModelkeepError):
    """The job or call was cancelled."""

    reason = "CANCELLED"
    code = "CANCELLED"


class DeadlineExceededException(ModelkeepError):
    """The call's deadline passed before there was an answer."""

    reason = "DEADLINE_EXCEEDED"
    code = "DEADLINE_EXCEEDED"


def _subclasses(cls: type[ModelkeepError]) -> Iterable[type[ModelkeepError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


#: Reason → exception class, for every class that states a reason of its own.
BY_REASON: Mapping[str, type[ModelkeepError]] = {
    "INTERNAL": ModelkeepError,
    **{cls.reason: cls for cls in _subclasses(ModelkeepError) if "reason" in cls.__dict__},
}
