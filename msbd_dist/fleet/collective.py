"""Sums over worker processes: a gang is one formation of them, left for good when anything fails.

Raw process groups of torch.distributed, without its global state: several formations may exist in
one process, one after another, each with a generation of its own in a store that outlives them.
Every wait is polled, because gloo can't be interrupted: a process that is told to leave is out at
once, and what the library may still write to is kept until it can't any more.

NCCL is told neither to end the process when an operation is late nor to block while it connects,
and what a gang leaves is aborted: otherwise its buffers stay, and joining the next one waits for
those who have gone. What can be interrupted by nothing else happens in a thread that is left.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo

from msbd_dist.errors import MsbdError
from msbd_dist.fleet.cards import CardFault

Backend = Literal["gloo", "nccl"]

SECONDS = 60.0  # that an operation may take before the gang counts as broken
_TO_COME = timedelta(seconds=15)  # in which all members must have come
_ABORT = 10.0  # seconds in which NCCL must let go
_POLL = 5e-4
_NCCL = {  # read when a communicator is made
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",  # its watchdog would end the process
    "TORCH_NCCL_ENABLE_MONITORING": "0",  # and so would what watches that
    "TORCH_NCCL_NONBLOCKING_TIMEOUT": str(_TO_COME.seconds),
}
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
    met: int = 0  # the generation in which these members met, each with this rank; 0: they meet now


class Link(Protocol):
    """What connects the members of a gang. Operations return torch's `Work`."""

    device: torch.device  # where tensors must lie

    def reduce(self, values: Tensor, operation: Any) -> Any: ...
    def broadcast(self, values: Tensor, root: int) -> Any: ...
    def abort(self) -> None: ...


Meet = Callable[[Formation, str | None], Link]  # (place, this host's address)


class Links:
    """What a process has of its last gang, for the next one of the same members."""

    def __init__(self, meet: Meet | None = None) -> None:
        self._meet = meet or connect
        self._kept: tuple[int, Link] | None = None

    def take(self, place: Formation, address: str | None, stopped: Callable[[], bool]) -> Link:
        """A link to the others: the last one, where they are the same, or a new one."""
        kept, self._kept = self._kept, None
        if place.met and kept and kept[0] == place.met:
            return kept[1]
        if kept:
            let_go(kept[1])
        if place.met:
            raise GangBroken("this process has lost its link to the gang")
        return self._new(place, address, stopped)

    def keep(self, place: Formation, link: Link) -> None:
        self._kept = place.met or place.generation, link

    def _new(self, place: Formation, address: str | None, stopped: Callable[[], bool]) -> Link:
        """Waits in a thread until all have come, for that can't be interrupted."""
        made, errors = list[Link](), list[Exception]()

        def meet() -> None:
            try:
                made.append(self._meet(place, address))
            except Exception as error:
                errors.append(error)
            if left.is_set():
                for link in made:
                    link.abort()

        left, thread = threading.Event(), threading.Thread(target=meet, daemon=True)
        thread.start()
        until = time.monotonic() + 2 * _TO_COME.seconds
        while thread.is_alive() and not stopped() and time.monotonic() < until:
            thread.join(0.01)
        if made:
            return made[0]
        left.set()
        for link in made:  # it has come in this very moment
            link.abort()
        if stopped():
            raise GangBroken("the gang was told to part")
        why = _line(errors[0]) if errors else "not all of them came"
        raise GangBroken(f"a gang of {place.size} could not form: {why}")


