"""What a request asks for: checked, and told apart from its secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep_common.auth import NOBODY, Principal
from modelkeep_common.hash_forms import sha256_of
from modelkeep_common.pages import no_repository, refuse_page
from modelkeep_common.urls import origin_of, parse_url
from modelkeep_download.domain.checks import bad_source, check_token
from modelkeep_download.domain.job import (
    FileSpec,
    Job,
    JobSpec,
    RemoteSpec,
    SecretKind,
    SourceKind,
    token_required,
)
from modelkeep_download.domain.names import is_safe_component
from modelkeep_download.domain.sets import AskedFile, check_one_origin, checked_files
from modelkeep_download.domain.transitions import check_retry
from modelkeep_download.engine import files
from modelkeep_download.engine.places import Places, bad_field
from modelkeep_download.engine.transfer import Credentials
from modelkeep_download.resolve.plans import Asked


@dataclass(frozen=True)
class NewDownload:
    """What a caller asks for, as it came. Its repr shows no secrets."""

    url: str = field(default="", repr=False)
    path: str = ""
    #: What is to be looked up first, in place of all others.
    asked: Asked | None = None
    #: What a hub was asked for, once it has been looked up.
    remote: RemoteSpec | None = None
    #: Of a hub's single file: its name there, its bytes, and where it may lie on this host.
    source_name: str = ""
    size: int | None = None
    local_copy: str = ""
    #: Several files, in place of a URL or a path.
    files: Sequence[AskedFile] = ()
    of_several: bool = False
    copy: bool = False
    destination: str = ""
    filename: str = ""
    queue: str = ""
    priority: int = 10
    start: bool = True
    preserve_partial: bool = False
    expected_sha256: str = ""
    access_token: str = field(default="", repr=False)
    max_bytes_per_second: int = 0
    #: Whether a plain file at the destination gives way.
    replace_existing: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Whether the caller may fill the staging folder of an install.
    installs: bool = False
    named_by: Principal = NOBODY

    @property
    def hash_wanted(self) -> str:
        """The expected hash, lowercase hexadecimal; "" if none was given.

        Raises:
            FieldInvalidException: It is none.
        """
        return sha256_of(self.expected_sha256)


def spec_of(new: NewDownload, places: Places) -> tuple[JobSpec, Credentials, SecretKind]:
    """What a request asks for, checked against the file system; blocking.

    Raises:
        FieldInvalidException, ForbiddenPathException, SourceNotFoundException, DestinationExistsException
    """
    if not new.url and not new.path and not new.of_several:
        raise bad_source("must name a url, a local_path or files")
    asked_folder = f"{new.destination}/" if new.of_several else new.destination
    destination, is_folder = places.destination(asked_folder, new.filename, installs=new.installs)
    filename = new.filename
    several: tuple[FileSpec, ...] = ()
    check_token(new.access_token)
    if new.of_several:
        for name in ("filename", "expected_sha256"):
            if getattr(new, name):
                raise bad_field(name, "must be left out: of several files each has its own")
        several = checked_files(new.files, has_token=bool(new.access_token))
        if new.remote is None:  # else the service itself has found them
            places.check_copies([file.local_copy for file in several], new.named_by)
        kind, source = SourceKind.FILES, several[0].source
        credentials = Credentials(source, token=new.access_token or None)
        secret = SecretKind.of(url=False, token=bool(new.access_token))
    elif new.url:
        no_repository(new.url, "source.url")
        parsed = parse_url(new.url, "source.url")
        refuse_page(parsed.url)
        credentials = Credentials(parsed.url, parsed.userinfo, new.access_token or None)
        secret = SecretKind.of(url=parsed.has_secret, token=bool(new.access_token))
        if is_folder:
            filename = filename or new.source_name
        kind, source = SourceKind.URL, parsed.shown
    else:
        path = places.local_source(new.path, new.named_by, copy=new.copy)
        if destination.is_relative_to(path):
            raise bad_source("the destination is the source, or lies inside it", "destination")
        if path.is_dir() and new.expected_sha256:
            raise bad_field("expected_sha256", "a folder has no single hash")
        asked = Path(os.path.normpath(new.path))
        if is_folder and not filename and asked.is_symlink() and is_safe_component(asked.name):
            filename = asked.name  # the name that the caller knows it by, not that of what it leads to
        if is_folder and path == destination / (filename or path.name):
            raise bad_source("the destination is the source itself", "destination")
        if is_folder and not filename and not is_safe_component(path.name):
            raise bad_field("filename", "must be given, since the source's own name is no plain one")
        credentials, secret = Credentials(str(path)), SecretKind.NONE
        kind, source = SourceKind.PATH, str(path)
    spec = JobSpec(
        queue=new.queue,
        kind=kind,
        source=source,
        destination=destination,
        destination_is_folder=is_folder,
        filename=filename,
        root=places.root_of(destination),
        priority=new.priority,
        preserve_partial=new.preserve_partial,
        copy=new.copy,
        expected_sha256=new.hash_wanted,
        start=new.start,
        labels=dict(new.labels),
        files=several,
        remote=new.remote,
        size=new.size,
        local_copy=new.local_copy,
        max_bytes_per_second=new.max_bytes_per_second,
        replace_existing=new.replace_existing,
    )
    return spec, credentials, secret


@dataclass(frozen=True)
class Again:
    """What RetryDownload brings, as it came. Its repr shows no secrets."""

    access_token: str = field(default="", repr=False)
    source_url: str = field(default="", repr=False)
    #: Whether the caller may fill the staging folder of an install.
    installs: bool = False
    named_by: Principal = NOBODY


def asked_again(job: Job, again: Again, *, kept: bool = False) -> NewDownload:
    """What a job that failed or was cancelled asked for, with what its retry brings.

    `kept`: see `renewed`.

    Raises:
        WrongStateException: The job has not ended, or is COMPLETED.
        FieldInvalidException: What is brought is malformed, or another source's.
        TokenRequiredException: A secret that the job needs is missing.
    """
    check_retry(job)
    spec = job.spec
    _, credentials, _ = renewed(job, None, again.access_token, again.source_url, kept=kept)
    return NewDownload(
        url=(again.source_url or credentials.url) if spec.kind is SourceKind.URL else "",
        path=spec.source if spec.kind is SourceKind.PATH else "",
        files=[
            AskedFile(file.source, file.path, file.expected_sha256, file.size, file.local_copy)
            for file in spec.files
        ],
        remote=spec.remote,
        size=spec.size,
        local_copy=spec.local_copy,
        of_several=spec.kind is SourceKind.FILES,
        copy=spec.copy,
        destination=f"{spec.destination}/" if spec.destination_is_folder else str(spec.destination),
        filename=spec.filename,
        queue=spec.queue,
        replace_existing=spec.replace_existing,
        priority=job.priority,
        preserve_partial=job.preserve_partial,
        max_bytes_per_second=job.max_bytes_per_second,
        expected_sha256=spec.expected_sha256,
        access_token=again.access_token,
        labels=spec.labels,
        installs=again.installs,
        named_by=again.named_by,
    )


def check_target(spec: JobSpec) -> None:
    """Refuse a destination that is taken, as far as its name is known."""
    for file in spec.files:
        files.check_free(spec.destination / file.path, replaces=spec.replace_existing)
    if spec.kind is SourceKind.FILES:
        return
    name = spec.filename or (Path(spec.source).name if spec.kind is SourceKind.PATH else "")
    target = spec.destination / name if spec.destination_is_folder and name else spec.destination
    if name or not spec.destination_is_folder:
        files.check_free(target, replaces=spec.replace_existing)


def renewed(
    job: Job, held: Credentials | None, access_token: str, source_url: str, *, kept: bool = False
) -> tuple[str, Credentials, SecretKind]:
    """A job's source and credentials with what a start or a retry brings, and which secrets are among them.

    The source is the job's own, unless its address has run out: then it may be any other.

    Args:
        job: The job.
        held: What this process knows of them.
        access_token: A new token, or "".
        source_url: The job's URL with its secrets, or "".
        kept: Whether there is a token for its host, which takes the place of one that the job has lost.

    Raises:
        FieldInvalidException: They are malformed, or another source's.
        TokenRequiredException: One that the job needs is missing.
    """
    check_token(access_token)
    source = job.spec.source
    if job.spec.kind is SourceKind.FILES and access_token:
        check_one_origin(job.spec.files)
    if job.spec.kind is SourceKind.PATH and not source_url:
        return source, Credentials(source), SecretKind.NONE
    url, userinfo, token = source, "", access_token or (held.token if held else None)
    url_secret = False
    if source_url:
        parsed = parse_url(source_url, "source_url")
        if job.spec.kind is not SourceKind.URL or (parsed.shown != source and not job.awaits_address):
            raise bad_source("this is not the job's own source", "source_url")
        if origin_of(parsed.url) != origin_of(source):
            token = access_token or None  # what the job has was for the other host
        source, url, userinfo, url_secret = parsed.shown, parsed.url, parsed.userinfo, parsed.has_secret
    elif held is not None:
        url, userinfo = held.url, held.userinfo
        url_secret = job.secret.in_url
    have = SecretKind.of(url=url_secret, token=bool(token))
    lacks_url = job.secret.in_url and not url_secret
    lacks_token = job.secret in (SecretKind.ACCESS_TOKEN, SecretKind.BOTH) and not (token or kept)
    goes_on = job.complete and not job.state.terminal
    if (lacks_url or lacks_token) and not goes_on and source == job.spec.source:
        raise token_required(job)
    return source, Credentials(url, userinfo, token or None), have
