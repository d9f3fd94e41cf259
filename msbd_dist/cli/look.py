"""Verbs that look: plan, status, logs, describe, report, measure, doctor, version."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from msbd_dist.cli.common import (
    AllowAnywhere,
    AllowLoss,
    As,
    Clip,
    Device,
    Models,
    Out,
    OutToBe,
    Settings,
    Sr,
    console,
    emit,
    load_manifest,
    model_spec,
    out_console,
    percent,
    wants_json,
)
from msbd_dist.cli.progress import duration, in_a_line, picture
from msbd_dist.errors import RunError

if TYPE_CHECKING:
    from msbd_dist.batch.compare import Measured
    from msbd_dist.batch.foresee import Seen
    from msbd_dist.batch.status import Status
    from msbd_dist.core.plan import Plan

WATCHED = 2.0  # seconds between two looks


def plan(
    manifest: Annotated[Path, typer.Argument(help="YAML, JSONL, CSV or TSV manifest of edits.")],
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    allow_loss: AllowLoss = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Run directory, or its profile.json, whose speed to reckon with."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Workers to reckon with.")] = 1,
    price: Annotated[float, typer.Option(min=0, help="Of one worker for an hour.")] = 0.0,
    out: OutToBe = None,
    allow_anywhere: AllowAnywhere = False,
    output: As = "text",
) -> None:
    """Show what a manifest would do: stages, segments, denoiser calls, bytes, time, cost.

    Runs nothing. Time and cost need the --profile of a run on the same kind of worker.

    Example: msbd plan jobs/demo.yaml --profile runs/demo --gpus 8 --price 2.5
    """
    from msbd_dist.batch.estimate import hours_of, load_profile
    from msbd_dist.batch.foresee import foresee, run_directory
    from msbd_dist.models.card import pinned, resolve

    as_json = wants_json(output)
    loaded = load_manifest(
        manifest, models, allow_loss, anywhere=allow_anywhere, sr=sr, clip=clip, device=None
    )
    pace = None if profile is None else load_profile(profile)
    card = resolve(loaded.models)
    loaded = loaded.with_(models=pinned(loaded.models, card))
    for note in card.notes:
        console.print(f"warning: {note}", style="yellow", markup=False, highlight=False)
    plans: list[Plan] = []
    edits: list[dict[str, Any]] = []
    problems: list[dict[str, str]] = []

    def tell(error: str, name: str = "") -> None:
        problems.append({"id": name, "error": error})
        console.print(error, style="red", markup=False, highlight=False)

    try:
        for seen in foresee(loaded, card, run_directory(loaded, out)):
            found = seen.look.plan
            if seen.error is not None or found is None:
                tell(seen.said(str(seen.error)), seen.id)
                continue
            plans.append(found)
            if as_json:
                seconds = None if pace is None else round(pace.of(found), 1)
                edits.append({**_look_json(seen), "worker_seconds": seconds})
            else:
                _print_look(seen, found)
    except RunError as error:
        tell(f"{manifest}: {error}")
    total: dict[str, Any] = {
        "edits": len(plans),
        "denoiser_calls": sum(p.denoiser_calls(s) for p in plans for s in p.stages),
        "decoder_passes": sum(p.decoder_passes(s) for p in plans for s in p.stages),
        "stored_bytes": sum(p.stored_bytes for p in plans),
    }
    if pace is not None and plans:
        hours, until = hours_of(pace, plans, gpus)
        total |= {
            "worker_hours": round(hours, 4),
            "workers": gpus,
            "hours": round(until, 4),
            "cost": round(hours * price, 2),
            "worker_mb": pace.worker_mb,
        }
    if as_json:
        emit("plan", {"edits": edits, "problems": problems, "total": total})
    else:
        _print_total(total, price)
    raise typer.Exit(2 if not plans else 1 if problems else 0)


def _look_json(seen: Seen) -> dict[str, Any]:
    look = seen.look
    assert look.plan is not None
    of_mask = {"mask_percent": look.mask.percent, "warnings": list(look.warnings)}
    return {"id": seen.id, **_plan_json(look.plan), **of_mask}


def _print_look(seen: Seen, found: Plan) -> None:
    look = seen.look
    out_console.print(f"\n{seen.id}  {look.picture.format}", style="bold", markup=False)
    _print_plan(found)
    for text in (f"the mask covers {percent(look.mask.percent)} of the picture", look.writes):
        out_console.print(text, markup=False, highlight=False)
    for note in look.notes:
        text = f"warning: {seen.said(note.text, note.key)}"
        console.print(text, style="yellow", markup=False, highlight=False)


def _plan_json(found: Plan) -> dict[str, Any]:
    return {
        "plan": found.digest,
        "size": [found.image.width, found.image.height],
        "region": list(found.stages[-1].region.size.shape)[::-1],
        "stages": [
            {
                "index": stage.index,
                "kind": stage.kind,
                "size": [stage.size.width, stage.size.height],
                "segments": len(stage.segments),
                "grid": len(stage.grid),
                "denoiser_calls": found.denoiser_calls(stage),
                "decoder_passes": found.decoder_passes(stage),
            }
            for stage in found.stages
        ],
        "stored_bytes": found.stored_bytes,
    }


def _print_plan(found: Plan) -> None:
    table = Table("stage", "size", "segments", "denoiser calls", "decoder passes", box=None)
    for stage in found.stages:
        table.add_row(
            f"{stage.index} {stage.kind}",
            str(stage.size),
            f"{len(stage.segments)} of {len(stage.grid)}",
            f"{found.denoiser_calls(stage):,}",
            f"{found.decoder_passes(stage):,}",
        )
    out_console.print(table)
    box = found.bbox
    out_console.print(
        f"region {found.stages[-1].region.size} px about the mask's box [{box.x0}, {box.y0}, "
        f"{box.width}, {box.height}]; at most {_megabytes(found.stored_bytes)} stored beside the "
        f"picture; plan {found.digest}",
        markup=False,
        highlight=False,
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.{0 if count >= 10_000_000 else 1}f} MB"


def _print_total(total: dict[str, Any], price: float) -> None:
    text = (
        f"\n{total['edits']} edits: {total['denoiser_calls']:,} denoiser calls, "
        f"{total['decoder_passes']:,} decoder passes, at most "
        f"{_megabytes(total['stored_bytes'])} stored"
    )
    if "hours" in total:
        text += (
            f"; {duration(total['worker_hours'] * 3600)} of one worker, "
            f"{duration(total['hours'] * 3600)} with {total['workers']}, "
            f"{total['worker_mb']:,} MB of memory each"
        )
        text += f"; costs {total['cost']:,.2f}" if price else ""
    else:
        text += "; for time and cost give the --profile of a run"
    out_console.print(text, markup=False, highlight=False)


def status(
    out: Out,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until the run ends.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only edits that have failed.")] = False,
    output: As = "text",
) -> None:
    """Show how far a run is, and what has become of its edits.

    Exit code: 0 all finished or still running, 1 some failed or not finished.

    Example: msbd status runs/demo --watch
    """
    from msbd_dist.batch.status import FAILED, load_status
    from msbd_dist.canvas.files import open_files

    files = open_files(out)
    as_json, now = wants_json(output), load_status(files)
    if watch and not as_json:
        now = _watched(out, now)
    rows = [row for row in now.edits if not failed or row.state in FAILED]
    if as_json:
        emit("status", {**asdict(now), "edits": [asdict(row) for row in rows]})
    else:
        out_console.print(picture(now))
        widest = max((len(row.id) for row in rows), default=0)
        for row in rows:
            line = f"{row.id:<{widest}}  {row.state:<11}  {row.error or row.output or ''}"
            out_console.print(line.rstrip(), markup=False, highlight=False)
        for text in _why_ended(now, out):
            console.print(text, style="yellow", markup=False, highlight=False)
    ended = now.state in ("ended", "interrupted")
    raise typer.Exit(1 if now.failed or (ended and now.finished < now.total) else 0)


def _why_ended(now: Status, out: str) -> Iterator[str]:
    """What is to be said of a run that has not ended by itself."""
    if now.state == "interrupted":
        yield f"its driver has gone; `msbd resume {out}` goes on"
    if now.error is not None:
        yield f"an error ended it: {now.error}; `msbd logs {out}` has more, `msbd resume` goes on"


def _watched(out: str, now: Status) -> Status:
    """Show a run until it ends: bars on a terminal, lines in a pipe."""
    from msbd_dist.batch.status import load_status
    from msbd_dist.canvas.files import open_files

    files = open_files(out)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while now.state not in ("ended", "interrupted"):
            if console.is_terminal:
                live.update(picture(now), refresh=True)
            else:
                console.print(in_a_line(now), markup=False, highlight=False)
            time.sleep(WATCHED)
            now = load_status(files)
    return now


def logs(
    out: Out,
    edit: Annotated[
        str, typer.Argument(help="Id of the edit; without, what is said of the run.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Print what happened to an edit, or to the run: tasks, warnings, errors with tracebacks.

    Example: msbd logs runs/demo star --follow
    """
    from msbd_dist.batch.journal import read_log
    from msbd_dist.batch.status import load_status
    from msbd_dist.canvas.files import open_files
    from msbd_dist.errors import RunError

    files, shown = open_files(out), 0
    while True:
        state = load_status(files).state
        text = read_log(files, edit)
        if text is None and not follow:
            whose = repr(edit) if edit else "the run"
            raise RunError(f"{out}: has no log of {whose}; see `msbd status {out}`")
        new = (text or "")[shown:]
        shown += len(new)
        out_console.out(new, end="", highlight=False)
        if not follow or state in ("ended", "interrupted"):
            return
        time.sleep(WATCHED)


