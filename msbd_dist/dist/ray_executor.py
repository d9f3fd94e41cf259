"""Workers as Ray actors. The only file that imports ray.

One actor per worker with a bounded number of tasks in flight; results are small facts, pixels never
pass through Ray. A task whose worker dies is given to another one; Ray restarts the dead worker.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from msbd_dist.dist.executor import Facts, MakeWorker, Outcome, RetryPolicy, Verdict, WorkerLost
from msbd_dist.errors import ClusterError, WorkerError

log = logging.getLogger(__name__)

MAX_RESTARTS = (
    4  # of one actor; a worker that keeps dying in its constructor must not loop for ever
)
MAX_CPU_WORKERS = 8  # of the default; each holds its own models
IN_FLIGHT = 1  # tasks per worker: a task takes 100x longer than handing it over


class _Actor:
    """Runs in the worker's process: makes its worker on the first task."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Any = None

    def run(self, task: Any) -> Facts:
        if self._worker is None:
            self._worker = self._make_worker()
        return dict(self._worker.run(task))


class RayExecutor:
    """Actors on a Ray that is started here, or on the one at ``address``.

    ``num_workers`` None: one worker per GPU, or per CPU where there is no GPU or none is wanted.
    With GPUs each worker has one, or an equal share where there are more workers than GPUs.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        *,
        num_workers: int | None = None,
        use_gpus: bool = True,
        address: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._retry = retry or RetryPolicy()
        self._owns_ray = connect(address, num_cpus=num_workers or 1)
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = have.get("GPU", 0.0) if use_gpus else 0.0
        cpus = have.get("CPU", 0.0)
        self.num_workers = num_workers or max(1, int(gpus or min(cpus, MAX_CPU_WORKERS)))
        if self.num_workers > cpus:
            raise ClusterError(
                f"{self.num_workers} workers need as many CPUs, this Ray has {cpus:g}; "
                "ask for fewer with --workers"
            )
        actor = ray.remote(
            num_cpus=1,
            num_gpus=min(1.0, gpus / self.num_workers),
            max_restarts=MAX_RESTARTS,
            max_task_retries=0,
        )(_Actor)
        self._actors: list[Any] = [actor.remote(make_worker) for _ in range(self.num_workers)]
        self._load = [0] * self.num_workers
        self._queue: deque[tuple[Any, int]] = deque()  # (task, attempts so far)
        self._running: dict[Any, tuple[Any, int, int, float]] = {}  # ref: task, attempt, actor, t

    def submit(self, task: Any) -> None:
        self._queue.append((task, 0))
        self._dispatch()

    def wait(self) -> Outcome:
        while True:
            self._dispatch()
            if not self._running:
                raise LookupError("nothing to wait for")
            (ref,), _ = ray.wait(list(self._running), num_returns=1, fetch_local=False)
            task, attempts, index, started = self._running.pop(ref)
            self._load[index] -= 1
            seconds = time.perf_counter() - started
            try:
                facts = ray.get(ref)
            except Exception as raised:
                error = _as_ours(raised)
                if self._retry.decide(error, attempts) is Verdict.RETRY:
                    log.warning("worker %d was lost; its task is given out again", index)
                    self._queue.appendleft((task, attempts))
                    continue
                return Outcome(task, error=_final(error, attempts), attempts=attempts)
            return Outcome(task, facts=facts, attempts=attempts, seconds=seconds)

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        kept = [entry for entry in self._queue if not unwanted(entry[0])]
        dropped = len(self._queue) - len(kept)
        self._queue = deque(kept)
        return dropped

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()

    def _dispatch(self) -> None:
        while self._queue:
            index = min(range(self.num_workers), key=self._load.__getitem__)
            if self._load[index] >= IN_FLIGHT:
                return
            task, attempts = self._queue.popleft()
            ref = self._actors[index].run.remote(task)
            self._running[ref] = (task, attempts + 1, index, time.perf_counter())
            self._load[index] += 1


def connect(address: str | None, *, num_cpus: int) -> bool:
    """Use a Ray that is already initialised, the one at ``address``, or start one here.

    A local one counts at least ``num_cpus`` CPUs. Returns whether this process started or joined
    it and must leave it. ClusterError when it can't be reached.
    """
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = max(num_cpus, os.cpu_count() or 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        if address is not None:  # given HOST:PORT, Ray by itself sends no token
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        _knock(address)
        ray.init(address=address or "local", **options)
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), repr(error))
        raise ClusterError(
            f"no Ray at {address or 'this machine'}: {line}; start one with `ray start --head` "
            "(~/.ray/auth_token must be the same there and here), or leave --address out to start "
            "one on this machine"
        ) from error
    return True


def _knock(address: str | None) -> None:
    """OSError where HOST:PORT does not answer: Ray itself would end the whole process."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _as_ours(raised: Exception) -> Exception:
    """The error that the worker raised, or WorkerLost when there is no worker any more."""
    if isinstance(raised, RayTaskError):
        return raised.cause if isinstance(raised.cause, Exception) else raised
    if isinstance(raised, (RayActorError, ActorUnavailableError)):
        lines = str(raised).strip().splitlines()
        born_dead = "creation task" in lines[0]  # then the last line has the reason
        return WorkerLost(lines[-1] if born_dead else lines[0])
    return raised


def _final(error: Exception, attempts: int) -> Exception:
    if isinstance(error, WorkerLost):
        return WorkerError(
            f"its worker died {attempts} times ({error}); look for out-of-memory kills, "
            "or try a smaller segment_batch"
        )
    return error
