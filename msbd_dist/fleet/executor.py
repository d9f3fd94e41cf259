"""Running tasks on workers: what an executor is, what a failure means, and the serial executor.

An executor knows tasks and workers, not images: a task is any picklable value, a worker any object
with ``run(task, ...) -> facts``. `SerialExecutor` is the oracle: every other executor must produce
the same bytes.
"""

from __future__ import annotations

import errno
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Protocol

from msbd_dist.errors import ClusterError, FullError, MsbdError, WorkerError

Facts = dict[str, Any]
Beat = Callable[[], None]


@dataclass(frozen=True)
class Attempt:
    """One try at a task. No two of a run's have the same name, whoever drives it."""

    name: str
    parts: int = 1  # pieces to do the task in, one after another, where memory is short


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


class WorkerLost(MsbdError):
    """A worker process died while it held the task."""


class MemoryShort(WorkerLost):
    """A worker was killed because its host ran out of memory."""


class NodeLost(WorkerLost):
    """A worker's node left with all that ran on it; no task is to blame."""


class Unfit(ClusterError):
    """A worker refuses: its host has not what the run needs, and the message says what. The host is
    left out, and its task is given to another one."""


class Failure(Enum):
    """What an error says about the next try."""

    TRANSIENT = "transient"  # the same may work in a moment
    RESOURCE = "resource"  # the same in smaller pieces may work
    PERMANENT = "permanent"  # it will fail again


_OF_THE_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def classify(error: Exception) -> Failure:
    """Lost workers and a store's hiccups are worth another try; wrong input and results are not."""
    if isinstance(error, (MemoryError, MemoryShort)) or _is_cuda_memory(error):
        return Failure.RESOURCE
    if isinstance(error, WorkerLost):
        return Failure.TRANSIENT
    hiccup = isinstance(error, OSError) and not isinstance(error, PermissionError)
    if hiccup and error.errno not in _OF_THE_RUN:  # type: ignore[attr-defined]
        return Failure.TRANSIENT
    return Failure.PERMANENT


def _is_cuda_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's; torch need not be loaded here


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a task is tried again."""

    deaths: int = 3  # of workers in one task: then it is taken for what kills them
    tries: int = 6  # at a store's hiccups
    pieces: int = 64  # at most, that a task is cut into
    first: float = 0.5  # seconds of the first pause; each is twice as long as the one before
    longest: float = 30.0
    seed: int | None = None  # of the pauses' jitter

    def pause(self, tries: int, rng: random.Random) -> float:
        """Seconds before the next try, between half and all of what is due."""
        return min(self.longest, self.first * 2.0 ** (tries - 1)) * rng.uniform(0.5, 1)


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


@dataclass
class History:
    """What has become of a task so far, and what the next try is to be."""

    epoch: int
    policy: RetryPolicy
    started: int = 0
    failed: int = 0
    deaths: int = 0
    hiccups: int = 0
    parts: int = 1
    due: float = field(default=0.0)  # by the monotonic clock

    def next(self) -> Attempt:
        attempt = Attempt(f"{self.epoch}.{self.started}", self.parts)
        self.started += 1
        return attempt

    def forgives(self, error: Exception, rng: random.Random) -> Exception | None:
        """None where it is to be tried again, from ``due`` on; else the error that ends it."""
        failure = classify(error)
        self.failed += 1
        if failure is Failure.PERMANENT:
            return _of_the_run(error)
        if failure is Failure.RESOURCE:
            self.parts *= 2
            if self.parts > self.policy.pieces:
                return _out_of_memory(error)
        elif isinstance(error, NodeLost):
            pass
        elif isinstance(error, WorkerLost):
            self.deaths += 1
            if self.deaths >= self.policy.deaths:
                return WorkerError(
                    f"it killed its worker {self.deaths} times ({error}) and is set aside; look "
                    "for out-of-memory kills on the workers' hosts"
                )
        else:
            self.hiccups += 1
            if self.hiccups >= self.policy.tries:
                return error
        self.due = time.monotonic() + self.policy.pause(max(self.hiccups, self.deaths, 1), rng)
        return None


def _of_the_run(error: Exception) -> Exception:
    """A full disk is nobody's fault: it ends the run, not the edit."""
    if isinstance(error, OSError) and error.errno in _OF_THE_RUN:
        return FullError(
            f"{error.filename or 'the run directory'}: can't be written ({error.strerror}); "
            "make room and run the same command again"
        )
    return error


def _of_the_process(error: Exception) -> Exception:
    """Where CUDA has failed this process can't go on, and no other task would do better."""
    from msbd_dist.fleet.cards import card_fault  # which is made of what is here

    fault = card_fault(error, "in this process")
    return ClusterError(f"{fault}; run the same command again, it goes on") if fault else error


def _out_of_memory(error: Exception) -> WorkerError:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return WorkerError(f"out of memory even in the smallest pieces ({line}); use a larger worker")


def persevere(work: Callable[[Attempt], Facts], history: History, rng: random.Random) -> Facts:
    """Try until it works; raises the error that ends it."""
    while True:
        time.sleep(max(0.0, history.due - time.monotonic()))
        try:
            return work(history.next())
        except Exception as error:
            final = history.forgives(error, rng)
            if final is error:
                raise
            if final is not None:
                raise final from error


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
