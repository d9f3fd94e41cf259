"""The latest of several values that are asked for in runs of the same one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Latest(Generic[V]):
    """Keeps the value of the last key until another key is asked for."""

    def __init__(self) -> None:
        self._kept: tuple[str, V] | None = None

    def get(self, key: str, make: Callable[[], V]) -> V:
        """The value of a key, made where it is not the one that is kept."""
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # before the next one takes memory
            self._kept = key, make()
        return self._kept[1]

    def forget(self) -> None:
        self._kept = None
