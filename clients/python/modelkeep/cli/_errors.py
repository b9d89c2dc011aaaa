"""How a command ends when something goes wrong: a sentence, what to do about it, an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

import typer

from modelkeep.cli import _terminal
from modelkeep.cli._interrupts import leave_at_once, let_interrupt
from modelkeep.cli._options import chosen
from modelkeep.cli._output import json_text
from modelkeep.cli._terminal import visible
from modelkeep.defaults import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from modelkeep.exceptions import (
    DeadlineExceededException,
    InvalidRequestException,
    ModelkeepError,
    ModelNotFoundException,
    NotFoundException,
    SourceNotFoundException,
    UnavailableException,
)
from modelkeep.reasons import is_general

P = ParamSpec("P")
R = TypeVar("R")


#: Reason → what a person can do about it; "{name}" is a key of the error's metadata.
_REMEDIES: Final[Mapping[str, str]] = {
    "UNKNOWN_MODEL": "`modelkeep list` shows the models; a command takes a key or a name that only one has.",
    "AMBIGUOUS_MODEL": "Use the key.",
    "UNKNOWN_JOB": "`modelkeep installs list` and `modelkeep downloads list` show the jobs.",
    "UNKNOWN_LEASE": "`modelkeep cache leases` shows the leases.",
    "DUPLICATE_PATH": "The path is registered already; `modelkeep search PATH` finds it.",
    "INSTALL_IN_PROGRESS": "Wait for that install (`modelkeep installs watch {id}`), or cancel it "
    "(`modelkeep installs cancel {id}`).",
    "DESTINATION_EXISTS": "Move {path} away, or choose another destination.",
    "ETAG_MISMATCH": "Somebody changed it meanwhile: look at it again, then repeat the command.",
    "MODEL_NOT_FOUND_ON_DISK": "Put the files back, or remove the record: `modelkeep rm {key}`.",
    "INVALID_MODEL": "Fetch again what is incomplete. What the files do not tell, say: "
    "`modelkeep install PATH --set type=vae --set base=sd-1`, or later `modelkeep edit MODEL base=sd-1`.",
    "SUBMODEL_REQUIRED": "Name the component, such as --submodel vae; these can be loaded: {loadable}.",
    "UNKNOWN_SUBMODEL": "These components can be loaded: {loadable}.",
    "MODEL_IN_USE": "End the workers that hold it (`modelkeep cache leases` names them), or their leases "
    "(`modelkeep cache revoke`). `modelkeep rm --force` removes a model all the same; "
    "what is in use goes on working.",
    "UNSAFE_FORMAT": "Use the model's safetensors file in its place.",
    "FORBIDDEN_PATH": "Allow the folder by the service's setting {setting}, or name one that is allowed.",
    "FORBIDDEN_ADDRESS": "Private addresses are refused; to allow them start the suite with "
    "MODELKEEP_DOWNLOAD_ALLOW_PRIVATE_ADDRESSES=true.",
    "ROOT_MISMATCH": "Mount the right folder, or start the service with the right --data-dir.",
    "WRONG_HOST": "Ask the loader on this very host.",
    "ADDRESS_EXPIRED": "Get a new address of the same file, and install that, or go on with the download: "
    "`modelkeep downloads resume ID --url ADDRESS`.",
    "TOKEN_REQUIRED": "Give a token: set MODELKEEP_ACCESS_TOKEN and repeat the command. Or have one kept: "
    "`modelkeep auth login {kept_under}`, and repeat the command.",
    "TOKEN_REJECTED": "Check that the token in MODELKEEP_ACCESS_TOKEN is valid and may read this model.",
    "RAM_EXHAUSTED": "End workers that hold models (`modelkeep cache leases`), or raise the loader's "
    "ram_budget_bytes.",
    "LEASES_EXHAUSTED": "End workers that hold leases, end a lease (`modelkeep cache revoke`), or raise the "
    "loader's max_leases_per_principal or max_leases.",
    "LEASE_REVOKED": "Ask the operator; what is in use goes on working.",
    "DISK_FULL": "Make room on that disk, then repeat the command.",
    "CHECKSUM_MISMATCH": "The source serves other bytes than expected: check the address and the hash.",
    "SOURCE_NOT_FOUND": "Check how it is written. Sources are local files and folders, repositories "
    "(owner/name; hf:name where there is no owner), pages of hubs, and http(s) addresses of files.",
    "NOT_A_MODEL_FILE": "The address leads to something else; give that of the file itself.",
    "SERVER_BUSY": "Try again in a moment.",
    "QUEUE_FULL": "Try again when some downloads have ended.",
    "DEADLINE_EXCEEDED": "Look at the service's log in the data folder's logs/, or try again.",
    "INTERNAL": "The service's log in the data folder's logs/ has the details.",
}


def remedy(error: ModelkeepError) -> str:
    """What to do about an error; "" if there is no advice, or the message gives it."""
    text, told = _REMEDIES.get(error.reason, ""), error.remedy
    general = is_general(error.reason, error.metadata)
    if general and error.violations:
        return ""  # the message says what each field must be
    is_said = told in error.message
    if choices := error.metadata.get("choices"):
        return f"{told} There are: {choices}."
    # What helps in every case of a reason is said in calls of the API, and a person types commands. Of a
    # token the service says which call takes one, and not what to type.
    is_of_call = error.metadata.get("credential", "call") == "call"
    if told and not general and not (error.reason.startswith("TOKEN_") and is_of_call):
        return "" if is_said else told
    told = "" if is_said else told
    if error.reason == "TOKEN_REQUIRED" and "source_url" in (needs := error.metadata.get("needs", "")):
        text = "Give its address again, with all that is hidden of it: `modelkeep downloads resume ID --url "
        text += "ADDRESS`, or `retry` for one that has ended."
        if "access_token" in needs:
            text = f"{text} Give the token, too: set MODELKEEP_ACCESS_TOKEN."
    if error.reason == "TOKEN_REQUIRED" and "terms" in error.metadata:
        text = f"Accept the terms at {{terms}} first. {text}"
    if error.reason == "INVALID_MODEL" and (missing := error.metadata.get("missing")):
        text = f"If you know it, say it: `modelkeep install PATH {_settings(missing)}`."
    try:
        return text.format(**error.metadata) or told
    except (KeyError, IndexError):
        return text.split("{", maxsplit=1)[0].rpartition(".")[0] or told


def _settings(names: str) -> str:
    """What to type for fields of which only the caller knows the values: ``--set type=TYPE``."""
    return " ".join(f"--set {name}={name.upper()}" for name in names.split(","))


def code_of(error: ModelkeepError) -> int:
    """The exit code of an error."""
    if isinstance(error, NotFoundException | SourceNotFoundException | ModelNotFoundException):
        return EXIT_NOT_FOUND
    if isinstance(error, UnavailableException | DeadlineExceededException):
        return EXIT_UNREACHABLE
    if isinstance(error, InvalidRequestException):
        return EXIT_USAGE
    return EXIT_FAILED


def described(error: ModelkeepError) -> dict[str, Any]:
    """An error for programs."""
    said: dict[str, Any] = {
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "remedy": remedy(error),
    }
    if error.violations:
        said["violations"] = [{"field": v.field, "description": v.description} for v in error.violations]
    return said


def complain(error: ModelkeepError, *, prefix: str = "Error") -> None:
    """Say on stderr what is wrong and what to do: for people, or where JSON was asked for as one object."""
    if chosen().as_data:
        _terminal.complain(json_text(described(error)))
        return
    _terminal.complain(f"{prefix}: {visible(error.message)} [{error.reason}]", "red")
    for violation in error.violations:
        if violation.words not in error.message:
            _terminal.complain(f"  {visible(violation.field)}: {visible(violation.description)}")
    if advice := remedy(error):
        _terminal.complain(f"  {visible(advice)}")


def complain_of_usage(error: typer.TyperException, *, as_data: bool) -> None:
    """Say on stderr how a command was written wrongly."""
    if as_data or chosen().as_data:
        said = {"reason": "USAGE", "message": error.format_message(), "metadata": {}, "remedy": ""}
        context = getattr(error, "ctx", None)
        if context is not None:
            said["remedy"] = f"`{context.command_path} --help` says how it is written."
        _terminal.complain(json_text(said))
    elif (show := getattr(error, "show", None)) is not None:
        show()
    else:
        _terminal.complain(f"Error: {visible(error.format_message())}", "red")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors become a sentence and an exit code."""

    @functools.wraps(command)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            let_interrupt()
            return command(*arguments, **named)
        except ModelkeepError as error:
            complain(error)
            raise typer.Exit(code_of(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # `modelkeep list | head`
            raise typer.Exit(EXIT_OK) from None
        finally:
            leave_at_once()

    return run
