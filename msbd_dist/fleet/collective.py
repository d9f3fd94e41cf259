"""Sums over worker processes: a gang is one formation of them, left for good when anything fails.

Raw process groups of torch.distributed, without its global state: several formations may exist in
one process, one after another, each with a generation of its own in a store that outlives them.
Every wait is polled, because gloo can't be interrupted: a process that is told to leave is out at
once, and what the library may still write to is kept until it can't any more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo

from msbd_dist.errors import MsbdError

Backend = Literal["gloo", "nccl"]

SECONDS = 60.0  # that an operation may take before the gang counts as broken
_TO_COME = timedelta(seconds=15)  # in which all members must have come
_POLL = 5e-4
_ABANDONED = 64  # operations that are kept alive after their gang broke


class GangBroken(MsbdError):
    """A member was lost, or all were told to leave. What was computed before is whole."""


@dataclass(frozen=True, kw_only=True)
class Formation:
    """A place in a gang: small, for it travels to the workers."""

    host: str  # of the store ...
    port: int
    generation: int  # ... in which no generation comes twice
    rank: int
    size: int
    backend: Backend = "gloo"  # nccl: one process per GPU
    seconds: float = SECONDS


class Gang:
    """This process as member ``rank`` of ``size``; every member makes the same calls in order.

    Results are the same bits in every member. Raises `GangBroken`; whatever tensor was being
    summed is garbage then.
    """

    def __init__(
        self, place: Formation, *, address: str | None = None, stopped: Callable[[], bool]
    ) -> None:
        """Waits until all have come. ``address``: this host's, as the others see it; ``stopped``
        tells whether to leave."""
        self.rank, self.size = place.rank, place.size
        self._stopped = stopped
        if place.size == 1:  # nobody to wait for, nothing to send
            return
        self._device = torch.device("cuda" if place.backend == "nccl" else "cpu")
        limit = timedelta(seconds=place.seconds)
        try:
            root = TCPStore(
                place.host, place.port, None, False, timeout=_TO_COME, wait_for_workers=False
            )
            store = PrefixStore(f"{place.generation}/", root)
            self._group = _process_group(place, store, address)
            self._group._set_default_timeout(limit)
        except (RuntimeError, ValueError) as error:
            raise GangBroken(f"a gang of {place.size} could not form: {_line(error)}") from error

    def start_sum(self, values: Tensor) -> Pending:
        """Begin to add up ``values`` over all members, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> None:
        """The greatest of each element, in place."""
        self._reduce(values, dist.ReduceOp.MAX).wait()

    def send(self, values: Tensor, root: int) -> None:
        """What member ``root`` has, in place."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        self._start(values, lambda held: self._group.broadcast([held], options)).wait()

    def _reduce(self, values: Tensor, operation: Any) -> Pending:
        options = dist.AllreduceOptions()
        options.reduceOp = operation
        return self._start(values, lambda held: self._group.allreduce([held], options))

    def _start(self, values: Tensor, start: Callable[[Tensor], Any]) -> Pending:
        if self.size == 1:
            self._leave_if_told()
            return Pending(self, None, values, values)
        held = values.to(self._device).contiguous()
        self._leave_if_told()
        try:
            work = start(held)
        except RuntimeError as error:
            raise GangBroken(f"a member of the gang was lost: {_line(error)}") from error
        return Pending(self, work, held, values)

    def _leave_if_told(self) -> None:
        if self._stopped():
            raise GangBroken("the gang was told to part")


class Pending:
    """An operation on its way."""

    def __init__(self, gang: Gang, work: Any, held: Tensor, values: Tensor) -> None:
        self._gang, self._work, self._held, self._values = gang, work, held, values

    def wait(self) -> None:
        """Returns when the tensor holds the result."""
        if self._work is None:
            return
        try:
            while not self._work.is_completed():
                self._gang._leave_if_told()
                time.sleep(_POLL)
            self._work.wait()
        except (RuntimeError, GangBroken) as error:
            _abandoned.append((self._gang._group, self._work, self._held))
            if isinstance(error, GangBroken):
                raise
            raise GangBroken(f"a member of the gang was lost: {_line(error)}") from error
        if self._held is not self._values:
            self._values.copy_(self._held)


_abandoned: deque[tuple[Any, Any, Tensor]] = deque(maxlen=_ABANDONED)


def _process_group(place: Formation, store: Any, address: str | None) -> Any:
    if place.backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = _TO_COME
        return dist.ProcessGroupNCCL(store, place.rank, place.size, options)
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = _TO_COME
    options._devices = [ProcessGroupGloo.create_device(hostname=address or "127.0.0.1")]
    return ProcessGroupGloo(store, place.rank, place.size, options)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))
