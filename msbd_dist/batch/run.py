"""THE MAP: manifest -> plans -> waves of tasks on workers -> composed stages -> finished pictures.

Read `run_manifest` from the top. One queue serves all edits: while one edit is in its segments,
another one's low-resolution stages run. What is done is in each edit's ledger; running the same
manifest again does what is missing and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Protocol, get_args

from msbd_dist.batch import steps
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.page import has_page, show, write_edit
from msbd_dist.batch.record import (
    THREADS,
    EditResult,
    Order,
    RunRecord,
    WorkerSpec,
    load_run,
    package_versions,
    peak_memory_mb,
    save_run,
    tuned_name,
    versions_of,
)
from msbd_dist.batch.report import preview, write_report, write_row
from msbd_dist.canvas.export import Edited, Verify
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.lease import Lease, LeaseLost
from msbd_dist.canvas.ledger import Facts
from msbd_dist.canvas.store import sweep
from msbd_dist.core.plan import Stage, Task
from msbd_dist.core.spec import EditSpec
from msbd_dist.dist.executor import Executor, Outcome, SerialExecutor
from msbd_dist.errors import ClusterError, FullError, InputError, ModelError, MsbdError, RunError
from msbd_dist.models.card import resolve
from msbd_dist.models.fingerprint import fingerprint

log = logging.getLogger(__name__)

ExecutorKind = Literal["ray", "serial"]
AT_ONCE = 2  # edits for each worker: some are in stages that only one worker can do
CHORES = 4  # of the driver's own, at a time
LOOK = 0.02  # seconds between looks at them


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended: one result per edit, in manifest order."""

    out: str  # path or URL
    edits: tuple[EditResult, ...]
    seconds: float
    contact_sheet: str | None
    peak_mb: dict[str, int]  # highest resident memory of the driver and of any worker
    stopped: str | None = None  # why it ended early
    stop_code: int = 0

    @property
    def exit_code(self) -> int:
        if self.stop_code:
            return self.stop_code
        return 1 if any(e.state == "failed" for e in self.edits) else 0


