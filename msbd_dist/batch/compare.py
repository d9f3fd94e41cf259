"""`msbd measure`: a picture before and after an edit, as files of any size, as numbers.

Exactness outside the mask is compared over the whole pictures, in strips; all else is taken by
windows around the mask. A file that can only be streamed is copied there first, to a temporary
file, so that memory does not grow with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msbd_dist.batch.documents import Place
from msbd_dist.batch.keys import mask_argument
from msbd_dist.batch.manifest import make_edit, parse_settings
from msbd_dist.batch.measures import Sides, Values, Window, appearance, framed, likeness, rounded
from msbd_dist.batch.steps import streamed
from msbd_dist.batch.tiles import View, seams_of
from msbd_dist.canvas.combined import make_mask
from msbd_dist.canvas.images import Picture, turn_stored
from msbd_dist.canvas.masks import Mask
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.vips import strip_rows
from msbd_dist.core.geometry import Box
from msbd_dist.core.plan import Plan, make_plan
from msbd_dist.core.quality import HALO, changed_outside
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.errors import ImageError
from msbd_dist.models.card import resolve

ROWS = 512  # of a picture that are looked at together, where they are short enough


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure` found: `MEASURES`, and why some are not there."""

    before: str
    after: str
    against: str  # what PSNR, SSIM and LPIPS compare with
    outside: int  # samples outside the mask
    measures: Values
    missing: dict[str, str]

    @property
    def exact(self) -> bool:
        """Whether no sample outside the mask differs."""
        return self.measures["changed_outside"] == 0


def measure(
    before: str,
    after: str,
    mask: str,
    *,
    prompt: str = "",
    truth: str | None = None,
    models: ModelSpec,
    settings: list[str] | None = None,
    margin: float | None = None,
) -> Measured:
    """Measure an edit from its files.

    ``mask`` is any that an edit may have, a box or a mapping in brackets. ``margin`` and
    ``settings``, options of the method as KEY=VALUE, say where the edit's segments were. Raises
    `InputError`: files that can't be read or don't fit one another, an empty mask, a model that is
    not there.
    """
    spec = _spec(before, mask, prompt, settings or [], margin)
    picture, edited = Picture.open(spec.source), Picture.open(after)
    _require_alike(picture, edited)
    masked = make_mask(spec.mask, picture)
    plan = make_plan(
        picture.size, masked.bbox, masked.any, family=resolve(models).family, method=spec.method
    )
    changed, outside = exactness(picture, edited, masked)
    with ExitStack() as stack:
        bounds = _bounds(plan)
        one, two = (stack.enter_context(windows(each, bounds)) for each in (picture, edited))
        sides = Sides(bounds=bounds, bbox=plan.bbox, before=one, after=two, mask=masked.window)
        other = one
        if truth is not None:
            wanted = Picture.open(truth)
            _require_alike(picture, wanted)
            other = stack.enter_context(windows(wanted, bounds))
        values: Values = {"changed_outside": changed, "seam_ratio": _seams(sides, plan)}
        values |= appearance(sides)
        judged, missing = _judged(sides, plan, other, prompt, models)
    if values["seam_ratio"] is None:
        missing["seam_ratio"] = "no segment begins or ends inside the mask"
    return Measured(
        before=before,
        after=after,
        against=truth or before,
        outside=outside,
        measures=values | judged,
        missing=missing,
    )


def _spec(
    image: str, mask: str, prompt: str, settings: list[str], margin: float | None
) -> EditSpec:
    values: dict[str, Any] = {"id": "measure", "image": image, "mask": mask_argument(mask)}
    values["prompt"] = prompt
    values |= {} if margin is None else {"margin": margin}
    values |= parse_settings(settings)
    return make_edit(values, folder=Path.cwd(), where=Place(None, {}))


def _require_alike(one: Picture, other: Picture) -> None:
    """ImageError where the samples of two pictures don't lie upon one another."""
    if one.size != other.size:
        raise ImageError(
            f"{other.path}: has {other.size} pixels, {one.path} has {one.size}; give pictures of "
            "the same size"
        )
    if one.orientation != other.orientation:
        raise ImageError(
            f"{other.path}: has EXIF orientation {other.orientation}, {one.path} has "
            f"{one.orientation}; save both in the same way"
        )
    if one.dtype != other.dtype:
        bits = [8 * each.dtype.itemsize for each in (other, one)]
        raise ImageError(
            f"{other.path}: has {bits[0]} bits per sample, {one.path} has {bits[1]}; give pictures "
            "of the same depth"
        )


