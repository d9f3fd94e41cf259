"""Q2: how many RePaint passes the first stage needs, on pictures of the native size."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.claims.done import Done
from benchmarks.claims.measures import edge, obeyed
from benchmarks.claims.question import JUMP, LINE, OBEYED, REAL, Claim, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases, plain
from msbd_dist.tiny.evaluate.cases import SIZE
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Image

_PASSES = (0, 1, 3, 5, 10, 20)
_COMPARED = (0, 5)  # two edits of each scene
_FEWER = {1: 2, 3: 2, 10: 4, 20: 4}  # every so many pairs of scenes


def _cases(count: int) -> list[Case]:
    return cases(2, count, size=SIZE, cells=(6, 9), inset=2, grounds=plain)


def _measure(done: Done) -> list[Row]:
    picture = done.picture
    values = edge(picture, done.case.mask) | obeyed(done.case, picture)
    return [Row(done.case.id, done.variant, values)]


def _real(case: Case) -> list[Row]:
    """Edges of the untouched picture, and the judges on a real object in it."""
    return [Row(case.id, REAL, edge(case.before(), case.mask) | obeyed(case, case.truth()))]


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    return (marked(case.before(), case.mask), *(one.picture for one in done.values()))


QUESTION = Question(
    key="q2",
    title="RePaint passes",
    cases=_cases,
    shared={"steps": 20, "samples": 1, "rerank": False, "decoder_optimization": False},
    variants=tuple(
        Variant(
            key=f"r{passes}",
            words=f"R = {passes}",
            keys={"repaint": passes},
            seeds=2 if passes in _COMPARED else 1,
            every=_FEWER.get(passes, 1),
        )
        for passes in _PASSES
    ),
    measure=_measure,
    real=_real,
    columns=(
        JUMP,
        LINE,
        *OBEYED,
    ),
    claims=(
        Claim(
            words="R = 5 blends better than R = 0: the colour jump is smaller",
            column="edge colour",
            variant="r5",
            against="r0",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="R = 5 blends better than R = 0: the edge shows less as a line",
            column="edge line",
            variant="r5",
            against="r0",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="too many passes make unrealistic pictures: R = 20 is obeyed less than R = 5",
            column="clip",
            variant="r20",
            against="r5",
            more=False,
        ),
        Claim(
            words="more than 5 passes blend no better: R = 20 has at least R = 5's colour jump",
            column="edge colour",
            variant="r20",
            against="r5",
            how="ratio",
            bound=1.0,
        ),
    ),
    heads=("mask", *(f"R = {passes}" for passes in _PASSES)),
    tiles=_tiles,
    cost=20.0,
)
