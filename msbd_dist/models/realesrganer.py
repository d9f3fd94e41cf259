"""Real-ESRGAN through its official package (the extra ``realesrgan``), for comparison.

The same checkpoints load through spandrel without the extra; results agree to rounding.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.loading import hermetic, read_weights
from msbd_dist.models.sources import reason

Enlarge = Callable[[Tensor], Tensor]  # as `models.upscale.Upscaler`

# basicsr imports it; removed in torchvision 0.17
_GONE = "torchvision.transforms.functional_tensor"


def load_official(file: Path, *, factor: int, device: torch.device, half: bool) -> Enlarge:
    """`realesrgan.RealESRGANer` without tiling, padding or 8-bit conversion.

    ``file`` is a .pth as published: weights named conv_first, body.0.rdb1... under "params_ema" or
    "params". Raises `ModelError`.
    """
    enhancer_class, network_class = _import()
    network = _network(file, network_class, factor)
    try:
        with hermetic():
            enhancer = enhancer_class(
                scale=factor,
                model_path=str(file),
                model=network,
                pre_pad=0,
                half=half,
                device=device,
            )
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"{file}: does not load as RRDBNet ({reason(error)}): give RealESRGAN_x4plus.pth, "
            f"or choose upscaler: realesrgan, which knows more kinds"
        ) from error

    @torch.no_grad()
    def enlarge(x: Tensor) -> Tensor:
        pictures = []
        for picture in x:
            enhancer.pre_process(picture.permute(1, 2, 0).float().cpu().numpy())
            enhancer.process()
            pictures.append(enhancer.post_process())
        return torch.cat(pictures).float().clamp(0, 1)

    return enlarge


def _import() -> tuple[Any, Any]:
    """(RealESRGANer, RRDBNet); `ModelError` where the extra is not installed."""
    if _GONE not in sys.modules:
        sys.modules[_GONE] = importlib.import_module("torchvision.transforms.functional")
    try:
        with hermetic(), warnings.catch_warnings():
            # its imports of scipy names that have moved
            warnings.simplefilter("ignore", DeprecationWarning)
            from basicsr.archs.rrdbnet_arch import RRDBNet
            from realesrgan import RealESRGANer
    except ImportError as error:
        raise ModelError(
            f"upscaler: realesrganer needs the package realesrgan ({reason(error)}): "
            f"pip install 'msbd_dist[realesrgan]', or choose upscaler: realesrgan"
        ) from error
    return RealESRGANer, RRDBNet


def _network(file: Path, network_class: Any, factor: int) -> Any:
    """An RRDBNet of the size that the file's weights have."""
    content = read_weights(file)
    weights = content.get("params_ema", content.get("params", {}))
    try:
        filters = weights["conv_first.weight"].shape[0]
        growth = weights["body.0.rdb1.conv1.weight"].shape[0]
    except (KeyError, AttributeError) as error:
        raise ModelError(
            f"{file}: is not a published Real-ESRGAN checkpoint (no {reason(error)}): give "
            f"RealESRGAN_x4plus.pth, or choose upscaler: realesrgan, which knows more kinds"
        ) from error
    blocks = len({key.split(".")[1] for key in weights if key.startswith("body.")})
    with hermetic():
        return network_class(
            num_in_ch=3,
            num_out_ch=3,
            scale=factor,
            num_feat=filters,
            num_block=blocks,
            num_grow_ch=growth,
        )
