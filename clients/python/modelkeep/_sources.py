"""The exceptions of exceptions.py that tell of what a source served, or does not serve."""

from __future__ import annotations

from modelkeep._error import ModelkeepError


class SourceException(ModelkeepError):
    """What the source served is not what was asked for."""


class ChecksumMismatchException(SourceException):
    """The bytes do not have the expected hash, and were not delivered."""

    reason = "CHECKSUM_MISMATCH"
    code = "DATA_LOSS"


class SourceNotFoundException(SourceException):
    """The source answers that there is no such file."""

    reason = "SOURCE_NOT_FOUND"
    code = "FAILED_PRECONDITION"


class SourceDisabledException(SourceException):
    """The source knows the model and gives it to nobody: archived, taken down, its downloads disabled."""

    reason = "SOURCE_DISABLED"
    code = "FAILED_PRECONDITION"


class SourceChangedException(SourceException):
    """The object changed at the source while it was being fetched or installed."""

    reason = "SOURCE_CHANGED"
    code = "FAILED_PRECONDITION"


class NotAModelFileException(SourceException):
    """The source served a web page or a folder listing in place of a file."""

    reason = "NOT_A_MODEL_FILE"
    code = "FAILED_PRECONDITION"


class AmbiguousSourceException(SourceException):
    """The source holds several models: name one of them."""

    reason = "AMBIGUOUS_SOURCE"
    code = "FAILED_PRECONDITION"


class UnknownVariantException(SourceException):
    """The source has the model, but not in this variant."""

    reason = "UNKNOWN_VARIANT"
    code = "FAILED_PRECONDITION"


class XetOnlyException(SourceException):
    """The file is to be had by the protocol of the hub's chunk store alone, which is not spoken here."""

    reason = "XET_ONLY"
    code = "FAILED_PRECONDITION"
