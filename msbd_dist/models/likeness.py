"""How alike two pictures are, through torchmetrics: PSNR, SSIM, and LPIPS where its weights are.

Pictures are (3, h, w) float32 in [0, 1]. What is added window by window stands for the whole:
memory does not grow with it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from msbd_dist.errors import ModelError

Lpips = Callable[[Tensor, Tensor], float]
"""Two pictures (1, 3, h, w) in [0, 1], `LPIPS_SIDE` pixels along each side at least -> LPIPS."""

LPIPS_SIDE = 64  # pixels that AlexNet needs
SSIM_SIDE = 11  # pixels of its window


class Likeness:
    """Measures of two pictures, given as windows of one size or nearly so."""

    def __init__(self, lpips: Lpips | None, *, device: torch.device) -> None:
        self._device, self._lpips = device, lpips
        self._psnr = PeakSignalNoiseRatio(data_range=1.0).to(device)
        self._ssim, self._distance = _Mean(), _Mean()

    @torch.no_grad()
    def add(self, one: Tensor, other: Tensor) -> None:
        """The same window of both: (3, h, w) in [0, 1]."""
        pair = (one[None].to(self._device), other[None].to(self._device))
        side, area = min(one.shape[-2:]), one.shape[-1] * one.shape[-2]
        self._psnr.update(*pair)
        if side >= SSIM_SIDE:
            found = structural_similarity_index_measure(*pair, data_range=1.0)
            assert isinstance(found, Tensor)
            self._ssim.add(float(found), area)
        if self._lpips is not None and side >= LPIPS_SIDE:
            self._distance.add(self._lpips(*pair), area)

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio in dB: -10 log10 of the mean squared difference; from 0, more
        is more alike. None where nothing differs (it is infinite) and where nothing was added."""
        value = float(self._psnr.compute()) if self._psnr.update_called else float("inf")
        return value if isfinite(value) else None

    @property
    def ssim(self) -> float | None:
        """Structural similarity, -1 to 1, 1 for equal pictures: luminance, contrast and structure
        in Gaussian windows of 11 pixels (Wang, Bovik, Sheikh and Simoncelli 2004). The mean over
        the windows that were added, by their areas; None for pictures below `SSIM_SIDE`."""
        return self._ssim.value

    @property
    def lpips(self) -> float | None:
        """Learned perceptual distance, from 0 for equal pictures to about 1: weighted squared
        differences of AlexNet's normalised features (Zhang, Isola, Efros, Shechtman and Wang 2018).
        The mean likewise; None without weights, or for pictures below `LPIPS_SIDE`."""
        return self._distance.value


class _Mean:
    """A mean of values by their weights."""

    def __init__(self) -> None:
        self._sum, self._weight = 0.0, 0.0

    def add(self, value: float, weight: float) -> None:
        self._sum += value * weight
        self._weight += weight

    @property
    def value(self) -> float | None:
        return self._sum / self._weight if self._weight else None


def lpips_weights() -> Path:
    """Where torchvision keeps AlexNet's weights on this machine; they may not be there."""
    from torchvision.models import AlexNet_Weights

    name = Path(urlsplit(AlexNet_Weights.DEFAULT.url).path).name
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def load_lpips(*, device: torch.device) -> Lpips | None:
    """LPIPS with AlexNet; None where its weights are not on this machine: none are fetched.

    ModelError where the file is there and holds something else.
    """
    file = lpips_weights()
    if not file.is_file():
        return None
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    # its public makers fetch and unpickle that file: here it is read as weights only
    net = _NoTrainLpips(net="alex", pnet_rand=True)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        for part in (
            net.net.slice1,
            net.net.slice2,
            net.net.slice3,
            net.net.slice4,
            net.net.slice5,
        ):
            own = {name: stored[f"features.{name}"] for name in part.state_dict()}
            part.load_state_dict(own)
    except (pickle.UnpicklingError, RuntimeError, OSError, KeyError, TypeError, EOFError) as error:
        text = f"lpips: {file} is not torchvision's AlexNet; remove it, or put the right file there"
        raise ModelError(text) from error
    return partial(_distance, net.to(device))


def _distance(net: torch.nn.Module, one: Tensor, other: Tensor) -> float:
    return float(net(one, other, normalize=True))
