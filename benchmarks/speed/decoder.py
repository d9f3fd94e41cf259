"""Decoder optimization: the paper's plain descent, and what takes less work to the same loss.

The segments are as many as Stable Diffusion has for 3000 x 2000 pixels (15), and half as wide as
those of the family that is measured, so that it takes minutes. Their latents are of a picture as
the last stage leaves it: an object where the mask is, the low-passed background elsewhere. Seconds
are the process's own, on one thread, so that other work beside it counts little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.func import functional_call

from msbd_dist.core.compose import Floats, resample
from msbd_dist.core.decoder import (
    Areas,
    Decode,
    DecoderFit,
    FitSegment,
    FitSettings,
    Params,
    segment_loss,
)
from msbd_dist.core.gang import Alone
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.rounds import Part, Rounds
from msbd_dist.core.spec import Method, ModelSpec
from msbd_dist.core.tiling import Grid
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import LatentModel
from msbd_dist.tiny.scenes import Background, Scene, SceneObject, render

LAMBDA = Method().decoder_lambda
COLUMNS, ROWS = 5, 3  # of segments
EVERY = 25  # steps between two looks at the loss


@dataclass(frozen=True)
class Problem:
    """A decoder, what it decodes, and where its descent begins."""

    decode: Decode  # as the descent has it
    exact: Decode  # as pictures are made in the end
    pretrained: Params
    segments: tuple[FitSegment, ...]

    def loss(self, params: Params) -> float:
        """Over all segments."""
        areas = Areas.of(self.segments)
        with torch.no_grad():
            shares = [segment_loss(self.exact, params, s, areas, lam=LAMBDA) for s in self.segments]
        return float(sum(shares))


class Alike(Rounds):
    """Samples that are chosen without a look at the mask."""

    def part(self, step: int, weights: Sequence[float]) -> list[Part]:
        return super().part(step, [1.0] * len(weights))


class Steady(Rounds):
    """Samples at one learning rate, the mean of ours."""

    def rate(self, step: int) -> float:
        return 0.5


@dataclass(frozen=True)
class Way:
    """A way down: from which problem, in which steps, and how."""

    problem: Callable[[Problem], Problem]
    rounds: Rounds
    settings: FitSettings

    @classmethod
    def of(
        cls,
        problem: Callable[[Problem], Problem],
        method: Method,
        kind: type[Rounds] = Rounds,
        *,
        segments: int,
    ) -> Way:
        """That of a settled method."""
        return cls(problem, kind(**vars(Rounds.of(method, segments))), FitSettings.of(method))


def measure(folder: Path, models: ModelSpec) -> dict[str, Any]:
    """The loss along each way, and when it first is what the plain way ends with."""
    loaded = load(resolve(models), device=models.device)
    problem = drawn(loaded)
    count = len(problem.segments)
    wanted, found = 0.0, {}
    for name, way in ways(loaded, count).items():
        points = descended(way, problem)
        wanted = wanted or points[-1]["loss"]
        found[name] = {"points": points, "reached": reached(points, wanted)}
        print(f"  {name}: {points[-1]}", flush=True)
    products = str(loaded.products).removeprefix("torch.")
    return {"segments": count, "wanted": wanted, "ways": found, "products": products}


def ways(models: Models, count: int) -> dict[str, Way]:
    """What is compared: the paper's, ours as it is on this device, and ours without each part."""
    latent, family = models.latent, models.card.family
    plain, sample = Method(decoder_batch="full").settled(family), Method().settled(family)
    way = partial(Way.of, segments=count)

    def same(problem: Problem) -> Problem:
        return problem

    def half(problem: Problem) -> Problem:
        return replace(problem, decode=partial(latent.decode, half=True))

    ours, other = (half, same) if models.products == torch.bfloat16 else (same, half)
    return {
        "plain": way(same, plain),
        "sample": way(ours, sample),
        f"sample, products in {'float32' if other is same else 'bfloat16'}": way(other, sample),
        "sample, all segments alike": way(ours, sample, Alike),
        "sample, one learning rate": way(ours, sample, Steady),
        "only the last block, its inputs held": way(partial(last_block, latent), plain),
    }


