"""Download jobs under the original's names: what to fetch, where to, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from modelkeep.configs.problems import violations_of
from modelkeep.download.v1 import download_pb2, resolve_pb2
from modelkeep.exceptions import FailedByCallerException, FieldInvalidException
from modelkeep.messages import made
from modelkeep.rpc import exception_of
from modelkeep.values import absolute, is_url, names_hub, seconds, state_of

#: Called with the job on each event; what it returns is ignored, unless it is a coroutine function.
DownloadEventHandler: TypeAlias = Callable[[Any], Any]

DEFAULT_PRIORITY: Final = 10


class DownloadJobStatus(StrEnum):
    """Where a download stands."""

    IDLE = "idle"
    ENQUEUED = "enqueued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


#: Nothing will happen to such a job any more.
ENDED: Final = frozenset({DownloadJobStatus.COMPLETED, DownloadJobStatus.ERROR, DownloadJobStatus.CANCELLED})
#: The queue is at work on such a job.
ACTIVE: Final = frozenset({DownloadJobStatus.ENQUEUED, DownloadJobStatus.RUNNING})
#: What may be set of a job that was submitted: the service is told.
_CHANGEABLE: Final = frozenset({"priority", "preserve_partial_downloads", "max_bytes_per_second"})
#: What a handler may set the status to: the queue does what it takes.
_WISHES: Final = frozenset({DownloadJobStatus.PAUSED, DownloadJobStatus.ERROR, DownloadJobStatus.CANCELLED})


class Owner(Protocol):
    """The queue that a job was submitted to."""

    def change(self, job: DownloadJobBase, name: str, value: Any) -> None:
        """Tell the service of a field that was set, and wait for its answer; blocking."""
        ...


class DownloadJobBase(BaseModel):
    """A download job. Once submitted it follows its job in the service.

    Of a submitted job, setting `priority`, `preserve_partial_downloads` or `max_bytes_per_second` tells the
    service, and raises what that answers. A handler, and nobody else, may set `status` to paused,
    cancelled or error (with the exception in `error`): that is done when the handlers have run. What else is
    written into its fields reaches nobody.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    id: int = Field(0, description="Number of the job, from 1; 0 before it is submitted.")
    priority: int = Field(DEFAULT_PRIORITY, description="Lower runs first.")
    source: Any = Field(description="Where the bytes come from.")
    destination: Path = Field(description="A file, or a folder that the file goes into.")
    filename: str | None = Field(None, description="Name of the file inside the folder `destination`.")
    destination_is_folder: bool = Field(
        False, description="Whether the destination is a folder even if it does not exist yet."
    )
    status: DownloadJobStatus = Field(DownloadJobStatus.IDLE, description="Where the job stands.")
    event_handlers: list[DownloadEventHandler] = Field(
        default_factory=list, exclude=True, repr=False, description="Called on each event, in order."
    )
    job_started: float | None = Field(None, description="When it first ran, seconds since the epoch.")
    job_ended: float | None = Field(None, description="When it ended, seconds since the epoch.")
    job_sequence: int | None = Field(None, description="Number at which it was last taken off the queue.")
    preserve_partial_downloads: bool = Field(
        False, description="Whether the partial file stays after an error."
    )
    expected_sha256: str | None = Field(None, description="Hash that the file must have.")
    labels: dict[str, str] = Field(default_factory=dict, description="Pairs of texts to find the job by.")
    max_bytes_per_second: int = Field(0, description="Most bytes a second from the network; 0: no limit.")
    replace_existing: bool | None = Field(
        None,
        description="Whether a file at the destination is replaced, once the new one is checked. None: as in "
        "the original, where the destination names the file; not where the source gives the name.",
    )
    error: Exception | None = Field(None, description="Why it failed, or waits.")
    path: Path | None = Field(None, description="The file, once its name is known.")

    _message: download_pb2.Download = PrivateAttr(default_factory=download_pb2.Download)
    _owner: Owner | None = PrivateAttr(None)
    #: How many of the handlers, at the end, are the queue's.
    _queues_handlers: int = PrivateAttr(0)
    #: Whether handlers of it run just now, and what they have set its status to.
    _handled: bool = PrivateAttr(False)
    _wish: DownloadJobStatus | None = PrivateAttr(None)
    #: What this client has failed it with; the service knows its words alone.
    _failed_with: Exception | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _see_slash(cls, values: Any) -> Any:
        """A destination that ends with "/" is a folder; a Path would forget that."""
        if isinstance(values, dict):
            destination = values.get("destination")
            if isinstance(destination, str) and destination.endswith("/"):
                return {"destination_is_folder": True, **values}
        return values

    if not TYPE_CHECKING:  # else every misspelt field would pass for one

        def __setattr__(self, name: str, value: Any) -> None:
            if name in _CHANGEABLE and self._owner is not None:
                self._owner.change(self, name, value)
            elif name == "status" and self._owner is not None:
                self._wish_for(DownloadJobStatus(value))
            else:
                super().__setattr__(name, value)

    def _take(self, **fields: Any) -> None:
        """Set fields to what the service says."""
        for name, value in fields.items():
            BaseModel.__setattr__(self, name, value)

    def _wish_for(self, status: DownloadJobStatus) -> None:
        if not self._handled or status not in _WISHES:
            raise AttributeError(
                "The status of a submitted job is set by its queue: call start_job, pause_job, cancel_job or "
                f"fail_job. A handler may also set it to paused, cancelled or error (here: {status.value})."
            )
        self._wish = status
        self._take(status=status)

    def failed_with(self, error: Exception) -> None:
        """This client has failed it, with this exception."""
        self._failed_with = error

    def begin_event(self) -> None:
        """Its handlers are about to run, and may set its status."""
        self._handled, self._wish = True, None

    def end_event(self) -> DownloadJobStatus | None:
        """Its handlers have run; what they set its status to, if they did."""
        self._handled = False
        return self._wish

    @property
    def message(self) -> download_pb2.Download:
        """The job as the service described it last."""
        return self._message

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.status in ENDED

    def add_event_handler(self, handler: DownloadEventHandler) -> None:
        """Add a handler after those that the job has of its own, and before the queue's."""
        self.event_handlers.insert(max(0, len(self.event_handlers) - self._queues_handlers), handler)

    def clear_event_handlers(self) -> None:
        """Take all handlers of the job away, those that it has from its queue too."""
        self.event_handlers.clear()
        self._queues_handlers = 0

    def belong_to(self, owner: Owner, handlers: Sequence[DownloadEventHandler]) -> None:
        """Become a job of a queue, which appends its handlers to the job's own."""
        self._owner = owner
        self.event_handlers.extend(handlers)
        self._queues_handlers = len(handlers)

    def update(self, message: download_pb2.Download) -> None:
        """Take over what the service says now."""
        self._message = message
        self._take(
            id=message.id,
            priority=message.priority,
            status=status_of(message),
            job_started=seconds(message.start_time),
            job_ended=seconds(message.end_time),
            job_sequence=message.sequence or None,
            preserve_partial_downloads=message.preserve_partial,
            expected_sha256=message.expected_sha256 or None,
            labels=dict(message.labels),
            max_bytes_per_second=message.max_bytes_per_second,
            replace_existing=message.replace_existing,
            error=self._error_of(message),
            path=Path(message.path) if message.path else None,
        )

    def _error_of(self, message: download_pb2.Download) -> Exception | None:
        if not message.HasField("error"):
            return None
        error = exception_of(message.error)
        return self._failed_with or error if isinstance(error, FailedByCallerException) else error

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        return made(download_pb2.DownloadSource, url=str(self.source))

    def replaces(self) -> bool:
        """Whether a file at the destination is replaced."""
        if self.replace_existing is not None:
            return self.replace_existing
        names_the_file = not self.destination_is_folder and not absolute(self.destination).is_dir()
        return bool(self.filename) or names_the_file

    def destination_text(self) -> str:
        """The destination on the wire: absolute, with "/" at the end for a folder."""
        text = str(absolute(self.destination))
        return f"{text}/" if self.destination_is_folder and not text.endswith("/") else text


