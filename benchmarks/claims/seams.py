"""Q6: whether segments show, for this method's noise and compositing and for others.

A border's piece counts with the steps of neighbouring pixels across it and beside it (see
`msbd_dist.core.measure`); a picture's ratio is that of the sums of all its pieces. Where segments
don't overlap their borders are elsewhere: the untouched picture is measured on both sets of lines.
Backgrounds of straight lines are left out, because a line of the picture's own that falls on a
border counts as a seam, and one that returns at the stride as its peak.

What the same noise in every segment makes is no line but a pattern that returns with each segment:
"repeats" is how much more alike places are that lie one stride apart than others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.claims.done import Done, planes
from benchmarks.claims.question import Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases
from msbd_dist.core.compose import Bools, Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.measure import Steps, seams
from msbd_dist.core.quality import stride_peak
from msbd_dist.core.tiling import Grid
from msbd_dist.tiny.evaluate.cases import CELL
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Background, Image

_SIZE = Size(352, 768)  # two segments by five: the spectrum needs four strides
_FLAT = ("sky", "water", "wall")
_TEXTURED = ("grass", "sand", "wood")
_ROUGH = 24.0  # pixels: shades that change more slowly are no pattern
_SHIFTS = range(16, 49, 4)  # pixels more or less than a stride, for comparison
_DETAIL = 352  # pixels of the middle that the grid shows, with more contrast


def _grounds(number: int, background: Background) -> bool:
    """Little texture and much in turn, so that each pair of scenes has both."""
    return background.kind in (_TEXTURED if number % 2 else _FLAT)


def _cases(count: int) -> list[Case]:
    return cases(6, count, size=_SIZE, cells=(2, 4), inset=1, grounds=_grounds, things=False)


def _measure(done: Done) -> list[Row]:
    """The edit, and the untouched picture on the same lines."""
    grid = done.opened().record.plan.final.grid
    real = "real lines" if grid.overlap else "real own lines"
    rows = [Row(done.case.id, done.variant, _values(done.picture, done.case, grid))]
    if done.variant in ("ours", "apart"):
        rows.append(Row(done.case.id, real, _values(done.case.before(), done.case, grid)))
    return rows


def _values(picture: Image, case: Case, grid: Grid) -> dict[str, float]:
    pixels, mask = planes(picture), case.mask

    def read(box: Box) -> np.ndarray:
        return pixels[(slice(None), *box.slices)]

    def masked(box: Box) -> np.ndarray:
        return mask[box.slices]

    bounds = Box.of(Size(*mask.shape))
    steps = sum((steps for _, steps in seams(grid, read, masked, bounds, cell=CELL)), Steps())
    stride = grid.stride.width
    found = {
        "seam": steps.ratio,
        "peak": stride_peak(pixels, mask, stride),
    }
    return {key: value for key, value in found.items() if value is not None} | {
        "repeats": repetition(pixels, mask, stride)
    }


def repetition(pixels: Floats, mask: Bools, stride: int) -> float:
    """Correlation of a picture (3, h, w) with itself one stride further right, less its mean at
    other shifts: -1..1, about 0 where nothing returns.

    Of the mean over channels, less what changes slowly, where both places are in the mask.
    """
    grey = np.where(mask, pixels.mean(0), 0)
    weight = np.maximum(gaussian_filter(mask.astype(np.float64), _ROUGH), 1e-6)
    pattern = pixels.mean(0) - gaussian_filter(grey, _ROUGH) / weight

    def alike(shift: int) -> float:
        both = mask[:, shift:] & mask[:, :-shift]
        one, other = pattern[:, shift:][both], pattern[:, :-shift][both]
        return float(np.corrcoef(one, other)[0, 1])

    others = [alike(stride + sign * shift) for shift in _SHIFTS for sign in (-1, 1)]
    return alike(stride) - float(np.mean(others))


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    """The middle, where borders cross, with each channel's contrast stretched alike in all."""
    edits = np.stack([_middle(one.picture) for one in done.values()])
    low, high = np.percentile(edits, (2, 98), axis=(0, 1, 2))
    pictures = (_middle(case.before()), *edits)
    scaled = ((one - low) / np.maximum(high - low, 16.0) for one in pictures)
    shown = (np.rint(np.clip(0.8 * one + 0.1, 0, 1) * 255).astype(np.uint8) for one in scaled)
    return (marked(case.before(), case.mask), *shown)


def _middle(picture: Image) -> Image:
    y, x = (_SIZE.height - _DETAIL) // 2, (_SIZE.width - _DETAIL) // 2
    return picture[y : y + _DETAIL, x : x + _DETAIL]


_VARIANTS = (
    Variant(key="ours", words="canvas noise, weighted sum"),
    Variant(
        key="authors",
        words="the same noise in every segment, over (the authors')",
        keys={"noise": "segment", "compose": "over"},
        every=4,
    ),
    Variant(
        key="sum",
        words="the same noise in every segment, weighted sum",
        keys={"noise": "segment"},
        every=4,
    ),
    Variant(key="apart", words="no overlap", keys={"overlap": 0}, every=4),
)


QUESTION = Question(
    key="q6",
    title="Seams between segments",
    cases=_cases,
    shared={
        "steps": 10,
        "repaint": 0,
        "samples": 1,
        "upscale_steps": 32,
        "segment_start": 0.25,
        "decoder_optimization": False,
    },
    variants=_VARIANTS,
    measure=_measure,
    names={
        "real lines": "untouched pictures, on the same lines",
        "real own lines": "untouched pictures, on the lines of no overlap",
    },
    columns=(
        Column(key="seam", label="seam ratio", form="times"),
        Column(key="peak", label="spectrum's peak at the stride", form="times"),
        Column(key="repeats", label="repeats itself at the stride", form="number"),
    ),
    claims=(
        Claim(
            words="ours: the seam ratio is at most 1.05",
            column="seam",
            variant="ours",
            how="mean",
            more=False,
            bound=1.05,
        ),
        Claim(
            words="ours shows less than the authors' scheme",
            column="seam",
            variant="ours",
            against="authors",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="ours shows less than no overlap",
            column="seam",
            variant="ours",
            against="apart",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="ours has a smaller peak at the stride than the authors' scheme",
            column="peak",
            variant="ours",
            against="authors",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="ours repeats itself less at the stride than the authors' scheme",
            column="repeats",
            variant="ours",
            against="authors",
            more=False,
        ),
    ),
    heads=("mask", "untouched", "ours", "the authors'", "their noise, sum", "no overlap"),
    tiles=_tiles,
    side=160,
    shown=6,
    cost=20.0,
)
