"""What is measured of pictures of a case; each function gives values by the keys of columns."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from benchmarks.claims.done import planes
from benchmarks.claims.scenes import Case
from msbd_dist.core.quality import edge_consistency, sharpness
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import load
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import LatentModel
from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.edits import crop
from msbd_dist.tiny.evaluate.family import images
from msbd_dist.tiny.evaluate.judge import Judge
from msbd_dist.tiny.evaluate.measure import named_right
from msbd_dist.tiny.scenes import Image

Values = dict[str, float]


@cache
def judge() -> Judge:
    """The bundled family's CLIP, once per process."""
    return Judge(resolve(ModelSpec()).clip, torch.device("cpu"))


@cache
def _latent() -> LatentModel:
    return load(resolve(ModelSpec()), device="cpu").latent


def coded(picture: Image) -> Image:
    """A picture through the bundled autoencoder and back."""
    latent = _latent()
    with torch.no_grad():
        return images(latent.decode(latent.encode(torch.from_numpy(planes(picture))[None])))[0]


def pretrained(z: np.ndarray) -> np.ndarray:
    """A latent (C, h, w) as the bundled decoder has it: (3, H, W) in [0, 1]."""
    with torch.no_grad():
        return _latent().decode(torch.from_numpy(z)[None])[0].clamp(0, 1).numpy()


def obeyed(case: Case, picture: Image) -> Values:
    """Whether the asked colour and shape are there, by CLIP and by the probe.

    CLIP names the smallest square that holds the mask, among all 56 kinds; the probe looks at the
    whole picture, whose frame tells it the background.
    """
    said = judge().kinds([crop(case.placed, picture)])[0]
    colour, shape = probe.name(picture)
    by_clip = named_right(said, case.kind, "clip ")
    seen = (colour == case.kind.colour, shape == case.kind.shape)
    return by_clip | {
        "clip": float(said == case.kind),
        "probe colour": float(seen[0]),
        "probe shape": float(seen[1]),
        "probe": float(all(seen)),
    }


def edge(picture: Image, mask: np.ndarray) -> Values:
    """How far the mask's edge shows: as a jump of colours, and as a line."""
    found = edge_consistency(planes(picture), mask)
    named = {"edge colour": found.colour, "edge line": found.gradient}
    return {key: value for key, value in named.items() if value is not None}


def sharp(picture: Image, mask: np.ndarray, truth: Image) -> Values:
    """Sharpness inside the mask over that of a true picture."""
    own, real = (sharpness(planes(one), mask) for one in (picture, truth))
    if own is None or not real:
        return {}
    return {"sharpness": own / real}


def objects(case: Case, picture: Image) -> Values:
    """Whether one object of the asked kind is there, rather than several or parts.

    "found": connected areas of its colour, of at least an object's size. "one": whether that is
    one. "like": how well one silhouette of its shape covers all of that colour. "window": by how
    much CLIP's score of the name is higher for the best of nine windows than for the whole; a
    window shows the whole of what is repeated, and a part of what is not.
    """
    kind = case.kind
    found = sum(blob.colour == kind.colour for blob in probe.blobs(picture))
    scores = judge().scores([crop(case.placed, picture), *windows(picture)], (kind.name,))[:, 0]
    return {
        "found": float(found),
        "one": float(found == 1),
        "like": probe.likeness(picture, kind.colour, kind.shape),
        "window": float(scores[1:].max() - scores[0]),
    }


def windows(picture: Image) -> list[Image]:
    """Nine windows of half the sides, a quarter of them apart."""
    height, width = (side // 2 for side in picture.shape[:2])
    return [
        np.ascontiguousarray(
            picture[y * height // 2 :, x * width // 2 :][:height, :width],
        )
        for y in range(3)
        for x in range(3)
    ]
