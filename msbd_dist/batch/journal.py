"""What happened to each edit, line by line: what `msbd logs` shows.

    OUT/<edit>/log.txt    tasks as they ended and by whom, warnings, failures and their tracebacks

The lines of a run that goes on are added to those of the runs before.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from msbd_dist.canvas.files import Files

NAME = "log.txt"
EVERY = 5.0  # seconds between two writings of an edit's lines
LONGEST = 2_000_000  # characters of a log; of a longer one the end is kept


class Journal:
    """Takes lines for edits at work, and writes them now and then."""

    def __init__(self, out: Files) -> None:
        self._out = out
        self._texts: dict[str, str] = {}
        self._new: defaultdict[str, list[str]] = defaultdict(list)
        self._written = time.monotonic()

    def say(self, edit: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
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
        text = self._texts[edit] + "".join(f"{line}\n" for line in self._new.pop(edit))
        self._texts[edit] = text[-LONGEST:]
        (self._out / edit).write(NAME, self._texts[edit].encode())


def read_log(out: Files, edit: str) -> str | None:
    """An edit's log; None where there is none."""
    try:
        return (out / edit).read(NAME).decode(errors="replace")
    except FileNotFoundError:
        return None


@contextmanager
def heard() -> Iterator[list[str]]:
    """What this thread logs of the package meanwhile, warnings and worse."""
    lines: list[str] = []
    me = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == me:
                lines.append(f"{record.levelname.lower()}: {record.getMessage()}")

    ear, logger = Ear(logging.WARNING), logging.getLogger("msbd_dist")
    logger.addHandler(ear)
    try:
        yield lines
    finally:
        logger.removeHandler(ear)
