"""The `msbd` command. The only place that prints: results to stdout, words for people to stderr.

Imports are made inside the verbs, so that `msbd plan` loads neither torch nor ray.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from msbd_dist.errors import InputError, MsbdError

if TYPE_CHECKING:
    from msbd_dist.batch.manifest import Manifest
    from msbd_dist.batch.record import EditResult
    from msbd_dist.batch.run import ExecutorKind, RunResult, Stop, Verify
    from msbd_dist.core.plan import Plan, Task
    from msbd_dist.core.spec import ModelSpec

app = typer.Typer(
    name="msbd",
    help="Text-guided edits of very large images, in parallel, exact outside their masks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out_console = Console(soft_wrap=True)
console = Console(stderr=True, soft_wrap=True)

Models = Annotated[
    str | None,
    typer.Option(
        "--models",
        help="'tiny' (bundled), a diffusers folder, a hub id, or one .safetensors file.",
        show_default=False,
    ),
]
Sr = Annotated[
    str | None,
    typer.Option("--sr", help="Super-resolution checkpoint, e.g. RealESRGAN_x4plus.pth."),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="open_clip model, NAME:TAG, NAME:/FILE or a folder."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Workers. Default: one per GPU, or per CPU core."),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="ray, or serial: one worker in this process.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray, e.g. auto or HOST:6379; default: start one."),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="End when an edit fails.")]
MaxFailures = Annotated[
    int | None,
    typer.Option("--max-failures", min=0, help="End when more edits than this have failed."),
]
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", metavar="TIME", help="End after so long, e.g. 90m or 8h30m."),
]
Grace = Annotated[
    float, typer.Option("--grace", min=0, help="Seconds for running tasks when told to stop.")
]
VerifyWhat = Annotated[
    str,
    typer.Option("--verify", help="Compare what is written with what it is of: sample, full, off."),
]
AllowLoss = Annotated[
    bool,
    typer.Option("--allow-loss", help="Write formats that can't hold all that an image has."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any option of the method, e.g. steps=25."),
]


def main() -> NoReturn:
    """Entry point: every foreseen error ends in one line and its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("pyvips").setLevel(logging.ERROR)  # what it warns of, we raise
    try:
        code = app(standalone_mode=False) or 0
        if code == signal.SIGINT + 128:  # before there was anything to stop
            fail("interrupted; the same command continues", code)
        sys.exit(code)
    except MsbdError as error:
        fail(str(error), error.exit_code)
    except OSError as error:  # of the run directory: an edit's own ends that edit
        fail(f"{error}; the same command continues", 1)
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted; the same command continues", signal.SIGINT + 128)
    except Exception as error:  # typer's own usage errors carry their words and code
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        if not show():  # no verb was given: the help is printed already
            sys.exit(2)
        fail(f"{show()}{hint}", 2)


def fail(message: str, code: int) -> NoReturn:
    console.print(f"msbd: {message}", style="red", markup=False, highlight=False)
    sys.exit(code)


