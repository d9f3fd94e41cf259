"""Running tasks on workers: what an executor is, when a failure is retried, and the serial one.

An executor knows tasks and workers, not images: a task is any picklable value, a worker any object
with ``run(task) -> facts``. `SerialExecutor` is the oracle: every other executor must produce the
same bytes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from msbd_dist.errors import MsbdError

Facts = dict[str, Any]


class Worker(Protocol):
    """What an executor needs of a worker; one is made in each worker process."""

    def run(self, task: Any, team: Any = None) -> Facts:
        """Run a task; ``team``: those who share it, with a place in it for this worker
        (`dist.collective.Gang`), None where nobody does."""
        ...


MakeWorker = Callable[[], Worker]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: facts, or the error that ended it."""

    task: Any
    facts: Facts | None = None
    error: Exception | None = None
    attempts: int = 1
    seconds: float = 0.0


class Executor(Protocol):
    """Takes tasks in any number, gives outcomes as they come."""

    num_workers: int

    def submit(self, task: Any, *, ranks: int = 1) -> None:
        """Queue a task. Up to ``ranks`` workers may share it: as many as are idle."""

    def wait(self) -> Outcome:
        """The next outcome; blocks. LookupError when nothing is queued or running."""

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        """Forget queued tasks that have not started; returns how many."""

    def close(self) -> None:
        """Stop the workers."""


class Verdict(Enum):
    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True)
class RetryPolicy:
    """Which failures are worth another attempt: lost workers, not wrong input or wrong results."""

    max_attempts: int = 3

    def decide(self, error: Exception, attempts: int) -> Verdict:
        if isinstance(error, WorkerLost) and attempts < self.max_attempts:
            return Verdict.RETRY
        return Verdict.FAIL


class WorkerLost(MsbdError):
    """A worker process died while it held the task."""


class SerialExecutor:
    """One worker in this process, tasks in the order they were submitted."""

    num_workers = 1

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._queue: deque[Any] = deque()

    def submit(self, task: Any, *, ranks: int = 1) -> None:
        self._queue.append(task)

    def wait(self) -> Outcome:
        if not self._queue:
            raise LookupError("nothing to wait for")
        task = self._queue.popleft()
        started = time.perf_counter()
        try:
            if self._worker is None:
                self._worker = self._make_worker()
            facts = self._worker.run(task)
        except Exception as error:  # an outcome like any other: the caller decides
            return Outcome(task, error=error, seconds=time.perf_counter() - started)
        return Outcome(task, facts=facts, seconds=time.perf_counter() - started)

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        kept = [task for task in self._queue if not unwanted(task)]
        dropped = len(self._queue) - len(kept)
        self._queue = deque(kept)
        return dropped

    def close(self) -> None:
        self._worker = None
