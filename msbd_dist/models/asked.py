"""What is asked of model files before any work: once each, and without torch in this process.

Questions that only torch's libraries can answer are asked in a process of their own, which is worth
its seconds where nothing else tells.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from msbd_dist.errors import ModelError

Of = TypeVar("Of")

_SECONDS = 600
_CODE = (
    "import importlib, json, sys\n"
    "from msbd_dist.errors import ModelError\n"
    "module, name, argument = sys.argv[1:]\n"
    "try: print(json.dumps({'answer': getattr(importlib.import_module(module), name)(argument)}))\n"
    "except ModelError as error: print(json.dumps({'error': str(error)}))\n"
)


class Looks(Generic[Of]):
    """Answers about files, kept as long as the files are as they were: an error is an answer too.

    A file is looked at by one thread at a time.
    """

    def __init__(self, look: Callable[[str], Of]) -> None:
        self._look, self._lock = look, Lock()
        self._kept = dict[str, tuple[object, Of | ModelError]]()

    def __call__(self, name: str, *places: Path) -> Of:
        """What is found of ``name``, which is at ``places``; its `ModelError` is raised again."""
        state = [_state(place) for place in places]
        with self._lock:
            if name not in self._kept or self._kept[name][0] != state:
                self._kept[name] = state, self._found(name)
            found = self._kept[name][1]
        if isinstance(found, ModelError):
            raise type(found)(str(found))  # anew: a kept one would gather tracebacks
        return found

    def _found(self, name: str) -> Of | ModelError:
        try:
            return self._look(name)
        except ModelError as error:
            return error


def _state(place: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = place.stat()
        return found.st_mtime_ns, found.st_size
    return None


def asked(module: str, name: str, argument: str) -> Any:
    """What a function of ``msbd_dist.models.MODULE`` returns, as JSON has it.

    Its `ModelError` is raised here; one is raised too where the process fails.
    """
    command = [sys.executable, "-c", _CODE, f"msbd_dist.models.{module}", name, argument]
    try:
        done = subprocess.run(command, text=True, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{argument}: no answer in {_SECONDS} seconds: try again") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise ModelError(f"{argument}: can't be looked at ({last}): download it again")
    told = json.loads(lines[-1])
    if "error" in told:
        raise ModelError(told["error"])
    return told["answer"]
