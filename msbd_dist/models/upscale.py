"""Enlarging pictures: a super-resolution network (Real-ESRGAN by default) or interpolation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msbd_dist.core.spec import Upscaler as Kind
from msbd_dist.errors import ModelError
from msbd_dist.models.card import required_checkpoint
from msbd_dist.models.factor import Checkpoint, require, wrong
from msbd_dist.models.loading import frozen, hermetic, normal, read_weights
from msbd_dist.models.single_file import changes_pictures
from msbd_dist.models.sources import reason

log = logging.getLogger(__name__)

Upscaler = Callable[[Tensor], Tensor]
"""``(B, 3, H, W)`` float32 in [0, 1] -> ``(B, 3, factor * H, factor * W)`` float32 in [0, 1]."""


def load_upscaler(
    kind: Kind,
    path: Path | None = None,
    *,
    factor: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Upscaler:
    """An upscaler by exactly ``factor``.

    "realesrgan" reads the checkpoint at ``path`` through spandrel, "realesrganer" through the
    official package; "bilinear" and "bicubic" need none. Where the models run in a half precision
    (``dtype``), networks run in float16: bfloat16 can't tell the 256 levels of a picture apart.
    Raises `ModelError` naming the file.
    """
    checkpoint = required_checkpoint(kind, path)
    half = dtype != torch.float32
    if checkpoint is None:
        return _interpolation(kind, factor, device)
    if kind == "realesrganer":
        from msbd_dist.models.realesrganer import load_official

        return load_official(checkpoint, factor=factor, device=device, half=half)
    return _network(checkpoint, factor, device, half)


def _interpolation(mode: str, factor: int, device: torch.device) -> Upscaler:
    def enlarge(x: Tensor) -> Tensor:
        x = x.to(device, torch.float32)
        larger = F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)
        return larger.clamp(0, 1)

    return enlarge


def _network(file: Path, factor: int, device: torch.device, half: bool) -> Upscaler:
    found = _identify(file)
    require(file, _checkpoint(found), factor)
    dtype = torch.float16 if half and found.supports_half else torch.float32
    frozen(found.model.to(dtype, memory_format=torch.channels_last), device)  # which is faster
    together = device.type == "cuda"  # elsewhere the result never depends on the batch

    @torch.no_grad()
    def enlarge(x: Tensor) -> Tensor:
        parts = [x] if together else x.chunk(len(x))
        pictures = [
            found(part.to(device, dtype, memory_format=torch.channels_last)) for part in parts
        ]
        return normal(torch.cat(pictures).float().contiguous())

    return enlarge


def _identify(file: Path) -> Any:
    """spandrel's description of the model, its weights loaded."""
    from spandrel import ModelLoader, UnsupportedModelError, canonicalize_state_dict

    weights = canonicalize_state_dict(read_weights(file))
    try:
        with hermetic():
            found = ModelLoader().load_from_state_dict(dict(weights))
    except UnsupportedModelError as error:
        raise wrong(file, "a model that spandrel does not know") from error
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{file}: its weights don't fit together ({reason(error)}): download it again"
        ) from error
    _look_for_unused(file, weights, found.model.state_dict())
    return found


def _look_for_unused(file: Path, weights: Mapping[str, Any], used: Mapping[str, Tensor]) -> None:
    """`ModelError` for weights of a LoRA or the like, a warning for others that went nowhere.

    spandrel renames weights, and leaves out what it has no name for: they are known by their sums.
    """
    sums = {_sum(weight) for weight in used.values()}
    tensors = {name: weight for name, weight in weights.items() if isinstance(weight, Tensor)}
    unused = [n for n, w in tensors.items() if w.is_floating_point() and _sum(w) not in sums]
    if not unused:
        return
    text = f"{file}: weights that the upscaler does not use: {unused[0]}"
    text += f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    if any(map(changes_pictures, unused)):
        raise ModelError(f"{text}: merge them into its own weights, or give a file without them")
    log.warning("%s", text)


def _sum(weight: Tensor) -> tuple[int, float]:
    return weight.numel(), round(float(weight.float().double().sum()), 6)


def kind_of(file: str) -> Checkpoint:
    """What spandrel takes a file for, its weights loaded; `ModelError` where for nothing."""
    return _checkpoint(_identify(Path(file)))


def _checkpoint(found: Any) -> Checkpoint:
    channels = (found.input_channels, found.output_channels)
    return Checkpoint(found.architecture.name, found.scale, channels, found.purpose)
