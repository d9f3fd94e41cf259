"""How an edited picture looks where it was edited: its mask's edge, its sharpness, its seams.

Each measure says its formula, its range and its source. Pictures are (C, h, w) float32 in [0, 1],
masks (h, w) bool. numpy only.

Depths count steps of 4-neighbours from the mask's edge: 1, 2, 3 ... inside, 0, -1, -2 ... outside.
Strips of `STRIP` depths lie along the edge on both sides:

    depth   -11 .. -8   -7 .. -4   -3 .. 0 | 1 .. 4   5 .. 8   9 .. 12
    strip      -3          -2        -1    |   0        1         2
                                         edge
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from msbd_dist.core.compose import Bools, Floats, Read
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.measure import EPSILON, FEW

STRIP = 4  # depths whose mean colours are compared
STRIPS = 3  # on each side
DEEP = STRIP * STRIPS
NEAR = 3  # contours nearer to the edge than that are not "beside" it
CELL = 32  # pixels along each side of a place in which strips are compared
WINDOW = Size(16 * CELL, 16 * CELL)  # pixels that are looked at together
HALO = 2 * DEEP + 2  # pixels around them that are read
HARMONICS = 16  # of a stride's frequency
BETWEEN = np.arange(-3.5, 4)  # harmonics: the middles nearest to one
RUN = 16  # pixels along a border whose steps are added up with their signs
CYCLES = 4  # strides that a profile must hold

Doubles = npt.NDArray[np.float64]


def changed_outside(before: npt.NDArray[Any], after: npt.NDArray[Any], mask: Bools) -> int:
    """Samples that differ where the mask is False; 0 is what an exact edit has.

    ``before`` and ``after`` are (C, h, w) of integers, ``mask`` is (h, w).
    """
    return int(np.count_nonzero((before != after) & ~mask))


@dataclass(frozen=True)
class Edge:
    """How far a mask's edge shows: sums over places, which add up over windows."""

    step: float = 0.0  # of neighbours across the edge
    num_step: int = 0
    step_beside: float = 0.0  # across contours parallel to it
    num_step_beside: int = 0
    jump: float = 0.0  # of mean colours across the edge, times pixels
    num_jump: int = 0
    jump_beside: float = 0.0
    num_jump_beside: int = 0

    def __add__(self, other: Edge) -> Edge:
        mine, theirs = vars(self), vars(other)
        return Edge(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def gradient(self) -> float | None:
        """How far the edge shows as a line: (G(0) + e) / (mean of G(k) + e), NEAR <= |k| < DEEP.

        G(k) is the mean absolute difference of 4-neighbours of depths k and k + 1, e = `EPSILON`.
        From 0; about 1 where nothing shows, as on flat pictures; None where the mask has too short
        an edge. After the blockiness of Wang, Sheikh and Bovik (2002), "No-reference perceptual
        quality assessment of JPEG compressed images", along an edge of any shape.
        """
        return _ratio(self.step, self.num_step, self.step_beside, self.num_step_beside)

    @property
    def colour(self) -> float | None:
        """How far colours jump at the edge: (J(0) + e) / (mean of J(s) + e), s = -2, -1, 1, 2.

        J(s) is the mean absolute difference of the mean colours of strips s - 1 and s, which are
        cut along the edge into pieces of about `CELL` pixels, weighted by their pixels; e =
        `EPSILON`. From 0; about 1 where nothing shows; None where there is too little to compare.
        Made for this project.
        """
        return _ratio(self.jump, self.num_jump, self.jump_beside, self.num_jump_beside)


def _ratio(here: float, num_here: int, beside: float, num_beside: int) -> float | None:
    if num_here < FEW or num_beside < FEW:
        return None
    return (here / num_here + EPSILON) / (beside / num_beside + EPSILON)


@dataclass(frozen=True)
class Sharpness:
    """Sums of squared Laplacians, which add up over windows."""

    squares: float = 0.0
    count: int = 0

    def __add__(self, other: Sharpness) -> Sharpness:
        return Sharpness(self.squares + other.squares, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The root of their mean; None where no pixel has all its neighbours in the mask."""
        return float(np.sqrt(self.squares / self.count)) if self.count else None


def edge_consistency(picture: Floats, mask: Bools) -> Edge:
    """How far the mask's edge shows in a picture: see `Edge.gradient` and `Edge.colour`."""
    return edge_in(picture, mask, Box.of(Size(*mask.shape)))


def sharpness(picture: Floats, mask: Bools) -> float | None:
    """Root mean square of the Laplacian inside the mask, in 0..1: blurred is low, noise is high.

    The Laplacian is a pixel minus the mean of its four neighbours; those count that have all four
    in the mask. None where there is none. After the variance of the Laplacian (Pech-Pacheco et al.
    2000, "Diatom autofocusing in brightfield microscopy").
    """
    return sharpness_in(picture, mask, Box.of(Size(*mask.shape))).value


def measured(
    read: Read, mask: Callable[[Box], Bools], box: Box, bounds: Box
) -> tuple[Edge, Sharpness]:
    """Both of a mask inside ``box``, in windows: memory does not grow with the mask.

    ``read`` gives (C, h, w) in [0, 1] of a box inside ``bounds``, ``mask`` its (h, w).
    """
    edge, sharp = Edge(), Sharpness()
    for part in _cells(box.grown(DEEP + 1)).tiles(WINDOW):
        core = part.intersection(bounds)
        window = part.grown(HALO).intersection(bounds)
        if core is None or window is None:
            continue
        masked = mask(window)
        if not masked.any():
            continue
        pixels, inner = read(window), core.relative_to(window)
        at = (window.y0, window.x0)
        if not masked.all():
            edge += edge_in(pixels, masked, inner, at)
        sharp += sharpness_in(pixels, masked, inner)
    return edge, sharp


def _cells(box: Box) -> Box:
    """The box grown to whole cells, so that a cell is in one window."""
    return Box(
        box.y0 // CELL * CELL,
        box.x0 // CELL * CELL,
        -(-box.y1 // CELL) * CELL,
        -(-box.x1 // CELL) * CELL,
    )


def sharpness_in(picture: Floats, mask: Bools, box: Box) -> Sharpness:
    """The part of `sharpness` that the pixels of ``box`` have, in a window with surroundings."""
    inner = box.intersection(Box.of(Size(*mask.shape)).grown(-1))
    if inner is None:
        return Sharpness()
    around = [inner.shifted(dy, dx).slices for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    whole = mask[inner.slices].copy()
    mean = np.zeros((len(picture), *whole.shape))
    for ys, xs in around:
        whole &= mask[ys, xs]
        mean += picture[:, ys, xs]
    squares = ((picture[(slice(None), *inner.slices)] - mean / 4) ** 2).mean(axis=0)
    return Sharpness(float(squares[whole].sum()), int(whole.sum()))


def edge_in(picture: Floats, mask: Bools, box: Box, at: tuple[int, int] = (0, 0)) -> Edge:
    """The part of `edge_consistency` that the pixels of ``box`` have, in a wider window.

    ``at`` is where the window's first pixel lies in the whole picture, whose cells are meant.
    """
    depths = depths_of(mask, DEEP)
    steps, counts = _contours(picture, depths, box)
    contour = np.arange(-DEEP, DEEP + 1)
    beside = (abs(contour) >= NEAR) & (abs(contour) < DEEP)
    jumps, weights = _jumps(picture, depths, box, at)
    near = np.arange(2 * STRIPS - 1) != STRIPS - 1
    return Edge(
        *(float(steps[DEEP]), int(counts[DEEP])),
        *(float(steps[beside].sum()), int(counts[beside].sum())),
        *(float(jumps[~near].sum()), int(weights[~near].sum())),
        *(float(jumps[near].sum()), int(weights[near].sum())),
    )


def depths_of(mask: Bools, most: int) -> npt.NDArray[np.int64]:
    """Depths of a mask's pixels, up to ``most`` + 1 inside and ``-most`` outside: (h, w).

    What is beyond the array is neither inside nor outside.
    """
    return np.where(mask, _layers(mask, most), 1 - _layers(~mask, most))


def _layers(part: Bools, most: int) -> npt.NDArray[np.int64]:
    """Steps of 4-neighbours from each pixel of ``part`` to what is not in it; at most + 1."""
    layers, left = np.zeros(part.shape, np.int64), part
    for _ in range(most + 1):
        layers += left
        inner = left.copy()
        inner[1:] &= left[:-1]
        inner[:-1] &= left[1:]
        inner[:, 1:] &= left[:, :-1]
        inner[:, :-1] &= left[:, 1:]
        left = inner
    return layers


def _contours(
    picture: Floats, depths: npt.NDArray[np.int64], box: Box
) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """Sums of steps across each contour -DEEP .. DEEP, and how many pairs cross it.

    A pair belongs to ``box`` where its first pixel, the upper or left one, is in it.
    """
    size = Box.of(Size(*depths.shape))
    sums, counts = np.zeros(2 * DEEP + 1), np.zeros(2 * DEEP + 1, np.int64)
    for dy, dx in ((1, 0), (0, 1)):
        first = box.intersection(size.shifted(-dy, -dx))
        if first is None:
            continue
        second = first.shifted(dy, dx)
        one, two = depths[first.slices], depths[second.slices]
        crossing = one != two
        levels = np.minimum(one, two)[crossing] + DEEP
        pixels = (picture[(slice(None), *b.slices)][:, crossing] for b in (first, second))
        steps = np.abs(np.subtract(*pixels, dtype=np.float64)).mean(axis=0)
        sums += np.bincount(levels, steps, len(sums))
        counts += np.bincount(levels, minlength=len(counts))
    return sums, counts


def _jumps(
    picture: Floats, depths: npt.NDArray[np.int64], box: Box, at: tuple[int, int]
) -> tuple[Doubles, Doubles]:
    """Sums of the jumps between each two neighbouring strips, times weights, and of the weights.

    A cell's weight is the smaller number of pixels that its two strips have, 0 below STRIP ** 2.
    """
    cells, total = _cells_along(depths, box, at)
    strips = (depths - 1) // STRIP + STRIPS
    along = (cells >= 0) & (strips >= 0) & (strips < 2 * STRIPS)
    place, shape = cells[along] * 2 * STRIPS + strips[along], (total, 2 * STRIPS)
    counts = np.bincount(place, minlength=total * 2 * STRIPS)
    sums = [np.bincount(place, plane[along], len(counts)) for plane in picture]
    means = (np.stack(sums) / np.maximum(counts, 1)).reshape(-1, *shape)
    counts = counts.reshape(shape)
    weights = np.minimum(counts[:, 1:], counts[:, :-1]).astype(np.float64)
    weights[weights < STRIP**2] = 0
    jumps = np.abs(np.diff(means, axis=-1)).mean(axis=0) * weights
    return jumps.sum(axis=0), weights.sum(axis=0)


def _cells_along(
    depths: npt.NDArray[np.int64], box: Box, at: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], int]:
    """The cell that a pixel beside the edge belongs to, (h, w), and how many cells there are.

    It is the cell in which the nearest edge begins, so that strips are cut along the edge and never
    from one another; -1 where that is not in ``box``, or further than `DEEP`.
    """
    height, width = depths.shape
    rows, columns = (np.arange(height) + at[0]) // CELL, (np.arange(width) + at[1]) // CELL
    across = int(columns[-1] - columns[0]) + 1
    total = int(rows[-1] - rows[0] + 1) * across
    mine = np.full(depths.shape, total)  # a cell of another window
    mine[box.slices] = ((rows - rows[0])[:, None] * across + columns - columns[0])[box.slices]
    padded = np.pad(depths, 1, constant_values=2 * DEEP)
    flat, cells = padded.ravel(), np.pad(mine, 1).ravel()
    for depth in (*range(0, -DEEP, -1), *range(2, DEEP + 1)):
        here = np.flatnonzero(flat == depth)
        nearer = depth + 1 if depth < 1 else depth - 1
        ways = ((1, -1), (width + 2, -width - 2))  # in turn, so that it is straight on slopes too
        for aside in (*ways[depth % 2], *ways[1 - depth % 2]):
            beside = here + aside
            found = flat[beside] == nearer
            cells[here[found]] = cells[beside[found]]
    kept = cells.reshape(padded.shape)[1:-1, 1:-1]
    return np.where(kept < total, kept, -1), total


def stride_peak(picture: Floats, mask: Bools, stride: int) -> float | None:
    """How far seams at a regular distance show: their peak in the spectrum of a profile.

    The profile has for each column border the mean step of neighbours in the mask; in runs of
    `RUN` rows its sign counts, as a line that goes on is seen better than its pixels. P(f) is the
    power of its Hann-windowed Fourier transform. Mean over the harmonics f = h / stride, at most
    `HARMONICS`, of (P(f) + e) / (U(f) + e), where U, the usual power, is the median of P at the
    eight nearest middles between harmonics, over ln 2 as noise has it, and e the power of noise of
    `EPSILON`. Of that and the same across rows the larger. From 0; about 1 without seams, above 3
    where they show; None where the mask is shorter than `CYCLES` strides both ways. After Wang,
    Bovik and Evans (2000), "Blind measurement of blocking artifacts in images".
    """
    both = ((picture, mask), (picture.swapaxes(-1, -2), mask.T))
    peaks = [_peak(_profile(*one), stride) for one in both]
    return max((peak for peak in peaks if peak is not None), default=None)


def _profile(picture: Floats, mask: Bools) -> Doubles:
    """The profile of `stride_peak` across columns, less its mean; 0 in gaps."""
    starts = np.arange(0, len(mask), RUN)
    pairs = np.add.reduceat(mask[:, 1:] & mask[:, :-1], starts, axis=0, dtype=np.int64)
    steps = np.diff(picture, axis=-1) * (mask[:, 1:] & mask[:, :-1])
    sums = np.add.reduceat(steps, starts, axis=1, dtype=np.float64)
    runs = np.abs(sums).mean(axis=0) / np.maximum(pairs, 1)
    whole = pairs == RUN
    counts = whole.sum(axis=0)
    there = np.flatnonzero(counts)
    if not len(there):
        return np.zeros(0)
    span = slice(there[0], there[-1] + 1)
    means = (runs * whole).sum(axis=0)[span] / np.maximum(counts[span], 1)
    overall = means[counts[span] > 0].mean()
    return np.asarray(np.where(counts[span] > 0, means - overall, 0.0))


def _peak(profile: Doubles, stride: int) -> float | None:
    if len(profile) < CYCLES * stride:
        return None
    x, window = np.arange(len(profile)), np.hanning(len(profile))

    def powers(cycles: Doubles) -> Doubles:
        """At frequencies in cycles per stride."""
        waves = np.exp(-2j * np.pi / stride * cycles[:, None] * x)
        return np.asarray(np.abs(waves @ (profile * window)) ** 2)

    harmonics = np.arange(1, min(HARMONICS, stride // 2) + 1, dtype=np.float64)
    between = np.abs(harmonics[:, None] + BETWEEN)
    usual = np.median(powers(between.ravel()).reshape(between.shape), axis=1) / np.log(2)
    least = EPSILON**2 * (window**2).sum()
    return float(((powers(harmonics) + least) / (usual + least)).mean())
