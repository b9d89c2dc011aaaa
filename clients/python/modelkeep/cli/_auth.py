"""``modelkeep auth``: access tokens of sources, kept by host in a file of the suite's data folder.

No service is sent a token: DownloadService reads the file.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from modelkeep.cli import _places, _watching
from modelkeep.cli._asking import can_ask
from modelkeep.cli._listing import Column, Listing
from modelkeep.cli._output import emit, say
from modelkeep.cli._terminal import complain, visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb
from modelkeep.defaults import EXIT_NOT_FOUND
from modelkeep.exceptions import ModelkeepError
from modelkeep.source_tokens import (
    HostPattern,
    TokensFileError,
    forget_token,
    is_token,
    keep_token,
    read_tokens,
    tokens_path,
)

if TYPE_CHECKING:
    from modelkeep.server.v1 import server_service_pb2

_HUB: Final = "huggingface.co"
#: Of a service that is away, the file is known all the same.
_TIMEOUT_S: Final = 5.0
_SOURCES: Final[Mapping[str, str]] = {
    "setting": "the setting source_tokens",
    "HF_TOKEN": "the service's HF_TOKEN",
    "hub_token_file": "the file of the hub's client",
    "file": "modelkeep auth login",
}

_group = group("Keep access tokens of sources, by host; without a command, list the hosts.")

Host = Annotated[
    str, typer.Argument(help="huggingface.co, civitai.com, models.example.com:8443, *.example.com, …")
]


class _Kept(NamedTuple):
    """That there is a token for a host."""

    host: str
    kept_in: str


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_group, name="auth")
    lists(_group, auth)
    verb(
        _group,
        takes=DATA,
        examples=(
            "modelkeep auth login   # huggingface.co; asks for the token",
            "modelkeep auth login civitai.com --with-token < token.txt",
        ),
    )(login)
    verb(_group, takes=DATA, examples=("modelkeep auth logout civitai.com",))(logout)
    verb(_group, takes=LIST, examples=("modelkeep auth status", "modelkeep auth status -o json"))(status)


def auth(ctx: typer.Context) -> None:
    """Keep access tokens of sources, by host; without a command, list the hosts."""
    if ctx.invoked_subcommand is None:
        status()


def login(
    host: Host = _HUB,
    with_token: Annotated[
        bool, typer.Option("--with-token", help="Read the token from the standard input.")
    ] = False,
) -> None:
    """Keep an access token for a host: what is fetched from there shows it from now on.

    The token is read at a hidden prompt, or from the standard input; it is not checked. The file that it is
    written to lies in the suite's data folder, for its user alone.
    """
    named, path = _host(host), _file()
    with _told():
        read_tokens(path)  # a file that is no good is told before anybody types a token
        keep_token(path, named, _token(named, from_input=with_token))
    if not emit(lambda: {"host": str(named), "file": str(path)}):
        say(f"Kept a token for {named} in {visible(str(path))}; it was not checked.")


def logout(host: Host = _HUB) -> None:
    """Forget the access token that is kept for a host."""
    named, path = _host(host), _file()
    with _told():
        had_one = forget_token(path, named)
    if not had_one:
        complain(f"Error: {visible(str(path))} has no token for {named}.")
        raise typer.Exit(EXIT_NOT_FOUND)
    if not emit(lambda: {"host": str(named), "file": str(path)}):
        say(f"Forgot the token for {named}.")


def status() -> None:
    """List the hosts that access tokens are kept for, and where each comes from; never a token.

    Where several fit an address, the first counts.
    """
    listing: Listing[_Kept] = Listing(
        "host",
        "tokens",
        (
            Column("HOST", lambda row: row.host, cut="end"),
            Column("FROM", lambda row: _SOURCES.get(row.kept_in, row.kept_in), drop=1),
        ),
        key=lambda row: row.host,
        name=lambda row: row.host,
        data=lambda row: row._asdict(),
        filters={"host": lambda row: (row.host,), "kept_in": lambda row: (row.kept_in,)},
    )
    _watching.poll(listing, _all_kept, empty="No tokens are kept; `modelkeep auth login HOST` keeps one.")


def _all_kept() -> list[_Kept]:
    info = _info()
    if info is not None and info.HasField("source_tokens"):
        return [_Kept(one.host, one.kept_in) for one in info.source_tokens.tokens]
    path = _file()
    with _told():
        kept = [_Kept(str(host), "file") for host in read_tokens(path)]
    complain(f"DownloadService does not answer: these are the tokens in {visible(str(path))}.")
    return kept


def _host(text: str) -> HostPattern:
    try:
        return HostPattern.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{visible(text)!r}: {error}", param_hint="HOST") from None


def _token(host: HostPattern, *, from_input: bool) -> str:
    if from_input:
        text = sys.stdin.readline()
    elif can_ask():
        text = getpass.getpass(f"Token for {host} (it is not shown): ")
    else:
        raise typer.BadParameter("nobody is there to ask: give the token on the standard input, --with-token")
    if not is_token(token := text.strip()):
        raise typer.BadParameter("a token is printable ASCII without blanks, and not empty")
    return token


def _info() -> server_service_pb2.GetServerInfoResponse | None:
    """What DownloadService says of itself; None if it does not answer."""
    try:
        with _places.connect(timeout_s=_TIMEOUT_S) as client:
            return client.server_info("download")
    except ModelkeepError:
        return None


def _file() -> Path:
    """The file of the suite that is meant.

    Raises:
        typer.BadParameter: It is not on this host, or there is no such suite.
    """
    info, place = _info(), _places.place()
    elsewhere = (
        "the suite's tokens are kept in a file on its own host, and sent over no network: run this there"
    )
    if info is not None and not _places.is_here(info):
        raise typer.BadParameter(elsewhere)
    if info is not None and info.source_tokens.file:
        path = Path(info.source_tokens.file)
        if not path.parent.is_dir():
            raise typer.BadParameter(f"{path.parent} is not there: {elsewhere}")
        return path
    if place.addresses and place.data_dir is None:
        raise typer.BadParameter(f"DownloadService does not answer; {elsewhere}, with --data-dir DIR")
    folder = _places.data_dir().absolute()
    if not folder.is_dir():
        raise typer.BadParameter(
            f"{folder} is no suite's data folder: name one with --data-dir, or start one with `modelkeep up`"
        )
    return tokens_path(folder)


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with the file is told as any error of a command."""
    try:
        yield
    except TokensFileError as error:
        raise typer.BadParameter(str(error)) from None
