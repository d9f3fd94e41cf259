"""THE MAP: manifest -> plans -> waves of tasks on workers -> composed stages -> finished pictures.

Read `run_manifest` from the top. One queue serves all edits: while one edit is in its segments,
another one's low-resolution stages run. What is done is in each edit's ledger; running the same
manifest again does what is missing and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from msbd_dist.batch import steps
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import (
    THREADS,
    EditResult,
    RunRecord,
    WorkerSpec,
    load_run,
    peak_memory_mb,
    save_run,
    tuned_path,
    versions,
)
from msbd_dist.batch.report import write_preview, write_report
from msbd_dist.canvas.ledger import write_atomic
from msbd_dist.core.plan import Task
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.dist.executor import Executor, Outcome, SerialExecutor
from msbd_dist.errors import InputError, ModelError, MsbdError, RunError
from msbd_dist.models.card import Card, resolve

log = logging.getLogger(__name__)

ExecutorKind = Literal["ray", "serial"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended: one result per edit, in manifest order."""

    out: Path
    edits: tuple[EditResult, ...]
    seconds: float
    contact_sheet: Path | None
    peak_mb: dict[str, int]  # highest resident memory of the driver and of any worker

    @property
    def exit_code(self) -> int:
        return 1 if any(e.state == "failed" for e in self.edits) else 0


class Progress(Protocol):
    """What a run tells whoever watches. Costs are in units of work, not seconds."""

    def begin(self, costs: dict[str, float]) -> None: ...
    def advance(self, edit: str, task: Task, cost: float) -> None: ...
    def finish(self, result: EditResult) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, costs: dict[str, float]) -> None: ...
    def advance(self, edit: str, task: Task, cost: float) -> None: ...
    def finish(self, result: EditResult) -> None: ...


def run_manifest(
    manifest: Manifest,
    out: Path,
    *,
    workers: int | None = None,
    executor: ExecutorKind = "ray",
    address: str | None = None,
    progress: Progress | None = None,
    any_models: bool = False,
) -> RunResult:
    """Run every edit of a manifest that is not finished in ``out``; see `RunResult`.

    ``out`` must be empty or of a run with the same models, unless ``any_models``: then an edit that
    was made with other models is made again, and only once its inputs have been checked.

    An error of one edit ends that edit alone. Raised are those that concern all of them:
    ModelError, RunError, ClusterError.
    """
    if executor not in get_args(ExecutorKind):
        raise InputError(f"executor: got {executor!r}, wanted ray or serial")
    started, progress = time.perf_counter(), progress or Silent()
    out = out.resolve()
    card = resolve(manifest.models)
    begun = [begin_edit(spec, out, card, manifest.models) for spec in manifest.edits]
    todo = [edit for edit in begun if isinstance(edit, steps.Prepared)]
    results = {edit.id: edit for edit in begun if isinstance(edit, EditResult)}
    progress.begin({edit.id: steps.remaining_cost(edit) for edit in todo})
    for result in results.values():
        progress.finish(result)
    peak: dict[str, int] = {}
    if todo:
        claim(out, None if any_models else manifest.models)
        save_run(out, run_record(manifest, todo, load_run(out)))
        spec = WorkerSpec(out, manifest.models, THREADS)
        pool = make_executor(executor, spec, workers=workers, address=address)
        with closing(pool):
            for result in drive(todo, pool, progress, peak):
                results[result.id] = result
                progress.finish(result)
    peak["driver"] = peak_memory_mb()
    ordered = tuple(results[spec.id] for spec in manifest.edits)
    return RunResult(
        out=out,
        edits=ordered,
        seconds=time.perf_counter() - started,
        contact_sheet=write_report(out, ordered) if load_run(out) else None,
        peak_mb=peak,
    )


def life(edit: steps.Edit) -> Generator[list[Task], None, Path]:
    """An edit from its first latent to its finished file: yields the tasks to run next.

    It is resumed when they are all in the ledger. Returns where the output is.
    """
    plan, ledger = edit.record.plan, edit.ledger
    for stage in plan.stages:
        composed = f"{stage.index}-compose"
        if composed in ledger:
            continue
        for wave in plan.waves(edit.id, stage):
            yield [task for task in wave if task.name not in ledger]
        steps.compose_stage(edit.canvas, stage)
        write_preview(edit, stage)
        ledger.commit(composed, {})
        tuned_path(edit.folder, stage).unlink(missing_ok=True)
    facts = steps.export(edit)
    ledger.commit("export", facts)
    return Path(facts["output"])


@dataclass
class Running:
    """An edit with tasks in the pool."""

    edit: steps.Edit
    life: Generator[list[Task], None, Path]
    pending: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)


def drive(
    todo: list[steps.Prepared], pool: Executor, progress: Progress, peak: dict[str, int]
) -> Iterator[EditResult]:
    """Keep the workers busy until every edit is finished or failed; yields results as they come."""
    waiting, active = deque(todo), dict[str, Running]()
    while waiting or active:
        while waiting and len(active) <= pool.num_workers:
            yield from _begin(waiting.popleft(), active, pool)
        if active:
            outcome = pool.wait()
            if outcome.task.edit in active:  # else: late news of an edit that has failed
                yield from _take(outcome, active, pool, progress, peak)


