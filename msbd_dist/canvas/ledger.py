"""Done-markers of one edit: small JSON files, each written last and atomically.

A marker exists if and only if its task's results are stored: whoever commits has already written
them. What is pending is what is planned minus what is here.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


def write_atomic(path: Path, text: str) -> None:
    """Put a text file in place so that a reader sees all of it or none, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Ledger:
    """The finished tasks of one edit, with the facts that each reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._facts: dict[str, Facts] = {}
        if folder.is_dir():
            for path in folder.glob("[!.]*.json"):
                with contextlib.suppress(ValueError):  # damaged: not done
                    self._facts[path.stem] = json.loads(path.read_text())

    def __contains__(self, name: str) -> bool:
        return name in self._facts

    def __getitem__(self, name: str) -> Facts:
        """The facts of a finished task; KeyError where it is not finished."""
        return self._facts[name]

    def commit(self, name: str, facts: Facts) -> None:
        """Declare a task done. Its results must already be stored."""
        write_atomic(self.folder / f"{name}.json", json.dumps(facts, indent=1))
        self._facts[name] = facts
