"""How busy workers are kept: real plans, queue, ledger and store, and workers that only sleep.

    python -m benchmarks.scheduling [--workers 8 64] [--edits 200] [--seconds 0.5] [-o FILE]

A worker sleeps a fixed time for each task in place of the model and writes nothing but its marker.
Printed for each number of workers: the efficiency (time slept, of all workers' time between the
first task's start and the last one's end), the driver's CPU time per task, and how long Ray and the
workers took to start, which is not counted. The driver's peak memory is that of all it did so far.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from msbd_dist.batch import steps
from msbd_dist.batch.ahead import Ahead
from msbd_dist.batch.board import Board, Silent
from msbd_dist.batch.journal import Journal
from msbd_dist.batch.record import Order, peak_memory_mb
from msbd_dist.batch.run import Drive, Limits, Stop
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.lease import Lease
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.spec import EditSpec, Method, ModelSpec
from msbd_dist.fleet.executor import Beat
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.card import resolve

SIDE = 600  # of the pictures: two whole stages and one of six segments


@dataclass(frozen=True)
class Sleepers:
    """Makes workers that sleep."""

    run: str
    seconds: float  # a task

    def __call__(self) -> Sleeper:
        return Sleeper(self)


class Sleeper:
    def __init__(self, spec: Sleepers) -> None:
        self._files, self._seconds = open_files(spec.run), spec.seconds

    def run(
        self, order: Order | None, attempt: Attempt, *, beat: Beat, team: Any = None
    ) -> dict[str, Any]:
        if order is None:
            import msbd_dist.batch.record
            import msbd_dist.fleet.collective  # noqa: F401  as gangs will

            return Ledger.mark(self._files / "warm", str(os.getpid()), {})
        began = time.time()
        time.sleep(self._seconds)
        facts = {"attempt": attempt.name, "peak_mb": 0, "began": began, "ended": time.time()}
        if team is not None and team.rank > 0:
            return facts
        return Ledger.mark(self._files / order.work / "ledger", order.task.name, facts)


def measure(workers: int, edits: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = open_files(folder / "run")
        specs = [_spec(folder, number) for number in range(edits)]
        models = steps.Models(ModelSpec(), resolve(ModelSpec()), {})
        ahead = Ahead(specs, lambda spec: steps.prepare(spec, out / spec.id, models))
        todo = [edit for edit in ahead.look() if isinstance(edit, steps.Edit)]
        pool = RayExecutor(Sleepers(out.url, seconds), num_workers=workers, use_gpus=False)
        with closing(pool), closing(Lease.take(out)) as lease:
            began = time.perf_counter()
            _warm(pool)
            started = time.perf_counter() - began
            cpu = time.process_time()
            board = Board(out, Silent(), edits)
            board.begin(workers)
            drive = _Drive(ahead, pool, lease, board, Journal(out), Stop(), Limits())
            for _ in drive.results():
                pass
            cpu = time.process_time() - cpu
        facts = [
            ledger[task.name]
            for edit in todo
            for ledger in [Ledger(edit.work / "ledger")]
            for task in edit.record.plan.tasks(edit.id)
        ]
    slept = sum(f["ended"] - f["began"] for f in facts)
    span = max(f["ended"] for f in facts) - min(f["began"] for f in facts)
    return {
        "workers": workers,
        "edits": edits,
        "tasks": len(facts),
        "seconds_a_task": seconds,
        "cores": os.cpu_count(),
        "span_s": round(span, 1),
        "efficiency": round(slept / (workers * span), 4),
        "idle_share": round(1 - slept / (workers * span), 4),
        "driver_ms_a_task": round(1000 * cpu / len(facts), 2),
        "driver_peak_mb": peak_memory_mb(),
        "start_s": round(started, 1),
    }


class _Drive(Drive):
    """Chores do nothing: there are no pixels."""

    def _hand_out(self, edit: steps.Edit, work: Any) -> None:
        if isinstance(work, steps.Chore):
            work = steps.Chore(edit, work.name, lambda _: {"compared": 0, "pixels": 0})
        super()._hand_out(edit, work)


def _warm(pool: RayExecutor) -> None:
    """Until all workers have run something: starting them is not what is measured."""
    import ray

    attempt = Attempt("warm")
    ray.get([member.handle.run.remote(None, attempt) for member in pool._members.values()])


def _spec(folder: Path, number: int) -> EditSpec:
    """Edits of one picture each with a mask in the middle; pictures and masks are shared."""
    image, mask = folder / "image.png", folder / "mask.png"
    if not image.exists():
        Image.new("RGB", (SIDE, SIDE), (120, 130, 140)).save(image)
        drawn = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(drawn).rectangle((100, 150, 400, 380), fill=255)
        drawn.save(mask)
    method = Method(segment_batch=1)
    spec = {"id": f"e{number:03}", "image": str(image), "mask": str(mask), "prompt": "a star"}
    return EditSpec(**spec, seed=number, method=method)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.5, help="slept for each task")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    found = [measure(n, options.edits, options.seconds) for n in options.workers]
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
