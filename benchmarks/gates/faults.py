"""Faults: the product with one part broken, for as long as a context lasts.

Each patches one function of the product where it is looked up, so that everything else runs as it
is. The words say what is wrong, not how it is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from msbd_dist.batch import patch as pasting
from msbd_dist.batch import worker
from msbd_dist.canvas.store import Canvas
from msbd_dist.core import decoder, plan, sampling
from msbd_dist.core.compose import Floats, Read, stage_view
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.levels import Level, Step, level_at
from msbd_dist.core.noise import Draw, NoiseField
from msbd_dist.core.plan import Stage
from msbd_dist.core.reduction import GradientSum
from msbd_dist.core.tiling import Grid
from msbd_dist.models.bundle import Models
from msbd_dist.models.latent import Conditioning, LatentModel

Broken = Callable[..., Any]


@dataclass(frozen=True)
class Fault:
    """What is broken, in words, the cases that have that part, and the context in which it is.

    The first of the cases shows it best.
    """

    name: str
    cases: tuple[str, ...]
    words: str
    broken: Callable[[], AbstractContextManager[object]]


FAULTS: dict[str, Fault] = {}


def fault(name: str, cases: str, words: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that makes the patch."""

    def register(broken: Callable[[], Any]) -> Callable[[], Any]:
        FAULTS[name] = Fault(name, tuple(cases.split()), words, broken)
        return broken

    return register


def replaced(owner: Any, name: str, change: Callable[[Any], Broken]) -> Any:
    """A patch of ``owner.name`` by what ``change`` makes of the original."""
    return patch.object(owner, name, change(getattr(owner, name)))


# --- the first stage ------------------------------------------------------------------------------


@fault("prompt-lost", "star choice wide", "another prompt's text is embedded")
def _prompt_lost() -> Any:
    def change(text: Broken) -> Broken:
        return lambda self, prompt, negative="": text(
            self, "a blue circle on grass" if prompt else "", negative
        )

    return replaced(LatentModel, "text", change)


@fault("prompt-negative-swapped", "star choice wide", "prompt and negative prompt are swapped")
def _swapped() -> Any:
    def change(text: Broken) -> Broken:
        def swapped(self: LatentModel, *prompts: str) -> Conditioning:
            pair = text(self, *prompts)
            return Conditioning(pair.negative, pair.prompt, pair.empty)

        return swapped

    return replaced(LatentModel, "text", change)


@fault("guidance-sign", "star choice wide", "guidance has the wrong sign")
def _guidance_sign() -> Any:
    def change(denoiser: Broken) -> Broken:
        return lambda self, cond, *, guidance: denoiser(self, cond, guidance=-guidance)

    return replaced(LatentModel, "denoiser", change)


@fault("guidance-off", "star choice wide", "guidance is left out: the prompt alone")
def _guidance_off() -> Any:
    def change(denoiser: Broken) -> Broken:
        return lambda self, cond, *, guidance: denoiser(self, cond, guidance=min(guidance, 1.0))

    return replaced(LatentModel, "denoiser", change)


@contextmanager
def _misled(change: Callable[[list[int]], list[int]]) -> Iterator[None]:
    """The model is told other training steps than those of the latents that it gets."""
    told: dict[Level, Level] = {}

    def schedule(real: Broken) -> Broken:
        def steps(model: LatentModel, *a: Any, **k: Any) -> tuple[Step, ...]:
            found: tuple[Step, ...] = real(model, *a, **k)
            starts = [step.start for step in found]
            others = change([int(level.t) for level in starts])
            levels = (level_at(model.alphas_cumprod, t) for t in others)
            told.update(zip(starts, levels, strict=True))
            return found

        return steps

    def diffusion(real: Broken) -> Broken:
        return lambda denoiser, *a, **k: real(lambda z, level: denoiser(z, told[level]), *a, **k)

    with (
        replaced(LatentModel, "schedule", schedule),
        replaced(worker, "blended_diffusion", diffusion),
    ):
        yield


@fault("steps-late", "gone star choice wide", "the model is told the timestep of the next step")
def _steps_late() -> Any:
    return _misled(lambda ts: [*ts[1:], ts[-1]])


@fault(
    "timestep-off-by-one",
    "star gone choice wide",
    "the model is told a timestep that is one of 1000 too high",
)
def _off_by_one() -> Any:
    return _misled(lambda ts: [t + 1 for t in ts])


@fault(
    "steps-reversed", "star gone choice wide", "the model is told the timesteps in the wrong order"
)
def _steps_reversed() -> Any:
    return _misled(lambda ts: ts[::-1])


@fault(
    "sigma-too-large",
    "gone star choice wide",
    "DDIM adds its noise without taking its share from the direction",
)
def _sigma() -> Any:
    def step(z: Tensor, x0: Tensor, step: Step, *, eta: float, noise: Tensor | None) -> Tensor:
        eps = (z - step.start.alpha * x0) / step.start.sigma
        out = step.end.alpha * x0 + step.end.sigma * eps
        return out if noise is None else out + sampling.fresh_noise(step, eta) * noise

    return patch.object(sampling, "ddim_step", step)


