"""Errors of CUDA, and the cards that lose worker after worker. Imports neither torch nor Ray.

After most of them a process can't use its card any more: every later call of CUDA fails at once,
so that such a worker would take one task after another and fail them all. It ends instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from msbd_dist.fleet.retry import MemoryShort, WorkerLost

LIMIT = 3  # workers lost by a card in a row, without a task done: then it is left out
FULL = 0.5  # counts a loss that was for want of memory: smaller pieces may help

_WORDS = re.compile(
    r"CUDA (driver )?error|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|CUFFT_|CUSOLVER_STATUS|"
    r"CUSPARSE_STATUS|no CUDA-capable device|No CUDA GPUs are available|NVML_|"
    r"uncorrectable ECC|device-side assert|unspecified launch failure|illegal memory access|"
    r"GPU is lost|fallen off the bus"
)
_MEMORY = re.compile(r"ALLOC_FAILED|out of memory")


class CardFault(WorkerLost):
    """CUDA has failed in a worker, whose process ends."""


class CardFull(CardFault, MemoryShort):
    """The same, because the card had no memory left for a library of CUDA."""


def card_fault(error: BaseException, where: str) -> CardFault | None:
    """What an error says of the card, ``where`` being its name; None where it says nothing.

    `torch.OutOfMemoryError` says nothing: torch has its memory back, and the process is sound.
    """
    kind = type(error).__name__
    line = next((line for line in str(error).splitlines() if line.strip()), kind)
    if kind == "OutOfMemoryError" or not isinstance(error, RuntimeError):
        return None
    if kind != "AcceleratorError" and not _WORDS.search(str(error)):
        return None
    text = f"{line.strip()} ({where})"
    return CardFull(text) if _MEMORY.search(str(error)) else CardFault(text)


@dataclass(frozen=True)
class Place:
    """What one worker has to itself, or shares: a card of a host; a host without cards is divided
    among its workers."""

    node: str
    card: str


@dataclass
class Cards:
    """Which places are good: those that have not lost `LIMIT` workers in a row."""

    bad: dict[Place, CardFault] = field(default_factory=dict)  # and what was said last
    _lost: defaultdict[Place, float] = field(default_factory=lambda: defaultdict(float))
    _worked: set[Place] = field(default_factory=set)  # where a task was done at all

    def worked(self, place: Place) -> None:
        """A task was done there."""
        self._lost.pop(place, None)
        self._worked.add(place)

    def lost(self, place: Place, fault: CardFault) -> bool:
        """A worker was lost there; whether the place is bad from now on."""
        self._lost[place] += FULL if isinstance(fault, CardFull) else 1.0
        if self._lost[place] < LIMIT or place in self.bad:
            return False
        self.bad[place] = fault
        return True

    def ever_worked(self, place: Place) -> bool:
        """Whether a task was done there at all: else the place is suspected, not its tasks."""
        return place in self._worked

    def node_worked(self, node: str) -> bool:
        """Whether a task was done at any place of a node."""
        return any(place.node == node for place in self._worked)
