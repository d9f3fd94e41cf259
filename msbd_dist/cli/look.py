"""Verbs that look: plan, doctor, version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from msbd_dist.cli.common import (
    AllowAnywhere,
    AllowLoss,
    Clip,
    Device,
    Models,
    Sr,
    console,
    load_manifest,
    model_spec,
    out_console,
)
from msbd_dist.errors import MsbdError

if TYPE_CHECKING:
    from msbd_dist.core.plan import Plan


def plan(
    manifest: Annotated[Path, typer.Argument(help="YAML, JSONL or CSV manifest of edits.")],
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    allow_loss: AllowLoss = False,
    allow_anywhere: AllowAnywhere = False,
) -> None:
    """Show what a manifest would do: stages, segments, denoiser calls, bytes. Runs nothing.

    Example: msbd plan jobs/demo.yaml
    """
    from msbd_dist.batch.steps import plan_and_check
    from msbd_dist.models.card import resolve

    loaded = load_manifest(
        manifest, models, allow_loss, anywhere=allow_anywhere, sr=sr, clip=clip, device=None
    )
    card = resolve(loaded.models)
    failures = 0
    for spec in loaded.settled():
        try:
            found, picture, written = plan_and_check(spec, card)
        except MsbdError as error:
            failures += 1
            console.print(f"{spec.id}: {error}", style="red", markup=False, highlight=False)
            continue
        out_console.print(f"\n{spec.id}  {picture.format}", style="bold", markup=False)
        _print_plan(found)
        out_console.print(written, markup=False, highlight=False)
    raise typer.Exit(2 if failures == len(loaded.edits) else 1 if failures else 0)


def doctor(
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    device: Device = None,
) -> None:
    """Check this machine: versions, devices, models, and a small edit from start to end.

    Example: msbd doctor --models /models/stable-diffusion-v1-4
    """
    from msbd_dist.batch.doctor import checks

    ok = True
    for check in checks(model_spec(models, sr=sr, clip=clip, device=device)):
        ok = ok and check.ok
        mark = "[green]ok[/]  " if check.ok else "[red]fail[/]"
        out_console.print(f"{mark} {check.name:<12}", end="")
        out_console.print(check.found, markup=False, highlight=False)
    raise typer.Exit(0 if ok else 1)


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    out_console.print(installed("msbd_dist"), highlight=False)


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
    out_console.print(
        f"region {found.stages[-1].region.size} px about mask {found.bbox}; at most "
        f"{found.stored_bytes / 1e6:,.0f} MB stored beside the picture; plan {found.digest}",
        markup=False,
        highlight=False,
    )