@dataclass
class Stop:
    """How a run is asked to end early: by a signal, a deadline, too many failures."""

    grace: float = 30.0  # seconds for what is under way
    reason: str | None = None
    code: int = 0  # to exit with
    at_once: bool = False

    def ask(self, reason: str, code: int) -> None:
        """End the run; asked twice, without the grace."""
        self.at_once = self.reason is not None
        self.reason, self.code = self.reason or reason, self.code or code


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may cost."""

    failures: int | None = None  # failed edits beyond which it ends
    deadline: float | None = None  # by the monotonic clock

    exit_code: ClassVar[int] = 5


class Progress(Protocol):
    """What a run tells whoever watches. Costs are in units of work, not seconds."""

    def begin(self, costs: dict[str, float]) -> None: ...
    def wait_for(self, process: int) -> None: ...
    def advance(self, edit: str, task: Task, cost: float) -> None: ...
    def chore(self, edit: str, what: str, share: float) -> None: ...  # from any thread
    def finish(self, result: EditResult) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, costs: dict[str, float]) -> None: ...
    def wait_for(self, process: int) -> None: ...
    def advance(self, edit: str, task: Task, cost: float) -> None: ...
    def chore(self, edit: str, what: str, share: float) -> None: ...  # from any thread
    def finish(self, result: EditResult) -> None: ...


def run_manifest(
    manifest: Manifest,
    out: str | Path,
    *,
    workers: int | None = None,
    executor: ExecutorKind = "ray",
    address: str | None = None,
    progress: Progress | None = None,
    any_models: bool = False,
    stop: Stop | None = None,
    limits: Limits | None = None,
    verify: Verify = "sample",
) -> RunResult:
    """Run every edit of a manifest that is not finished in ``out``; see `RunResult`.

    ``out``, a path or an fsspec URL, must be empty or of a run with the same models, unless
    ``any_models``: then an edit that was made with other models is made again, and only once its
    inputs have been checked. ``stop`` may be asked to end the run early.

    An error of one edit ends that edit alone. Raised are those that concern all of them:
    ModelError, RunError, ClusterError.
    """
    if executor not in get_args(ExecutorKind):
        raise InputError(f"executor: got {executor!r}, wanted ray or serial")
    if verify not in get_args(Verify):
        raise InputError(f"verify: got {verify!r}, wanted sample, full or off")
    started, progress, files = time.perf_counter(), progress or Silent(), open_files(out)
    stop, limits = stop or Stop(), limits or Limits()
    load_run(files)  # a store that can't be reached is an error before any work
    card = resolve(manifest.models)
    models = steps.Models(manifest.models, card, fingerprint(card))
    begun = [begin_edit(spec, files, models) for spec in manifest.edits]
    todo = [edit for edit in begun if isinstance(edit, steps.Edit)]
    results = {edit.id: edit for edit in begun if isinstance(edit, EditResult)}
    progress.begin({edit.id: edit.remaining_cost for edit in todo})
    for result in results.values():
        progress.finish(result)
    peak: dict[str, int] = {}
    steps.require_room(todo)
    if todo:
        claim(files, run_record(manifest, todo, None), any_models=any_models)
        with closing(
            Lease.take(files, waiting=lambda holder: progress.wait_for(holder.pid))
        ) as lease:
            save_run(files, run_record(manifest, todo, load_run(files)))
            spec = WorkerSpec(files.url, manifest.models, THREADS)
            pool = make_executor(
                executor, spec, workers=workers, address=address, epoch=lease.epoch
            )
            with closing(pool):
                left = [again(edit) for edit in todo]
                drive = Drive(left, pool, lease, progress, stop, limits, verify)
                for result in drive.results():
                    results[result.id] = result
                    progress.finish(result)
            peak = drive.peak
    peak["driver"] = peak_memory_mb()
    ordered = tuple(
        results.get(spec.id) or EditResult(id=spec.id, state="stopped") for spec in manifest.edits
    )
    return RunResult(
        out=files.url,
        edits=ordered,
        seconds=time.perf_counter() - started,
        contact_sheet=write_report(files, ordered, manifest.edits) if load_run(files) else None,
        peak_mb=peak,
        stopped=stop.reason,
        stop_code=stop.code,
    )


Wave = list[Task | steps.Chore]


def life(
    edit: steps.Edit,
    still_ours: Callable[[], None],
    verify: Verify = "sample",
    tell: steps.Tell = lambda *_: None,
) -> Iterator[Wave]:
    """An edit from its first latent to its finished file: yields what may run next, together.

    It is resumed when all of it is in the ledger.
    """
    plan, ledger = edit.record.plan, edit.ledger

    def chore(name: str, run: Callable[[str], Facts]) -> Wave:
        return [] if name in ledger else [steps.Chore(edit, name, run)]

    yield chore("ingest", partial(steps.ingest, edit, tell))
    shown: Wave = []
    for stage in plan.stages:
        refit_where_needed(edit, stage)
        for wave in plan.waves(edit.id, stage):
            yield [*shown, *(task for task in wave if task.name not in ledger)]
            shown = []
        if tuned := ledger.get(f"{stage.index}-fit-0"):
            edit.work.remove(tuned_name(stage, tuned["attempt"]))
        shown = chore(f"{stage.index}-preview", partial(preview, edit, stage))

    def show_all(edit: steps.Edit, edited: Edited) -> None:
        write_row(edit, edited)
        show(edit, edited)

    export = partial(steps.export, edit, still_ours, show_all, verify, tell)
    yield [*shown, steps.Chore(edit, "export", export)]
    write_edit(edit)
    tidy(edit)


def tidy(edit: steps.Edit) -> None:
    """Remove what a finished edit needs no more, and what killed processes left."""
    edit.work.remove("journal")
    sweep(edit.work)


def refit_where_needed(edit: steps.Edit, stage: Stage) -> None:
    """A fit whose weights are gone counts as not done while a task of its stage still needs them:
    they are removed when the stage is done, and a marker may be lost after that."""
    fit = edit.ledger.get(f"{stage.index}-fit-0")
    waves = edit.record.plan.waves(edit.id, stage)
    left = [t for wave in waves for t in wave if t.kind == "decode" and t.name not in edit.ledger]
    if fit and left and tuned_name(stage, fit["attempt"]) not in edit.work.names():
        edit.ledger.forget(f"{stage.index}-fit-0")


@dataclass
class Running:
    """An edit with work under way."""

    edit: steps.Edit
    life: Iterator[Wave]
    pending: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)


class Drive:
    """Keeps the workers busy until every edit is finished or failed, or the run is to stop.

    Chores run in threads of this process; this thread hands out and takes back.
    """

    def __init__(
        self,
        todo: list[steps.Edit],
        pool: Executor,
        lease: Lease,
        progress: Progress,
        stop: Stop,
        limits: Limits,
        verify: Verify = "sample",
    ) -> None:
        self.peak: dict[str, int] = {}
        self._waiting, self._active = deque(todo), dict[str, Running]()
        self._pool, self._lease, self._progress = pool, lease, progress
        self._stop, self._limits, self._verify = stop, limits, verify
        self._chores: dict[Future[Facts], steps.Chore] = {}
        self._threads = ThreadPoolExecutor(CHORES, "chore")
        self._failed = 0

    def results(self) -> Iterator[EditResult]:
        """Each edit's result when it is there; none of those that were stopped."""
        with self._threads:
            while (self._waiting or self._active) and not self._over():
                self._lease.check()
                while self._waiting and len(self._active) < AT_ONCE * self._pool.num_workers:
                    edit = self._waiting.popleft()
                    tell = self._progress.chore
                    story = life(edit, self._lease.check, self._verify, tell)
                    running = Running(edit, story)
                    self._active[edit.id] = running
                    yield from self._go_on(running)
                yield from self._step()
            yield from self._wind_up()

    def _over(self) -> bool:
        limits = self._limits
        if limits.deadline is not None and time.monotonic() >= limits.deadline:
            self._end("the deadline has passed")
        if limits.failures is not None and self._failed > limits.failures:
            self._end(f"{self._failed} edits have failed")
        return self._stop.reason is not None

    def _end(self, reason: str) -> None:
        if self._stop.reason is None:
            self._stop.ask(reason, Limits.exit_code)

    def _wind_up(self) -> Iterator[EditResult]:
        """Hand out nothing more, and let what is under way finish within the grace."""
        self._pool.drop(lambda _: True)
        for chore in list(self._chores):
            chore.cancel()
        until = time.monotonic() + self._stop.grace
        while (self._pool.running or self._busy()) and time.monotonic() < until:
            if self._stop.at_once:
                return
            yield from self._step()

    def _busy(self) -> bool:
        return any(not chore.done() for chore in self._chores)

    def _step(self) -> Iterator[EditResult]:
        """Take one outcome, of a task or a chore, or wait a moment for one."""
        done = [future for future in self._chores if future.done()]
        if not done and not self._pool.running and self._chores:
            done = list(wait_for(self._chores, LOOK, FIRST_COMPLETED).done)
        for future in done:
            chore = self._chores.pop(future)
            if not future.cancelled():
                yield from self._take_chore(chore, future)
        with suppress(LookupError):
            outcome = self._pool.wait(LOOK if self._chores else 1.0)
            if outcome is not None:
                yield from self._take(outcome)

    def _take(self, outcome: Outcome) -> Iterator[EditResult]:
        """Enter a finished task, and go on with its edit when its wave is done."""
        task: Task = outcome.task.task
        running = self._active.get(task.edit)
        if running is None:  # late news of an edit that has failed
            return
        if outcome.facts is None:
            assert outcome.error is not None
            if isinstance(outcome.error, (ModelError, RunError, ClusterError)):  # everybody's
                raise outcome.error
            yield self._fail(running, outcome.error)
            return
        self.peak["worker"] = max(self.peak.get("worker", 0), outcome.facts["peak_mb"])
        self._progress.advance(task.edit, task, running.edit.record.plan.cost(task))
        running.edit.ledger.learn(task.name, outcome.facts)
        yield from self._enter(running, task.name)

    def _take_chore(self, chore: steps.Chore, future: Future[Facts]) -> Iterator[EditResult]:
        running = self._active.get(chore.edit.id)
        if running is None:
            return
        error = future.exception()
        if error is None:
            yield from self._enter(running, chore.name)
        elif isinstance(error, (LeaseLost, FullError)) or not isinstance(error, Exception):
            raise error
        else:
            yield self._fail(running, error)

    def _enter(self, running: Running, name: str) -> Iterator[EditResult]:
        running.pending.discard(name)
        if not running.pending and not self._stop.reason:
            yield from self._go_on(running)

    def _go_on(self, running: Running) -> Iterator[EditResult]:
        """Hand out an edit's next wave; its result when there is none left."""
        edit = running.edit
        try:
            while not running.pending:
                wave = next(running.life)
                running.pending = {work.name for work in wave}
                for work in wave:
                    self._hand_out(edit, work)
        except StopIteration:
            del self._active[edit.id]
            facts = edit.ledger["export"]
            yield EditResult(
                id=edit.id,
                state="done",
                output=edit.target,
                seconds=time.perf_counter() - running.started,
                seed=edit.record.seed,
                compared=facts["compared"],
                pixels=facts["pixels"],
            )
        except Exception as error:  # whatever it is, it ends this edit alone
            yield self._fail(running, error)

    def _hand_out(self, edit: steps.Edit, work: Task | steps.Chore) -> None:
        if isinstance(work, steps.Chore):
            self._chores[self._threads.submit(work, self._lease.epoch)] = work
            return
        plan, stage = edit.record.plan, edit.record.plan.stages[work.stage]
        order = Order(work, f"{edit.id}/{edit.record.key}", versions_of(edit.ledger, plan, stage))
        kind = f"{work.kind} {len(work.slots)} {plan.cost(work):.0f}"
        ahead = 2 * (len(plan.stages) - stage.index) + (work.kind == "denoise")
        self._pool.submit(order, ranks=plan.ranks(work), kind=kind, ahead=ahead)

    def _fail(self, running: Running, error: Exception) -> EditResult:
        name = running.edit.id
        del self._active[name]
        self._failed += 1
        self._pool.drop(lambda order: order.task.edit == name)
        return failed(name, error)


