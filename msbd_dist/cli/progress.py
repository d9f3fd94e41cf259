"""Progress on stderr: bars on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from msbd_dist.cli.common import console

if TYPE_CHECKING:
    from msbd_dist.batch.record import EditResult
    from msbd_dist.core.plan import Task


@contextmanager
def watching(*, quiet: bool) -> Iterator[Any]:
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
