"""What a failure means: which errors are worth another try, how soon, and in what pieces.

    history = History(epoch, RetryPolicy())
    persevere(work, history, rng)      tries until it works; raises the error that ends it

Decisions alone: who runs tasks and where is told in `fleet.executor`.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from msbd_dist.errors import ClusterError, FullError, MsbdError, WorkerError

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """One try at a task. No two of a run's have the same name, whoever drives it."""

    name: str
    parts: int = 1  # pieces to do the task in, one after another, where memory is short


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


def _out_of_memory(error: Exception) -> WorkerError:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return WorkerError(f"out of memory even in the smallest pieces ({line}); use a larger worker")


def persevere(work: Callable[[Attempt], T], history: History, rng: random.Random) -> T:
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
