"""What a question is: scenes, variants of an edit, measures, claims. No I/O but pictures' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from benchmarks.claims.done import Done
from benchmarks.claims.scenes import Case
from benchmarks.claims.statistics import (
    Estimate,
    Floats,
    Scale,
    Verdict,
    difference,
    estimate,
    mean,
    ratio,
    verdict,
)
from msbd_dist.tiny.scenes import Image

REAL = "real"  # the variant that is no edit: what the measures say of real scenes


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make an edit: keys of its manifest entry."""

    key: str
    words: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1  # of so many scenes one is made so: for what costs much
    seeds: int = 1  # edits of each scene


@dataclass(frozen=True)
class Row:
    """What was measured of one edit, or of one real scene."""

    case: str
    variant: str
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure as the table shows it."""

    key: str
    label: str
    form: Literal["share", "times", "levels", "number"]

    @property
    def scale(self) -> Scale:
        return "log" if self.form == "times" else "plain"

    def text(self, value: float) -> str:
        if self.form == "share":
            return f"{100 * value:.0f} %"
        return f"{value:.2f}" + (" x" if self.form == "times" else "")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that the numbers are asked about.

    ``how``: the mean of ``variant`` itself, its difference to ``against`` or its ratio to it is
    wanted above (``more``) or below ``bound``.
    """

    words: str
    column: str
    variant: str
    against: str | None = None
    how: Literal["mean", "difference", "ratio"] = "difference"
    more: bool = True
    bound: float = 0.0


@dataclass(frozen=True)
class Answer:
    claim: Claim
    found: Estimate
    verdict: Verdict


OBEYED = (  # see `measures.obeyed`
    Column(key="clip", label="obeyed, by CLIP", form="share"),
    Column(key="probe", label="obeyed, by the probe", form="share"),
)
JUMP = Column(key="edge colour", label="colour jump at the edge", form="times")
LINE = Column(key="edge line", label="line at the edge", form="times")


@dataclass(frozen=True, kw_only=True)
class Question:
    """``measure`` is run in other processes, and so is ``real``: both are functions of modules."""

    key: str
    title: str
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    variants: tuple[Variant, ...] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)  # keys of all edits
    count: int = 40  # scenes
    cases: Callable[[int], list[Case]] = lambda _: []
    measure: Callable[[Done], list[Row]] | None = None
    real: Callable[[Case], list[Row]] | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # of rows that are no variants
    needs: tuple[str, ...] = ()  # questions whose rows are looked at in place of own edits
    derive: Callable[[Mapping[str, Sequence[Row]]], list[Row]] | None = None
    heads: tuple[str, ...] = ()  # above the columns of the grid
    tiles: Callable[[Case, Mapping[str, Done]], tuple[Image, ...]] | None = None
    shown: int = 8  # scenes on the grid
    side: int = 128  # pixels of each picture on it
    cost: float = 0.0  # core seconds of a scene, roughly

    def scenes(self, scale: float) -> int:
        return max(2, round(self.count * scale))

    def column(self, key: str) -> Column:
        return next(column for column in self.columns if column.key == key)

    def words(self, variant: str) -> str:
        found = {v.key: v.words for v in self.variants} | {REAL: "real scenes"} | dict(self.names)
        return found[variant]


def by_scene(rows: Sequence[Row], key: str) -> dict[str, dict[str, float]]:
    """A measure's mean over the edits of a scene: by variant, then by scene, in the rows' order."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if key in row.values:
            scenes = found.setdefault(row.variant, {})
            scenes.setdefault(row.case, []).append(row.values[key])
    return {
        variant: {scene: float(np.mean(values)) for scene, values in scenes.items()}
        for variant, scenes in found.items()
    }


def table(question: Question, rows: Sequence[Row]) -> dict[str, dict[str, Estimate]]:
    """The mean of every column for every variant that has it."""
    found: dict[str, dict[str, Estimate]] = {row.variant: {} for row in rows}
    for column in question.columns:
        for variant, scenes in by_scene(rows, column.key).items():
            values = np.array(list(scenes.values()))[:, None]
            found[variant][column.key] = estimate(values, mean(column.scale))
    return found


def answers(question: Question, rows: Sequence[Row]) -> list[Answer]:
    """What the rows say to each claim that they have numbers for."""
    found = []
    for claim in question.claims:
        scenes = by_scene(rows, claim.column)
        pairs = paired(scenes, [v for v in (claim.variant, claim.against) if v is not None])
        if len(pairs):
            value = estimate(pairs, _statistic(claim, question.column(claim.column)))
            answer = verdict(value, claim.bound, more=claim.more)
            found.append(Answer(claim, value, answer))
    return found


def paired(scenes: Mapping[str, Mapping[str, float]], variants: Sequence[str]) -> Floats:
    """The values of the scenes that all of some variants have: (scenes, variants)."""
    known = [scenes.get(variant, {}) for variant in variants]
    shared = [scene for scene in known[0] if all(scene in other for other in known)]
    return np.array([[of[scene] for of in known] for scene in shared], np.float64)


def _statistic(claim: Claim, column: Column) -> Callable[[Floats], Floats]:
    if claim.how == "mean":
        return mean(column.scale)
    return difference if claim.how == "difference" else ratio