def describe(
    out: Out,
    edit: Annotated[str, typer.Argument(help="Id of the edit.")],
    output: As = "text",
) -> None:
    """Show all that is known of an edit: what decided it, how far it is, what it took.

    Example: msbd describe runs/demo star
    """
    from msbd_dist.batch.describe import describe as found_of
    from msbd_dist.canvas.files import open_files

    found = found_of(open_files(out), edit)
    if wants_json(output):
        emit(found.pop("kind"), found)
        return
    stages = found.pop("stages", [])
    for key, value in found.items():
        if key not in ("version", "kind") and value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            out_console.print(f"{key:<16} {text}", markup=False, highlight=False)
    table = Table("stage", "size", "segments", "tasks", box=None)
    for stage in stages:
        tasks = ", ".join(
            f"{kind} {t['done']}/{t['of']} {t['seconds']:g} s" for kind, t in stage["tasks"].items()
        )
        width, height = stage["size"]
        segments = f"{stage['segments']} of {stage['grid']}"
        table.add_row(f"{stage['index']} {stage['kind']}", f"{width}x{height}", segments, tasks)
    if stages:
        out_console.print(table)


def report(out: Out) -> None:
    """Write the report anew from what is stored: report.json, the contact sheet and the page.

    Example: msbd report runs/demo
    """
    from msbd_dist.batch.record import StoredEdits
    from msbd_dist.batch.report import write_report
    from msbd_dist.batch.resume import results_of
    from msbd_dist.canvas.files import open_files

    files = open_files(out)
    sheet = write_report(files, results_of(files), StoredEdits(files))
    out_console.print(f"{files.url}/report.html", markup=False, highlight=False)
    if sheet is not None:
        out_console.print(sheet, markup=False, highlight=False)


