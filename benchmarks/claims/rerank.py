"""Q3: what CLIP's choice among B samples of the first stage is worth, as another judge sees it.

Sixteen samples of one edit give every B at once: of all sets of B of them, the best-scored one is
looked at, and the mean over all sets taken. With the samples in the order of their scores, the one
of rank r (from 0) is the best of a set with probability C(n - 1 - r, B - 1) / C(n, B).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np

from benchmarks.claims.done import Done, image, planes
from benchmarks.claims.measures import edge, obeyed
from benchmarks.claims.question import JUMP, OBEYED, REAL, Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases, plain
from msbd_dist.core.compose import Floats, composed
from msbd_dist.tiny.evaluate.cases import SIZE
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Image

SAMPLES = 16
BEST_OF = (1, 2, 4, 5, 8, 16)


def _cases(count: int) -> list[Case]:
    return cases(3, count, size=SIZE, cells=(6, 9), inset=2, grounds=plain)


def _measure(done: Done) -> list[Row]:
    """A row for each B: the expected values of the sample that is chosen."""
    pictures, scores = pasted(done)
    order = np.argsort(scores)[::-1]
    values = [
        {**obeyed(done.case, pictures[index]), **edge(pictures[index], done.case.mask)}
        | {"score": scores[index]}
        for index in order
    ]
    return [
        Row(
            done.case.id,
            f"b{best_of}",
            {
                key: float(np.dot(chances(len(order), best_of), [one[key] for one in values]))
                for key in values[0]
            },
        )
        for best_of in BEST_OF
    ]


def chances(samples: int, best_of: int) -> np.ndarray:
    """How likely the sample of each rank is the best of a random set: (samples,), sum 1."""
    sets = comb(samples, best_of)
    return np.array([comb(samples - 1 - rank, best_of - 1) / sets for rank in range(samples)])


def pasted(done: Done) -> tuple[list[Image], list[float]]:
    """All candidates, pasted into the picture by the mask, and their scores."""
    samples, scores = done.candidates()
    before: Floats = planes(done.case.before())
    return [image(composed(done.case.mask, one, before)) for one in samples], scores


def _real(case: Case) -> list[Row]:
    return [Row(case.id, REAL, obeyed(case, case.truth()) | edge(case.before(), case.mask))]


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    """The mask, then the first eight samples, the best-scored of all sixteen first."""
    pictures, scores = pasted(done["all"])
    order = np.argsort(scores)[::-1]
    shown = [order[0], order[1], order[SAMPLES // 2], order[-2], order[-1]]
    return (marked(case.before(), case.mask), *(pictures[index] for index in shown))


QUESTION = Question(
    key="q3",
    title="The best of B by CLIP",
    cases=_cases,
    shared={"steps": 20, "repaint": 1, "decoder_optimization": False},
    variants=(Variant(key="all", words="16 samples of each edit", keys={"samples": SAMPLES}),),
    names={f"b{b}": f"B = {b}" + (", no choice" if b == 1 else "") for b in BEST_OF},
    measure=_measure,
    real=_real,
    columns=(
        Column(key="score", label="CLIP's score", form="number"),
        *OBEYED,
        Column(key="probe shape", label="shape, by the probe", form="share"),
        JUMP,
    ),
    claims=(
        Claim(
            words="choosing of 5 is obeyed more than not choosing, as the probe sees it",
            column="probe",
            variant="b5",
            against="b1",
        ),
        Claim(
            words="choosing of 16 is obeyed more than choosing of 5, as the probe sees it",
            column="probe",
            variant="b16",
            against="b5",
        ),
        Claim(
            words="choosing by CLIP makes the mask's edge show less",
            column="edge colour",
            variant="b5",
            against="b1",
            how="ratio",
            more=False,
            bound=1.0,
        ),
    ),
    heads=("mask", "best score", "second", "ninth", "fifteenth", "worst of 16"),
    tiles=_tiles,
    cost=16.0,
)