def descended(way: Way, problem: Problem) -> list[dict[str, float]]:
    """Points on a way: steps, segments passed, seconds, loss."""
    began = time.process_time()
    mine = way.problem(problem)
    load = mine.segments.__getitem__
    fit = DecoderFit(mine.decode, mine.pretrained, load, way.rounds, way.settings)
    points: list[dict[str, float]] = []
    looking = 0.0  # seconds

    def look(turn: int) -> None:
        nonlocal looking
        if turn % EVERY:
            return
        spent = time.process_time() - began - looking
        loss = mine.loss({name: w.detach() for name, w in fit.params.items()})
        passes = replace(way.rounds, steps=turn).passes
        point = {"steps": turn, "passes": passes, "seconds": spent, "loss": loss}
        points.append({name: float(f"{value:.5g}") for name, value in point.items()})
        looking = time.process_time() - began - spent

    fit.run(Alone(), on_turn=look)
    return points


def reached(points: list[dict[str, float]], wanted: float) -> dict[str, float] | None:
    """The first point that is as low; None where none is."""
    return next((point for point in points if point["loss"] <= wanted), None)


# -- what is decoded -------------------------------------------------------------------------------


def drawn(models: Models) -> Problem:
    """A star on grass, in segments as the last stage has them."""
    family, latent = models.card.family, models.latent
    edge, overlap = family.segment // 2, family.overlap // 2
    stride = edge - overlap
    size = Size(ROWS * stride + overlap, COLUMNS * stride + overlap)
    source, mask = picture(size, star=False), disc(size)
    depth = np.minimum(distance_transform_edt(mask) / family.vae_factor, 1).astype(np.float32)
    coarse = Size(size.height * edge // size.width, edge)
    soft = scaled(scaled(source, coarse), size)
    edited = np.where(mask, picture(size, star=True), soft)
    grid = Grid(size, Size(edge, edge), overlap)
    segments = [
        segment(latent, edited, source, depth, grid.weights(index), grid.window(index))
        for index in range(len(grid))
    ]
    return Problem(latent.decode, latent.decode, latent.decoder_weights(), tuple(segments))


def segment(
    latent: LatentModel, edited: Floats, source: Floats, depth: Floats, weight: Floats, window: Box
) -> FitSegment:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array))[None].to(latent.parts.device)

    inside = (slice(None), *window.slices)
    z = latent.encode(tensor(edited[inside]))
    target = latent.decode(z).clone()
    deep = tensor(depth[window.slices][None])
    return FitSegment(z, target, tensor(source[inside]), deep, tensor(weight[None]))


def picture(size: Size, *, star: bool) -> Floats:
    """(3, h, w) in [0, 1]."""
    middle = (size.height / 2, size.width / 2)
    thing = SceneObject(
        colour="red", shape="star", center_y=middle[0], center_x=middle[1], radius=size.height / 3
    )
    scene = Scene(
        size=size,
        background=Background("grass"),
        objects=(thing,) if star else (),
        seed=5,
        unit=size.width,
    )
    return np.asarray(render(scene).transpose(2, 0, 1), np.float32) / 255


def disc(size: Size) -> np.ndarray:
    """An ellipse of 0.8 of each side: (h, w) bool."""
    y, x = np.ogrid[: size.height, : size.width]
    inside: np.ndarray = (y / size.height - 0.5) ** 2 + (x / size.width - 0.5) ** 2 < 0.4**2
    return inside


def scaled(pixels: Floats, size: Size) -> Floats:
    return resample(pixels, Rect(0, 0, *pixels.shape[1:]), size)


# -- the last block alone --------------------------------------------------------------------------


class Tail(nn.Module):
    """The decoder from its last block on."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.block, self.norm = decoder.up_blocks[-1], decoder.conv_norm_out
        self.act, self.out = decoder.conv_act, decoder.conv_out

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.out(self.act(self.norm(self.block(x))))
        return picture * 0.5 + 0.5


def last_block(latent: LatentModel, problem: Problem) -> Problem:
    """The same problem of the last block: what it is given never changes, and is held."""
    decoder = latent.decoder.decoder
    tail = Tail(decoder)

    def decode(x: Tensor, params: Params | None) -> Tensor:
        picture: Tensor = functional_call(tail, params or {}, (x,))
        return picture

    given: list[Tensor] = []
    block = decoder.up_blocks[-1]
    hook = block.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].detach()))
    try:
        for one in problem.segments:
            latent.decode(one.z)
    finally:
        hook.remove()
    weights = {name: w.detach().clone() for name, w in tail.named_parameters()}
    segments = [replace(s, z=x.clone()) for s, x in zip(problem.segments, given, strict=True)]
    return Problem(decode, decode, weights, tuple(segments))