def _begin(
    prepared: steps.Prepared, active: dict[str, Running], pool: Executor
) -> Iterator[EditResult]:
    """Open an edit's canvas and hand out its first tasks."""
    try:
        edit = steps.ingest(prepared)
    except Exception as error:  # whatever it is, it ends this edit alone
        yield failed(prepared.id, error)
        return
    active[edit.id] = Running(edit, life(edit))
    yield from _go_on(active[edit.id], active, pool)


def _take(
    outcome: Outcome,
    active: dict[str, Running],
    pool: Executor,
    progress: Progress,
    peak: dict[str, int],
) -> Iterator[EditResult]:
    """Enter a finished task in its edit's ledger, and go on with the edit when its wave is done."""
    task: Task = outcome.task
    running = active[task.edit]
    if outcome.facts is None:
        if isinstance(outcome.error, ModelError):  # the models are everybody's
            raise outcome.error
        yield _failed(running, outcome.error, active, pool)
        return
    running.edit.ledger.commit(task.name, {**outcome.facts, "seconds": round(outcome.seconds, 3)})
    peak["worker"] = max(peak.get("worker", 0), outcome.facts["peak_mb"])
    progress.advance(task.edit, task, running.edit.record.plan.cost(task))
    running.pending.discard(task.name)
    if not running.pending:
        yield from _go_on(running, active, pool)


def _go_on(running: Running, active: dict[str, Running], pool: Executor) -> Iterator[EditResult]:
    """Submit an edit's next tasks; its result when there are none left."""
    try:
        while not running.pending:
            tasks = next(running.life)
            running.pending = {task.name for task in tasks}
            for task in tasks:
                pool.submit(task, ranks=running.edit.record.plan.ranks(task))
    except StopIteration as end:
        del active[running.edit.id]
        seconds = time.perf_counter() - running.started
        seed = running.edit.record.seed
        yield EditResult(
            id=running.edit.id, state="done", output=end.value, seconds=seconds, seed=seed
        )
    except Exception as error:  # whatever it is, it ends this edit alone
        yield _failed(running, error, active, pool)


def _failed(
    running: Running, error: Exception | None, active: dict[str, Running], pool: Executor
) -> EditResult:
    name = running.edit.id
    del active[name]
    pool.drop(lambda task: task.edit == name)
    return failed(name, error)


def failed(name: str, error: Exception | None) -> EditResult:
    """A failed edit with its error in one line; an error that nobody foresaw is logged whole."""
    if not isinstance(error, MsbdError):
        log.debug("edit %s", name, exc_info=error)
        first = next(iter(str(error).strip().splitlines()), "")
        error = MsbdError(f"{type(error).__name__}: {first}")
    return EditResult(id=name, state="failed", error=error)


def begin_edit(
    spec: EditSpec, out: Path, card: Card, models: ModelSpec
) -> steps.Prepared | EditResult:
    """Plan an edit, or say why there is nothing to run: finished before, or wrong input."""
    folder = out / spec.id
    try:
        earlier = steps.earlier_record(spec, folder, models)
        if earlier is not None and steps.is_finished(earlier, folder):
            target = steps.target_of(spec, folder)
            return EditResult(id=spec.id, state="kept", output=target, seed=earlier.seed)
        return steps.prepare(spec, folder, card=card, models=models, earlier=earlier)
    except Exception as error:  # whatever it is, it ends this edit alone
        return failed(spec.id, error)


def run_record(
    manifest: Manifest, todo: list[steps.Prepared], earlier: RunRecord | None
) -> RunRecord:
    """The record of this run; what an earlier one in the same directory did stays in it."""
    plans, seeds = (earlier.plans, earlier.seeds) if earlier else ({}, {})
    return RunRecord(
        manifest=str(manifest.path),
        models=manifest.models,
        plans={**plans, **{edit.id: edit.record.plan.digest for edit in todo}},
        seeds={**seeds, **{edit.id: edit.record.seed for edit in todo}},
        threads=THREADS,
        versions=versions(),
    )


def claim(out: Path, models: ModelSpec | None) -> None:
    """Make sure that ``out`` can hold this run: writable, and empty or of these models."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise RunError(
            f"{out}: can't be written ({error.strerror}); choose another --out"
        ) from None
    earlier = load_run(out)
    if earlier is None:
        if any(out.iterdir()):
            raise RunError(f"{out}: holds files that are not of a run; choose an empty --out")
    elif models is not None and earlier.models != models:
        raise RunError(
            f"{out}: holds a run with models {earlier.models.family}, this one has "
            f"{models.family}; choose another --out"
        )


def make_executor(
    kind: ExecutorKind, spec: WorkerSpec, *, workers: int | None, address: str | None
) -> Executor:
    """Workers in this process (serial) or as Ray actors."""
    if kind == "serial":
        return SerialExecutor(spec)
    from msbd_dist.dist.ray_executor import RayExecutor

    use_gpus = spec.models.device != "cpu"
    return RayExecutor(spec, num_workers=workers, use_gpus=use_gpus, address=address)
