"""What a worker does beside its models: reads what comes next, stores what is done.

Two threads of a task, one that reads and one that writes, each in order. torch works without
Python's lock, so a model runs meanwhile. They do no arithmetic of torch, whose number of threads is
set for the task's own thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MOST_WAITING = 2  # writes: more would hold their pixels in memory


class Beside:
    """The threads of one task; closed, no matter how the task ended, when both are idle."""

    def __init__(self) -> None:
        self.reader = ThreadPoolExecutor(1, "reader")
        self._writer = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def later(self, write: Callable[[], None]) -> None:
        """Write in its turn, while the caller goes on.

        Raises what an earlier write raised; waits where two are still to be done.
        """
        while len(self._waiting) >= MOST_WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(write))

    def flush(self) -> None:
        """Until all is written; raises the first error."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in (self.reader, self._writer):
            pool.shutdown(cancel_futures=True)


class ReadAhead(Generic[Key, Value]):
    """``read`` of keys that are asked for in order, each begun when the one before is taken.

    All reads are made by one thread, so ``read`` need not be safe for more.
    """

    def __init__(
        self, reader: ThreadPoolExecutor, read: Callable[[Key], Value], keys: Sequence[Key]
    ) -> None:
        self._reader, self._read = reader, read
        self._next = dict(pairwise(keys))
        self._begun: dict[Key, Future[Value]] = {}

    def __call__(self, key: Key) -> Value:
        """What was read of the key; read now, where it was not begun or was taken before."""
        found = self._begin(key)
        if key in self._next:
            self._begun[self._next[key]] = self._begin(self._next[key])
        return found.result()

    def _begin(self, key: Key) -> Future[Value]:
        return self._begun.pop(key, None) or self._reader.submit(self._read, key)
