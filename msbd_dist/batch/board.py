"""Keeps count of a run: what is done, what is left and how long that takes, for whoever watches.

Seconds come from what tasks took in this run: for each kind of task, its seconds for a unit of
`Plan.cost`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, get_args

from msbd_dist.batch import page, steps
from msbd_dist.batch.estimate import Profile
from msbd_dist.batch.record import EditResult
from msbd_dist.batch.status import (
    FAILED,
    FINISHED,
    Doing,
    EditState,
    Row,
    RunState,
    Status,
    save_status,
)
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.ledger import Facts
from msbd_dist.core.plan import Plan, Task

SHOWN = 0.2  # seconds between two looks of who watches
WRITTEN = 2.0  # between two writings of status.json, or more where writing is slow
PAGE = 10.0  # the same of the page
WRITING = 0.01  # of the time at most is spent on writing


class Watch(Protocol):
    """Whoever watches a run."""

    def show(self, status: Status) -> None:
        """How far it is, now and then; without the rows of all edits."""
        ...

    def wait_for(self, process: int) -> None:
        """A process holds the run, and it takes a while to see whether it still lives."""
        ...

    def finish(self, result: EditResult) -> None:
        """An edit has ended."""
        ...


class Silent:
    """Nobody watches."""

    def show(self, status: Status) -> None: ...
    def wait_for(self, process: int) -> None: ...
    def finish(self, result: EditResult) -> None: ...


@dataclass
class _Known:
    """An edit whose plan is known."""

    left: dict[str, float]  # cost by kind of task
    total: float
    wave: str = ""
    done: int = 0
    of: int = 0

    @property
    def share(self) -> float:
        """How much of it is done."""
        return 1 - sum(self.left.values()) / self.total if self.total else 1.0


@dataclass
class _Pace:
    """What tasks of one kind took."""

    seconds: float = 0.0
    cost: float = 0.0


@dataclass
class Board:
    """See above. All but `chore` is called by the thread that drives the run."""

    out: Files
    watch: Watch
    total: int

    pages: dict[str, page.Row] = field(default_factory=dict)
    state: RunState = "looking"
    stopped: str | None = None
    error: str | None = None
    trouble: str = ""  # why fewer workers are at work than were wanted
    workers: int = 0
    looked: int = 0
    kept: int = 0  # finished edits that are not looked at, because others are tried again
    rows: dict[str, Row] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)  # edits of which a task was done in this run
    _known: dict[str, _Known] = field(default_factory=dict)
    _working: dict[str, None] = field(default_factory=dict)  # in the order they came
    _chores: dict[str, tuple[str, float]] = field(default_factory=dict)
    _pace: defaultdict[str, _Pace] = field(default_factory=lambda: defaultdict(_Pace))
    _began: float = field(default_factory=time.time)
    _busy: float = 0.0  # seconds of workers
    _working_since: float | None = None
    _done_cost: float = 0.0  # in this run and in those before
    _shown: float = 0.0
    _due: float = 0.0  # when status.json is written next
    _page_due: float = 0.0  # and when the page is

    @property
    def working(self) -> Collection[str]:
        """The edits that are worked at."""
        return tuple(self._working)

    # -- what happens ------------------------------------------------------------------------------

    def expect(self, edit: steps.Edit) -> None:
        """An edit has been looked at, and will be worked at."""
        self.looked += 1
        plan, left, total = edit.record.plan, defaultdict[str, float](float), 0.0
        for task in plan.tasks(edit.id):
            cost = plan.cost(task)
            total += cost
            if task.name not in edit.ledger:
                left[task.kind] += cost
        self._known[edit.id] = _Known(left, total)
        self._done_cost += total - sum(left.values())
        prompt = edit.record.spec.prompt
        self.pages[edit.id] = page.Row(id=edit.id, state="waiting", prompt=prompt)
        self.tell()

    def begin(self, workers: int) -> None:
        """There are workers."""
        self.workers, self.state = workers, "running"
        self.tell(now=True)

    def enter(self, edit: steps.Edit) -> None:
        """An edit is worked at from now on."""
        if edit.id not in self._known:
            self.expect(edit)
        self._working[edit.id] = None
        self.rows[edit.id] = Row(id=edit.id, state="running")
        self._working_since = self._working_since or time.time()

    def wave(self, edit: str, plan: Plan, tasks: Iterable[Task]) -> None:
        """Tasks of an edit are handed out, all of one stage and kind."""
        known, tasks = self._known[edit], list(tasks)
        self._chores.pop(edit, None)
        for task in tasks[:1]:
            stage = plan.stages[task.stage]
            known.of = plan.slots(stage, task.kind)
            known.done = known.of - sum(len(task.slots) for task in tasks)
            known.wave = f"stage {task.stage} {task.kind}"

    def advance(self, edit: str, task: Task, cost: float, facts: Facts) -> None:
        """A task is done."""
        known, pace = self._known[edit], self._pace[task.kind]
        self.worked.add(edit)
        seconds = facts.get("seconds", 0.0)
        ranks = facts.get("ranks", 1)
        self._busy += seconds * ranks
        pace.seconds += seconds * ranks
        pace.cost += cost if facts else 0.0  # what failed and may says nothing
        known.left[task.kind] = max(known.left[task.kind] - cost, 0.0)
        known.done += len(task.slots)
        self._done_cost += cost

    def chore(self, edit: str, what: str, share: float) -> None:
        """How far something is that the driver itself does for an edit; from any thread."""
        self._chores[edit] = (what, share)

    def finish(self, result: EditResult) -> None:
        """An edit has ended, or needed no work."""
        if result.id not in self._known:
            self.looked += 1
        self._done_cost += result.cost
        self._known.pop(result.id, None)
        self._chores.pop(result.id, None)
        self._working.pop(result.id, None)
        error = None if result.error is None else str(result.error)
        self.rows[result.id] = Row(
            id=result.id,
            state=result.state,
            seconds=round(result.seconds, 1),
            output=result.output,
            error=error,
        )
        self.pages[result.id] = self._page_row(result)
        self.watch.finish(result)

    def _page_row(self, result: EditResult) -> page.Row:
        former = self.pages.get(result.id)
        try:
            row = page.row_of(self.out, result)
        except (OSError, ValueError, KeyError):  # the page must not cost the run
            row = page.Row(id=result.id, state=result.state)
        return replace(row, prompt=former.prompt) if former and row.prompt is None else row

    def end(self, results: Iterable[EditResult], stopped: str | None, order: Iterable[str]) -> None:
        """The run has ended: nothing is worked at any more. ``order`` is the manifest's, of all
        edits."""
        self.state, self.stopped = "ended", stopped
        self._working.clear()
        for result in results:
            row = self.rows.get(result.id) or Row(id=result.id, state="stopped")
            self.rows[result.id] = replace(row, state=result.state)
        self.rows = {name: self.rows[name] for name in order if name in self.rows}
        self.watch.show(self.status())

    def break_off(self, why: str, order: Iterable[str]) -> None:
        """An error ends the run: nothing is worked at any more, and what was has this error."""
        self.state, self.error = "ended", why
        for name in self._working:
            self.rows[name] = Row(id=name, state="stopped", error=why)
        self._working.clear()
        self.rows = {name: self.rows.get(name) or Row(id=name, state="stopped") for name in order}
        self.write()

    def profile(self) -> Profile:
        """What work took in this run."""
        paces = {kind: pace.seconds / pace.cost for kind, pace in self._pace.items() if pace.cost}
        return Profile(seconds=paces)

    # -- what is told ------------------------------------------------------------------------------

    def tell(self, *, now: bool = False) -> bool:
        """Show and write how far the run is, if it is time to; whether it was shown."""
        moment = time.monotonic()
        shown = now or moment - self._shown >= SHOWN
        if shown:
            self._shown = moment
            self.watch.show(self.status())
        if now or moment >= self._due:
            self.write()
        if self.state == "running" and moment >= self._page_due:
            self._write_page()
        return shown

    def counts(self) -> dict[str, int]:
        """How many edits are in each state."""
        counts: Counter[str] = Counter(
            row.state for row in self.rows.values() if row.state != "waiting"
        )
        counts["waiting"] = self.total - sum(counts.values())
        return {state: counts[state] for state in get_args(EditState)}

    def write(self) -> None:
        """Write status.json; not before the run directory is a run's."""
        if self.state == "looking":
            return
        began = time.monotonic()
        rows = tuple(self.rows.values())
        save_status(self.out, replace(self.status(), edits=rows))
        took = time.monotonic() - began
        self._due = began + took + max(WRITTEN, took / WRITING)

    def _write_page(self) -> None:
        began = time.monotonic()
        for edit in self._working:
            share = self._known[edit].share
            self.pages[edit] = replace(self.pages[edit], state="running", share=share)
        page.write_page(self.out, list(self.pages.values()))
        took = time.monotonic() - began
        self._page_due = began + took + max(PAGE, took / WRITING)

    def status(self) -> Status:
        """The run at this moment, without the rows of all edits."""
        counts = self.counts()
        left = sum(self._seconds_left(known) for known in self._known.values())
        ended = sum(counts[state] for state in (*FINISHED, *FAILED))
        unknown = max(self.total - ended - len(self._known), 0)  # of which no plan is known
        costs = [known.total for known in self._known.values()]
        mean = sum(costs) / len(costs) if costs else 0.0
        left += unknown * mean * self._rate("")
        todo = sum(sum(known.left.values()) for known in self._known.values()) + unknown * mean
        done = self._done_cost + self.kept * mean
        at_work = time.time() - (self._working_since or time.time())
        measured = any(pace.cost for pace in self._pace.values())
        return Status(
            state=self.state,
            began=self._began,
            now=time.time(),
            total=self.total,
            counts={state: number for state, number in counts.items() if number},
            share=done / max(done + todo, 1e-9),
            seconds_left=left / self.workers if self.workers and measured else None,
            workers=self.workers,
            busy=min(self._busy / (self.workers * at_work), 1.0)
            if self.workers and at_work > 1 and measured
            else None,
            looked=self.looked,
            doing=tuple(map(self._doing, self._working)),
            stopped=self.stopped,
            error=self.error,
            trouble=self.trouble,
        )

    def _doing(self, edit: str) -> Doing:
        known = self._known[edit]
        what, done, of = known.wave or "waiting", known.done, known.of
        if edit in self._chores:
            what, share = self._chores[edit]
            done, of = round(100 * share), 100
        hands = max(1.0, self.workers / max(1, len(self._working)))
        left = self._seconds_left(known) / hands
        return Doing(
            id=edit,
            what=what,
            done=done,
            of=of,
            share=known.share,
            seconds_left=left if self._rate("") else None,
        )

    def _seconds_left(self, known: _Known) -> float:
        """Of one worker, at the pace of this run."""
        return sum(cost * self._rate(kind) for kind, cost in known.left.items())

    def _rate(self, kind: str) -> float:
        """Seconds for a unit of cost; the mean of all kinds where one is not measured yet."""
        pace = self._pace.get(kind)
        if pace and pace.cost:
            return pace.seconds / pace.cost
        cost = sum(pace.cost for pace in self._pace.values())
        return sum(pace.seconds for pace in self._pace.values()) / cost if cost else 0.0