def measure(
    before: Annotated[str, typer.Argument(help="The picture that was edited; a path or URL.")],
    after: Annotated[str, typer.Argument(help="The same after the edit.")],
    mask: Annotated[str, typer.Argument(help="The edit's mask, as `msbd edit` takes it.")],
    prompt: Annotated[str, typer.Option(help="What was painted; scored by CLIP.")] = "",
    truth: Annotated[
        str | None, typer.Option(help="A picture to compare AFTER with, in place of BEFORE.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="As the edit had it; it says where segments were.")
    ] = None,
    settings: Settings = None,
    models: Models = None,
    clip: Clip = None,
    device: Device = None,
    output: As = "text",
) -> None:
    """Measure an edit by its files: exactness, seams, the mask's edge, sharpness, likeness.

    Exit code: 0 no sample outside the mask differs, 1 some do.

    Example: msbd measure photo.jpg edited.png mask.png --prompt "a red star on grass"
    """
    from msbd_dist.batch.compare import measure as found_of

    as_json = wants_json(output)
    found = found_of(
        before,
        after,
        mask,
        prompt=prompt,
        truth=truth,
        models=model_spec(models, clip=clip, device=device),
        settings=settings,
        margin=margin,
    )
    if as_json:
        emit("measure", {**asdict(found), "exact": found.exact})
    else:
        _print_measures(found)
    raise typer.Exit(0 if found.exact else 1)


def _print_measures(found: Measured) -> None:
    from msbd_dist.batch.measures import MEASURES, table

    shown = Table("", "after", "before", "", box=None)
    for one, row in zip(MEASURES, table(found.measures), strict=True):
        says = found.missing.get(one.key, row["says"])
        shown.add_row(row["label"], row["after"] or "-", row["before"], says)
    out_console.print(shown, highlight=False)
    text = f"{found.outside:,} samples outside the mask; PSNR, SSIM and LPIPS: to {found.against}"
    out_console.print(text, markup=False, highlight=False)


def doctor(
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    device: Device = None,
    output: As = "text",
) -> None:
    """Check this machine and a model: versions, devices, files, and a small edit by that model.

    Example: msbd doctor --models /models/stable-diffusion-v1-4
    """
    from msbd_dist.batch.doctor import checks

    as_json, made = wants_json(output), []
    for check in checks(model_spec(models, sr=sr, clip=clip, device=device)):
        made.append(check)
        if not as_json:
            mark = "[green]ok[/]  " if check.ok else "[red]fail[/]"
            out_console.print(f"{mark} {check.name:<12}", end="")
            out_console.print(check.found, markup=False, highlight=False)
    ok = all(check.ok for check in made)
    if as_json:
        emit("doctor", {"ok": ok, "checks": [asdict(check) for check in made]})
    raise typer.Exit(0 if ok else 1)


def version() -> None:
    """Print the version."""
    from importlib import metadata

    try:
        found = metadata.version("msbd_dist")
    except metadata.PackageNotFoundError:
        found = f"not installed: run from {Path(__file__).parents[2]}"
    out_console.print(found, highlight=False)
