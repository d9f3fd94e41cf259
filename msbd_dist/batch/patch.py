"""What an edit makes of its picture, window by window: the final stage, pasted through the mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.canvas.masks import feather
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.store import Canvas
from msbd_dist.core.compose import Bools, Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan

PART = Size(1024, 1024)  # pixels that are pasted together


class Patch:
    """What the edit makes of the mask's bounding box, window by window, and the mask itself.

    ``x_out = m * x_n + (1 - m) * x_in``, rounded; where m = 0 the input's own samples.
    ``changed``: how many samples of all windows that were asked for differ from the input.
    """

    def __init__(self, canvas: Canvas, dtype: np.dtype[Any]) -> None:
        self._plan, self._canvas, self._dtype = canvas.plan, canvas, dtype
        self.changed = 0

    def __call__(self, box: Box) -> Samples:
        """(3, h, w) of a box inside the mask's, in the picture's own integers."""
        patch = np.empty((3, *box.size.shape), self._dtype)
        for part in box.tiles(PART):
            patch[(slice(None), *part.relative_to(box).slices)] = self._part(part)
        return patch

    def any(self, box: Box) -> bool:
        return bool(self.window(box).any())

    def window(self, box: Box) -> Bools:
        return self._canvas.mask(box)

    def _part(self, box: Box) -> Samples:
        canvas, final = self._canvas, self._plan.final
        source, mask = canvas.source_integers(box), canvas.mask(box)
        if not mask.any():
            return source
        edited = canvas.composed(final, box.relative_to(final.region))
        shown = alpha(canvas, self._plan, box)
        mixed = shown * edited + (1 - shown) * to_float(source)
        patch = np.where(mask, from_float(mixed, self._dtype), source)
        self.changed += int(np.count_nonzero(patch != source))
        return patch


def alpha(canvas: Canvas, plan: Plan, box: Box) -> Floats:
    """How much of the edit shows in a part of the mask's bounding box: (h, w) in [0, 1]."""
    bounds = plan.bbox.grown(1).intersection(Box.of(plan.image))  # beyond it nothing is masked
    assert bounds is not None
    return feather(canvas.mask, plan.method.feather, box, bounds=bounds)
