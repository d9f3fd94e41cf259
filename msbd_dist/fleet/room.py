"""Where workers have room: how many a cluster holds, and what share of a GPU each has. No Ray.

A worker needs a CPU and, where GPUs are used, a share of one GPU of the same host. Shares are
1, 1/2, 1/3 ...: of others, such as two thirds, a GPU holds fewer than their sum says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from msbd_dist.errors import ClusterError

MAX_CPU_WORKERS = 8  # of the default; each holds its own models
_DIGITS = 10_000  # Ray counts in these parts of a resource


@dataclass(frozen=True)
class Host:
    """What one host has in all, busy or not."""

    cpus: int
    gpus: int

    def holds(self, per_gpu: int) -> int:
        """How many workers, of which ``per_gpu`` share a GPU; 0: they need none."""
        return min(self.cpus, self.gpus * per_gpu) if per_gpu else self.cpus


@dataclass(frozen=True)
class Shape:
    """How many workers there are to be, and how many of them share a GPU (0: without one)."""

    workers: int
    per_gpu: int

    @property
    def gpu(self) -> float:
        """What each takes of a GPU, rounded down so that they fit."""
        return math.floor(_DIGITS / self.per_gpu) / _DIGITS if self.per_gpu else 0.0


def shape(hosts: Iterable[Host], workers: int | None, *, use_gpus: bool) -> Shape:
    """The workers that were asked for, or one for each GPU, or for each CPU where there is no GPU.

    ClusterError where there is no room for them.
    """
    hosts = list(hosts)
    with_gpus = use_gpus and any(host.gpus for host in hosts)
    least = 1 if with_gpus else 0
    if workers is None:
        room = sum(host.holds(least) for host in hosts)
        return Shape(max(1, room if with_gpus else min(room, MAX_CPU_WORKERS)), least)
    for per_gpu in range(least, workers + 1) if with_gpus else (0,):
        if sum(host.holds(per_gpu) for host in hosts) >= workers:
            return Shape(workers, per_gpu)
    cpus = sum(host.cpus for host in hosts if host.gpus or not with_gpus)
    where = "this Ray has {} on hosts with a GPU" if with_gpus else "this Ray has {}"
    raise ClusterError(
        f"{workers} workers need as many CPUs, {where.format(cpus)}; ask for fewer with --workers"
    )
