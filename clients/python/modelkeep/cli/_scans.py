"""``modelkeep scan``, ``modelkeep sync`` and ``modelkeep scans``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli import _table, _terminal
from modelkeep.cli._asking import DryRun
from modelkeep.cli._bar import Bar, Standing
from modelkeep.cli._errors import code_of, complain
from modelkeep.cli._fields import labels
from modelkeep.cli._listing import Column, Listing, time_column
from modelkeep.cli._output import LAST_ID, as_json, counted, emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelScan, ScanFinding

#: One look at a scan that is followed, in seconds.
_LOOK_S = 0.5
#: What is told of a scan in this order; what is known needs no words.
_TOLD = ("new", "moved", "orphan", "unknown", "unreadable", "failed")

_group = group("Look at scans and cancel them; without a command, list them.")

ScanId = Annotated[int, typer.Argument(help="Number of the scan.", min=1, max=LAST_ID)]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")]
Label = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the scan, and of models it registers.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep scan ~/loras --dry-run",
            "modelkeep scan /mnt/stick/models --install",
        ),
    )(scan)
    verb(
        app,
        takes=DATA,
        examples=("modelkeep sync", "modelkeep sync --remove-orphans --dry-run"),
    )(sync)
    app.add_typer(_group, name="scans")
    lists(_group, scans)
    verb(_group, "list", takes=LIST, lists=listing(), examples=("modelkeep scans list --limit 5",))(
        list_scans
    )
    verb(_group, "show", takes=DATA, examples=("modelkeep scans show 7", "modelkeep scans show 7 --json"))(
        show_scan
    )
    verb(_group, "cancel", takes=DATA, examples=("modelkeep scans cancel 7",))(cancel_scan)


def listing() -> Listing[ModelScan]:
    """How scans are listed."""
    return Listing(
        "scan",
        "scans",
        (
            Column("ID", lambda scan: scan.id, right=True, order=lambda scan: scan.id),
            Column("STATE", lambda scan: scan.state),
            Column("NEW", lambda scan: scan.counts["new"], right=True),
            Column("KNOWN", lambda scan: scan.counts["known"], right=True, drop=2),
            Column("PROBLEMS", _problems, right=True, drop=3),
            time_column("STARTED", lambda scan: scan.job_started, drop=4),
            Column("FOLDER", lambda scan: scan.path or "(sync)", drop=1, cut="start"),
            time_column("ENDED", lambda scan: scan.job_ended, drop=5, wide=True),
        ),
        key=lambda scan: str(scan.id),
        name=lambda scan: str(scan.path or "sync"),
        data=lambda scan: as_json(scan.message),
        filters={
            "id": lambda scan: (str(scan.id),),
            "state": lambda scan: (scan.state,),
            "folder": lambda scan: (str(scan.path or "sync"),),
        },
    )


def scan(
    folder: Annotated[str, typer.Argument(help="The folder.")],
    install: Annotated[
        bool,
        typer.Option(
            "--install/--inplace", help="Copy what is new into models_dir, or leave it where it is."
        ),
    ] = False,
    label: Label = None,
    dry_run: DryRun = False,
    detach: Detach = False,
) -> None:
    """Look through a folder for models, and register those that are new."""
    with connect() as client:
        begun = client.model_install.scan(folder, install, validate_only=dry_run, labels=labels(label))
        _finish(client, begun, detach=detach)


def sync(
    remove_orphans: Annotated[
        bool,
        typer.Option("--remove-orphans", help="Remove records whose files are gone. No file is removed."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --remove-orphans: also where a disk may be away.")
    ] = False,
    label: Label = None,
    dry_run: DryRun = False,
    detach: Detach = False,
) -> None:
    """Register what models_dir and the autoimport folders hold; tell which records have no files."""
    with connect() as client:
        begun = client.model_install.sync(
            validate_only=dry_run, remove_orphans=remove_orphans, force=force, labels=labels(label)
        )
        _finish(client, begun, detach=detach)


def scans(ctx: typer.Context) -> None:
    """Look at scans and cancel them; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_scans()


def list_scans() -> None:
    """List the scans that are kept, newest first."""
    with connect() as client:
        found = client.model_install.list_scans()
    _table.show(listing(), found, empty="There are no scans.")


