"""What an upscaler's checkpoint is, and by how much it enlarges, known before any work.

The kinds that nearly everybody uses are told by the names and shapes of their tensors. Of any other
spandrel is asked, in a process of its own: this one loads no torch.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from typing import NamedTuple

from msbd_dist.core.spec import Upscaler
from msbd_dist.errors import ModelError
from msbd_dist.models.asked import Looks, asked
from msbd_dist.models.shapes import Shapes, shapes_of

_ESRGAN = (  # names of which one set is in every checkpoint of its kind
    ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight"),
    (
        "conv_first.weight",
        "RRDB_trunk.0.RDB1.conv1.weight",
        "trunk_conv.weight",
        "conv_last.weight",
    ),
    ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
    ("model.0.weight", "model.1.sub.0.RDB1.conv1x1.weight"),
)
_COMPACT = ("body.0.weight", "body.1.weight")
_UP = re.compile(r"(?:upconv|conv_up)(\d)\.weight")
_OTHERS = {  # beginnings of names that tell other models apart
    "lora_": "a LoRA",
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "down_blocks.": "the UNet of a diffusers folder",
    "text_model.": "a text encoder",
    "encoder.down_blocks.": "an autoencoder",
    "visual.": "a CLIP",
    "vision_model.": "a CLIP",
    "transformer.": "a transformer",
}


class Checkpoint(NamedTuple):
    """What a checkpoint is."""

    name: str  # of its architecture
    factor: int
    channels: tuple[int, int]  # into it and out of it
    purpose: str = "SR"  # spandrel's word; SR: super-resolution


def check_upscaler(kind: Upscaler, file: Path, factor: int) -> None:
    """`ModelError` where a checkpoint is no upscaler by ``factor`` that ``kind`` can load."""
    found = look(str(file), file)
    if kind == "realesrganer":
        _check_official(file, found)
    require(file, found, factor)


def require(file: Path, found: Checkpoint, factor: int) -> None:
    """`ModelError` unless this is an upscaler of RGB pictures by ``factor``."""
    if found.purpose != "SR":
        raise wrong(file, f"a model for {found.purpose} ({found.name})")
    if found.channels != (3, 3):
        raise wrong(file, f"a model from {found.channels[0]} to {found.channels[1]} channels")
    if found.factor != factor:
        raise ModelError(
            f"{file}: enlarges by {found.factor}, and this model's upscaler is to enlarge by "
            f"{factor}: give a checkpoint that does, such as RealESRGAN_x4plus.pth for 4, or set "
            f"sr_factor: {found.factor} in the model's msbd.json"
        )


def wrong(file: Path, what: str) -> ModelError:
    """The error for a file that is another kind of model."""
    return ModelError(
        f"{file}: is {what}, wanted a super-resolution model for RGB pictures: give one such as "
        f"RealESRGAN_x4plus.pth, or choose upscaler: bicubic"
    )


def kind_by_shapes(shapes: Shapes) -> Checkpoint | None:
    """What names and shapes alone tell: ESRGAN in any of its spellings, or its compact kind."""
    if any(all(name in shapes for name in names) for names in _ESRGAN):
        return _esrgan(shapes)
    if all(len(shapes.get(name, ())) in (1, 4) for name in _COMPACT):
        return _compact(shapes)
    return None


def other_kind(shapes: Shapes) -> str | None:
    """Another kind of model that the beginnings of names tell."""
    kinds = (what for start, what in _OTHERS.items() if any(n.startswith(start) for n in shapes))
    return next(kinds, None)


def _esrgan(shapes: Shapes) -> Checkpoint | None:
    ups = [int(found[1]) for found in map(_UP.fullmatch, shapes) if found]
    layers = [int(name.split(".")[1]) for name in shapes if name.startswith("model.")]
    times = max(ups) if ups else (max(layers, default=0) - 4) // 3
    first = shapes.get("conv_first.weight") or shapes["model.0.weight"]
    last = shapes.get("conv_last.weight") or shapes.get(f"model.{max(layers, default=0)}.weight")
    if times < 0 or len(first) != 4 or last is None:
        return None
    unshuffled = isqrt(first[1] // last[0]) if first[1] in (4 * last[0], 16 * last[0]) else 1
    into = first[1] // unshuffled**2
    return _kind("ESRGAN", 2**times // unshuffled, (into, last[0]))


def _compact(shapes: Shapes) -> Checkpoint | None:
    last = max(int(name.split(".")[1]) for name in shapes if re.match(r"body\.\d+\.", name))
    first, out = shapes["body.0.weight"], shapes.get(f"body.{last}.bias")
    if len(first) != 4 or out is None:
        return None
    for channels in (first[1], 3, 4, 1):
        square, rest = divmod(out[0], channels)
        if not rest and isqrt(square) ** 2 == square:
            return _kind("RealESRGAN Compact", isqrt(square), (first[1], channels))
    return None


def _kind(name: str, factor: int, channels: tuple[int, int]) -> Checkpoint:
    return Checkpoint(name, factor, channels, "SR" if factor > 1 else "Restoration")


def _look(place: str) -> Checkpoint:
    file = Path(place)
    shapes = shapes_of(file)
    if not shapes:
        raise wrong(file, "a file without weights by name")
    if other := other_kind(shapes):
        raise wrong(file, other)
    known = kind_by_shapes(shapes)
    if known is None:
        name, factor, channels, purpose = asked("upscale", "kind_of", place)
        return Checkpoint(name, factor, tuple(channels), purpose)
    return known


look = Looks(_look)
"""What a checkpoint is; `ModelError` where it is no upscaler."""


def _check_official(file: Path, found: Checkpoint) -> None:
    """`ModelError` where the official package is not there, or reads no such file."""
    if find_spec("realesrgan") is None:
        raise ModelError(
            "upscaler: realesrganer needs the package realesrgan: pip install "
            "'msbd_dist[realesrgan]', or choose upscaler: realesrgan"
        )
    if "conv_first.weight" not in shapes_of(file) or file.suffix.lower() != ".pth":
        raise ModelError(
            f"{file}: is {found.name} and not a published Real-ESRGAN checkpoint: give "
            f"RealESRGAN_x4plus.pth, or choose upscaler: realesrgan, which knows more kinds"
        )
