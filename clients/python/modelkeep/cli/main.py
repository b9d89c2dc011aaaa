"""The command line's root: what commands there are."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from modelkeep import __version__
from modelkeep.cli import (
    _auth,
    _cache,
    _certs,
    _changes,
    _contexts,
    _covers,
    _download_sets,
    _downloads,
    _exports,
    _install,
    _installs,
    _invokeai,
    _models,
    _plans,
    _register,
    _relations,
    _relink,
    _scans,
    _status,
    _steering,
    _suite,
    _terminal,
    _verify,
)
from modelkeep.cli._verbs import PLACE, Group, sharing
from modelkeep.defaults import EXIT_FAILED, EXIT_USAGE

app = typer.Typer(
    name="modelkeep",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing boxes costs a third of the time
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"modelkeep {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Know, fetch, install and lend machine-learning models.

    The suite is that of --address and --data-dir, here or after the verb; then that of
    MODELKEEP_CLIENT_<SERVICE>_ADDRESS and MODELKEEP_DATA_DIR; then that of the context in use (`modelkeep
    context`); then the one in ./modelkeep-data; then what answers at the default ports 50051 to 50054. The
    suite of the same user is called through its UNIX sockets; others want a token.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 unreachable, 130 interrupted. A command that waits
    for a job ends with the code of the job's error; 1 if it was cancelled or waits for somebody.
    """


app.callback()(sharing(root, PLACE))
_suite.add_to(app)
_status.add_to(app)
_install.add_to(app)
_register.add_to(app)
_installs.add_to(app)
_models.add_to(app)
_changes.add_to(app)
_covers.add_to(app)
_relations.add_to(app)
_relink.add_to(app)
_scans.add_to(app)
_invokeai.add_to(app)
_verify.add_to(app)
_exports.add_to(app)
_downloads.add_to(app)
_steering.add_to_downloads()
_download_sets.add_to_downloads()
_plans.add_to_downloads()
_cache.add_to(app)
_contexts.add_to(app)
_auth.add_to(app)
_certs.add_to(app)


def main() -> None:
    """Run the command line; the process exits with its code."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            _terminal.complain(
                f"Error: The argument {argument!a} is no UTF-8; rename the file, or check the terminal."
            )
            sys.exit(EXIT_USAGE)
    # A terminal of few characters shows the others written out; an output never ends in the middle.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="modelkeep")
    except OSError as error:  # of an output that is longer than a buffer, and so written earlier
        if error.filename is not None:
            raise
        _give_up_output(error)
    finally:
        _finish_output()


def _finish_output() -> None:
    """Write what waits in the buffer: Python would try it at its end, and exit with 120 if it fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up_output(error)


def _give_up_output(error: OSError) -> None:
    # What is still in the buffer must not fail a second time.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not isinstance(error, BrokenPipeError):  # `modelkeep list | head` is no error
        _terminal.complain(f"Error: The output cannot be written: {error.strerror}.")
        sys.exit(EXIT_FAILED)
