"""A question's pictures, masks and manifest, its run by the product, and what is measured of it.

OUT/<question>/pictures/s00.png, masks/s00.png
OUT/<question>/manifest.yaml       what a user would write; `msbd run` takes it too
OUT/<question>/run/                the run directory: said again, only what is missing is done
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import yaml
from PIL import Image as Pil

from benchmarks.claims.done import Done
from benchmarks.claims.question import Question, Row, Variant
from benchmarks.claims.scenes import Case
from msbd_dist.batch.board import Silent, Watch
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.record import ExecutorKind
from msbd_dist.batch.run import run_manifest
from msbd_dist.errors import RunError

Item = TypeVar("Item")
_CHUNK = 4  # edits that a process measures at a time
_SEEDS = 16  # at most, of a scene


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of a question."""

    question: Question
    rows: Sequence[Row]
    done: Sequence[Done]
    seconds: float  # from its first picture to its last number
    work: float  # of all workers and of the driver, in earlier runs too


@dataclass(kw_only=True)
class Work:
    """Where and by whom questions are worked on."""

    out: Path
    scale: float = 1.0
    workers: int = 2
    executor: ExecutorKind = "ray"
    watch: Watch = field(default_factory=Silent)
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    def ask(self, question: Question, earlier: dict[str, Asked]) -> Asked:
        """Run and measure a question, or look at the rows of others that it needs."""
        started = time.perf_counter()
        if question.derive is not None:
            rows = question.derive({key: earlier[key].rows for key in question.needs})
            done: list[Done] = []
        else:
            cases = question.cases(question.scenes(self.scale))
            done = self._edited(question, cases)
            rows = self._measured(question, cases, done)
        return Asked(
            question=question,
            rows=rows,
            done=done,
            seconds=time.perf_counter() - started,
            work=worked(self.out / question.key / "run") if done else 0.0,
        )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _edited(self, question: Question, cases: Sequence[Case]) -> list[Done]:
        """Every edit of a question, finished. RunError for the first that is not."""
        folder = self.out / question.key
        write_inputs(folder, cases)
        planned = edits_of(question, cases)
        path = folder / "manifest.yaml"
        path.write_text(manifest_text(question, planned))
        run = folder / "run"
        manifest = read_manifest(path, anywhere=True)
        result = run_manifest(
            manifest, run, workers=self.workers, executor=self.executor, watch=self.watch
        )
        for edit in result.edits:
            if edit.state not in ("done", "kept"):
                raise RunError(f"{question.key}: edit {edit.id}: {edit.error or edit.state}")
        return [Done(case, variant.key, name, run) for name, case, variant, _ in planned]

    def _measured(
        self, question: Question, cases: Sequence[Case], done: Sequence[Done]
    ) -> list[Row]:
        assert question.measure is not None
        rows = self._each(question.measure, done)
        return rows + (self._each(question.real, cases) if question.real else [])

    def _each(self, measure: Callable[[Item], list[Row]], items: Sequence[Item]) -> list[Row]:
        """All rows, in the items' order; by several processes where edits are made by several."""
        found: Iterable[list[Row]]
        if self.executor == "serial":
            found = map(measure, items)
        else:
            found = self._processes().map(measure, items, chunksize=_CHUNK)
        return [row for rows in found for row in rows]

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            spawn = get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, spawn, torch.set_num_threads, (1,))
        return self._pool


def write_inputs(folder: Path, cases: Sequence[Case]) -> None:
    """Pictures and masks: the same bytes each time, so that finished edits stay finished."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in cases:
        for name, draw in (("pictures", case.before), ("masks", lambda c=case: shades(c))):
            Pil.fromarray(draw()).save(folder / name / f"{case.id}.png")


def shades(case: Case) -> np.ndarray:
    """The mask as a picture: white where it is edited."""
    return case.mask.astype(np.uint8) * 255


Planned = tuple[str, Case, Variant, int]  # an edit's name, and its seed


def edits_of(question: Question, cases: Sequence[Case]) -> list[Planned]:
    """All edits of a question, scene by scene. Variants of a scene have the same seeds.

    A variant that is not made of every scene is made of pairs of them: neighbours differ in kind.
    """
    return [
        (
            f"{case.id}-{variant.key}" + (f"-{number}" if variant.seeds > 1 else ""),
            case,
            variant,
            (case.placed.seed * _SEEDS + number) % 2**31,
        )
        for index, case in enumerate(cases)
        for variant in question.variants
        if index // 2 % variant.every == 0
        for number in range(variant.seeds)
    ]


def manifest_text(question: Question, planned: Sequence[Planned]) -> str:
    """The manifest of some edits as YAML, which says what its variants are."""
    edits = [
        {
            "id": name,
            "image": f"pictures/{case.id}.png",
            "mask": f"masks/{case.id}.png",
            "prompt": case.prompt,
            "seed": seed,
            **variant.keys,
        }
        for name, case, variant, seed in planned
    ]
    head = [f"# {question.key}: {question.title}     (msbd run manifest.yaml --out run)", "#"]
    head += [f"#   {variant.key}: {variant.words}" for variant in question.variants]
    settings = {"models": "tiny", "defaults": dict(question.shared)}
    body = yaml.safe_dump(settings, sort_keys=False) + "\n" + "edits:\n"
    lines = yaml.safe_dump(edits, sort_keys=False, default_flow_style=None, width=1000)
    return "\n".join(head) + "\n" + body + lines


def worked(run: Path) -> float:
    """Seconds of work that a run's report has for its edits."""
    report = json.loads((run / "report.json").read_text())
    return sum(float(one["seconds"]["work"]) for one in report["edits"] if "seconds" in one)