def again(edit: steps.Edit) -> steps.Edit:
    """The edit with its ledger as it is now."""
    return replace(edit, ledger=steps.ledger_of(edit.files, edit.record))


def failed(name: str, error: Exception) -> EditResult:
    """A failed edit with its error in one line; an error that nobody foresaw is logged whole."""
    if not isinstance(error, MsbdError):
        log.debug("edit %s", name, exc_info=error)
        first = next(iter(str(error).strip().splitlines()), "")
        error = MsbdError(f"{type(error).__name__}: {first}")
    return EditResult(id=name, state="failed", error=error)


def begin_edit(spec: EditSpec, out: Files, models: steps.Models) -> steps.Edit | EditResult:
    """Plan an edit, or say why there is nothing to run: finished before, or wrong input."""
    try:
        edit = steps.prepare(spec, out / spec.id, models)
    except Exception as error:  # whatever it is, it ends this edit alone
        return failed(spec.id, error)
    if edit.is_finished:
        tidy(edit)  # it may have been killed right before
        if not has_page(edit):
            write_edit(edit)
        return EditResult(id=spec.id, state="kept", output=edit.target, seed=edit.record.seed)
    return edit


def run_record(manifest: Manifest, todo: list[steps.Edit], earlier: RunRecord | None) -> RunRecord:
    """The record of this run; what an earlier one in the same directory did stays in it."""
    plans, seeds = (earlier.plans, earlier.seeds) if earlier else ({}, {})
    return RunRecord(
        manifest=str(manifest.path),
        models=manifest.models,
        plans={**plans, **{edit.id: edit.record.plan.digest for edit in todo}},
        seeds={**seeds, **{edit.id: edit.record.seed for edit in todo}},
        threads=THREADS,
        versions=package_versions(),
    )


