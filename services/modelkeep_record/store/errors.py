"""What keeps a file from being opened as a store of records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from modelkeep.defaults import EXIT_DATA
from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_common.startup import StartupError

from ..stores.yaml import BrokenFileError, WrongFileError

_REMEDY: Final = "Name another file."
_MEND: Final = "Mend it there, or name another file."


class WrongStoreException(FieldInvalidException, AssertionError):
    """The file is of another kind than its name says, or has no records of this or an earlier release in it.

    An AssertionError as well, which the original raises.
    """


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Why a store does not open, as an exception for who opens it.

    Raises:
        WrongStoreException: It is another kind of file, or of a newer schema.
        FieldInvalidException: It cannot be written.
    """
    try:
        yield
    except StartupError as error:
        if error.exit_code == EXIT_DATA:
            raise wrong(error.message) from None
        raise _unusable(error.message) from None
    except WrongFileError as error:
        raise wrong(str(error)) from None
    except BrokenFileError as error:
        raise wrong(str(error), _MEND) from None
    except OSError as error:
        raise _unusable(f"cannot write {error.filename}: {error.strerror}") from None


def wrong(problem: str, remedy: str = _REMEDY) -> WrongStoreException:
    """The error for a file that is not what it should be."""
    return WrongStoreException(problem, violations=[FieldViolation("path", problem)], remedy=remedy)


def _unusable(problem: str) -> FieldInvalidException:
    return FieldInvalidException(problem, violations=[FieldViolation("path", problem)], remedy=_REMEDY)
