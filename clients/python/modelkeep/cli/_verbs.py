"""How a command comes into being: the options that it shares with others, its examples, how it ends."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from modelkeep.cli import _complete, _places
from modelkeep.cli._errors import complain_of_usage, guarded
from modelkeep.cli._listing import Listing
from modelkeep.cli._options import DataFormat, Format, choose, forget
from modelkeep.cli._terminal import Colour
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED

F = TypeVar("F", bound=Callable[..., Any])
#: Name of a parameter to its annotation and its default.
Shared = Mapping[str, tuple[Any, Any]]


def folder_named(text: str) -> Path:
    """A folder that an option names.

    An empty text, as an unset variable of the shell gives, is none: as a path it would be the current folder,
    which would be made a data folder and closed to others.
    """
    if not text.strip():
        raise typer.BadParameter("names no folder; leave the option out for its default")
    return Path(text)


#: Which suite; every verb has these, and so has the program itself, before the verb.
PLACE: Final[Shared] = {
    "data_dir": (
        Annotated[
            Path | None,
            typer.Option(
                help="Data folder of the suite [env: MODELKEEP_DATA_DIR; default: ./modelkeep-data].",
                parser=folder_named,
                metavar="DIR",
            ),
        ],
        None,
    ),
    "address": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="SERVICE=ADDR", help="Where a service is: record=HOST:PORT or unix:PATH."),
        ],
        None,
    ),
    "token_file": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="File with the token to show [env: MODELKEEP_TOKEN_FILE; default: the suite's own].",
            ),
        ],
        None,
    ),
    "ca_file": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Authorities of the services: over TCP they are called by TLS [env: MODELKEEP_CA_FILE].",
            ),
        ],
        None,
    ),
    "cert_file": (
        Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Certificate to show them [env: MODELKEEP_CERT_FILE]."),
        ],
        None,
    ),
    "key_file": (
        Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Private key of the certificate [env: MODELKEEP_KEY_FILE]."),
        ],
        None,
    ),
    "context": (
        Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Suite by its name in the configuration file; see `modelkeep context`.",
                autocompletion=_complete.contexts,
            ),
        ],
        None,
    ),
    "color": (
        Annotated[
            Colour | None,
            typer.Option(help="When to write in colour; NO_COLOR means never.", case_sensitive=False),
        ],
        None,
    ),
}
#: For a command whose answer a program may want.
DATA: Final[Shared] = {
    "output": (
        Annotated[
            DataFormat | None,
            typer.Option("--output", "-o", help="Write the answer for a program.", case_sensitive=False),
        ],
        None,
    ),
    "as_json": (
        Annotated[bool, typer.Option("--json", help="As -o json, with the field names of the API.")],
        False,
    ),
}
#: For a command that lists.
LIST: Final[Shared] = {
    **DATA,
    "output": (
        Annotated[
            Format | None,
            typer.Option("--output", "-o", help="How to write the list.", case_sensitive=False),
        ],
        None,
    ),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Keys or numbers alone.")], False),
    "no_trunc": (Annotated[bool, typer.Option("--no-trunc", help="Cut nothing off.")], False),
    "filter": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=VALUE,...",
                help="Only rows that have one of the values; NAME!=VALUE: none of them; NAME~PART: a part.",
            ),
        ],
        None,
    ),
    "sort": (Annotated[str | None, typer.Option(metavar="COLUMN", help="What to sort by.")], None),
    "reverse": (Annotated[bool, typer.Option("--reverse", "-r", help="Turn the order round.")], False),
    "limit": (Annotated[int, typer.Option(metavar="N", help="At most so many rows; 0: all.", min=0)], 0),
    "watch": (
        Annotated[bool, typer.Option("--watch", "-w", help="Go on showing what changes, until Ctrl-C.")],
        False,
    ),
}
#: For a command whose answer changes, and is no list.
WATCHED: Final[Shared] = {**DATA, "watch": LIST["watch"]}


class Verb(TyperCommand):
    """A command whose help tells its own options before those that every command has."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters, by kind."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Which suite": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Which suite" if parameter.name in PLACE else "Options"
                sections["Arguments" if parameter.param_type_name == "argument" else kind].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """A group of commands; of a command written wrongly it tells as of every other error."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run what the arguments say and end the process."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        forget()
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            complain_of_usage(error, as_data=_wants_data(sys.argv[1:] if args is None else args))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except typer.Abort:
            sys.exit(EXIT_FAILED)
        sys.exit(code if isinstance(code, int) else 0)


def group(help: str) -> typer.Typer:
    """A group of commands; without one, it does what its callback does."""
    return typer.Typer(help=help, invoke_without_command=True, cls=Group)


def verb(
    app: typer.Typer,
    name: str | None = None,
    *,
    takes: Shared | None = None,
    lists: Listing[Any] | None = None,
    examples: Sequence[str] = (),
    negative: bool = False,
) -> Callable[[F], F]:
    """Make a function a command; the function itself stays as it is.

    Args:
        app: Where the command is added.
        name: Its name; that of the function by default.
        takes: What options it has beside its own and those of every command.
        lists: What it lists; its help tells what that is filtered and sorted by.
        examples: Command lines, each perhaps with "#" and a remark.
        negative: Whether an argument may be a number below 0, which is no option then.
    """
    settings = {"ignore_unknown_options": True} if negative else None

    def add(function: F) -> F:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        if lists is not None:
            columns = ", ".join(column.title.lower() for column in lists.columns)
            epilog = f"Filters: {', '.join(lists.filters)}. Columns: {columns}.\n\n{epilog}"
        shared = sharing(function, {**(takes or {}), **PLACE})
        app.command(name, cls=Verb, epilog=epilog, context_settings=settings)(shared)
        return function

    return add


def lists(app: typer.Typer, function: Callable[..., Any]) -> None:
    """Make a function what a group does without a command: to list."""
    app.callback()(sharing(function, {**LIST, **PLACE}))


def sharing(function: Callable[..., Any], shared: Shared) -> Callable[..., Any]:
    """A function with further parameters, whose values become the options of :mod:`._options`."""
    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
        if name not in signature.parameters
    ]
    body = guarded(function)

    @functools.wraps(function)
    def run(**values: Any) -> Any:
        chosen = {parameter.name: values.pop(parameter.name) for parameter in more}
        _take(**chosen)
        return body(**values)

    own = list(signature.parameters.values())
    run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *more]}
    del run.__wrapped__  # its annotations are texts
    return run


def _take(
    *,
    data_dir: Path | None = None,
    address: Sequence[str] | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    context: str | None = None,
    color: Colour | None = None,
    output: Format | DataFormat | None = None,
    as_json: bool = False,
    quiet: bool = False,
    no_trunc: bool = False,
    filter: Sequence[str] | None = None,
    sort: str | None = None,
    reverse: bool = False,
    limit: int = 0,
    watch: bool = False,
) -> None:
    """Keep what was chosen; what was not stays as it was chosen before the verb."""
    _places.choose_place(
        data_dir=data_dir,
        address=address,
        context=context,
        files={"token_file": token_file, "ca_file": ca_file, "cert_file": cert_file, "key_file": key_file},
    )
    choose(
        colour=color,
        format=Format.JSON if as_json else output and Format(output),
        quiet=quiet or None,
        whole=no_trunc or None,
        filters=filter or None,
        sort=sort,
        reverse=reverse or None,
        limit=limit or None,
        watch=watch or None,
    )


def _wants_data(arguments: Sequence[str]) -> bool:
    """Whether JSON was asked for by a command line that could not be read."""
    line = f" {' '.join(arguments)} ".lower().replace("--output", "-o").replace("=", " ")
    return any(f" {wish} " in line for wish in ("--json", "-o json", "-ojson", "-o yaml", "-oyaml"))
