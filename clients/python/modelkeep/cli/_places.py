"""Which suite a command talks to: by option, by environment, by a context of the configuration file."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import typer

from modelkeep.cli._options import choose, chosen
from modelkeep.cli._words import did_you_mean
from modelkeep.defaults import EXIT_INTERRUPTED, SERVICES, ServiceName, find_data_dir

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.server.v1 import server_service_pb2


#: Of a caller: what he shows, and whom he trusts.
FILES: Final = ("token_file", "ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class Place:
    """A suite, by whatever names it.

    Attributes:
        data_dir: Its data folder.
        addresses: Service to address.
        token_file: File with the token to show.
        ca_file: Authorities of its services; without, there is no TLS.
        cert_file: Certificate to show.
        key_file: Its private key.
    """

    data_dir: str | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)
    token_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def files(self) -> dict[str, str | None]:
        """What to show, and whom to trust: arguments of a client."""
        return {name: getattr(self, name) for name in FILES}


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration file.

    Attributes:
        current: Name of the context in use; "" for none.
        contexts: Name to place.
    """

    current: str = ""
    contexts: Mapping[str, Place] = field(default_factory=dict)


def config_path() -> Path:
    """The configuration file: MODELKEEP_CONFIG, or modelkeep/config.json in the user's folder for these."""
    if named := os.environ.get("MODELKEEP_CONFIG"):
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "modelkeep" / "config.json"


def read() -> Config:
    """What the configuration file says; nothing if there is none.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    path = config_path()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        contexts = {str(name): Place(**place) for name, place in said.get("contexts", {}).items()}
        return Config(str(said.get("current", "")), contexts)
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise typer.BadParameter(f"The configuration file {path} cannot be read: {error}") from None


def write(config: Config) -> None:
    """Write the configuration file, for this user alone.

    Raises:
        typer.BadParameter: It cannot be written.
    """
    path = config_path()
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(scratch, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(config), file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file in its place
        scratch.replace(path)
    except OSError as error:
        raise typer.BadParameter(
            f"The configuration file {path} cannot be written: {error.strerror}"
        ) from None


def context_named(config: Config, name: str) -> Place:
    """A context of the configuration file.

    Raises:
        typer.BadParameter: It has none of this name.
    """
    if name not in config.contexts:
        known = ", ".join(config.contexts) or "none"
        raise typer.BadParameter(
            f"{config_path()} has no context {name!r}; it has {known}.{did_you_mean(name, config.contexts)}"
        )
    return config.contexts[name]


def choose_place(
    *,
    data_dir: Any = None,
    address: Any = None,
    context: Any = None,
    files: Mapping[str, Any] | None = None,
) -> None:
    """Take over the options that say which suite is meant."""
    choose(
        **(files or {}),
        data_dir=data_dir,
        context=context,
        addresses=addresses_of(address) if address else None,
    )


def addresses_of(given: Sequence[str]) -> dict[ServiceName, str]:
    """``record=host:port`` texts as a dict; several may stand in one, with commas between them.

    Raises:
        typer.BadParameter: One is not of this form, or names no service.
    """
    found: dict[ServiceName, str] = {}
    for text in given:
        for part in text.split(","):
            service, equals, address = (piece.strip() for piece in part.partition("="))
            if not equals or not address or service.lower() not in SERVICES:
                raise typer.BadParameter(
                    f"{part!r} is not SERVICE=ADDRESS, such as record=127.0.0.1:50051; services are "
                    f"{', '.join(SERVICES)}",
                    param_hint="--address",
                )
            found[cast(ServiceName, service.lower())] = address
    return found


def place() -> Place:
    """The suite that is meant: what options say, over a context; what neither says is left open.

    A context is used if it is named, by --context or MODELKEEP_CONTEXT, or if it is the current one and
    nothing else says which suite is meant.
    """
    options = chosen()
    named = options.context or os.environ.get("MODELKEEP_CONTEXT") or ""
    told = options.data_dir is not None or any(
        os.environ.get(name)
        for name in ("MODELKEEP_DATA_DIR", *(f"MODELKEEP_CLIENT_{s.upper()}_ADDRESS" for s in SERVICES))
    )
    base = Place()
    if named and (options.context or options.data_dir is None):
        base = context_named(read(), named)
    elif not told:
        config = read()
        base = context_named(config, config.current) if config.current else base
    return replace(
        base,
        data_dir=str(options.data_dir) if options.data_dir is not None else base.data_dir,
        addresses={**base.addresses, **{str(name): to for name, to in options.addresses.items()}},
        **{
            name: getattr(base, name) if chosen is None else str(chosen)
            for name, chosen in ((name, getattr(options, name)) for name in FILES)
        },
    )


def data_dir() -> Path:
    """The data folder of the suite that is meant."""
    return find_data_dir(place().data_dir)


@contextmanager
def connect(*, timeout_s: float | None = None) -> Iterator[Client]:
    """A client of the suite that is meant."""
    with leaves_at_once():
        from modelkeep.client import Client
    found = place()
    more: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
    with Client(
        **cast(dict[str, Any], {**found.addresses, **found.files}), data_dir=found.data_dir, **more
    ) as client:
        yield client


def is_here(info: server_service_pb2.GetServerInfoResponse) -> bool:
    """Whether a service runs on this host, so that its paths are paths here."""
    try:
        return info.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return False


@contextmanager
def leaves_at_once() -> Iterator[None]:
    """Inside, Ctrl-C ends the process without a word, as an import that is cut short would not."""
    try:
        before = signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