def show_scan(id: ScanId) -> None:
    """Show what a scan has found."""
    with connect() as client:
        found = client.model_install.get_scan(id)
        raise typer.Exit(_report(client, found))


def cancel_scan(id: ScanId) -> None:
    """Cancel a scan; what it has registered stays."""
    with connect() as client:
        client.model_install.cancel_scan(id)
        ended = client.model_install.wait_for_scan(id, timeout=30)
    if not emit(lambda: as_json(ended.message)):
        say(f"Scan {id} is {ended.state}.")


def _finish(client: Client, begun: ModelScan, *, detach: bool) -> None:
    """Follow a scan and tell what it found; Ctrl-C leaves it running."""
    on = (
        f"Detached; scan {begun.id} goes on.\n"
        f"  look at it: modelkeep scans show {begun.id}\n"
        f"  cancel it:  modelkeep scans cancel {begun.id}"
    )
    if detach:
        if not emit(lambda: as_json(begun.message)):
            say(on)
        return
    try:
        ended = _follow(client, begun)
    except KeyboardInterrupt:
        _terminal.complain(f"\n{on}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(_report(client, ended))


def _follow(client: Client, scan: ModelScan) -> ModelScan:
    with Bar().shown() as bar:
        while not scan.ended:
            scan = client.model_install.scan_as_of(scan, _LOOK_S)
            bar.update(standing(scan))
    return scan


def standing(scan: ModelScan) -> Standing:
    """How far a scan is, and why it waits; what it failed with is for its end."""
    text = f"Scan {scan.id}: {counted(scan.counts['file'], 'file')}, {scan.counts['new']} new"
    if scan.ended or not scan.message.HasField("error"):
        return Standing(text)
    error = scan.message.error
    until = error.retry_time.ToNanoseconds() / 1e9 if error.HasField("retry_time") else None
    return Standing(text, why=f"{visible(error.message)} [{error.reason}]", until=until)


def _report(client: Client, scan: ModelScan) -> int:
    """Tell what a scan has found; answers with the exit code."""
    told = emit(
        lambda: {
            **as_json(scan.message),
            "findings": [as_json(one.message) for one in client.model_install.scan_findings(scan)],
        }
    )
    if not told:
        findings = client.model_install.scan_findings(scan, _TOLD)
        for one in sorted(findings, key=lambda one: _TOLD.index(one.kind)):
            say(_line(one, scan))
        say(_summary(scan, findings))
    if scan.ended and scan.exception is not None:
        complain(scan.exception, prefix=f"Scan {scan.id} failed")
        return code_of(scan.exception)
    if scan.exception is not None:
        complain(scan.exception, prefix=f"Scan {scan.id} waits")
    if scan.state == "cancelled":
        _terminal.complain(f"Scan {scan.id} is cancelled.")
        return EXIT_FAILED
    return EXIT_OK


def _line(one: ScanFinding, scan: ModelScan) -> str:
    kind = f"{'removed' if one.removed else one.kind.value:<10}"
    line = f"{kind}  {visible(one.path)}"
    if one.kind == "new":
        line += f"  {one.key}" if one.key else ""
        if one.same_content:
            line += f"  (same content as {one.same_content[0]})"
    elif one.kind == "moved":
        key = one.missing_content[0]
        line += (
            f"  (like {key}, whose files are gone: `modelkeep relink {key} {shlex.quote(visible(one.path))}`)"
        )
    elif one.kind == "orphan":
        line += f"  {one.key}"
    if one.exception is not None:
        line += f"  {visible(one.exception.message)} [{one.exception.reason}]"
    return line


def _summary(scan: ModelScan, findings: Sequence[ScanFinding]) -> str:
    counts = scan.counts
    would = "would be" if scan.message.validate_only else "were" if counts["new"] != 1 else "was"
    done = "copied" if scan.message.install else "registered"
    seen = f"{counted(counts['file'], 'file')} in {counted(counts['folder'], 'folder')}"
    text = f"{counted(counts['new'], 'model')} {would} {done}, {counts['known']} known, in {seen}."
    left = [one for one in findings if one.kind == "orphan" and not one.removed and one.exception is None]
    if left and not scan.message.remove_orphans:
        text += f" {counted(len(left), 'record')} without files: `--remove-orphans` removes them."
    return text


def _problems(scan: ModelScan) -> int:
    return sum(scan.counts[kind] for kind in ("unknown", "unreadable", "failed"))
