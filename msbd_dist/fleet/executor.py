"""Running tasks on workers: what an executor is, and the serial executor.

An executor knows tasks and workers, not images: a task is any picklable value, a worker any object
with ``run(task, ...) -> facts``. `SerialExecutor` is the oracle: every other executor must produce
the same bytes.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from msbd_dist.errors import ClusterError
from msbd_dist.fleet.cards import card_fault
from msbd_dist.fleet.retry import Attempt, History, RetryPolicy, persevere

Facts = dict[str, Any]
Beat = Callable[[], None]


class Worker(Protocol):
    """What an executor needs of a worker; one is made in each worker process."""

    def run(self, task: Any, attempt: Attempt, *, beat: Beat, team: Any = None) -> Facts:
        """Run a task. ``beat`` is called now and then, as a sign that it goes on; ``team``: those
        who share it, with a place in it for this worker (`fleet.collective.Gang`); None where
        nobody does."""
        ...


MakeWorker = Callable[[], Worker]
"""Makes a worker in its process. One with a method ``prepare`` has it called there first, in a
thread, before any task has come: it does what takes long and needs no task."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: facts, or the error that ended it."""

    task: Any
    facts: Facts | None = None
    error: Exception | None = None
    attempts: int = 1


class Executor(Protocol):
    """Takes tasks in any number, gives outcomes as they come."""

    num_workers: int

    def submit(self, task: Any, *, ranks: int = 1, kind: str = "", ahead: int = 0) -> None:
        """Queue a task. Up to ``ranks`` workers may share it: as many as are idle. Tasks of one
        ``kind`` are expected to take equally long; metrics know them by its first word. Those with
        most still ``ahead`` of who waits for them go first."""

    def wait(self, seconds: float | None = None) -> Outcome | None:
        """The next outcome, or None after ``seconds``; LookupError when nothing is to come."""

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        """Forget queued tasks that have not started; returns how many."""

    @property
    def running(self) -> int:
        """Tasks that have started and have not ended."""

    @property
    def trouble(self) -> str:
        """Why fewer workers are at work than were wanted, in a line; "" where none are missing."""

    def show(self, edits: Mapping[str, int]) -> None:
        """How many edits there are in each state, for whoever watches metrics."""

    def close(self) -> None:
        """Stop the workers."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds that the driver waits before it acts."""

    tick: float = 0.5  # between looks at what has not answered
    ping: float = 5.0  # between questions to a worker that is at work
    hang: float = 30.0  # for its answer: then it is killed
    stall: float = 600.0  # of work without a sign that it goes on: then too
    grow: float = 10.0  # of a gang's age before it parts to let idle workers in
    slow: float = 2.0  # times the usual: then a task may get a twin
    deadline: float = 20.0  # times the usual, and more than ``stall``: then its worker is killed


def _of_the_process(error: Exception) -> Exception:
    """Where CUDA has failed this process can't go on, and no other task would do better."""
    fault = card_fault(error, "in this process")
    return ClusterError(f"{fault}; run the same command again, it goes on") if fault else error


class SerialExecutor:
    """One worker in this process, tasks in the order they were submitted."""

    num_workers = 1
    running = 0
    trouble = ""

    def __init__(
        self, make_worker: MakeWorker, *, epoch: int = 1, retry: RetryPolicy | None = None
    ) -> None:
        self._make_worker, self._epoch = make_worker, epoch
        self._retry = retry or RetryPolicy()
        self._rng = random.Random(self._retry.seed)
        self._worker: Worker | None = None
        self._queue: deque[Any] = deque()

    def submit(self, task: Any, *, ranks: int = 1, kind: str = "", ahead: int = 0) -> None:
        self._queue.append(task)

    def wait(self, seconds: float | None = None) -> Outcome | None:
        if not self._queue:
            raise LookupError("nothing to wait for")
        task, history = self._queue.popleft(), History(self._epoch, self._retry)
        try:
            facts = persevere(partial(self._run, task), history, self._rng)
        except Exception as error:  # an outcome like any other: the caller decides
            return Outcome(task, error=_of_the_process(error), attempts=history.failed)
        return Outcome(task, facts=facts, attempts=history.failed + 1)

    def _run(self, task: Any, attempt: Attempt) -> Facts:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker.run(task, attempt, beat=lambda: None)

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        kept = [task for task in self._queue if not unwanted(task)]
        dropped = len(self._queue) - len(kept)
        self._queue = deque(kept)
        return dropped

    def show(self, edits: Mapping[str, int]) -> None:
        """Nobody watches."""

    def close(self) -> None:
        self._worker = None