class DownloadJobPath(DownloadJobBase):
    """Moves a local file or folder, or copies it."""

    source: Path = Field(description="A file or folder on the service's host.")
    keep_source: bool = Field(False, description="Copy, and leave the source; False: move.")

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        local = made(download_pb2.LocalPath, path=str(absolute(self.source)), move=not self.keep_source)
        return made(download_pb2.DownloadSource, local_path=local)


class DownloadJobRemoteSource(DownloadJobBase):
    """Fetches from another host: a file by its address, or what a hub names, by name or page."""

    source: str | AnyHttpUrl = Field(description="An http or https address, or owner/name.")
    bytes: int = Field(0, description="Bytes downloaded so far.")
    total_bytes: int = Field(0, description="Bytes to download; 0 while unknown.")
    access_token: Any = Field(None, exclude=True, repr=False, description="Token for the source's host.")

    def update(self, message: download_pb2.Download) -> None:
        """Take over what the service says now."""
        super().update(message)
        self._take(bytes=message.progress.bytes_done, total_bytes=message.progress.bytes_total)

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        if not names_hub(self.source):
            return super().source_message()
        return made(
            download_pb2.DownloadSource, remote=made(resolve_pb2.RemoteSource, source=str(self.source))
        )


class DownloadJobRepoID(DownloadJobRemoteSource):
    """Fetches what a hub names: a repository of Hugging Face, or a part of one, or a model of Civitai.

    Several files become a folder at the destination. Submitting it looks up which they are.
    """

    source: str = Field(description="owner/name, owner/name:subfolder, or a page of a hub.")
    subfolder: str | None = Field(None, description="Folder, or one file, of the repository.")
    variant: str | None = Field(None, description='Which files, where there are several: "fp16", "onnx".')
    revision: str | None = Field(None, description="Branch, tag or commit; once submitted, the commit.")

    def update(self, message: download_pb2.Download) -> None:
        """Take over what the service says now."""
        super().update(message)
        found = message.source.remote
        self._take(variant=found.variant or None, revision=found.revision or None)

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        asked = made(
            resolve_pb2.RemoteSource,
            source=self.source,
            subfolder=self.subfolder or "",
            variant=self.variant or "",
            revision=self.revision or "",
        )
        return made(download_pb2.DownloadSource, remote=asked)