def claim(out: Files, record: RunRecord, *, any_models: bool) -> None:
    """Make sure that ``out`` can hold this run: writable, and empty or of these models."""
    try:
        out.write(".writable", b"")
        out.remove(".writable")
    except OSError as error:
        raise RunError(
            f"{out.url}: can't be written ({error.strerror or error}); choose another --out"
        ) from None
    earlier = load_run(out)
    if earlier is None:
        if not out.is_empty:
            raise RunError(f"{out.url}: holds files that are not of a run; choose an empty --out")
        save_run(out, record)  # before anything else: now it is one
    elif not any_models and earlier.models != record.models:
        raise RunError(
            f"{out.url}: holds a run with models {earlier.models.family}, this one has "
            f"{record.models.family}; choose another --out"
        )


def make_executor(
    kind: ExecutorKind, spec: WorkerSpec, *, workers: int | None, address: str | None, epoch: int
) -> Executor:
    """Workers in this process (serial) or as Ray actors."""
    if kind == "serial":
        return SerialExecutor(spec, epoch=epoch)
    from msbd_dist.dist.ray_executor import RayExecutor

    use_gpus = spec.models.device != "cpu"
    return RayExecutor(spec, num_workers=workers, use_gpus=use_gpus, address=address, epoch=epoch)
