"""The autoencoder: f = 8, four latent channels, trained on crops.

It starts as something that already works. Twelve channels of encoder and decoder carry the picture,
its negative and a constant pair through identity, average and bilinear paths, and the constant
keeps group norm from scaling them. For large values ``silu(x) - silu(-x) = x``, so that these paths
are nearly exact: the untrained model shows a blurred picture in its true colours, which group norm
otherwise takes thousands of steps to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from msbd_dist.tiny.scenes import random_scene, render
from msbd_dist.tiny.train import data
from msbd_dist.tiny.train.settings import NATIVE, Vae

_LEVEL = 2.0  # of the constant channels, against which the picture's [-1, 1] is small
_CONTRAST = 2.0  # of the picture in the latents
_GAIN = 1.15, 1.29  # what smoothing and group norm take away on the way, measured
_QUIET = 0.25  # of the other channels' first weights


class VaePart:
    """What `loop.train` trains: L1, gradients, pooled colours, squares, and a little KL."""

    name = "vae"

    def __init__(self, settings: Vae) -> None:
        self.settings = settings
        self.recipe = settings.recipe
        self.module = untrained(settings)

    def loss(self, rng: np.random.Generator, count: int) -> Tensor:
        """On ``count`` crops, two of each picture."""
        scenes = [
            data.any_scene(rng, NATIVE, details=self.settings.details) for _ in range(count // 2)
        ]
        windows = [w for scene in scenes for w in data.crops(rng, scene, self.settings.crop, 2)]
        x = data.tensor(windows).to(self.module.device)
        posterior = self.module.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(x.device)
        y = self.module.decode(mean + torch.exp(0.5 * logvar) * noise).sample.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return self._distance(x, y) + self.settings.kl * kl

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        s = self.settings
        steps = sum((_slope(x, dim) - _slope(y, dim)).abs().mean() for dim in (-1, -2))
        pooled = (F.avg_pool2d(x, 4) - F.avg_pool2d(y, 4)).abs().mean()
        squared = (x - y).pow(2).mean()
        return (x - y).abs().mean() + s.gradient * steps + s.pooled * pooled + s.squared * squared

    def write(self, folder: Path) -> None:
        """Whitens the latents and writes ``folder/vae`` in diffusers' layout, fp16."""
        vae = self.module.eval()
        whiten(vae, self.settings)
        vae.half().save_pretrained(folder / "vae")


def _slope(x: Tensor, dim: int) -> Tensor:
    return x.diff(dim=dim)


@torch.no_grad()
def whiten(vae: AutoencoderKL, settings: Vae) -> None:
    """Folds a scale and a shift per channel into the two 1x1 convolutions beside the latents.

    Afterwards latents times the scaling factor have mean 0 and variance 1 on the world's pictures.
    """
    seeds = range(settings.recipe.seed - settings.whitening, settings.recipe.seed)
    pictures = [render(random_scene(seed, data.square(NATIVE))) for seed in seeds]
    means, variances = [], []
    for part in data.tensor(pictures).to(vae.device).split(16):
        posterior = vae.encode(part).latent_dist
        means.append(posterior.mean)
        variances.append(posterior.var)
    mean = torch.cat(means)
    shift = mean.mean((0, 2, 3))
    spread = (mean.var((0, 2, 3)) + torch.cat(variances).mean((0, 2, 3))).sqrt()
    gain = 1 / (spread * settings.scaling_factor)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] *= gain.view(-1, 1, 1, 1)
    into.bias[:4] = (into.bias[:4] - shift) * gain
    into.bias[4:] += 2 * gain.log()
    out.bias += out.weight[:, :, 0, 0] @ shift
    out.weight /= gain.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=settings.scaling_factor)


# --- the start ------------------------------------------------------------------------------------


def untrained(settings: Vae) -> AutoencoderKL:
    """A new autoencoder that shows its pictures blurred (the module's header says how)."""
    channels, groups = settings.channels, settings.groups
    torch.manual_seed(settings.recipe.seed)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=groups,
        mid_block_add_attention=False,
        sample_size=NATIVE,
    )
    with torch.no_grad():
        _start_encoder(vae.encoder, channels[-1] // groups)
        _start_decoder(vae.decoder, channels[0] // groups)
        for conv in (vae.quant_conv, vae.post_quant_conv):
            conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
            conv.bias.zero_()
    return vae


def _carriers(group: int) -> list[int]:
    """Four channels (+c, -c, +constant, -constant) at the start of each of the first 3 groups."""
    return [group * colour + index for colour in range(3) for index in range(4)]


def _start_encoder(encoder: nn.Module, group: int) -> None:
    carriers = _carriers(group)
    average = F.pad(torch.full((2, 2), 0.25), (0, 1, 0, 1))
    _split_colours(encoder.conv_in, group, gain=1.0)
    for block in encoder.down_blocks:
        _quieten(block.resnets, carriers)
        for sampler in block.downsamplers or ():
            _carry(sampler.conv, carriers, average)
    _quieten(encoder.mid_block.resnets, carriers)
    weight, bias = encoder.conv_out.weight, encoder.conv_out.bias
    weight[:3], bias[:4] = 0, 0
    weight[3] *= 2
    weight[4:] *= 0.1  # the posterior's log variance, nearly the same everywhere
    bias[4:] = -3
    for colour in range(3):
        weight[colour, group * colour, 1, 1] = _CONTRAST
        weight[colour, group * colour + 1, 1, 1] = -_CONTRAST


def _start_decoder(decoder: nn.Module, group: int) -> None:
    carriers = _carriers(group)
    ramp = torch.tensor([1.0, 2.0, 1.0]) / 4
    _split_colours(decoder.conv_in, group, gain=_GAIN[0] / _CONTRAST)
    _quieten(decoder.mid_block.resnets, carriers)
    for block in decoder.up_blocks:
        _quieten(block.resnets, carriers)
        for sampler in block.upsamplers or ():
            _carry(sampler.conv, carriers, torch.outer(ramp, ramp))
    weight, bias = decoder.conv_out.weight, decoder.conv_out.bias
    weight *= 0.3
    bias.zero_()
    for colour in range(3):
        weight[colour, group * colour, 1, 1] += _GAIN[1]
        weight[colour, group * colour + 1, 1, 1] -= _GAIN[1]


def _split_colours(conv: nn.Conv2d, group: int, *, gain: float) -> None:
    """Inputs 0 to 2 go to the carriers: themselves, negated, and two constants."""
    _clear(conv, _carriers(group))
    for colour in range(3):
        first = group * colour
        conv.weight[first, colour, 1, 1] = gain
        conv.weight[first + 1, colour, 1, 1] = -gain
        conv.bias[first + 2], conv.bias[first + 3] = _LEVEL, -_LEVEL


def _quieten(resnets: Sequence[nn.Module], carriers: list[int]) -> None:
    """Residual branches start small, and add nothing to the carriers."""
    for resnet in resnets:
        resnet.conv2.weight *= _QUIET
        resnet.conv2.bias *= _QUIET
        _clear(resnet.conv2, carriers)
        if resnet.conv_shortcut is not None:
            _carry(resnet.conv_shortcut, carriers, torch.ones(1, 1))


def _carry(conv: nn.Conv2d, carriers: list[int], kernel: Tensor) -> None:
    """Each carrier passes through ``kernel`` alone."""
    _clear(conv, carriers)
    for channel in carriers:
        conv.weight[channel, channel] = kernel


def _clear(conv: nn.Conv2d, channels: list[int]) -> None:
    conv.weight[channels] = 0
    conv.bias[channels] = 0
