"""Q5: what decoder optimization changes outside the mask and inside it, before the paste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.claims.done import Done, image, planes
from benchmarks.claims.measures import Values, edge
from benchmarks.claims.question import REAL, Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases
from msbd_dist.core.compose import Bools, Floats
from msbd_dist.tiny.evaluate.cases import SIZE
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Background, Image

_BAND = 8  # pixels beside the mask's edge, and inside it those where the tuned decoder shows
_GAIN = 6  # by which differences are shown


def anything(_: int, __: Background) -> bool:
    """Any background will do."""
    return True


def _cases(count: int) -> list[Case]:
    return cases(5, count, size=SIZE, cells=(6, 9), inset=2, grounds=anything)


def _measure(done: Done) -> list[Row]:
    """Mean absolute differences in 8-bit levels, of the stage before anything is pasted."""
    pixels, before, mask = done.composed()[1], planes(done.case.before()), done.case.mask
    values = mismatch(pixels, before, mask) | line_at_the_band(done.picture, mask)
    if done.variant != "off":
        plain = replace(done, variant="off", id=f"{done.case.id}-off").composed()[1]
        values["inside"] = apart(pixels, plain, mask)
    return [Row(done.case.id, done.variant, values | edge(done.picture, mask))]


def mismatch(pixels: Floats, before: Floats, mask: Bools) -> Values:
    """How far a stage is from the picture before: outside the mask, and beside its edge."""
    band = (distance_transform_edt(~mask) <= _BAND) & ~mask
    return {"outside": apart(pixels, before, ~mask), "band": apart(pixels, before, band)}


def line_at_the_band(picture: Image, mask: Bools) -> Values:
    """How far a line shows where the pretrained decoder begins."""
    found = edge(picture, distance_transform_edt(mask) > _BAND)
    return {"band line": found["edge line"]} if "edge line" in found else {}


def apart(one: Floats, other: Floats, mask: Bools) -> float:
    """How far two pictures (3, h, w) are apart in a mask: mean absolute difference in levels."""
    return float(abs(one - other).mean(0)[mask].mean() * 255)


def _real(case: Case) -> list[Row]:
    picture, mask = case.before(), case.mask
    return [Row(case.id, REAL, edge(picture, mask) | line_at_the_band(picture, mask))]


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    """The composed stage and its difference to the picture outside the mask, off and on."""
    before = planes(case.before())
    shown: list[Image] = [marked(case.before(), case.mask)]
    for key in ("off", "on"):
        _, pixels = done[key].composed()
        difference = np.where(case.mask, 0, abs(pixels - before)) * _GAIN
        shown += [image(pixels), image(difference), done[key].picture]
    return tuple(shown)


def _iterations(steps: int, every: int) -> Variant:
    return Variant(
        key=f"on{steps}",
        words=f"{steps} iterations",
        keys={"decoder_steps": steps},
        every=every,
    )


def _stays(variant: str, words: str) -> Claim:
    return Claim(
        words=f"{words} change what is painted by 3.5 levels at most",
        column="inside",
        variant=variant,
        how="mean",
        more=False,
        bound=3.5,
    )


OUTSIDE = Column(key="outside", label="mismatch outside, levels", form="levels")
BAND = Column(key="band", label=f"the same within {_BAND} px of the edge", form="levels")
INSIDE = Column(key="inside", label="change inside, levels", form="levels")
LINES = Column(key="band line", label="line where the band ends, pasted", form="times")

QUESTION = Question(
    key="q5",
    title="Decoder optimization",
    cases=_cases,
    shared={"steps": 20, "repaint": 1, "samples": 1},
    variants=(
        Variant(key="off", words="off", keys={"decoder_optimization": False}),
        _iterations(10, every=2),
        _iterations(30, every=4),
        Variant(key="on", words="on, 60 iterations", every=2),
        Variant(
            key="paper",
            words="the paper's 100 iterations",
            keys={"decoder_batch": "full"},
            every=4,
        ),
    ),
    measure=_measure,
    real=_real,
    columns=(
        *(OUTSIDE, BAND, INSIDE),
        Column(key="edge line", label="line at the edge, pasted", form="times"),
        Column(key="edge colour", label="colour jump at the edge, pasted", form="times"),
        LINES,
    ),
    claims=(
        Claim(
            words="on cuts the mismatch at the edge at least 3 times",
            column="band",
            variant="off",
            against="on",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="on cuts the mismatch outside at least 3 times",
            column="outside",
            variant="off",
            against="on",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="10 iterations cut the mismatch at the edge at least 3 times",
            column="band",
            variant="off",
            against="on10",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="60 iterations leave at most a tenth more at the edge than the paper's 100",
            column="band",
            variant="on",
            against="paper",
            how="ratio",
            more=False,
            bound=1.1,
        ),
        _stays("on10", "10 iterations"),
        _stays("on30", "30 iterations"),
        _stays("on", "60 iterations"),
        Claim(
            words="on makes the edge show less in the finished picture",
            column="edge line",
            variant="on",
            against="off",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="no line where the band ends: at most a tenth more than without optimization",
            column="band line",
            variant="on",
            against="off",
            how="ratio",
            more=False,
            bound=1.1,
        ),
    ),
    heads=(
        "mask",
        "off: decoded",
        f"difference x {_GAIN}",
        "pasted",
        "on: decoded",
        f"difference x {_GAIN}",
        "pasted",
    ),
    tiles=_tiles,
    cost=17.0,
)