def _bounds(plan: Plan) -> Box:
    """The part of the picture that measures look at."""
    near = plan.source_box.union(plan.bbox.grown(HALO)).intersection(Box.of(plan.image))
    assert near is not None
    return near


# ---------------------------------------------------------------- files


def exactness(before: Picture, after: Picture, mask: Mask) -> tuple[int, int]:
    """Samples that differ outside the mask, of the whole pictures with their alpha, and how many
    there are outside. Both are streamed, once."""
    bytes_each = max(before.pixel_bytes, after.pixel_bytes)
    rows = strip_rows(before.stored_size, bytes_each)
    bands = max(before.bands, after.bands) + max(before.has_alpha, after.has_alpha)
    changed = outside = 0
    for (y, one), (_, two) in zip(before.strips(rows), after.strips(rows), strict=True):
        strip = Box(y, 0, y + len(one), one.shape[1])
        upright = mask.window(before.upright_box(strip))
        kept = turn_stored(upright, before.orientation)
        changed += changed_outside(_planes(one, before, bands), _planes(two, after, bands), kept)
        outside += bands * int(np.count_nonzero(~kept))
    return changed, outside


def _planes(pixels: Samples, picture: Picture, bands: int) -> npt.NDArray[Any]:
    """(h, w, bands + alpha) as (``bands``, h, w): grey in all colours, opaque where no alpha is."""
    planes = pixels.transpose(2, 0, 1)
    if len(planes) == bands:
        return planes
    colours, alpha = planes[: picture.bands], planes[picture.bands :]
    if picture.bands == 1 and bands >= 3:
        colours = np.repeat(colours, 3, axis=0)
    if len(colours) < bands and not len(alpha):
        alpha = np.full((1, *colours.shape[1:]), np.iinfo(pixels.dtype).max, pixels.dtype)
    return np.concatenate([colours, alpha])


@contextmanager
def windows(picture: Picture, bounds: Box) -> Iterator[Window]:
    """Windows (3, h, w) of a part of a picture, from a temporary file where it must be streamed."""
    if picture.random:
        yield picture.read
        return
    with tempfile.TemporaryFile(prefix="msbd-measure-") as file:
        kept: npt.NDArray[Any] = np.memmap(file, picture.dtype, "w+", shape=(3, *bounds.size.shape))
        for box, pixels in streamed(picture, bounds, ROWS):
            kept[(slice(None), *box.relative_to(bounds).slices)] = pixels

        def window(box: Box) -> Samples:
            return np.array(kept[(slice(None), *box.relative_to(bounds).slices)])

        yield window


# ---------------------------------------------------------------- measures


def _seams(sides: Sides, plan: Plan) -> float | None:
    view = View(
        box=sides.bounds,
        edited=plan.bbox,
        before=sides.before,
        after=sides.after,
        mask=sides.mask,
    )
    overall: float | None = seams_of(
        view, plan.final.grid, plan.final.region, cell=plan.family.vae_factor
    )["overall"]
    return overall


def _judged(
    sides: Sides, plan: Plan, other: Window, prompt: str, models: ModelSpec
) -> tuple[Values, dict[str, str]]:
    """What models say, and why some say nothing."""
    import torch

    from msbd_dist.models.bundle import load
    from msbd_dist.models.likeness import lpips_weights

    loaded, missing = load(resolve(models), device=models.device), dict[str, str]()
    values = likeness(sides, other, lpips=loaded.lpips, device=loaded.device)
    if loaded.lpips is None:
        missing["lpips"] = f"{lpips_weights()} is not there: put torchvision's AlexNet there"
    for name in ("psnr", "ssim", "lpips"):
        if values[name] is None and name not in missing:
            missing[name] = "nothing differs" if name == "psnr" else "the mask's box is too small"
    if prompt.strip():
        picture = torch.from_numpy(framed(sides, plan))[None]
        (score,) = loaded.scorer(picture, prompt)
        values |= rounded({"clip": score})
    else:
        values["clip"], missing["clip"] = None, "there is no prompt"
    return values, missing
