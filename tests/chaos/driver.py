"""A driver that is quicker to notice what is wrong than the command, and says what it notices. It
blames no task: here workers die more often than any task could kill them. Beside OUT, if it
is a folder, its workers note in OUT.begun which tasks they begin, and in which attempt.

    python tests/chaos/driver.py MANIFEST OUT WORKERS [ADDRESS]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas import lease
from msbd_dist.errors import MsbdError
from msbd_dist.fleet import ray_executor
from msbd_dist.fleet.executor import MakeWorker, Patience, Worker
from msbd_dist.fleet.retry import Attempt, RetryPolicy


@dataclass(frozen=True)
class Noting:
    """Makes workers that note what they begin."""

    make_worker: MakeWorker
    notes: str

    def __call__(self) -> NotingWorker:
        return NotingWorker(self.make_worker(), Path(self.notes))


class NotingWorker:
    def __init__(self, worker: Worker, notes: Path) -> None:
        self._worker, self._notes = worker, notes

    def run(
        self, order: Any, attempt: Attempt, *, beat: Callable[[], None], team: Any = None
    ) -> dict[str, Any]:
        with self._notes.open("a") as file:
            file.write(f"{attempt.name} {order.task.edit} {order.task.name}\n")
        return self._worker.run(order, attempt, beat=beat, team=team)


def main(manifest: str, out: str, workers: str, address: str | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s")
    logging.getLogger("pyvips").setLevel(logging.WARNING)
    lease.BEAT_SECONDS, lease.STALE_SECONDS = 0.5, 4.0
    ray_executor.RetryPolicy = partial(RetryPolicy, deaths=20)  # type: ignore[misc,assignment]
    if "://" not in out:
        real, notes = ray_executor.RayExecutor, f"{out}.begun"
        ray_executor.RayExecutor = lambda make, **options: real(Noting(make, notes), **options)  # type: ignore[misc,assignment]
    ray_executor.PATIENCE = Patience(tick=0.2, ping=1.0, hang=6.0, grow=3.0)
    try:
        result = run_manifest(
            read_manifest(Path(manifest)), out, workers=int(workers), address=address
        )
    except MsbdError as error:
        print(f"msbd: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    for edit in result.edits:
        print(edit.id, edit.state, edit.error or "")  # noqa: T201
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
