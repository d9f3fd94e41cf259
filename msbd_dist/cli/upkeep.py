"""Verbs for a run that is there: cancel, export, verify, gc."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msbd_dist.cli.common import (
    Address,
    AllowLoss,
    As,
    ExecutorName,
    Out,
    VerifyWhat,
    Workers,
    allowed,
    console,
    emit,
    out_console,
    wants_json,
)
from msbd_dist.cli.jobs import HERE, JobsAddress, cancel_submitted
from msbd_dist.errors import InputError

if TYPE_CHECKING:
    from msbd_dist.batch.record import ExecutorKind
    from msbd_dist.batch.verify import Verdict
    from msbd_dist.core.spec import Verify

LONGER = 60.0  # seconds beyond the grace to wait for a run's end


def cancel(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Run directory, or a job's name.")],
    grace: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for tasks that are under way.  [default: 30]"),
    ] = None,
    address: JobsAddress = HERE,
) -> None:
    """End a run, from any machine that sees its run directory. `msbd resume` goes on with it.

    A job that was submitted is ended by its name, at the --address of its cluster.

    Example: msbd cancel runs/demo --grace 5
    """
    from msbd_dist.batch.submit import is_job

    if is_job(out):
        cancel_submitted(out, address, grace)
    grace = 30.0 if grace is None else grace
    from msbd_dist.batch.status import ask_to_cancel, load_status
    from msbd_dist.canvas.files import open_files

    files = open_files(out)
    ask_to_cancel(files, grace)
    console.print(f"asked; waiting up to {grace + LONGER:g} s for it to end", highlight=False)
    until = time.monotonic() + grace + LONGER
    while time.monotonic() < until:
        status = load_status(files)
        if status.state in ("ended", "interrupted"):
            left = status.total - status.finished - status.failed
            text = f"ended: {status.finished} finished, {status.failed} failed, {left} not finished"
            out_console.print(text, highlight=False)
            return
        time.sleep(0.5)
    console.print("it has not ended yet; it will when it looks", style="yellow", highlight=False)
    raise typer.Exit(1)


def export(
    out: Out,
    edit: Annotated[str, typer.Argument(help="Id of a finished edit.")],
    file: Annotated[Path, typer.Argument(help="What to write: .png, .tif, .ome.zarr, .dzi ...")],
    tiff: Annotated[str, typer.Option(help="auto, copy, plain or pyramid.")] = "auto",
    ome_zarr: Annotated[str | None, typer.Option("--ome-zarr", help="0.4 or 0.5.")] = None,
    allow_loss: AllowLoss = None,
    verify: VerifyWhat = "sample",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a finished edit as another file, from what is stored of it.

    Example: msbd export runs/demo star star-for-the-web.dzi --allow-loss
    """
    from msbd_dist.batch.upkeep import export_edit
    from msbd_dist.canvas.files import open_files

    _one_of("--tiff", tiff, ("auto", "copy", "plain", "pyramid"))
    _one_of("--ome-zarr", ome_zarr or "0.5", ("0.4", "0.5"))
    _one_of("--verify", verify, ("sample", "full", "off"))
    how: dict[str, Any] = {"tiff": tiff, "ome_zarr": ome_zarr, "allow_loss": allowed(allow_loss)}
    found = export_edit(open_files(out), edit, file, cast("Verify", verify), force=force, **how)
    text = f"{file} ({found.compared:,} of {found.pixels:,} pixels compared)"
    out_console.print(text, markup=False, highlight=False)


def _one_of(option: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InputError(f"{option}: got {value!r}, wanted {', '.join(words)}")


def verify(
    out: Out,
    edits: Annotated[list[str] | None, typer.Argument(help="Ids of finished edits.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All finished edits of the run.")] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="Only look at what is there; make nothing again.")
    ] = False,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    output: As = "text",
) -> None:
    """Hash what is there of finished edits, and make them again, to compare byte for byte.

    Takes as long as the edits did; with --stored as long as reading them. Says which input of an
    edit has changed: then it can't be made again. Exit code: 0 all equal, 1 something differs, is
    gone or damaged, or an input has changed, 2 no such edit, or not finished.

    Example: msbd verify runs/demo star ring
    """
    from msbd_dist.batch.verify import Launched, all_edits, verdicts
    from msbd_dist.canvas.files import open_files

    files, as_json = open_files(out), wants_json(output)
    if bool(edits) == every:
        raise InputError("say which: ids of finished edits, or --all")
    if executor not in ("ray", "serial"):
        raise InputError(f"--executor: got {executor!r}, wanted ray or serial")
    names, left = all_edits(files) if every else (list(dict.fromkeys(edits or ())), [])
    kind = cast("ExecutorKind", executor)
    launched = None if stored else Launched(workers=workers, executor=kind, address=address)
    found = []
    for one in verdicts(files, names, launched):
        found.append(one)
        if not as_json:
            out_console.print(_in_words(one), markup=False, highlight=False)
    equal = all(one.equal for one in found)
    if as_json:
        each = [{**asdict(one), "equal": one.equal} for one in found]
        alone = each[0] if edits and len(each) == 1 else {}
        emit("verify", {**alone, "equal": equal, "edits": each, "not_finished": left})
    elif left:
        text = f"not finished, and not compared: {', '.join(left)}"
        console.print(text, style="yellow", markup=False, highlight=False)
    raise typer.Exit(0 if equal else 1)


def _in_words(one: Verdict) -> str:
    """What was found of an edit: a line, and one for each version that has changed since."""
    parts = [f"{what} {how}" for what, how in list(one.how.items())[:5]]
    if len(one.how) > 5:
        parts.append(f"{len(one.how) - 5} more of {one.compared} differ")
    parts += one.inputs
    if not parts:
        chunks = one.compared - 1
        parts = [f"the output and its {chunks} stored chunks are equal"]
        if any("gc" in note for note in one.notes):
            parts = ["the output is what was written"]
        if one.again:
            parts.append("made again, all come out equal")
    elif one.inputs:
        parts.append("it was not made again")
    versions = (f"\n{name}: {then} then, {now} now" for name, (then, now) in one.changed.items())
    return f"{one.edit}: {'; '.join([*parts, *one.notes])}{''.join(versions)}"


def gc(
    out: Out,
    finished: Annotated[
        bool,
        typer.Option("--finished", help="Stored pixels of finished edits too."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    output: As = "text",
) -> None:
    """Remove what a run needs no more. Outputs, records, logs and pages stay.

    After --finished an edit can't be exported again; `msbd verify` knows what was removed here.

    Example: msbd gc runs/demo --finished --dry-run
    """
    from msbd_dist.batch.upkeep import clear, waste
    from msbd_dist.canvas.files import open_files

    files, as_json = open_files(out), wants_json(output)
    found = list(waste(files, finished=finished))
    for one in found:
        if not dry_run:
            clear(files, one)
        if not as_json:
            line = f"{one.size / 1e6:10,.1f} MB  {one.name}  ({one.what})"
            out_console.print(line, markup=False, highlight=False)
    total = sum(one.size for one in found)
    if as_json:
        what = [asdict(one) for one in found]
        emit("gc", {"removed": not dry_run, "bytes": total, "what": what})
    else:
        verb = "would be freed" if dry_run else "freed"
        out_console.print(f"{total / 1e6:,.1f} MB {verb}", highlight=False)
