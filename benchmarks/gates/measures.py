"""What gates measure of a finished edit: each a number, by `Eyes` that no fault has touched.

Measures look at what was stored and recorded of an edit, and at its input. Levels are those of
8-bit pictures, 0 to 255.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import combinations
from math import inf, log10, sqrt
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from benchmarks.gates.edits import Call, Made
from msbd_dist.core.compose import Bools, Floats, latent_mask
from msbd_dist.core.geometry import Box
from msbd_dist.core.measure import Steps, seams
from msbd_dist.core.plan import Stage
from msbd_dist.core.quality import changed_outside, edge_consistency, sharpness
from msbd_dist.models.card import bundled_folder
from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.cases import GROUNDS, NAMES
from msbd_dist.tiny.evaluate.edits import contrast
from msbd_dist.tiny.evaluate.family import Family
from msbd_dist.tiny.scenes import Image

_FAR = 12  # pixels from the mask from which on nothing of the edit can be seen
_DEEP = 4  # pixels from the mask's edge at which the edit itself is looked at
_MOVED = 1e-3  # by so much a latent has been painted
_LEVELS = 255


class Eyes:
    """A family loaded apart from the one that paints."""

    @cached_property
    def family(self) -> Family:
        return Family(bundled_folder(), "cpu")

    def scores(self, picture: Image, names: tuple[str, ...]) -> np.ndarray:
        """CLIP's similarity to each name, cosines times 100."""
        return self.family.judge.scores([np.ascontiguousarray(picture)], names)[0]

    def encode(self, picture: Floats) -> Tensor:
        """(3, H, W) -> (1, C, h, w)."""
        return self.family.latent.encode(torch.from_numpy(np.ascontiguousarray(picture))[None])

    def decode(self, z: Tensor) -> Floats:
        """(1, C, h, w) -> (3, H, W) by the pretrained decoder."""
        return np.asarray(self.family.latent.decode(z)[0].clamp(0, 1))

    def alpha(self, t: int) -> float:
        """The cumulative alpha of a timestep."""
        return float(self.family.latent.alphas_cumprod[t])


# --- the words ------------------------------------------------------------------------------------


