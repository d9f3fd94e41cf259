"""How a worker is made in its process, wherever that is. Imports torch only there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from msbd_dist.batch.identity import Identity
from msbd_dist.batch.record import SCHEMA
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import MsbdError
from msbd_dist.fleet.executor import Worker


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made from; small, so that it travels to any host."""

    run: str  # a path or URL
    models: ModelSpec
    threads: int
    identity: Identity | None = None  # which a worker must have; None: any

    def __call__(self) -> Worker:
        if self.identity is not None:
            self.identity.require(self.models, SCHEMA)
        from msbd_dist.batch.worker import TaskWorker  # imports torch

        return TaskWorker(self.run, self.models, self.threads)

    def prepare(self) -> None:
        """Read the models' files, and import what every task needs, before the first one comes."""
        with suppress(MsbdError):  # is told by the task that comes first
            Identity.here(self.models, SCHEMA)
        with suppress(ImportError):  # is told by the task that needs it
            import msbd_dist.batch.worker
            import msbd_dist.models.latent  # noqa: F401
