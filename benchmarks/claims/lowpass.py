"""Q4b: the low-pass where it has most to do.

The last stage is four times as large as the one before, so that the low-pass takes most of the
background's detail; and the edit is enlarged without super-resolution, so that it enters softer
than a background that is not low-passed.
"""

from __future__ import annotations

from benchmarks.claims.done import Done, image
from benchmarks.claims.measures import sharp
from benchmarks.claims.question import Claim, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases, plain
from benchmarks.claims.upscaling import (
    BACKGROUNDS,
    KEPT,
    LOWPASS,
    MIDDLE,
    SHARED,
    SHARPNESS,
    backgrounds,
    scaled,
    tiles,
    truth_of,
)
from msbd_dist.core.geometry import Size

_SIZE = Size(4 * MIDDLE, 4 * MIDDLE)


def _cases(count: int) -> list[Case]:
    return cases(4, count, size=_SIZE, cells=(8, 12), inset=3, grounds=plain)


def _measure(done: Done) -> list[Row]:
    """The edit; once a scene also what it enters the last stage with, and what is beside it."""
    case, truth = done.case, truth_of(done)
    rows = [Row(case.id, done.variant, sharp(done.picture, case.mask, truth))]
    if done.variant == "f":
        entering = image(scaled(done.composed(1)[1], _SIZE))
        rows += [Row(case.id, "entering", sharp(entering, case.mask, truth)), *backgrounds(case)]
    return rows


QUESTION = Question(
    key="q4b",
    title="The low-pass where it has most to do",
    cases=_cases,
    shared={**SHARED, "upscaler": "bilinear"},
    variants=(
        Variant(key="e", words="e) blended, as it is", keys={"lowpass": "off"}, every=4),
        Variant(key="f", words="f) blended, low-pass", every=4),
    ),
    names={"entering": "the edit as it enters the last stage", **BACKGROUNDS},
    measure=_measure,
    columns=(SHARPNESS,),
    claims=(
        KEPT,
        Claim(
            words="the background that is not low-passed is sharper than the edit that enters",
            column="sharpness",
            variant="ae",
            against="entering",
            how="ratio",
            bound=1.0,
        ),
        LOWPASS,
    ),
    heads=("mask", "e) as it is", "f) low-pass", "truth"),
    tiles=tiles,
    shown=6,
    side=256,
    cost=14.0,
)
