"""Done-markers of one edit: small JSON files, each created last, by the first who comes.

A marker exists if and only if its task's results are stored: whoever commits has already written
and read them again. What is pending is what is planned minus what is here. A task that was run
twice has one marker, and the attempt that is named in it is the one whose results are read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from msbd_dist.canvas.files import Files

Facts = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """The attempts whose results count in one wave: of each slot, named by the slot."""

    usual: str
    others: Mapping[int, str] = field(default_factory=dict)

    def of(self, slot: int) -> str:
        return self.others.get(slot, self.usual)


Versions = Mapping[str, Version]
"""By wave: ``ingest``, or ``<stage>-<kind>`` as in the names of tasks."""


class Ledger:
    """The finished tasks of one edit, with the facts that each reported."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._facts: dict[str, Facts] = {}
        for name in files.names():
            try:
                self._facts[name.removesuffix(".json")] = _facts(files.read(name))
            except ValueError:  # damaged: not done
                files.remove(name)

    def __contains__(self, name: str) -> bool:
        return name in self._facts

    def __getitem__(self, name: str) -> Facts:
        """The facts of a finished task; KeyError where it is not finished."""
        return self._facts[name]

    def facts(self) -> Collection[Facts]:
        """Of all finished tasks."""
        return self._facts.values()

    def get(self, name: str) -> Facts | None:
        """The facts of a task, or None where it is not finished."""
        return self._facts.get(name)

    def commit(self, name: str, facts: Facts) -> Facts:
        """Declare a task done whose results are stored; returns the facts of who was first."""
        return self.learn(name, self.mark(self._files, name, facts))

    def learn(self, name: str, facts: Facts) -> Facts:
        """Take in a marker that somebody else has made."""
        self._facts[name] = facts
        return facts

    def forget(self, name: str) -> None:
        """Declare a task not done: what it made is not what is wanted now."""
        self._files.remove(f"{name}.json")
        self._facts.pop(name, None)

    @staticmethod
    def mark(files: Files, name: str, facts: Facts) -> Facts:
        """`commit` for those who don't keep a ledger."""
        marker = f"{name}.json"
        if files.create(marker, json.dumps(facts, indent=1).encode()):
            return facts
        return _facts(files.read(marker))


def _facts(marker: bytes) -> Facts:
    facts = json.loads(marker)
    if not isinstance(facts, dict):
        raise ValueError("a marker holds a mapping")
    return facts
