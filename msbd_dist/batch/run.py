"""THE MAP: manifest -> plans -> waves of tasks on workers -> composed stages -> finished pictures.

Read `run_manifest` from the top. One queue serves all edits: while one edit is in its segments,
another one's low-resolution stages run. What is done is in each edit's ledger; running the same
manifest again does what is missing and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar, get_args

from msbd_dist.batch import steps
from msbd_dist.batch.ahead import Ahead
from msbd_dist.batch.board import Board, Silent, Watch
from msbd_dist.batch.changes import why_anew
from msbd_dist.batch.ending import stored_errors
from msbd_dist.batch.estimate import save_profile
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.identity import Identity, deciding_packages
from msbd_dist.batch.journal import RUN, Journal, noted
from msbd_dist.batch.look import require_room, require_run_directory
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.mend import forget_lost
from msbd_dist.batch.page import has_page, show, write_edit
from msbd_dist.batch.record import (
    QUARANTINE,
    SCHEMA,
    THREADS,
    EditResult,
    ExecutorKind,
    Launch,
    Order,
    RunRecord,
    load_run,
    peak_memory_mb,
    save_edits,
    save_run,
    tuned_name,
    versions_of,
)
from msbd_dist.batch.report import preview, write_report, write_row
from msbd_dist.batch.resume import results_of
from msbd_dist.batch.status import CANCEL, FAILED, FINISHED, cancelled, in_words, load_status
from msbd_dist.canvas.export import Edited
from msbd_dist.canvas.files import Files, LocalFiles, open_files
from msbd_dist.canvas.lease import Lease, LeaseLost
from msbd_dist.canvas.ledger import Facts
from msbd_dist.canvas.store import sweep
from msbd_dist.core.plan import Stage, Task
from msbd_dist.core.spec import EditSpec, Verify
from msbd_dist.errors import (
    ClusterError,
    FullError,
    InputError,
    ModelError,
    MsbdError,
    RunError,
    WorkerError,
    in_one_line,
    said_late,
)
from msbd_dist.fleet.executor import Executor, Outcome, SerialExecutor
from msbd_dist.models.card import pinned, resolve
from msbd_dist.models.fingerprint import digests

log = logging.getLogger(__name__)

AT_ONCE = 2  # edits for each worker: some are in stages that only one worker can do
CHORES = 4  # of the driver's own, at a time
LOOK = 0.02  # seconds between looks at them
ASK = 2.0  # seconds between looks whether the run is to end
CANCELLED = 4  # exit code


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
        return 1 if any(e.state in FAILED for e in self.edits) else 0


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


def run_manifest(
    manifest: Manifest,
    out: str | Path,
    *,
    workers: int | None = None,
    executor: ExecutorKind = "ray",
    address: str | None = None,
    verify: Verify = "sample",
    watch: Watch | None = None,
    any_models: bool = False,
    only: Collection[str] | None = None,
    stop: Stop | None = None,
    limits: Limits | None = None,
) -> RunResult:
    """Run every edit of a manifest that is not finished in ``out``; see `RunResult`.

    ``out``, a path or an fsspec URL, must be empty or of a run with the same models, unless
    ``any_models``: then an edit that was made with other models is made again, and only once its
    inputs have been checked. ``only`` names the edits to run; None: all. ``stop`` may be asked to
    end the run early.

    An error of one edit ends that edit alone. Raised are those that concern all of them:
    ModelError, RunError, ClusterError.
    """
    if executor not in get_args(ExecutorKind):
        raise InputError(f"executor: got {executor!r}, wanted ray or serial")
    if verify not in get_args(Verify):
        raise InputError(f"verify: got {verify!r}, wanted sample, full or off")
    launch = Launch(workers=workers, executor=executor, address=address, verify=verify)
    watch, files = watch or Silent(), open_files(out)
    started, stop, limits = time.perf_counter(), stop or Stop(), limits or Limits()
    if isinstance(files, LocalFiles) and files.path.exists() and not files.path.is_dir():
        raise RunError(f"{files.url}: is a file; give --out a folder's name")
    load_run(files)  # a store that can't be reached is an error before any work
    card = resolve(manifest.models)
    for warning in card.notes:
        log.warning("%s", warning)
    manifest = manifest.with_(models=pinned(manifest.models, card))
    models = steps.Models(manifest.models, card, digests(card))
    specs = (spec for spec in manifest.edits if only is None or spec.id in only)
    board, peak = Board(files, watch, len(manifest.edits)), dict[str, int]()
    if only is not None:
        board.rows = {row.id: row for row in load_status(files).edits if row.id not in only}
        board.kept = sum(row.state in FINISHED for row in board.rows.values())
    results: dict[str, EditResult] = {}
    journal = Journal(files)

    def note(result: EditResult) -> None:
        results[result.id] = result
        board.finish(result)

    with (
        noted(journal),
        stored_errors(board, journal),
        closing(Ahead(specs, partial(begin_edit, out=files, models=models))) as ahead,
    ):
        todo = []
        for found in ahead.look():
            if stop.reason:
                break
            if isinstance(found, EditResult):
                note(found)
            else:
                todo.append(found)
                board.expect(found)
        require_room(todo)
        some = bool(todo)
        todo.clear()  # they are held no longer than they are at work
        if some and not stop.reason:
            claim(files, RunRecord.of(manifest, launch), any_models=any_models)
            with closing(Lease.take(files, waiting=lambda h: watch.wait_for(h.pid))) as lease:
                save_run(files, RunRecord.of(manifest, launch))
                if only is None:
                    save_edits(files, manifest.edits)
                files.remove(CANCEL)
                board.state = "starting"
                board.tell(now=True)
                journal.say(RUN, _begins())
                identity = Identity(files=models.files, packages=deciding_packages(), schema=SCHEMA)
                spec = WorkerSpec(files.url, manifest.models, THREADS, identity)
                with closing(make_executor(launch, spec, epoch=lease.epoch)) as pool:
                    board.begin(pool.num_workers)
                    drive = Drive(ahead, pool, lease, board, journal, stop, limits, launch.verify)
                    for result in drive.results():
                        note(result)
                    files.remove(CANCEL)
                peak = drive.peak
        peak["driver"] = peak_memory_mb()
        ids = (spec.id for spec in manifest.edits if only is None or spec.id in only)
        ordered = tuple(results.get(id_) or EditResult(id=id_, state="stopped") for id_ in ids)
        board.end(ordered, stop.reason, (spec.id for spec in manifest.edits))
        sheet = None
        if load_run(files) is not None:
            board.write()
            _keep_profile(files, board, manifest.models.family, peak.get("worker", 0))
            known = ordered if only is None else results_of(files)
            sheet = write_report(files, known, manifest.edits)
            if some:
                journal.say(RUN, f"ended: {in_words(board.counts())}")
                journal.write(now=True)
    return RunResult(
        out=files.url,
        edits=ordered,
        seconds=time.perf_counter() - started,
        contact_sheet=sheet,
        peak_mb=peak,
        stopped=stop.reason,
        stop_code=stop.code,
    )


def _begins() -> str:
    return f"begins, driver {os.getpid()} on {socket.gethostname()}"


def _keep_profile(files: Files, board: Board, models: str, worker_mb: int) -> None:
    profile = board.profile()
    if profile.seconds:
        save_profile(files, replace(profile, models=models, worker_mb=worker_mb))


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

    def show_all(edit: steps.Edit, edited: Edited) -> Facts:
        write_row(edit, edited)
        return show(edit, edited)

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
        ahead: Ahead,
        pool: Executor,
        lease: Lease,
        board: Board,
        journal: Journal,
        stop: Stop,
        limits: Limits,
        verify: Verify = "sample",
    ) -> None:
        self.peak: dict[str, int] = {}
        self._ahead, self._active = ahead, dict[str, Running]()
        self._pool, self._lease, self._board = pool, lease, board
        self._stop, self._limits, self._verify = stop, limits, verify
        self._chores: dict[Future[Facts], steps.Chore] = {}
        self._threads = ThreadPoolExecutor(CHORES, "chore")
        self._journal = journal
        self._failed = 0
        self._asked = 0.0  # when it was last looked whether the run is cancelled

    def results(self) -> Iterator[EditResult]:
        """Each edit's result when it is there; none of those that were stopped."""
        with self._threads:
            while (self._active or self._ahead.more) and not self._over():
                self._lease.check()
                for result in chain(self._admit(), self._step()):
                    self._ahead.ended(result)
                    yield result
                self._board.trouble = self._pool.trouble
                if self._board.tell():
                    self._pool.show(self._board.counts())
                self._journal.write()
            yield from self._wind_up()
            self._journal.write(now=True)

    def _admit(self) -> Iterator[EditResult]:
        """Begin with as many edits as keep the workers busy."""
        while len(self._active) < AT_ONCE * self._pool.num_workers:
            found = self._ahead.take()
            if found is None:
                return
            if isinstance(found, EditResult):
                yield found
                continue
            if lost := forget_lost(found):
                self._journal.say(found.id, lost)
            edit = again(found)
            story = life(edit, self._lease.check, self._verify, self._board.chore)
            running = self._active[edit.id] = Running(edit, story)
            self._board.enter(edit)
            self._journal.say(edit.id, _begins())
            if why := why_anew(edit):
                self._journal.say(edit.id, why)
            yield from self._go_on(running)

    def _over(self) -> bool:
        limits = self._limits
        if limits.deadline is not None and time.monotonic() >= limits.deadline:
            self._end("the deadline has passed")
        if limits.failures is not None and self._failed > limits.failures:
            self._end(f"{self._failed} edits have failed")
        if self._stop.reason is None and time.monotonic() - self._asked >= ASK:
            self._asked = time.monotonic()
            if (grace := cancelled(self._board.out)) is not None:
                self._stop.grace = grace
                self._stop.ask("cancelled", CANCELLED)
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
        while (self._pool.running or self._chores) and time.monotonic() < until:
            if self._stop.at_once:
                return
            yield from self._step()

    def _step(self) -> Iterator[EditResult]:
        """Take one outcome, of a task or a chore, or wait a moment for one."""
        done = [future for future in self._chores if future.done()]
        if not done and not self._pool.running and self._chores:
            done = list(wait_for(self._chores, LOOK, FIRST_COMPLETED).done)
        for future in done:
            chore = self._chores.pop(future)
            if not future.cancelled():
                yield from self._take_chore(chore, future)
        try:
            outcome = self._pool.wait(LOOK if self._chores else 1.0)
        except LookupError:
            if not self._chores:  # edits are being looked at
                time.sleep(LOOK)
            return
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
            if task.kind == "measure":  # the edit is worth more than what is said of it
                yield from self._unmeasured(running, task, outcome.error)
                return
            if isinstance(outcome.error, (ModelError, RunError, ClusterError)):  # everybody's
                raise outcome.error
            yield self._fail(running, outcome.error)
            return
        self.peak["worker"] = max(self.peak.get("worker", 0), outcome.facts["peak_mb"])
        self._board.advance(task.edit, task, running.edit.record.plan.cost(task), outcome.facts)
        self._journal.say(task.edit, _told(task, outcome))
        running.edit.ledger.learn(task.name, outcome.facts)
        yield from self._enter(running, task.name)

    def _unmeasured(self, running: Running, task: Task, error: Exception) -> Iterator[EditResult]:
        """Go on with an edit whose measures could not be taken."""
        self._board.advance(task.edit, task, running.edit.record.plan.cost(task), {})
        self._journal.say(task.edit, f"{task.name}: not measured: {error}")
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
        written = "export" in running.edit.ledger  # nothing is left to hand out
        if not running.pending and (written or not self._stop.reason):
            yield from self._go_on(running)

    def _go_on(self, running: Running) -> Iterator[EditResult]:
        """Hand out an edit's next wave; its result when there is none left."""
        edit = running.edit
        try:
            while not running.pending:
                wave = next(running.life)
                running.pending = {work.name for work in wave}
                tasks = [work for work in wave if isinstance(work, Task)]
                self._board.wave(edit.id, edit.record.plan, tasks)
                for work in wave:
                    self._hand_out(edit, work)
        except StopIteration:
            del self._active[edit.id]
            facts = edit.ledger["export"]
            self._journal.say(edit.id, f"done: {edit.target}")
            self._journal.leave(edit.id)
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
        edit = running.edit
        if edit.id in self._board.worked:
            said_late(error)
        del self._active[edit.id]
        self._failed += 1
        self._pool.drop(lambda order: order.task.edit == edit.id)
        self._journal.fail(edit.id, error)
        self._journal.leave(edit.id)
        result = failed(edit.id, error)
        if isinstance(error, WorkerError):
            return set_aside(edit, result)
        return result


