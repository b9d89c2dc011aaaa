"""What a request asks for: checked, and told apart from its secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep_common.auth import NOBODY, Principal
from modelkeep_common.hash_forms import sha256_of
from modelkeep_common.pages import no_repository, refuse_page
from modelkeep_common.urls import origin_of, parse_url
from modelkeep_download.domain.checks import bad_source, check_token
from modelkeep_download.domain.job import Job, JobSpec, SecretKind, SourceKind, token_required
from modelkeep_download.domain.names import is_safe_component
from modelkeep_download.engine import files
from modelkeep_download.engine.places import Places, bad_field
from modelkeep_download.engine.transfer import Credentials


@dataclass(frozen=True)
class NewDownload:
    """What a caller asks for, as it came. Its repr shows no secrets."""

    url: str = field(default="", repr=False)
    path: str = ""
    copy: bool = False
    destination: str = ""
    filename: str = ""
    queue: str = ""
    priority: int = 10
    start: bool = True
    preserve_partial: bool = False
    expected_sha256: str = ""
    access_token: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Whether the caller may fill the staging folder of an install.
    installs: bool = False
    named_by: Principal = NOBODY


def spec_of(new: NewDownload, places: Places) -> tuple[JobSpec, Credentials, SecretKind]:
    """What a request asks for, checked against the file system; blocking.

    Raises:
        FieldInvalidException, ForbiddenPathException, SourceNotFoundException, DestinationExistsException
    """
    if not new.url and not new.path:
        raise bad_source("must name a url or a local_path")
    destination, is_folder = places.destination(new.destination, new.filename, installs=new.installs)
    filename = new.filename
    check_token(new.access_token)
    if new.url:
        no_repository(new.url, "source.url")
        parsed = parse_url(new.url, "source.url")
        refuse_page(parsed.url)
        credentials = Credentials(parsed.url, parsed.userinfo, new.access_token or None)
        secret = SecretKind.of(url=parsed.has_secret, token=bool(new.access_token))
        kind, source = SourceKind.URL, parsed.shown
    else:
        path = places.local_source(new.path, new.named_by, copy=new.copy)
        if destination.is_relative_to(path):
            raise bad_source("the destination lies inside the source", "destination")
        if path.is_dir() and new.expected_sha256:
            raise bad_field("expected_sha256", "a folder has no single hash")
        asked = Path(os.path.normpath(new.path))
        if is_folder and not filename and asked.is_symlink() and is_safe_component(asked.name):
            filename = asked.name  # the name that the caller knows it by, not that of what it leads to
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
        expected_sha256=sha256_of(new.expected_sha256),
        start=new.start,
        labels=dict(new.labels),
    )
    return spec, credentials, secret


def check_target(spec: JobSpec) -> None:
    """Refuse a destination that is taken, as far as its name is known."""
    name = spec.filename or (Path(spec.source).name if spec.kind is SourceKind.PATH else "")
    target = spec.destination / name if spec.destination_is_folder and name else spec.destination
    if (name or not spec.destination_is_folder) and files.inode_of(target) is not None:
        raise files.destination_exists(target)


def renewed(
    job: Job, held: Credentials | None, access_token: str, source_url: str
) -> tuple[str, Credentials, SecretKind]:
    """A job's source and credentials with what StartDownload brings, and which secrets are among them.

    The source is the job's own, unless its address has run out: then it may be any other.

    Args:
        job: The job.
        held: What this process knows of them.
        access_token: A new token, or "".
        source_url: The job's URL with its secrets, or "".

    Raises:
        FieldInvalidException: They are malformed, or another source's.
        TokenRequiredException: One that the job needs is missing.
    """
    check_token(access_token)
    source = job.spec.source
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
    lacks_token = job.secret in (SecretKind.ACCESS_TOKEN, SecretKind.BOTH) and not token
    if (lacks_url or lacks_token) and not job.complete and source == job.spec.source:
        raise token_required(job)
    return source, Credentials(url, userinfo, token or None), have