class DownloadJobURL(DownloadJobRemoteSource):
    """Fetches from an address that is checked when the job is made."""

    source: AnyHttpUrl = Field(description="An http or https address.")


class DownloadFile(BaseModel):
    """One file of several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: AnyHttpUrl = Field(description="An http or https address without secrets.")
    path: str = Field(description='Where it goes beneath the destination, with "/" between folders.')
    expected_sha256: str | None = Field(None, description="Hash that the file must have.")
    size: int | None = Field(None, description="Bytes that it must have.")


class DownloadJobFiles(DownloadJobRemoteSource):
    """Fetches several files from other hosts, which make up one folder, the destination."""

    source: str = Field("", description="The first file's address; follows from `files`.")
    files: list[DownloadFile] = Field(
        default_factory=list, description="The files; empty of a job that another client made."
    )

    @model_validator(mode="before")
    @classmethod
    def _see_first(cls, values: Any) -> Any:
        """The source follows from the files."""
        if isinstance(values, dict) and values.get("files") and not values.get("source"):
            first = values["files"][0]
            found = first.source if isinstance(first, DownloadFile) else dict(first).get("source", "")
            return {"source": str(found), **values}
        return values

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        files = [
            made(
                download_pb2.SourceFile,
                url=str(file.source),
                path=file.path,
                expected_sha256=file.expected_sha256 or "",
                size_bytes=file.size,
            )
            for file in self.files
        ]
        return made(download_pb2.DownloadSource, files=made(download_pb2.FileSet, files=files))


def job_class_of(source: Any) -> type[DownloadJobBase]:
    """The class of jobs that fits a source."""
    if names_hub(source):
        return DownloadJobRepoID
    return DownloadJobURL if is_url(source) else DownloadJobPath


def make_job(cls: type[DownloadJobBase], source: Any, **fields: Any) -> DownloadJobBase:
    """A job of a class for a source.

    Raises:
        FieldInvalidException: The source is written as an address and is none, or a field is bad.
    """
    value = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
    try:
        return cls(source=value, **fields)
    except ValidationError as error:
        raise FieldInvalidException(
            "This is no valid download job.", violations=violations_of(error)
        ) from None


def job_of(message: download_pb2.Download) -> DownloadJobBase:
    """The object of a job that another client made."""
    cls: type[DownloadJobBase]
    if message.source.HasField("local_path"):
        cls, source = DownloadJobPath, message.source.local_path.path
    elif message.source.HasField("remote"):
        cls, source = DownloadJobRepoID, message.source.remote.source
    elif message.source.HasField("files"):
        cls, source = DownloadJobFiles, next((file.url for file in message.source.files.files), "")
    else:
        cls, source = DownloadJobRemoteSource, message.source.url
    job = cls(source=source, destination=message.destination)
    job.update(message)
    return job


def is_active(message: download_pb2.Download) -> bool:
    """Whether the queue is at work on a job: one that is paused may be on its way to cancelled."""
    return status_of(message) in ACTIVE or message.stage == download_pb2.DOWNLOAD_STAGE_STOPPING


def status_of(message: download_pb2.Download) -> DownloadJobStatus:
    """The state; one of a newer service counts as running."""
    return state_of(download_pb2.DownloadState, message.state, DownloadJobStatus)
