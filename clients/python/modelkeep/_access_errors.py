"""The errors of what is not allowed, or not with these credentials; see :mod:`modelkeep.exceptions`."""

from __future__ import annotations

from modelkeep._error import ModelkeepError


class AccessException(ModelkeepError):
    """Not allowed, or not with these credentials."""


class CredentialsMissingException(AccessException):
    """The service wants to know who calls, and the call does not say."""

    reason = "CREDENTIALS_MISSING"
    code = "UNAUTHENTICATED"


class CredentialsInvalidException(AccessException):
    """The call shows a token or a certificate that the service does not take."""

    reason = "CREDENTIALS_INVALID"
    code = "UNAUTHENTICATED"


class RoleRequiredException(AccessException):
    """The caller is known, and may not call this method, or not with this request."""

    reason = "ROLE_REQUIRED"
    code = "PERMISSION_DENIED"


class ForbiddenPathException(AccessException):
    """The path, or what its links lead to, lies outside every root, or the system denies it."""

    reason = "FORBIDDEN_PATH"
    code = "PERMISSION_DENIED"


class ForbiddenAddressException(AccessException):
    """The source's host resolves to an address that may not be asked."""

    reason = "FORBIDDEN_ADDRESS"
    code = "PERMISSION_DENIED"


class ForbiddenTicketException(AccessException):
    """The ticket is wrong, used, expired, or another process's."""

    reason = "FORBIDDEN_TICKET"
    code = "PERMISSION_DENIED"


class RootMismatchException(AccessException):
    """The folder mounted here is not the root that the record means."""

    reason = "ROOT_MISMATCH"
    code = "FAILED_PRECONDITION"


class WrongHostException(AccessException):
    """Leases are given on the worker's own host only."""

    reason = "WRONG_HOST"
    code = "FAILED_PRECONDITION"


class TokenRequiredException(AccessException):
    """The source wants an access token."""

    reason = "TOKEN_REQUIRED"
    code = "FAILED_PRECONDITION"


class TokenRejectedException(AccessException):
    """The source refused the access token."""

    reason = "TOKEN_REJECTED"
    code = "FAILED_PRECONDITION"


class LicenseNotAcceptedException(AccessException):
    """The source gives the file only to accounts that accepted its terms."""

    reason = "LICENSE_NOT_ACCEPTED"
    code = "FAILED_PRECONDITION"


class PurchaseRequiredException(AccessException):
    """The source gives the file only to accounts that paid for it."""

    reason = "PURCHASE_REQUIRED"
    code = "FAILED_PRECONDITION"


class EarlyAccessException(AccessException):
    """The source gives the file only to those who pay, until a date that it may name."""

    reason = "EARLY_ACCESS"
    code = "FAILED_PRECONDITION"


class AddressExpiredException(AccessException):
    """The address served the file, or was signed, and does not any more: a new one is needed."""

    reason = "ADDRESS_EXPIRED"
    code = "FAILED_PRECONDITION"