def again(edit: steps.Edit) -> steps.Edit:
    """The edit with its ledger as it is now."""
    return replace(edit, ledger=steps.ledger_of(edit.files, edit.record))


def failed(name: str, error: Exception) -> EditResult:
    """A failed edit with its error in one line."""
    if not isinstance(error, MsbdError):
        log.debug("edit %s", name, exc_info=error)
        error = MsbdError(in_one_line(error))
    return EditResult(id=name, state="failed", error=error)


def set_aside(edit: steps.Edit, result: EditResult) -> EditResult:
    """An edit that kills workers is not tried again by itself: it would kill them again."""
    text = {"key": edit.record.key, "error": str(result.error)}
    edit.files.write(QUARANTINE, json.dumps(text).encode())
    return replace(result, state="quarantined")


def aside(edit: steps.Edit) -> EditResult | None:
    """What is said of an edit that was set aside, and is still the same."""
    try:
        found = json.loads(edit.files.read(QUARANTINE))
    except (FileNotFoundError, ValueError):
        return None
    if found["key"] != edit.record.key:
        return None
    error = WorkerError(f"{found['error']}; `msbd retry` tries it again")
    return EditResult(id=edit.id, state="quarantined", error=error)


def _told(task: Task, outcome: Outcome) -> str:
    """A finished task as lines of a log."""
    facts = outcome.facts or {}
    ranks = f" by a gang of {facts['ranks']}" if facts.get("ranks", 1) > 1 else ""
    tries = f", try {outcome.attempts}" if outcome.attempts > 1 else ""
    first = f"{task.name}: {facts.get('seconds', 0):.1f} s{ranks}{tries} by {facts.get('by', '?')}"
    return "\n".join([first, *facts.get("log", ())])


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
        seed, cost = edit.record.seed, edit.cost
        return EditResult(id=spec.id, state="kept", output=edit.target, seed=seed, cost=cost)
    return aside(edit) or edit


def claim(out: Files, record: RunRecord, *, any_models: bool) -> None:
    """Make sure that ``out`` can hold this run: writable, and empty or of these models."""
    try:
        out.write(".writable", b"")
        out.remove(".writable")
    except OSError as error:
        raise RunError(
            f"{out.url}: can't be written ({error.strerror or error}); choose another --out"
        ) from None
    require_run_directory(out, record.models, any_models=any_models)
    if load_run(out) is None:
        save_run(out, record)  # before anything else: now it is one


def make_executor(launch: Launch, spec: WorkerSpec, *, epoch: int) -> Executor:
    """Workers in this process (serial) or as Ray actors."""
    if launch.executor == "serial":
        return SerialExecutor(spec, epoch=epoch)
    try:
        from msbd_dist.fleet.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ClusterError(
            "Ray is not installed: install 'ray[default]', or give --executor serial"
        ) from None

    use_gpus = spec.models.device != "cpu"
    return RayExecutor(
        spec, num_workers=launch.workers, use_gpus=use_gpus, address=launch.address, epoch=epoch
    )
