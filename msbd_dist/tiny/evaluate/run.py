"""An evaluation from start to end: cases of every measure over processes, rows from outcomes.

Cases go in batches of fixed size to processes of one thread each, so that the numbers depend
neither on how many processes there are nor on which of them does what.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msbd_dist.core.spec import ModelSpec
from msbd_dist.core.threads import intra_op_threads
from msbd_dist.models.card import resolve
from msbd_dist.tiny.evaluate import edits, painted, real
from msbd_dist.tiny.evaluate.cases import NATIVE, prompted
from msbd_dist.tiny.evaluate.family import STEPS, Family
from msbd_dist.tiny.evaluate.measure import Measure, Outcome
from msbd_dist.tiny.evaluate.rows import Row

log = logging.getLogger(__name__)

MEASURES: tuple[Measure, ...] = (*real.MEASURES, *painted.MEASURES, *edits.MEASURES)
_BY_KEY = {measure.key: measure for measure in MEASURES}
_SPEED = 16  # pictures whose painting is timed


@dataclass(frozen=True)
class Task:
    """A batch of one measure's cases: the ``start``-th up to the ``stop``-th."""

    measure: str
    start: int
    stop: int


@dataclass(frozen=True)
class Evaluation:
    """What was found out about one family."""

    folder: Path
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    outcomes: Mapping[str, Sequence[Outcome]] = field(repr=False)  # by measure

    def written(self) -> dict[str, Any]:
        """For JSON; all but "speed" is the same for the same arguments."""
        rows = {row.key: row.written() for row in self.rows}
        return {"folder": self.folder.name, **self.facts, "rows": rows}


def evaluate(
    folder: Path,
    *,
    scale: float = 1.0,
    device: str = "auto",
    processes: int = 1,
    measures: Sequence[str] = tuple(_BY_KEY),
) -> Evaluation:
    """Measure a family. ``scale`` multiplies the numbers of cases, ``measures`` chooses some.

    Raises `ModelError` where the folder is none of a family.
    """
    resolve(ModelSpec(family=str(folder)))  # an error now, not in every process
    chosen = [_BY_KEY[key] for key in measures]
    tasks = [task for measure in chosen for task in _tasks(measure, scale)]
    tasks.sort(key=lambda task: -_BY_KEY[task.measure].cost)
    found: dict[Task, list[Outcome]] = {}
    began = time.monotonic()
    for task, outcomes in _done(folder, device, tasks, processes):
        found[task] = outcomes
        seconds = time.monotonic() - began
        log.info("%4.0f s  %3d of %d  %s", seconds, len(found), len(tasks), task.measure)
    outcomes = {m.key: [o for task in _tasks(m, scale) for o in found[task]] for m in chosen}
    rows = tuple(row for measure in chosen for row in measure.rows(outcomes[measure.key]))
    return Evaluation(folder, rows, _facts(folder, device, scale), outcomes)


def _tasks(measure: Measure, scale: float) -> list[Task]:
    count = measure.scaled(scale)
    starts = range(0, count, measure.batch)
    return [Task(measure.key, start, min(start + measure.batch, count)) for start in starts]


# --- processes ------------------------------------------------------------------------------------


class _Worker:
    """What a process keeps: the family, loaded once."""

    def __init__(self, folder: Path, device: str) -> None:
        self._family = Family(folder, device)

    def run(self, task: Task) -> list[Outcome]:
        measure = _BY_KEY[task.measure]
        with intra_op_threads(1):
            return measure.run(self._family, measure.cases(task.stop)[task.start :])


_worker: _Worker | None = None  # of this process, where it is one of several


def _start(folder: Path, device: str) -> None:
    global _worker
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    _worker = _Worker(folder, device)


def _run(task: Task) -> list[Outcome]:
    assert _worker is not None
    return _worker.run(task)


def _done(
    folder: Path, device: str, tasks: Sequence[Task], processes: int
) -> Iterator[tuple[Task, list[Outcome]]]:
    """Tasks with their outcomes, as they are done."""
    if processes == 1:
        worker = _Worker(folder, device)
        yield from ((task, worker.run(task)) for task in tasks)
        return
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(folder, device),
    ) as pool:
        futures: dict[Future[list[Outcome]], Task] = {pool.submit(_run, t): t for t in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


# --- facts ----------------------------------------------------------------------------------------


def _facts(folder: Path, device: str, scale: float) -> dict[str, Any]:
    """What the folder says of itself, its size, and how fast it is here."""
    family = Family(folder, device)
    geometry = family.card.family
    return {
        "scale": scale,
        "prediction": family.latent.prediction,
        "native": geometry.native,
        "segment": geometry.segment,
        "guidance": geometry.guidance,
        "segment_guidance": geometry.segment_guidance,
        "segment_start": geometry.segment_start,
        "tokens": geometry.max_tokens,
        "scaling_factor": family.latent.decoder.scale,
        "zero_terminal_snr": bool(float(family.latent.alphas_cumprod[-1]) < 1e-6),
        "bytes": _bytes(folder),
        "parts": {part.name: _bytes(part) for part in sorted(folder.iterdir()) if part.is_dir()},
        "parameters": family.parameters(),
        "speed": _speed(family, max(1, round(_SPEED * scale))),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _speed(family: Family, pictures: int) -> dict[str, Any]:
    """Seconds to paint some pictures in one batch, with guidance, after a picture of warming up.

    On one thread, so that another process on the machine costs little.
    """
    cases = prompted(pictures)
    prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
    guidance = family.guidance
    with intra_op_threads(1):
        family.painted(prompts[:1], seeds[:1], side=NATIVE, guidance=guidance, steps=2)
        began = time.monotonic()
        family.painted(prompts, seeds, side=NATIVE, guidance=guidance)
        seconds = time.monotonic() - began
    return {
        "seconds": round(seconds, 2),
        "pictures": pictures,
        "steps": STEPS,
        "threads": 1,
        "device": str(family.models.device),
    }
