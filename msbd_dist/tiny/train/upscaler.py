"""The ESRGAN that enlarges four times.

Three of its channels start as red, green and blue and pass every convolution unchanged but for
smoothing, so that it starts as a plain enlargement and learns what is missing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from msbd_dist.tiny.scenes import render
from msbd_dist.tiny.train import data
from msbd_dist.tiny.train.settings import Upscaler

_SCALE = 4


class UpscalerPart:
    """What `loop.train` trains: L1 on crops of large pictures that were shrunk in several ways."""

    name = "upscaler"

    def __init__(self, settings: Upscaler, pictures: Path) -> None:
        """``pictures``: what `prepare` has made."""
        self.settings = settings
        self.recipe = settings.recipe
        self.module = untrained(settings)
        self.pictures = data.gathered(sorted(pictures.glob("*.npz")))["pictures"].numpy()

    def loss(self, rng: np.random.Generator, count: int) -> Tensor:
        windows = [
            data.crop(rng, self.pictures[index], self.settings.crop, turned=0.5)
            for index in rng.integers(len(self.pictures), size=count)
        ]
        large = (data.tensor(windows) + 1) / 2
        small = torch.cat([self._shrunk(rng, one) for one in large.split(1)])
        device = next(self.module.parameters()).device
        return (self.module(small.to(device)).float() - large.to(device)).abs().mean()

    def _shrunk(self, rng: np.random.Generator, large: Tensor) -> Tensor:
        """(1, 3, h, w) in [0, 1] at a quarter of the size, as a camera or a resampler makes it."""
        s, side = self.settings, large.shape[-1] // _SCALE
        if rng.random() < s.area:
            small = F.avg_pool2d(large, _SCALE)
        else:
            small = F.interpolate(large, (side, side), mode="bicubic", antialias=True)
        if rng.random() < s.blurred:
            small = gaussian_blur(small, [5, 5], [rng.uniform(0.3, 0.7)] * 2)
        noise = torch.from_numpy(rng.standard_normal(small.shape, np.float32))
        return (small + noise * rng.uniform(0, s.grain)).clamp(0, 1)

    def write(self, folder: Path) -> None:
        """``folder/upscaler/esrgan_x4.safetensors``, fp16, as spandrel reads it."""
        target = folder / "upscaler"
        target.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.module.state_dict().items()}
        save_file(weights, target / "esrgan_x4.safetensors")


def prepare(settings: Upscaler, folder: Path, *, processes: int) -> None:
    """Draws the large pictures."""
    make = partial(_draw_chunk, settings)
    data.stored(folder, -(-settings.pictures // settings.chunk), make, processes=processes)


def _draw_chunk(settings: Upscaler, index: int) -> data.Arrays:
    rng = np.random.default_rng((settings.recipe.seed, index))
    scenes = [
        data.any_scene(rng, settings.side, details=settings.details, unit=float(settings.side))
        for _ in range(settings.chunk)
    ]
    return {"pictures": np.stack([render(scene) for scene in scenes])}


@torch.no_grad()
def untrained(settings: Upscaler) -> ESRGAN:
    torch.manual_seed(settings.recipe.seed)
    model = ESRGAN(num_filters=settings.filters, num_blocks=settings.blocks, scale=_SCALE)
    ramp = torch.tensor([1.0, 2.0, 1.0]) / 4
    same = F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        place = name.split(".")[1]  # the position in the outer sequence
        conv.bias.zero_()
        if place == "1":  # the residual blocks
            conv.weight *= 0.3
            continue
        conv.weight *= 0.7
        conv.weight[:3] *= 0.1
        for colour in range(3):
            after_enlarging = place in ("3", "6")
            conv.weight[colour, colour] += torch.outer(ramp, ramp) if after_enlarging else same
    return model
