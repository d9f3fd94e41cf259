"""One driver per run directory: a lease with a heartbeat, taken over when its holder is gone.

    OUT/lease/00000001.json    who, and a counter that goes up while the holder lives

Each taking creates the next number, which only one can; the highest number holds the run. A lease
is stale when its counter stands still while the taker watches, by the taker's own clock, so that
clocks need not agree; on the holder's own host it is enough that its process is gone. A holder that
was frozen and has been replaced sees the higher number before it commits anything, and stops.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from msbd_dist.canvas.files import Files
from msbd_dist.errors import RunError

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
STALE_SECONDS = 20.0  # without a beat; a beat may be late by a slow store's write


class LeaseLost(RunError):
    """Another driver has taken the run over."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease's file says."""

    host: str
    pid: int
    born: float  # when the process started, for its number comes again
    beats: int = 0
    released: bool = False

    @property
    def is_here(self) -> bool:
        """Whether it is on this host, where one can see whether it lives."""
        return self.host == _host()

    @property
    def gone(self) -> bool:
        """Whether it has left, as far as can be seen from here."""
        if self.released:
            return True
        if not self.is_here:
            return False
        try:
            return _born(self.pid) != self.born
        except (OSError, psutil.NoSuchProcess):
            return True


class Lease:
    """The right to write to a run. ``epoch`` goes up with every taking."""

    def __init__(self, files: Files, epoch: int, holder: Holder, *, seconds: float) -> None:
        self.epoch = epoch
        self._files, self._holder, self._seconds = files, holder, seconds
        self._seen = time.monotonic()  # when it was last sure to be ours
        self._left = Event()
        self._beating = Thread(target=self._beat, name="lease", daemon=True)
        self._beating.start()

    @classmethod
    def take(
        cls,
        out: Files,
        *,
        beat: float | None = None,
        stale: float | None = None,
        waiting: Callable[[Holder], None] = lambda _: None,
    ) -> Lease:
        """Take the lease of a run directory; waits as long as it takes to see that one is stale.

        RunError where its holder lives.
        """
        files = out / "lease"
        me = Holder(host=_host(), pid=os.getpid(), born=_born(os.getpid()))
        while True:
            epoch, holder = _latest(files)
            if holder is not None and not holder.gone:
                waiting(holder)
                if _lives(files, epoch, holder, stale or STALE_SECONDS):
                    raise RunError(
                        f"{out.url}: {holder.host.split()[0]} (process {holder.pid}) is running "
                        "it; wait for it, or choose another --out"
                    )
            if files.create(_name(epoch + 1), _text(me)):
                for old in range(max(epoch - 1, 0), epoch):
                    files.remove(_name(old))
                return cls(files, epoch + 1, me, seconds=beat or BEAT_SECONDS)

    def check(self) -> None:
        """LeaseLost where another driver holds the run; to be called before anything is committed.

        Asks the store only where the last beat is too old to be sure.
        """
        if time.monotonic() - self._seen > 2 * self._seconds:
            self._renew()

    def close(self) -> None:
        """Let the next driver begin at once."""
        self._left.set()
        self._beating.join()
        epoch, _ = _latest(self._files)
        if epoch == self.epoch:
            self._write(released=True)

    def _beat(self) -> None:
        while not self._left.wait(self._seconds):
            try:
                self._renew()
            except LeaseLost:
                return  # `check` will say it
            except Exception as error:  # a store's hiccup: the next beat may come through
                log.warning("the lease could not be renewed: %s", error)

    def _renew(self) -> None:
        asked = time.monotonic()
        epoch, _ = _latest(self._files)
        if epoch != self.epoch:
            self._seen = float("-inf")
            raise LeaseLost(f"{self._files.url}: another process has taken this run over")
        self._write(beats=self._holder.beats + 1)
        self._seen = asked

    def _write(self, **changes: Any) -> None:
        self._holder = Holder(**{**asdict(self._holder), **changes})
        self._files.write(_name(self.epoch), _text(self._holder))


def last_holder(out: Files) -> Holder | None:
    """Who holds a run or held it last; None where nobody ever did."""
    return _latest(out / "lease")[1]


def _latest(files: Files) -> tuple[int, Holder | None]:
    """The highest number and who holds it; 0 where nobody ever did."""
    names = files.names()
    if not names:
        return 0, None
    epoch = int(names[-1].removesuffix(".json"))
    try:
        return epoch, Holder(**json.loads(files.read(names[-1])))
    except (ValueError, TypeError, FileNotFoundError):  # damaged
        return epoch, None


def _lives(files: Files, epoch: int, holder: Holder, stale: float) -> bool:
    """Whether a holder gives a sign of life within ``stale`` seconds."""
    until = time.monotonic() + stale
    while time.monotonic() < until:
        time.sleep(stale / 20)
        now, other = _latest(files)
        if now != epoch or other is None or other.gone:
            return False
        if other.beats != holder.beats:
            return True
    return False


def _host() -> str:
    """This host; two containers of one name are two, because their processes have own numbers."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _born(pid: int) -> float:
    """When a process started; on Linux by a clock that nobody sets."""
    if sys.platform == "linux":
        return float(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(psutil.Process(pid).create_time())


def _name(epoch: int) -> str:
    return f"{epoch:08d}.json"


def _text(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()