class Gang:
    """This process as member ``rank`` of ``size``; every member makes the same calls in order.

    Results are the same bits in every member. Raises `GangBroken`; whatever tensor was being
    summed is garbage then. As a context it is left at its end, and its link is kept for the same
    members where nothing was raised.
    """

    def __init__(
        self,
        place: Formation,
        *,
        address: str | None = None,
        stopped: Callable[[], bool],
        links: Links | None = None,
    ) -> None:
        """Waits until all have come. ``address``: this host's, as the others see it; ``stopped``
        tells whether to leave."""
        self.rank, self.size = place.rank, place.size
        self._place, self._stopped, self._links = place, stopped, links or Links()
        if place.size > 1:  # otherwise nobody to wait for, nothing to send
            self._link = self._links.take(place, address, stopped)

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size > 1 and kind is None:
            self._links.keep(self._place, self._link)
        elif self.size > 1:
            let_go(self._link)

    def start_sum(self, values: Tensor) -> Pending:
        """Begin to add up ``values`` over all members, in place."""
        return self._start(values, lambda held: self._link.reduce(held, dist.ReduceOp.SUM))

    def max(self, values: Tensor) -> None:
        """The greatest of each element, in place."""
        self._start(values, lambda held: self._link.reduce(held, dist.ReduceOp.MAX)).wait()

    def send(self, values: Tensor, root: int) -> None:
        """What member ``root`` has, in place."""
        self._start(values, lambda held: self._link.broadcast(held, root)).wait()

    def _start(self, values: Tensor, start: Callable[[Tensor], Any]) -> Pending:
        if self.size == 1:
            self._leave_if_told()
            return Pending(self, None, values, values)
        held = values.to(self._link.device).contiguous()
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
        self._late = time.monotonic() + gang._place.seconds

    def wait(self) -> None:
        """Returns when the tensor holds the result."""
        if self._work is None:
            return
        try:
            while not self._work.is_completed():
                self._gang._leave_if_told()
                if time.monotonic() > self._late:
                    raise GangBroken("a member of the gang was lost: it sends nothing")
                time.sleep(_POLL)
            self._work.wait()
        except (RuntimeError, GangBroken) as error:
            _abandoned.append((self._gang._link, self._work, self._held))
            if isinstance(error, GangBroken):
                raise
            raise GangBroken(f"a member of the gang was lost: {_line(error)}") from error
        if self._held is not self._values:
            self._values.copy_(self._held)


_abandoned: deque[tuple[Any, Any, Tensor]] = deque(maxlen=_ABANDONED)


def let_go(link: Link) -> None:
    """Abort a link. CardFault where that does not end: then only the end of the process helps, for
    the card works at an operation that will never be done."""
    thread = threading.Thread(target=link.abort, daemon=True)
    thread.start()
    thread.join(_ABORT)
    if thread.is_alive():
        raise CardFault("NCCL does not let go of a gang that was left")


class _Group:
    """A process group of torch as a link."""

    def __init__(self, group: Any, device: torch.device) -> None:
        self._group, self.device = group, device

    def reduce(self, values: Tensor, operation: Any) -> Any:
        options = dist.AllreduceOptions()
        options.reduceOp = operation
        return self._group.allreduce([values], options)

    def broadcast(self, values: Tensor, root: int) -> Any:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        return self._group.broadcast([values], options)

    def abort(self) -> None:
        """Gloo ends with its last reference; what it may write to is kept (`_abandoned`)."""
        if self.device.type == "cuda":
            self._group.abort()


def connect(place: Formation, address: str | None) -> Link:
    """Meet the others in the store, and try the way to them."""
    root = TCPStore(place.host, place.port, None, False, timeout=_TO_COME, wait_for_workers=False)
    store = PrefixStore(f"{place.generation}/", root)
    if place.backend == "nccl":
        return _by_nccl(place, store)
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = _TO_COME
    options._devices = [ProcessGroupGloo.create_device(hostname=address or "127.0.0.1")]
    group = ProcessGroupGloo(store, place.rank, place.size, options)
    group._set_default_timeout(timedelta(seconds=place.seconds))
    return _Group(group, torch.device("cpu"))


def _by_nccl(place: Formation, store: Any) -> Link:
    """NCCL connects with the first operation: that is one of no use, which may fail or be late."""
    os.environ |= _NCCL
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = _TO_COME
    options.config.blocking = 0  # so that it can be aborted while it connects
    link = _Group(
        dist.ProcessGroupNCCL(store, place.rank, place.size, options), torch.device("cuda")
    )
    try:
        work, until = link.reduce(torch.zeros(1, device="cuda"), dist.ReduceOp.SUM), _to_come()
        while not work.is_completed():
            if time.monotonic() > until:
                raise TimeoutError("not all of them came")
            time.sleep(_POLL)
    except Exception:
        link.abort()
        raise
    link._group._set_default_timeout(timedelta(seconds=place.seconds))
    return link


def _to_come() -> float:
    return time.monotonic() + _TO_COME.seconds


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))
