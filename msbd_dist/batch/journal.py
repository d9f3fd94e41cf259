"""What happened to each edit and to the run, line by line: what `msbd logs` shows.

    OUT/<edit>/log.txt    tasks as they ended and by whom, warnings, failures and their tracebacks
    OUT/log.txt           when the run began and ended, warnings, and what ended it

The lines of a run that goes on are added to those of the runs before.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from msbd_dist.canvas.files import Files

NAME = "log.txt"
EVERY = 5.0  # seconds between two writings of an edit's lines
RUN = ""  # what is said of no edit
LONGEST = 2_000_000  # characters of a log; of a longer one the end is kept


class Journal:
    """Takes lines for edits at work, and writes them now and then."""

    def __init__(self, out: Files) -> None:
        self._out = out
        self._texts: dict[str, str] = {}
        self._new: defaultdict[str, list[str]] = defaultdict(list)
        self._written = time.monotonic()
        self._lock = threading.Lock()  # threads warn while one writes

    def say(self, edit: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._lock:
            self._new[edit].extend(f"{moment} {line}" for line in text.rstrip().splitlines())

    def fail(self, edit: str, error: BaseException) -> None:
        """An error with its traceback, and those of what it came from."""
        self.say(edit, "".join(traceback.format_exception(error)))

    def write(self, *, now: bool = False) -> None:
        """Write what is new, if it is time to."""
        if self._new and (now or time.monotonic() - self._written >= EVERY):
            for edit in list(self._new):
                self._write(edit)
            self._written = time.monotonic()

    def leave(self, edit: str) -> None:
        """Nothing more is to be said of an edit."""
        if edit in self._new:
            self._write(edit)
        self._texts.pop(edit, None)

    def _write(self, edit: str) -> None:
        if edit not in self._texts:
            self._texts[edit] = read_log(self._out, edit) or ""
        with self._lock:
            new = self._new.pop(edit)
        text = self._texts[edit] + "".join(f"{line}\n" for line in new)
        self._texts[edit] = text[-LONGEST:]
        (self._out / edit).write(NAME, self._texts[edit].encode(errors="backslashreplace"))


def read_log(out: Files, edit: str = RUN) -> str | None:
    """The log of an edit, or of the run; None where there is none."""
    try:
        return (out / edit).read(NAME).decode(errors="replace")
    except FileNotFoundError:
        return None


class _Ear(logging.Handler):
    """Hears what is logged, warnings and worse."""

    def __init__(self, take: Callable[[str], object], thread: int | None = None) -> None:
        super().__init__(logging.WARNING)
        self._take, self._thread = take, thread

    def emit(self, record: logging.LogRecord) -> None:
        if self._thread in (None, record.thread):
            self._take(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _hearing(ear: _Ear) -> Iterator[None]:
    logger = logging.getLogger("msbd_dist")
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What this thread logs of the package meanwhile, warnings and worse."""
    lines: list[str] = []
    with _hearing(_Ear(lines.append, threading.get_ident())):
        yield lines


@contextmanager
def noted(journal: Journal) -> Iterator[None]:
    """What all threads log of the package meanwhile is said of the run."""
    with _hearing(_Ear(partial(journal.say, RUN))):
        yield
