"""From a source as people write it to a request for its files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from modelkeep.exceptions import FieldInvalidException
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.job import RemoteSpec
from modelkeep_download.domain.names import is_safe_component
from modelkeep_download.domain.sets import AskedFile
from modelkeep_download.engine.places import bad_field
from modelkeep_download.engine.requests import NewDownload
from modelkeep_download.resolve.address import AddressResolver
from modelkeep_download.resolve.path import PathResolver, path_of
from modelkeep_download.resolve.plans import Asked, Plan
from modelkeep_download.resolve.resolving import Resolving

_FIELD: Final = "source.remote.source"
_MAX_FILES: Final = 10_000
#: Fields of ResolveSource.
_ASKED: Final = frozenset(f"source.{name}" for name in ("source", "subfolder", "variant", "revision"))


async def looked_up(new: NewDownload, resolving: Resolving) -> NewDownload:
    """The request for what a remote source stands for at this moment; others as they are.

    Raises:
        ModelkeepError: As `Resolving.resolve`.
    """
    if new.asked is None:
        return new
    with _fields_of_create():
        return await _looked_up(new, new.asked, resolving)


async def _looked_up(new: NewDownload, asked: Asked, resolving: Resolving) -> NewDownload:
    match resolving.resolver_of(asked):
        case PathResolver():
            return replace(new, asked=None, path=path_of(asked.source.strip()), copy=True)
        case AddressResolver():
            return replace(new, asked=None, url=asked.source)
    asked = asked.with_token_apart
    return planned(replace(new, asked=None, access_token=asked.access_token), await resolving.resolve(asked))


@contextlib.contextmanager
def _fields_of_create() -> Iterator[None]:
    """Bad fields of a lookup are told as CreateDownload names them."""
    try:
        yield
    except FieldInvalidException as error:
        violations = [
            replace(one, field=one.field.replace("source.", "source.remote.", 1))
            if one.field in _ASKED
            else one
            for one in error.violations
        ]
        raise FieldInvalidException("", violations=violations, remedy=error.remedy) from None


def planned(new: NewDownload, plan: Plan) -> NewDownload:
    """The request for the files of a plan.

    Raises:
        FieldInvalidException: They cannot be had as one download, or not as the request wants them.
    """
    if not 0 < len(plan.files) <= _MAX_FILES:
        raise bad_source(f"has {len(plan.files):,} files, and a download 1 to {_MAX_FILES:,}", _FIELD)
    for file in plan.files:
        if not all(map(is_safe_component, file.path.split("/"))):
            raise bad_source(
                f"has a file whose name not every file system takes: {file.path[:200]!r}", _FIELD
            )
    new = replace(new, remote=RemoteSpec(plan.source, plan.variant, plan.revision))
    if plan.is_folder or len(plan.files) > 1:
        files = [
            AskedFile(file.url, file.path, file.sha256, file.size, file.cached_path if file.sha256 else "")
            for file in plan.files
        ]
        return replace(new, files=files, of_several=True)
    (file,) = plan.files
    if file.sha256 and new.expected_sha256 and new.hash_wanted != file.sha256:
        raise bad_field("expected_sha256", f"is not what the source tells: {file.sha256}")
    return replace(
        new,
        url=file.url,
        source_name=file.path.rpartition("/")[2],
        expected_sha256=new.expected_sha256 or file.sha256,
        size=file.size,
        local_copy=file.cached_path if file.sha256 else "",
    )
