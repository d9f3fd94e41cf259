"""How a finished edit looks, as numbers. What each says, in one place: `MEASURES`.

Of every edit of a run they are taken by a worker, where the edit is stored, and of files by
`msbd measure` (`msbd_dist.batch.compare`). All are taken window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from msbd_dist.canvas.images import to_float
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.compose import Bools, Floats, Read, read_reflected, view
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.plan import Plan
from msbd_dist.core.quality import measured

if TYPE_CHECKING:
    import torch

    from msbd_dist.models.likeness import Lpips

TILE = 256  # pixels along each edge, at most, of what is compared together
TILES = 128  # of them at most, spread evenly
BEFORE = "_before"  # ends the names of what the picture had before

Values = dict[str, float | None]
Window = Callable[[Box], Samples]


@dataclass(frozen=True)
class Measure:
    """What a measure is called in JSON, and what people are told of it."""

    key: str
    label: str
    says: str
    digits: int = 2


MEASURES = (
    Measure("changed_outside", "changed outside the mask", "samples; 0 is exact", 0),
    Measure(
        "seam_ratio",
        "seams of segments",
        "steps across their borders over those beside; about 1 where nothing shows",
    ),
    Measure(
        "edge_gradient",
        "mask's edge as a line",
        "steps across it over those beside; about 1 where nothing shows",
    ),
    Measure(
        "edge_colour",
        "mask's edge in colour",
        "jumps of mean colours across it over those beside; about 1 where nothing shows",
    ),
    Measure(
        "sharpness", "sharpness inside", "RMS of the Laplacian, 0 to 1; like before is good", 4
    ),
    Measure("clip", "CLIP score", "likeness to the prompt, cosine times 100; more is better"),
    Measure("psnr", "PSNR", "dB to what it is compared with; more is more alike"),
    Measure("ssim", "SSIM", "likeness of structure, 1 for equal", 4),
    Measure("lpips", "LPIPS", "perceptual distance, 0 for equal", 4),
)


@dataclass(frozen=True)
class Sides:
    """A picture before and after an edit, as windows; boxes are of the upright picture."""

    bounds: Box  # what may be asked for
    bbox: Box  # the mask's
    before: Window  # (3, h, w) of integers
    after: Window
    mask: Callable[[Box], Bools]  # (h, w)


def appearance(sides: Sides) -> Values:
    """Edge and sharpness, after and before: see `msbd_dist.core.quality`."""
    found: Values = {}
    for window, suffix in ((sides.after, ""), (sides.before, BEFORE)):
        edge, sharp = measured(floats(window), sides.mask, sides.bbox, sides.bounds)
        found |= {
            f"edge_gradient{suffix}": edge.gradient,
            f"edge_colour{suffix}": edge.colour,
            f"sharpness{suffix}": sharp.value,
        }
    return rounded(found)


def likeness(sides: Sides, other: Window, *, lpips: Lpips | None, device: torch.device) -> Values:
    """PSNR, SSIM and LPIPS of the mask's box after the edit and of another picture there.

    Beside the picture before the edit they say how much was changed; beside a truth, how well it
    was met. Boxes of more than `TILES` tiles are compared in so many, spread evenly.
    """
    import torch

    from msbd_dist.models.likeness import Likeness

    found = Likeness(lpips, device=device)
    for tile in spread(sides.bbox):
        found.add(*(torch.from_numpy(to_float(one(tile))) for one in (sides.after, other)))
    return rounded({"psnr": found.psnr, "ssim": found.ssim, "lpips": found.lpips})


def spread(box: Box) -> Iterator[Box]:
    """Tiles of about equal size that are the box, or `TILES` of them, spread evenly."""
    ys, xs = _cuts(box.y0, box.y1), _cuts(box.x0, box.x1)
    total = (len(ys) - 1) * (len(xs) - 1)
    for index in np.unique(np.linspace(0, total - 1, min(total, TILES)).round().astype(int)):
        row, column = divmod(int(index), len(xs) - 1)
        yield Box(ys[row], xs[column], ys[row + 1], xs[column + 1])


def _cuts(start: int, stop: int) -> list[int]:
    count = -(-(stop - start) // TILE)
    return [start + (stop - start) * i // count for i in range(count + 1)]


def framed(sides: Sides, plan: Plan) -> Floats:
    """What CLIP is shown of a finished edit: the part of the picture that the first stage sees, as
    small as it sees it: (3, h, w) in [0, 1]."""
    region = plan.stages[0].region
    scale = plan.family.native / region.size.long_edge
    size = Size(*(max(1, round(side * scale)) for side in region.size.shape))

    def read(box: Box) -> Floats:
        return to_float(read_reflected(sides.after, box, Box.of(plan.image)))

    return view(read, Rect(region.y0, region.x0, region.y1, region.x1), size)


def pasted(before: Window, patch: Window, bbox: Box) -> Window:
    """A picture with ``patch`` in a box, as windows."""

    def window(box: Box) -> Samples:
        common = box.intersection(bbox)
        if common == box:
            return patch(box)
        pixels = before(box)
        if common is not None:
            pixels = pixels.copy()
            pixels[(slice(None), *common.relative_to(box).slices)] = patch(common)
        return pixels

    return window


def floats(window: Window) -> Read:
    """The same window as (3, h, w) in [0, 1]."""

    def read(box: Box) -> npt.NDArray[np.float32]:
        return to_float(window(box))

    return read


def rounded(values: Values) -> Values:
    """Four significant digits: what is beyond tells nothing."""
    return {key: None if value is None else float(f"{value:.4g}") for key, value in values.items()}


def most_visible(values: Mapping[str, float | None]) -> float | None:
    """The largest of the ratios that say how far borders show; None where there is none."""
    found = (values.get(key) for key in ("seam_ratio", "edge_gradient", "edge_colour"))
    return max((ratio for ratio in found if ratio is not None), default=None)


def table(values: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Measures as people read them: rows with "label", "says", "after" and "before"."""
    return [
        {
            "label": one.label,
            "says": one.says,
            "after": _text(values.get(one.key), one.digits),
            "before": _text(values.get(f"{one.key}{BEFORE}"), one.digits),
        }
        for one in MEASURES
    ]


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
