"""``modelkeep installs pause|resume|cancel|rm``: what is done to an install."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli import _complete
from modelkeep.cli._asking import Yes, agreed
from modelkeep.cli._install import stage
from modelkeep.cli._jobs import tell_forgotten
from modelkeep.cli._output import LAST_ID, as_json, counted, emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.client import ModelInstallJob

JobId = Annotated[
    int,
    typer.Argument(help="Number of the install.", min=1, max=LAST_ID, autocompletion=_complete.installs),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", help="Token for the source's host.", envvar="MODELKEEP_ACCESS_TOKEN", show_envvar=True
    ),
]


def add_to(group: typer.Typer) -> None:
    """Add the commands."""
    verb(group, "pause", takes=DATA, examples=("modelkeep installs pause 7",))(pause_install)
    verb(
        group,
        "resume",
        takes=DATA,
        examples=(
            "modelkeep installs resume 7",
            "MODELKEEP_ACCESS_TOKEN=… modelkeep installs resume 7",
            "modelkeep installs resume 7 --url https://example.com/vae.safetensors?signature=new",
        ),
    )(resume_install)
    verb(
        group,
        "retry",
        takes=DATA,
        examples=(
            "modelkeep installs retry 7",
            "MODELKEEP_ACCESS_TOKEN=… modelkeep installs retry 7",
            "modelkeep installs retry --failed",
        ),
    )(retry_installs)
    verb(group, "cancel", takes=DATA, examples=("modelkeep installs cancel 7",))(cancel_install)
    verb(
        group,
        "rm",
        takes=DATA,
        examples=("modelkeep installs rm 7 9", "modelkeep installs rm 7 -y  # also while it runs"),
    )(remove_installs)


def pause_install(id: JobId) -> None:
    """Pause an install: what it has downloaded stays, and it waits until `resume`."""
    with connect() as client:
        tell(client.model_install.pause_job(id))


def resume_install(
    id: JobId,
    token: Token = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Its address with the secrets, or a new one, where it has run out."),
    ] = None,
) -> None:
    """Let a paused install go on where it stopped, also one that waits for a token."""
    with connect() as client:
        tell(client.model_install.resume_job(id, token, url))


def retry_installs(
    id: Annotated[
        int | None,
        typer.Argument(help="Number of the install.", min=1, max=LAST_ID, autocompletion=_complete.installs),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed and were not made anew.")] = False,
    token: Token = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Its address with the secrets, or a new one, where it has run out."),
    ] = None,
) -> None:
    """Make an install that failed or was cancelled anew, from the download that it kept."""
    if (id is None) != failed:
        raise typer.BadParameter("name an install, or say --failed", param_hint="ID")
    with connect() as client:
        if id is not None:
            tell(client.model_install.retry_job(id, token, url))
            return
        jobs = client.model_install.retry_failed_jobs()
    if not emit(lambda: {"installs": [as_json(job.message) for job in jobs]}):
        for job in jobs:
            say(f"Install {job.id} is {stage(job)}.")


def cancel_install(id: JobId) -> None:
    """Cancel an install and remove what it staged."""
    with connect() as client:
        client.model_install.cancel_job(id)
        job = client.model_install.wait_for_job(id, timeout=30, ended=True)
    if not emit(lambda: as_json(job.message)):
        say(f"Install {id} is {job.status.value}.")


def remove_installs(
    ids: Annotated[
        list[int],
        typer.Argument(help="Numbers of installs.", min=1, max=LAST_ID, autocompletion=_complete.installs),
    ],
    yes: Yes = False,
) -> None:
    """Forget installs and what failed ones kept. Those under way are cancelled first; models stay."""
    with connect() as client:
        jobs = [client.model_install.get_job_by_id(id) for id in dict.fromkeys(ids)]
        going = [job for job in jobs if not job.ended]
        if going:
            plan = [f"install {job.id}: {job.source}" for job in going]
            agreed(f"Cancel {counted(len(going), 'install')}?", plan, yes=yes)
        for job in jobs:
            client.model_install.delete_job(job)
        tell_forgotten(len(jobs), "install")


def tell(job: ModelInstallJob) -> None:
    """Say how an install stands."""
    if not emit(lambda: as_json(job.message)):
        say(f"Install {job.id} is {stage(job)}.")