@fault(
    "sigma-without-noise",
    "gone star choice wide",
    "DDIM takes the noise's share away and adds none",
)
def _no_noise() -> Any:
    def change(real: Broken) -> Broken:
        return lambda z, x0, step, *, eta, noise: real(
            z, x0, step, eta=eta, noise=None if noise is None else 0 * noise
        )

    return replaced(sampling, "ddim_step", change)


@fault(
    "repaint-no-jump", "star gone choice wide", "RePaint repeats a step without the jump back up"
)
def _no_jump() -> Any:
    return patch.object(sampling, "renoised", lambda z, step, noise: z)


@fault("blend-off", "gone star choice wide", "the background is not held")
def _blend_off() -> Any:
    def change(real: Broken) -> Broken:
        return lambda denoiser, z0, mask, *a, **k: real(denoiser, z0, None, *a, **k)

    return replaced(worker, "blended_diffusion", change)


@fault(
    "background-level",
    "gone star choice wide",
    "the background has the level that the step begins on",
)
def _background_level() -> Any:
    def change(real: Broken) -> Broken:
        def diffusion(denoiser: Any, z0: Any, mask: Any, steps: Any, *a: Any, **k: Any) -> Any:
            levels = {step.end: step.start for step in steps}

            def late(noised: Broken) -> Broken:
                return lambda z, level, noise: noised(z, levels.get(level, level), noise)

            with replaced(sampling, "noised", late):
                return real(denoiser, z0, mask, steps, *a, **k)

        return diffusion

    return replaced(worker, "blended_diffusion", change)


@fault(
    "background-clean", "wide star gone choice", "the background is not noised while the edit is"
)
def _background_clean() -> Any:
    def change(real: Broken) -> Broken:
        def diffusion(denoiser: Any, z0: Any, mask: Any, steps: Any, *a: Any, **k: Any) -> Any:
            levels = {step.end for step in steps}

            def clean(noised: Broken) -> Broken:
                return lambda z, level, noise: z if level in levels else noised(z, level, noise)

            with replaced(sampling, "noised", clean):
                return real(denoiser, z0, mask, steps, *a, **k)

        return diffusion

    return replaced(worker, "blended_diffusion", change)


@fault("mask-one-cell-off", "star gone choice wide", "the latent mask is one cell too far right")
def _mask_off() -> Any:
    return replaced(
        worker, "latent_mask", lambda real: lambda mask, f: np.roll(real(mask, f), 1, axis=1)
    )


@fault(
    "mask-min-pool",
    "star gone choice wide",
    "a latent cell is masked only where all of its pixels are",
)
def _mask_min() -> Any:
    return replaced(worker, "latent_mask", lambda real: lambda mask, f: ~real(~mask, f))


@fault("rerank-worst", "choice", "the worst candidate is chosen")
def _worst() -> Any:
    def change(real: Broken) -> Broken:
        def scores(*arguments: Any) -> list[float] | None:
            found = real(*arguments)
            return found and [-score for score in found]

        return scores

    return replaced(worker.TaskWorker, "_scores", change)


# --- the autoencoder ------------------------------------------------------------------------------


@fault(
    "scale-left-out", "star gone choice wide fitted", "latents are encoded without the scale factor"
)
def _scale() -> Any:
    def change(real: Broken) -> Broken:
        return lambda self, x: real(self, x) / self.decoder.scale

    return replaced(LatentModel, "encode", change)


@fault("fit-unused", "fitted", "stages are decoded by the pretrained decoder after the fit")
def _fit_unused() -> Any:
    return patch.object(worker.TaskWorker, "_tuned_weights", lambda self, scene: None)


@fault(
    "lambda-ignored", "fitted", "lambda has no effect: the background counts as much as the edit"
)
def _lambda() -> Any:
    def change(real: Broken) -> Broken:
        return lambda *a, lam: real(*a, lam=1.0)

    return replaced(decoder, "segment_loss", change)


@fault("fit-inside-free", "fitted", "the decoder's loss has no term inside the mask")
def _inside_free() -> Any:
    def change(real: Broken) -> Broken:
        return lambda decode, params, segment, *a, **k: real(
            decode, params, replace(segment, target=decode(segment.z, params).detach()), *a, **k
        )

    return replaced(decoder, "segment_loss", change)


@fault("fit-shows-inside", "fitted", "stages show the tuned decoder all over the mask")
def _shows_inside() -> Any:
    return patch.object(worker, "shown", lambda tuned, plain, depth: tuned)


@fault("fit-to-input", "fitted", "the decoder's loss pulls the inside of the mask to the input too")
def _to_input() -> Any:
    def change(real: Broken) -> Broken:
        return lambda decode, params, segment, *a, **k: real(
            decode, params, replace(segment, target=segment.source), *a, **k
        )

    return replaced(decoder, "segment_loss", change)


