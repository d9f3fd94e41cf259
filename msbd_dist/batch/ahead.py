"""The edits to come: looked at in threads, in the manifest's order, some time before their turn.

So wrong input is known before any work, for as many edits as fit in the window, and a list of any
length is never held. An edit that uses another one's result is put aside until that one is done.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from msbd_dist.batch.look import WINDOW
from msbd_dist.batch.record import EditResult
from msbd_dist.batch.steps import Edit
from msbd_dist.core.spec import EditSpec, Result
from msbd_dist.errors import InputError

THREADS = 4

Begun = Edit | EditResult


class Ahead:
    """``begin`` plans an edit, or says how it ended already; it is called in threads."""

    def __init__(
        self,
        specs: Iterable[EditSpec],
        begin: Callable[[EditSpec], Begun],
        *,
        window: int = WINDOW,
    ) -> None:
        self._specs, self._begin, self._window = iter(specs), begin, window
        self._threads = ThreadPoolExecutor(THREADS, "look")
        self._looks: deque[Future[Begun]] = deque()
        self._ready: deque[Edit] = deque()
        self._lost: deque[EditResult] = deque()  # that waited for one which has failed
        self._aside: defaultdict[str, list[EditSpec]] = defaultdict(list)  # by whom they wait for
        self._outputs: dict[str, str | None] = {}  # of edits that have ended; None: of failed ones

    def look(self) -> Iterator[Begun]:
        """Fill the window, and give what is seen on the way; `take` gives the edits again."""
        while True:
            self._fill()
            if self._lost:
                yield self._lost.popleft()
            elif self._looks:
                found = self._looks.popleft().result()
                if isinstance(found, Edit):
                    self._ready.append(found)
                else:
                    self.ended(found)
                yield found
            else:
                return

    def take(self) -> Begun | None:
        """The next one; None where it is not there yet."""
        self._fill()
        if self._lost:
            return self._lost.popleft()
        if self._ready:
            return self._ready.popleft()
        if self._looks and self._looks[0].done():
            return self._looks.popleft().result()
        return None

    @property
    def more(self) -> bool:
        """Whether any is to come, beside those that wait for one at work."""
        self._fill()
        return bool(self._lost or self._ready or self._looks)

    def ended(self, result: EditResult) -> None:
        """Those that wait for this edit can begin, or fail with it."""
        if result.id not in self._outputs:
            self._outputs[result.id] = result.output
            for spec in self._aside.pop(result.id, ()):
                self._look_at(spec)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._looks) + len(self._ready) < self._window:
            spec = next(self._specs, None)
            if spec is None:
                return
            self._look_at(spec)

    def _look_at(self, spec: EditSpec) -> None:
        if isinstance(spec.image, Result):
            other = spec.image.edit
            if other not in self._outputs:
                self._aside[other].append(spec)
                return
            output = self._outputs[other]
            if output is None:
                error = InputError(f"edit {other}, whose result it uses, has failed")
                failed = EditResult(id=spec.id, state="failed", error=error)
                self._lost.append(failed)
                self.ended(failed)
                return
            spec = replace(spec, image=output)
        self._looks.append(self._threads.submit(self._begin, spec))
