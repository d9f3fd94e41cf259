"""Verbs that work: edit, run, resume, retry."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msbd_dist.cli.common import (
    Address,
    AllowAnywhere,
    AllowLoss,
    Clip,
    Deadline,
    Device,
    Every,
    ExecutorChoice,
    ExecutorName,
    FailFast,
    Grace,
    MaxFailures,
    Models,
    Out,
    Settings,
    Sr,
    VerifyWhat,
    Workers,
    console,
    load_manifest,
    model_spec,
    out_console,
    seconds_of,
)
from msbd_dist.cli.progress import EVERY, watching
from msbd_dist.errors import InputError

if TYPE_CHECKING:
    from msbd_dist.batch.manifest import Manifest
    from msbd_dist.batch.record import ExecutorKind
    from msbd_dist.batch.run import RunResult, Stop
    from msbd_dist.core.spec import Verify


def edit(
    image: Annotated[
        str, typer.Argument(help="Picture: PNG, JPEG, TIFF, WebP or OME-Zarr; a path or URL.")
    ],
    mask: Annotated[
        str,
        typer.Argument(
            help="Mask: white is edited, black is kept; or outlines, a box x,y,width,height in "
            "brackets, or a mapping such as '{file: m.png, from: alpha, invert: on}'."
        ),
    ],
    prompt: Annotated[str, typer.Argument(help="What to paint; '' removes what is there.")],
    output: Annotated[str, typer.Option("--output", "-o", help="A .png, .tif, .ome.zarr ...")],
    models: Models = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed; drawn and printed if left out.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Edited region relative to the mask's box.")] = 1.3,
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    workers: Workers = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    sr: Sr = None,
    clip: Clip = None,
    device: Device = None,
    verify: VerifyWhat = "sample",
    allow_loss: AllowLoss = None,
    settings: Settings = None,
) -> None:
    """Edit one picture.

    Example: msbd edit photo.jpg mask.png "a red star on grass" -o edited.png --seed 7
    """
    from msbd_dist.batch.single import edit_manifest, workspace_of

    manifest = edit_manifest(
        image,
        mask,
        prompt,
        output=output,
        models=model_spec(models, sr=sr, clip=clip, device=device),
        seed=seed,
        margin=margin,
        negative_prompt=negative_prompt,
        settings=settings or [],
        allow_loss=allow_loss or False,
    )
    out = workspace_of(manifest)
    result = _run(
        manifest,
        out,
        workers=workers,
        executor=executor,
        address=address,
        single=True,
        verify=verify,
    )
    (only,) = result.edits
    if only.error is not None:
        raise only.error
    if result.stop_code:
        raise typer.Exit(result.stop_code)
    out_console.print(str(only.output), markup=False, highlight=False)


def run(
    manifest: Annotated[Path, typer.Argument(help="YAML, JSONL, CSV or TSV manifest of edits.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Run directory, a path or a URL such as s3://bucket/run; continues what is there.",
        ),
    ],
    models: Models = None,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    sr: Sr = None,
    clip: Clip = None,
    device: Device = None,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    deadline: Deadline = None,
    grace: Grace = 30.0,
    verify: VerifyWhat = "sample",
    allow_loss: AllowLoss = None,
    allow_anywhere: AllowAnywhere = False,
    every: Every = EVERY,
) -> None:
    """Run all edits of a manifest; run it again to continue after an interruption.

    Exit code: 0 all finished, 1 some failed, 2 wrong input and nothing started, 3 no cluster,
    4 cancelled, 5 deadline or too many failures, 130 and 143 after Ctrl-C and SIGTERM.

    Example: msbd run jobs/demo.yaml --out runs/demo
    """
    loaded = load_manifest(
        manifest, models, allow_loss, anywhere=allow_anywhere, sr=sr, clip=clip, device=device
    )
    result = _run(
        loaded,
        out,
        workers=workers,
        executor=executor,
        address=address,
        grace=grace,
        max_failures=0 if fail_fast else max_failures,
        seconds=None if deadline is None else seconds_of(deadline),
        verify=verify,
        every=every,
    )
    _print_results(result)
    raise typer.Exit(result.exit_code)


def resume(
    out: Out,
    workers: Workers = None,
    executor: ExecutorChoice = None,
    address: Address = None,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    deadline: Deadline = None,
    grace: Grace = 30.0,
    every: Every = EVERY,
) -> None:
    """Go on with a run from its directory alone, on this machine or another one.

    What it was started with holds, unless it is given anew. Edits that were set aside because they
    killed workers stay so; see `msbd retry`.

    Example: msbd resume runs/demo --workers 8
    """
    _resume(
        out,
        None,
        workers=workers,
        executor=executor,
        address=address,
        grace=grace,
        max_failures=0 if fail_fast else max_failures,
        seconds=None if deadline is None else seconds_of(deadline),
        every=every,
    )


def retry(
    out: Out,
    edits: Annotated[list[str] | None, typer.Argument(help="Ids of edits.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that have failed.")] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="All that were set aside: they killed workers.")
    ] = False,
    workers: Workers = None,
    executor: ExecutorChoice = None,
    address: Address = None,
    grace: Grace = 30.0,
    every: Every = EVERY,
) -> None:
    """Try edits of a run again, and no others.

    Example: msbd retry runs/demo --failed
    """
    from msbd_dist.batch.resume import release
    from msbd_dist.canvas.files import open_files

    if not edits and not failed and not quarantined:
        raise InputError("say which: ids of edits, --failed or --quarantined")
    only = release(open_files(out), edits or [], failed=failed, quarantined=quarantined)
    if not only:
        console.print("nothing to do: no edit is in that state", highlight=False)
        return
    _resume(
        out,
        only,
        workers=workers,
        executor=executor,
        address=address,
        grace=grace,
        every=every,
    )


def _resume(
    out: str,
    only: Collection[str] | None,
    *,
    workers: int | None,
    executor: str | None,
    address: str | None,
    **how: Any,
) -> None:
    from msbd_dist.batch.resume import stored_run
    from msbd_dist.canvas.files import open_files

    manifest, launch = stored_run(open_files(out))
    result = _run(
        manifest,
        out,
        workers=workers or launch.workers,
        executor=executor or launch.executor,
        address=address or launch.address,
        verify=launch.verify,
        only=only,
        **how,
    )
    _print_results(result)
    raise typer.Exit(result.exit_code)


def _print_results(result: RunResult) -> None:
    widest = max((len(one.id) for one in result.edits), default=0)
    for one in result.edits:
        line = f"{one.id:<{widest}}  {one.state:<11}  {one.error or one.output or ''}"
        out_console.print(line.rstrip(), markup=False, highlight=False)
    if result.contact_sheet is not None:
        out_console.print(f"page: {result.out}/report.html", markup=False, highlight=False)
        out_console.print(f"contact sheet: {result.contact_sheet}", markup=False, highlight=False)


def _run(
    manifest: Manifest,
    out: str | Path,
    *,
    workers: int | None,
    executor: str,
    address: str | None,
    single: bool = False,
    grace: float = 30.0,
    max_failures: int | None = None,
    seconds: float | None = None,
    verify: str = "sample",
    every: float = EVERY,
    only: Collection[str] | None = None,
) -> RunResult:
    """Run with progress on stderr; a ``single`` edit's failure is left for its caller to say."""
    from msbd_dist.batch.run import Limits, Stop, run_manifest

    stop = Stop(grace)
    limits = Limits(
        failures=max_failures, deadline=None if seconds is None else time.monotonic() + seconds
    )
    with watching(quiet=single, every=every) as watch, _signals_ask(stop):
        result = run_manifest(
            manifest,
            out,
            workers=workers,
            executor=cast("ExecutorKind", executor),  # checked there, for every caller
            address=address,
            watch=watch,
            any_models=single,
            only=only,
            stop=stop,
            limits=limits,
            verify=cast("Verify", verify),
        )
    if result.stopped:
        left = sum(e.state == "stopped" for e in result.edits)
        count = "1 edit is" if left == 1 else f"{left} edits are"
        text = f"{result.stopped}: {count} not finished; the same command continues"
        console.print(text, style="yellow", markup=False, highlight=False)
    if single and result.exit_code:
        return result
    if all(e.state == "kept" for e in result.edits):
        console.print("nothing to do: every edit is finished", highlight=False)
    memory = ", ".join(f"{who} {mb} MB" for who, mb in sorted(result.peak_mb.items()))
    console.print(f"{result.seconds:.0f} s; peak memory: {memory}", highlight=False)
    return result


@contextmanager
def _signals_ask(stop: Stop) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask a run to stop; said twice, at once."""

    def ask(number: int, _: Any) -> None:
        stop.ask("interrupted" if number == signal.SIGINT else "told to stop", 128 + number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
