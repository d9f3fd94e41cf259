"""How far a run is, on stderr: bars on a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from msbd_dist.cli.common import console

if TYPE_CHECKING:
    from msbd_dist.batch.record import EditResult
    from msbd_dist.batch.status import Doing, Status

EVERY = 10.0  # seconds between two lines


class Watch(Protocol):
    """`batch.board.Watch`, which is not to be imported by those who only look."""

    def show(self, status: Status) -> None: ...
    def wait_for(self, process: int) -> None: ...
    def finish(self, result: EditResult) -> None: ...


@contextmanager
def watching(*, quiet: bool, every: float = EVERY) -> Iterator[Watch]:
    """What a run is to tell; ``quiet`` leaves failures to who called."""
    if console.is_terminal and not os.environ.get("CI"):
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield Bars(live, quiet=quiet)
    else:
        yield Lines(quiet=quiet, every=every)


class Bars:
    """One bar for the run and one for each edit at work."""

    def __init__(self, live: Live, *, quiet: bool) -> None:
        self._live, self._quiet = live, quiet

    def show(self, status: Status) -> None:
        self._live.update(picture(status), refresh=True)

    def wait_for(self, process: int) -> None:
        self._live.console.print(_waiting(process), markup=False, highlight=False)

    def finish(self, result: EditResult) -> None:
        if not (self._quiet and result.error):
            _say(self._live.console, result)


class Lines:
    """A plain line now and then, and one for each edit that has ended."""

    def __init__(self, *, quiet: bool, every: float) -> None:
        self._quiet, self._every = quiet, every
        self._last, self._state = time.monotonic(), "looking"

    def show(self, status: Status) -> None:
        now = time.monotonic()
        due = now - self._last >= self._every or status.state != self._state
        if due and status.state != "ended":
            self._last, self._state = now, status.state
            console.print(in_a_line(status), markup=False, highlight=False)

    def wait_for(self, process: int) -> None:
        console.print(_waiting(process), markup=False, highlight=False)

    def finish(self, result: EditResult) -> None:
        if not (self._quiet and result.error):
            _say(console, result)


def picture(status: Status) -> RenderableType:
    """A run as bars."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, max_width=28, min_width=11, overflow="ellipsis")
    table.add_column(width=20)
    table.add_column(justify="right", no_wrap=True, min_width=4)
    table.add_column(overflow="fold")
    if status.state == "looking":
        share, words = status.looked / max(status.total, 1), f"looking at {status.total} edits"
    else:
        share, words = status.share, _summary(status)
    table.add_row(Text(status.state), ProgressBar(1.0, share), f"{share:.0%}", Text(words))
    for one in status.doing:
        table.add_row(
            Text(one.id), ProgressBar(1.0, one.share), f"{one.share:.0%}", Text(_words(one))
        )
    return Group(table)


def in_a_line(status: Status) -> str:
    """A run as one line."""
    if status.state == "looking":
        return f"looked at {status.looked} of {status.total} edits"
    doing = "".join(f"; {one.id}: {_words(one)}" for one in status.doing[:3])
    return f"{status.share:4.0%} done, {_summary(status)}{doing}"


def _summary(status: Status) -> str:
    parts = [f"{status.finished} of {status.total} edits"]
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.state == "starting":
        parts.append("starting workers")
    if status.seconds_left is not None and status.state == "running":
        parts.append(f"about {duration(status.seconds_left)} left")
    if status.workers and status.busy is not None:
        s = "s" * (status.workers > 1)
        parts.append(f"{status.workers} worker{s} {status.busy:.0%} busy")
    if status.trouble and status.state == "running":
        parts.append(status.trouble)
    parts += [why for why in (status.stopped, status.error) if why]
    return ", ".join(parts)


def _words(one: Doing) -> str:
    counted = f" {one.done}/{one.of}" if one.what.startswith("stage") else f" {one.done} %"
    if not one.of:
        counted = ""
    left = "" if one.seconds_left is None else f", about {duration(one.seconds_left)} left"
    return f"{one.what}{counted}{left}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``, ``2 days 5 h``."""
    seconds = max(seconds, 0.0)
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def _waiting(process: int) -> str:
    return f"process {process} holds this run; looking whether it still lives"


def _say(where: Console, result: EditResult) -> None:
    if result.error is not None:
        text, style = f"{result.state} {result.id}: {result.error}", "red"
    elif result.state == "kept":
        text, style = f"kept {result.id}: finished before, {result.output}", ""
    else:
        text = (
            f"done {result.id} in {result.seconds:.0f} s, seed {result.seed}: {result.output} "
            f"({result.compared:,} of {result.pixels:,} pixels compared)"
        )
        style = "green"
    where.print(text, style=style, markup=False, highlight=False)