def named(eyes: Eyes, made: Made) -> float:
    """CLIP's score of the thing asked for, less the best of the 55 others; of the mask's box."""
    ys, xs = np.nonzero(made.case.masked)
    crop = made.after[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    scores = eyes.scores(crop, NAMES)
    wanted = NAMES.index(made.case.prompt.split(" on ")[0])
    return float(scores[wanted] - np.delete(scores, wanted).max())


def painted(eyes: Eyes, made: Made) -> float:
    """The part of the mask that the pixel probe finds to be a thing of the colour asked for."""
    colour = made.case.prompt.split()[1]
    area = sum(blob.area for blob in probe.blobs(made.after) if blob.colour == colour)
    return float(area / made.case.masked.mean())


def chosen(eyes: Eyes, made: Made) -> float:
    """CLIP's score of the candidate that was kept, less the best of the others."""
    canvas = made.edit.canvas(made.final)
    pictures = [canvas.candidate(b) for b in range(made.plan.method.samples)]
    scores = [eyes.scores(_image(picture), (made.case.prompt,))[0] for picture in pictures]
    kept = made.composed(made.final)
    which = int(np.argmin([abs(kept - picture).mean() for picture in pictures]))
    return float(scores[which] - max(np.delete(scores, which)))


# --- removal --------------------------------------------------------------------------------------


def removed(eyes: Eyes, made: Made) -> float:
    """CLIP's best score of a background alone, less the best of the 56 things."""
    scores = eyes.scores(made.after, NAMES + GROUNDS)
    return float(scores[len(NAMES) :].max() - scores[: len(NAMES)].max())


def continued(eyes: Eyes, made: Made) -> float:
    """How far mean colours in the mask and in a ring around it differ, in levels."""
    return _LEVELS * contrast(made.after, made.case.masked)


def texture(eyes: Eyes, made: Made) -> float:
    """Sharpness in the mask over that of the input around it."""
    inside, outside = _parts(made.case.masked, _DEEP)
    return _sharpness(_floats(made.after), inside) / _sharpness(_floats(made.case.picture), outside)


def edge_step(eyes: Eyes, made: Made) -> float:
    """How far the mask's edge shows as a line: `Edge.gradient`."""
    return edge_consistency(_floats(made.after), made.case.masked).gradient or inf


def edge_colour(eyes: Eyes, made: Made) -> float:
    """How far colours jump at the mask's edge: `Edge.colour`."""
    return edge_consistency(_floats(made.after), made.case.masked).colour or inf


# --- what is held ---------------------------------------------------------------------------------


def held(eyes: Eyes, made: Made) -> float:
    """The largest difference of a latent outside the mask from the encoded input."""
    moved, cells = _moved(eyes, made)
    return float(moved[~cells].max())


def reached(eyes: Eyes, made: Made) -> float:
    """The part of the latent cells with a masked pixel that were painted."""
    moved, cells = _moved(eyes, made)
    return float((moved[cells] > _MOVED).mean())


def background(eyes: Eyes, made: Made) -> float:
    """Root mean square difference of the last stage from the input far from the mask, levels."""
    _, far = _parts(made.mask(made.final), _FAR)
    return _rms(made.composed(made.final) - made.source(made.final), far)


def level(eyes: Eyes, made: Made) -> float:
    """The noise on latents outside the mask over that of the timestep which the model is told.

    Of all calls of the first stage the ratio that is furthest from 1, or its inverse.
    """
    z0 = eyes.encode(made.source(made.final))[0]
    outside = torch.from_numpy(~_cells(made, made.final))
    ratios = [_noise(eyes, call, z0)[:, outside].std() for call in made.record.calls[0]]
    return float(max(max(ratio, 1 / ratio.clamp(min=_MOVED)) for ratio in ratios))


def liveliness(eyes: Eyes, made: Made) -> float:
    """The noise that the model finds on latents in the mask over that of the timestep it is told.

    Root mean square over all calls of the first stage.
    """
    inside = torch.from_numpy(_cells(made, made.final))
    found = [_noise(eyes, call, call.x0)[:, inside] for call in made.record.calls[0]]
    return float(torch.stack(found).square().mean().sqrt())


# --- later stages ---------------------------------------------------------------------------------


def lowpass(eyes: Eyes, made: Made) -> float:
    """Sharpness of the background that the last stage's first segment is given, over the input's.

    In the paper's words: whether it is as sharp as the stage before, which is what is edited.
    """
    stage = made.final
    given = made.record.encoded[stage.index][0][0].numpy()
    window = stage.window(0)
    _, outside = _parts(made.mask(stage)[window.slices], _DEEP)
    return _sharpness(given, outside) / _sharpness(_cut(made.source(stage), window), outside)


def refined(eyes: Eyes, made: Made) -> float:
    """How far the last stage moved the masked latents that it was given, root mean square."""
    stage = made.final
    moved = []
    for slot, z in enumerate(made.latents(stage)):
        window = stage.window(slot)
        common = window.intersection(Box.of(stage.size))
        assert common is not None
        mask = np.zeros(window.size.shape, bool)
        mask[common.relative_to(window).slices] = made.mask(stage)[common.slices]
        cells = torch.from_numpy(latent_mask(mask, made.plan.family.vae_factor))
        given = eyes.encode(made.record.encoded[stage.index][slot][0].numpy())
        moved.append((z - given)[0][:, cells].flatten())
    return float(torch.cat(moved).square().mean().sqrt())


def seam(eyes: Eyes, made: Made) -> float:
    """The mean step across the borders of segments over that beside them, in the mask."""
    stage = made.final
    picture, mask = made.composed(stage), made.mask(stage)
    bounds = Box.of(stage.size)
    found = seams(
        *(stage.grid, lambda box: _cut(picture, box), lambda box: mask[box.slices], bounds),
        cell=made.plan.family.vae_factor,
    )
    return sum((steps for _, steps in found), Steps()).ratio or inf


def one_noise(eyes: Eyes, made: Made) -> float:
    """The part of the noise where segments overlap that differs between them."""
    by_draw = defaultdict(list)
    for drawn in made.record.drawn[made.final.index]:
        by_draw[drawn.draw].append(drawn)
    differing = [
        (
            _cut(one.values, common.relative_to(one.box))
            != _cut(two.values, common.relative_to(two.box))
        )
        for some in by_draw.values()
        for one, two in combinations(some, 2)
        if (common := one.box.intersection(two.box))
    ]
    return float(torch.stack(differing).float().mean())


def agreement(eyes: Eyes, made: Made) -> float:
    """The mean difference of segments of the last stage where they overlap in the mask, levels."""
    return (
        float(np.mean([abs(one - two)[:, mask].mean() for one, two, _, mask in _overlaps(made)]))
        * _LEVELS
    )


def between(eyes: Eyes, made: Made) -> float:
    """How far composed pixels lie below or above both of their segments, mean, in levels."""
    beyond = [
        np.maximum(np.minimum(one, two) - both, 0) + np.maximum(both - np.maximum(one, two), 0)
        for one, two, both, _ in _overlaps(made)
    ]
    return float(np.mean(beyond)) * _LEVELS


def enlarged(eyes: Eyes, made: Made) -> float:
    """How much nearer to the truth the enlarged mask is than by bicubic interpolation, in dB."""
    inside, _ = _parts(made.mask(made.final), _DEEP)
    truth = made.source(made.final)
    bicubic = _bicubic(made.source(made.plan.stages[-2]), made.final)
    errors = (_rms(picture - truth, inside) for picture in (bicubic, made.composed(made.final)))
    return 20 * log10(next(errors) / next(errors))


def crisp(eyes: Eyes, made: Made) -> float:
    """Sharpness of what super-resolution made over that of the truth, in the mask."""
    inside, _ = _parts(made.mask(made.final), _DEEP)
    pictures = (made.composed(made.final), made.source(made.final))
    large, truth = (_sharpness(picture, inside) for picture in pictures)
    return large / truth


# --- decoder optimization -------------------------------------------------------------------------


def fitted(eyes: Eyes, made: Made) -> float:
    """The mismatch with the input outside the mask after the fit over that before it.

    Of the segments of the last stage the one with the greatest ratio.
    """
    return max(
        _rms(tuned - truth, ~mask) / _rms(plain - truth, ~mask)
        for tuned, plain, truth, mask in _decoded(eyes, made)
    )


def kept(eyes: Eyes, made: Made) -> float:
    """How far the fit changed what is in the mask, root mean square, levels; the worst segment."""
    return max(_rms(tuned - plain, mask) for tuned, plain, _, mask in _decoded(eyes, made))


def deep(eyes: Eyes, made: Made) -> float:
    """The same of what is at least a latent cell inside the mask."""
    cell = made.plan.family.vae_factor - 1
    return max(
        _rms(tuned - plain, _parts(mask, cell)[0]) for tuned, plain, _, mask in _decoded(eyes, made)
    )


# --- the file -------------------------------------------------------------------------------------


def exact(eyes: Eyes, made: Made) -> float:
    """Samples outside the mask that differ from the input."""
    before, after = (p.transpose(2, 0, 1) for p in (made.case.picture, made.after))
    return changed_outside(before, after, made.case.masked)


def pasted(eyes: Eyes, made: Made) -> float:
    """Root mean square difference of the file from the last stage in the mask, levels.

    Rounding makes a uniform error of 1 / sqrt(12) = 0.29; cutting makes 1 / sqrt(3) = 0.58.
    """
    box, stage = made.plan.bbox, made.final
    wanted = _cut(made.composed(stage), box.relative_to(stage.region))
    return _rms(_floats(made.after[box.slices]) - wanted, made.case.masked[box.slices])


# --- parts ----------------------------------------------------------------------------------------


def _floats(picture: Image) -> Floats:
    """(H, W, 3) uint8 -> (3, H, W) in [0, 1]."""
    return (picture.transpose(2, 0, 1) / np.float32(_LEVELS)).astype(np.float32)


def _image(picture: Floats) -> Image:
    return np.rint(picture.transpose(1, 2, 0) * _LEVELS).astype(np.uint8)


def _cut(planes: Any, box: Box) -> Any:
    """A box of planes (C, H, W)."""
    return planes[(slice(None), *box.slices)]


def _parts(mask: Bools, pixels: int) -> tuple[Bools, Bools]:
    """What is deeper inside the mask, and further outside, than so many pixels."""
    return distance_transform_edt(mask) > pixels, distance_transform_edt(~mask) > pixels


def _sharpness(picture: Floats, mask: Bools) -> float:
    return sharpness(picture, mask) or 0.0


def _rms(difference: Floats, mask: Bools) -> float:
    return _LEVELS * sqrt(float((difference[:, mask].astype(np.float64) ** 2).mean()))


def _cells(made: Made, stage: Stage) -> Bools:
    """The latent cells that hold a masked pixel: (h, w)."""
    return latent_mask(made.mask(stage), made.plan.family.vae_factor)


def _moved(eyes: Eyes, made: Made) -> tuple[np.ndarray, Bools]:
    """How far each latent of the last stage is from the encoded input; cells with masked pixels."""
    (z,), z0 = made.latents(made.final), eyes.encode(made.source(made.final))
    return np.asarray(abs(z - z0).amax(1)[0]), _cells(made, made.final)


def _noise(eyes: Eyes, call: Call, z0: Tensor) -> Tensor:
    """What a latent holds beside a clean one, over what its timestep has of it."""
    a = eyes.alpha(call.t)
    return (call.z - sqrt(a) * z0) / sqrt(1 - a)


def _bicubic(picture: Floats, stage: Stage) -> Floats:
    """A picture at the size of a stage."""
    size = (stage.size.width, stage.size.height)
    planes = [Pil.fromarray(plane).resize(size, Pil.Resampling.BICUBIC) for plane in picture]
    return np.clip(np.stack([np.asarray(plane) for plane in planes]), 0, 1)


def _overlaps(made: Made) -> Iterator[tuple[Floats, Floats, Floats, Bools]]:
    """Where two segments of the last stage overlap: both, what was composed, the mask."""
    stage, size = made.final, Box.of(made.final.size)
    picture, mask = made.composed(stage), made.mask(stage)
    slots = [(stage.window(i), pixels) for i, pixels in enumerate(made.segments(stage))]
    for (here, one), (there, two) in combinations(slots, 2):
        common = here.intersection(there)
        common = common and common.intersection(size)
        if common is not None:
            pair = (_cut(one, common.relative_to(here)), _cut(two, common.relative_to(there)))
            yield (*pair, _cut(picture, common), mask[common.slices])


def _decoded(eyes: Eyes, made: Made) -> Iterator[tuple[Floats, Floats, Floats, Bools]]:
    """Each segment as it was decoded, by the pretrained decoder, as in the input; its mask."""
    stage = made.final
    source, mask = made.source(stage), made.mask(stage)
    for slot, (z, tuned) in enumerate(zip(made.latents(stage), made.segments(stage), strict=True)):
        window = stage.window(slot)
        common = window.intersection(Box.of(stage.size))
        assert common is not None
        inner = common.relative_to(window)
        plain = _cut(eyes.decode(z), inner)
        yield _cut(tuned, inner), plain, _cut(source, common), mask[common.slices]