@app.command()
def edit(
    image: Annotated[
        str, typer.Argument(help="Picture: PNG, JPEG, TIFF, WebP or OME-Zarr; a path or URL.")
    ],
    mask: Annotated[str, typer.Argument(help="Mask: white is edited, black is kept.")],
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
    allow_loss: AllowLoss = False,
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
        models=_model_spec(models, sr=sr, clip=clip, device=device),
        seed=seed,
        margin=margin,
        negative_prompt=negative_prompt,
        settings=settings or [],
        allow_loss=allow_loss,
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


@app.command()
def run(
    manifest: Annotated[Path, typer.Argument(help="YAML manifest of edits.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
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
    allow_loss: AllowLoss = False,
) -> None:
    """Run all edits of a manifest; run it again to continue after an interruption.

    Exit code: 0 all finished, 1 some failed, 2 wrong input, 3 no cluster, 5 deadline or too many
    failures, 130 and 143 after Ctrl-C and SIGTERM.

    Example: msbd run jobs/demo.yaml --out runs/demo
    """
    loaded = _manifest(manifest, models, allow_loss, sr=sr, clip=clip, device=device)
    result = _run(
        loaded,
        out,
        workers=workers,
        executor=executor,
        address=address,
        grace=grace,
        max_failures=0 if fail_fast else max_failures,
        seconds=None if deadline is None else _seconds(deadline),
        verify=verify,
    )
    widest = max(len(one.id) for one in result.edits)
    for one in result.edits:
        line = f"{one.id:<{widest}}  {one.state:<6}  {one.error or one.output}"
        out_console.print(line, markup=False, highlight=False)
    if result.contact_sheet is not None:
        out_console.print(f"contact sheet: {result.contact_sheet}", markup=False, highlight=False)
    raise typer.Exit(result.exit_code)


@app.command()
def plan(
    manifest: Annotated[Path, typer.Argument(help="YAML manifest of edits.")],
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    allow_loss: AllowLoss = False,
) -> None:
    """Show what a manifest would do: stages, segments, denoiser calls, bytes. Runs nothing.

    Example: msbd plan jobs/demo.yaml
    """
    from msbd_dist.batch.steps import plan_and_check
    from msbd_dist.models.card import resolve

    loaded = _manifest(manifest, models, allow_loss, sr=sr, clip=clip, device=None)
    card = resolve(loaded.models)
    failures = 0
    for spec in loaded.edits:
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


@app.command()
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
    for check in checks(_model_spec(models, sr=sr, clip=clip, device=device)):
        ok = ok and check.ok
        mark = "[green]ok[/]  " if check.ok else "[red]fail[/]"
        out_console.print(f"{mark} {check.name:<12}", end="")
        out_console.print(check.found, markup=False, highlight=False)
    raise typer.Exit(0 if ok else 1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    out_console.print(installed("msbd_dist"), highlight=False)


# -- below: between the verbs and the batch package ------------------------------------------------


def _manifest(
    path: Path, models: str | None, allow_loss: bool, **overrides: str | None
) -> Manifest:
    from dataclasses import replace

    from msbd_dist.batch.manifest import located_models, read_manifest

    loaded = read_manifest(path)
    if allow_loss:
        edits = tuple(replace(spec, allow_loss=True) for spec in loaded.edits)
        loaded = replace(loaded, edits=edits)
    given = {k: v for k, v in {"family": models, **overrides}.items() if v is not None}
    if given:
        loaded = replace(loaded, models=located_models(replace(loaded.models, **given), Path.cwd()))
    return loaded


def _model_spec(family: str | None, **parts: str | None) -> ModelSpec:
    from msbd_dist.batch.manifest import located_models
    from msbd_dist.core.spec import ModelSpec

    given = {k: v for k, v in {"family": family, **parts}.items() if v is not None}
    return located_models(ModelSpec(**given), Path.cwd())


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
) -> RunResult:
    """Run with progress on stderr; a ``single`` edit's failure is left for its caller to say."""
    from msbd_dist.batch.run import Limits, Stop, run_manifest

    stop = Stop(grace)
    limits = Limits(
        failures=max_failures, deadline=None if seconds is None else time.monotonic() + seconds
    )
    with _progress(quiet=single) as progress, _signals_ask(stop):
        result = run_manifest(
            manifest,
            out,
            workers=workers,
            executor=cast("ExecutorKind", executor),  # checked there, for every caller
            address=address,
            progress=progress,
            any_models=single,
            stop=stop,
            limits=limits,
            verify=cast("Verify", verify),
        )
    if result.stopped:
        left = sum(e.state == "stopped" for e in result.edits)
        text = f"{result.stopped}: {left} edits are not finished; the same command continues"
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


def _seconds(text: str) -> float:
    """``90m``, ``8h30m``, ``45s`` or plain seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not text.strip() or found is None:
        raise InputError(f"--deadline: got {text!r}, wanted a time such as 45s, 90m or 8h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600.0 + minutes * 60 + seconds


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


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    if console.is_terminal and not os.environ.get("CI"):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<24.24}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[doing]}"),
        )
        with Progress(*columns, console=console) as bars:
            yield Bars(bars, quiet=quiet)
    else:
        yield Lines(quiet=quiet)


class Bars:
    """Progress on a terminal: one bar for the run and one for each edit at work."""

    def __init__(self, bars: Any, *, quiet: bool) -> None:
        self._bars, self._quiet = bars, quiet
        self._tasks: dict[str, Any] = {}
        self._costs: dict[str, float] = {}

    def begin(self, costs: dict[str, float]) -> None:
        self._costs = costs
        if not costs:
            return
        self._run = self._bars.add_task(
            f"{len(costs)} edit{'s' * (len(costs) != 1)}",
            total=sum(costs.values()),
            doing="loading models",
        )

    def wait_for(self, process: int) -> None:
        self._bars.console.print(_waiting(process), markup=False, highlight=False)

    def chore(self, edit: str, what: str, share: float) -> None:
        if edit in self._tasks:
            self._bars.update(self._tasks[edit], doing=f"{what} {share:.0%}")
        else:
            self._bars.update(self._run, doing=f"{edit}: {what} {share:.0%}")

    def advance(self, edit: str, task: Task, cost: float) -> None:
        if edit not in self._tasks:
            self._tasks[edit] = self._bars.add_task(edit, total=self._costs[edit], doing="")
        doing = f"stage {task.stage} {task.kind}"
        self._bars.update(self._tasks[edit], advance=cost, doing=doing)
        self._bars.update(self._run, advance=cost, doing="")

    def finish(self, result: EditResult) -> None:
        if result.id in self._tasks:
            self._bars.remove_task(self._tasks.pop(result.id))
        if not (self._quiet and result.error):
            _say(self._bars.console, result)


class Lines:
    """Progress in a pipe: a plain line now and then, and one for each finished edit."""

    interval_s = 10.0

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def begin(self, costs: dict[str, float]) -> None:
        self._total, self._done = sum(costs.values()), 0.0
        self._started = self._last = time.monotonic()
        self._chores: dict[tuple[str, str], tuple[float, float]] = {}  # since when, from where

    def wait_for(self, process: int) -> None:
        console.print(_waiting(process), markup=False, highlight=False)

    def chore(self, edit: str, what: str, share: float) -> None:
        now = time.monotonic()
        since, start = self._chores.setdefault((edit, what), (now, share))
        if now - max(self._last, since) < self.interval_s or share <= start:
            return
        self._last = now
        left = (now - since) * (1 - share) / (share - start)
        text = f"{edit}: {what}, {share:.0%}, about {left:.0f} s left"
        console.print(text, markup=False, highlight=False)

    def advance(self, edit: str, task: Task, cost: float) -> None:
        self._done += cost
        now = time.monotonic()
        if now - self._last < self.interval_s:
            return
        self._last = now
        share = min(self._done / self._total, 1.0)
        left = (now - self._started) * (1 - share) / share
        text = f"{share:4.0%} done, about {left:.0f} s left; {edit}: stage {task.stage} {task.kind}"
        console.print(text, markup=False, highlight=False)

    def finish(self, result: EditResult) -> None:
        if not (self._quiet and result.error):
            _say(console, result)


def _waiting(process: int) -> str:
    return f"process {process} holds this run; looking whether it still lives"


def _say(where: Console, result: EditResult) -> None:
    if result.error is not None:
        text, style = f"failed {result.id}: {result.error}", "red"
    elif result.state == "kept":
        text, style = f"kept {result.id}: finished before, {result.output}", ""
    else:
        text = (
            f"done {result.id} in {result.seconds:.0f} s, seed {result.seed}: {result.output} "
            f"({result.compared:,} of {result.pixels:,} pixels compared)"
        )
        style = "green"
    where.print(text, style=style, markup=False, highlight=False)
