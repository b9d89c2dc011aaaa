"""What is said where the system does not let the loader read files: of them, or of the loader itself."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from modelkeep.exceptions import InvalidModelException, ModelkeepError, ServerBusyException

#: What the process or the host is out of; the files may be as they should.
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
#: When to ask again, in seconds.
_RETRY_S: Final = 1.0


def is_short(error: BaseException) -> bool:
    """Whether it says that process or host are out of descriptors or memory."""
    return isinstance(error, OSError) and error.errno in _SHORT


def busy(error: OSError) -> ServerBusyException:
    """What is said where :func:`is_short`: nothing of the model, and that it may go a little later."""
    return ServerBusyException(
        f"The loader cannot open what it needs: {error.strerror}.",
        retry_after=_RETRY_S,
        remedy="Try again, close what is not used, or raise LoaderService's limits of open files and memory.",
    )


def unreadable(model: str, path: Path, error: OSError) -> ModelkeepError:
    """What is said of a model one of whose files cannot be read.

    Args:
        model: Its name.
        path: The file.
        error: Why.
    """
    if is_short(error):
        return busy(error)
    return InvalidModelException(
        f"The files of {model!r} cannot be read: {error.strerror}.",
        metadata={"path": str(path), "detail": str(error.strerror)},
        remedy=f"Let the loader's user read {path}, and look whether its disk is well.",
    )