@fault("gradient-not-summed", "summed", "a step takes the gradient of its last segment alone")
def _not_summed() -> Any:
    def change(real: Broken) -> Broken:
        def add(self: GradientSum, index: int, gradient: Tensor) -> None:
            self._views[index].zero_()
            real(self, index, gradient)

        return add

    return replaced(GradientSum, "add", change)


# --- later stages ---------------------------------------------------------------------------------


@fault("later-start-lost", "wide", "later stages enter their schedule at its last step")
def _start_lost() -> Any:
    def change(real: Broken) -> Broken:
        return lambda steps, start: real(steps, start) if start == 1.0 else 1

    return replaced(plan, "started", change)


@fault("later-start-full", "wide", "later stages begin with noise alone")
def _start_full() -> Any:
    return patch.object(plan, "started", lambda steps, start: steps)


@fault("lowpass-off", "wide", "the background of later stages is as sharp as the input")
def _lowpass_off() -> Any:
    def sharp(read: Read, stage: Stage, coarse: Stage, window: Box) -> Floats:
        return stage_view(read, stage, window)

    return patch.object(worker, "lowpass", sharp)


@fault("lowpass-strong", "wide", "the background of later stages is four times too soft")
def _lowpass_strong() -> Any:
    def change(real: Broken) -> Broken:
        def soft(read: Read, stage: Stage, coarse: Stage, window: Box) -> Floats:
            size = coarse.size
            quarter = Grid.whole(Size(-(-size.height // 4), -(-size.width // 4)))
            floats: Floats = real(read, stage, replace(coarse, grid=quarter), window)
            return floats

        return soft

    return replaced(worker, "lowpass", change)


@fault("noise-per-segment", "wide", "noise does not depend on the segment's place")
def _noise_per_segment() -> Any:
    def change(real: Broken) -> Broken:
        def box(self: NoiseField, draw: Draw, place: Box) -> Tensor:
            noise: Tensor = real(self, draw, place.relative_to(place))
            return noise

        return box

    return replaced(NoiseField, "box", change)


def _upscaled(mode: str) -> Any:
    def enlarge(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=4, mode=mode).clamp(0, 1)

    return patch.object(Models, "upscaler", lambda self, kind: enlarge)


@fault("sr-nearest", "enlarged wide", "super-resolution repeats pixels")
def _nearest() -> Any:
    return _upscaled("nearest")


@fault("sr-bilinear", "enlarged wide", "super-resolution interpolates")
def _bilinear() -> Any:
    return _upscaled("bilinear")


@fault("sr-no-halo", "enlarged wide", "super-resolution reads no pixels around a segment")
def _no_halo() -> Any:
    return patch.object(worker, "SR_HALO", 0)


@fault("weights-one", "wide enlarged", "overlapping segments are added up without ramps")
def _weights_one() -> Any:
    return replaced(Grid, "weights", lambda real: lambda self, i: np.ones_like(real(self, i)))


@fault("weights-hard", "wide enlarged", "the later segment covers the earlier one")
def _weights_hard() -> Any:
    def change(real: Broken) -> Broken:
        return lambda *a, kind: real(*a, kind="over")

    def both() -> Iterator[None]:
        ones = replaced(Grid, "weights", lambda real: lambda self, i: np.ones_like(real(self, i)))
        with ones, replaced(worker, "compose_chunk", change):
            yield

    return contextmanager(both)()


@fault("compose-over", "wide enlarged", "segments are composed by alpha over the input")
def _over() -> Any:
    return replaced(worker, "compose_chunk", lambda real: lambda *a, kind: real(*a, kind="over"))


# --- the paste ------------------------------------------------------------------------------------


class _Shifted:
    """A canvas with one kind of window read one pixel off."""

    def __init__(self, canvas: Canvas, name: str) -> None:
        self._canvas, self._name = canvas, name

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._canvas, name)
        if name != self._name:
            return real
        return lambda *a: real(*a[:-1], a[-1].shifted(0, 1))


def _patch_of(change: Callable[[Canvas], Any]) -> Any:
    def changed(real: Broken) -> Broken:
        return lambda self, canvas, dtype: real(self, change(canvas), dtype)

    return replaced(pasting.Patch, "__init__", changed)


@fault("paste-one-pixel-off", "star gone wide", "the edit is pasted one pixel off its place")
def _paste_off() -> Any:
    return _patch_of(lambda canvas: _Shifted(canvas, "composed"))


@fault(
    "paste-mask-off", "star gone wide", "the edit is pasted through a mask one pixel off its place"
)
def _paste_mask_off() -> Any:
    return _patch_of(lambda canvas: _Shifted(canvas, "mask"))


@fault("truncated", "star gone wide", "pixels are cut to integers, not rounded")
def _truncated() -> Any:
    def cut(values: Floats, dtype: Any) -> Any:
        return np.floor(np.clip(values, 0, 1) * np.iinfo(dtype).max).astype(dtype)

    return patch.object(pasting, "from_float", cut)
