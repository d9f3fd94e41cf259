"""Q5: what decoder optimization changes outside the mask and inside it, before the paste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.claims.done import Done, image, planes
from benchmarks.claims.measures import edge
from benchmarks.claims.question import REAL, Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases
from msbd_dist.core.compose import Floats
from msbd_dist.tiny.evaluate.cases import SIZE
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Background, Image

_BAND = 8  # pixels beside the mask's edge
_GAIN = 6  # by which differences are shown


def _any(_: int, __: Background) -> bool:
    return True


def _cases(count: int) -> list[Case]:
    return cases(5, count, size=SIZE, cells=(6, 9), inset=2, grounds=_any)


def _measure(done: Done) -> list[Row]:
    """Mean absolute differences in 8-bit levels, of the stage before anything is pasted."""
    pixels, before, mask = done.composed()[1], planes(done.case.before()), done.case.mask
    band = (distance_transform_edt(~mask) <= _BAND) & ~mask
    values = {"outside": apart(pixels, before, ~mask), "band": apart(pixels, before, band)}
    if done.variant != "off":
        plain = replace(done, variant="off", id=f"{done.case.id}-off").composed()[1]
        values["inside"] = apart(pixels, plain, mask)
        values["kept"] = apart(plain, before, band) - values["band"] - values["inside"]
    return [Row(done.case.id, done.variant, values | edge(done.picture, mask))]


def apart(one: Floats, other: Floats, mask: np.ndarray) -> float:
    """How far two pictures (3, h, w) are apart in a mask: mean absolute difference in levels."""
    return float(abs(one - other).mean(0)[mask].mean() * 255)


def _real(case: Case) -> list[Row]:
    return [Row(case.id, REAL, edge(case.before(), case.mask))]


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


QUESTION = Question(
    key="q5",
    title="Decoder optimization",
    cases=_cases,
    shared={"steps": 20, "repaint": 1, "samples": 1},
    variants=(
        Variant(key="off", words="off", keys={"decoder_optimization": False}),
        _iterations(10, every=2),
        _iterations(30, every=4),
        Variant(key="on", words="on, 100 iterations", every=2),
    ),
    measure=_measure,
    real=_real,
    columns=(
        Column(key="outside", label="mismatch outside, levels", form="levels"),
        Column(key="band", label=f"the same within {_BAND} px of the edge", form="levels"),
        Column(key="inside", label="change inside, levels", form="levels"),
        Column(key="kept", label="mismatch gone at the edge, less change inside", form="levels"),
        Column(key="edge line", label="line at the edge, pasted", form="times"),
        Column(key="edge colour", label="colour jump at the edge, pasted", form="times"),
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
            words="what is painted changes less than the mismatch that goes",
            column="kept",
            variant="on",
            how="mean",
            bound=0.0,
        ),
        Claim(
            words="on makes the edge show less in the finished picture",
            column="edge line",
            variant="on",
            against="off",
            how="ratio",
            more=False,
            bound=1.0,
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
