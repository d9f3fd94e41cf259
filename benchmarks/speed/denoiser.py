"""One call of the UNet: dtypes, layouts, attention, compilation; and its share of what the
processor can do in matrix products."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.timing import in_turns, spread
from msbd_dist.core.spec import ModelSpec
from msbd_dist.core.threads import intra_op_threads
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve

Call = Callable[[], Tensor]
BATCHES = (1, 2, 4, 8)
PRODUCT = {"cpu": 1024, "cuda": 8192}  # side of the matrices
COMPILED = {"compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}


def measure(folder: Path, models: ModelSpec, *, rounds: int = 5) -> dict[str, Any]:
    """Seconds of a call without guidance for one segment, by variant and batch."""
    loaded = load(resolve(models), device=models.device)
    dtype, kind = loaded.dtype, loaded.device.type
    with intra_op_threads(1), torch.no_grad():
        rate = product_rate(loaded.device, dtype)
        flops = call_flops(loaded)
        found = {
            str(batch): {
                name: {
                    "seconds": spread(seconds),
                    "of_products": round(flops / min(seconds) / rate, 4),
                }
                for name, seconds in _batch(loaded, batch, rounds).items()
            }
            for batch in BATCHES
        }
    return {
        "models": loaded.card.name,
        "device": f"{loaded.device} ({loaded.reason})",
        "dtype": str(dtype).removeprefix("torch."),
        "threads": 1 if kind == "cpu" else None,
        "rounds": rounds,
        "products_tflops": float(f"{rate / 1e12:.4g}"),
        "call_gflop": float(f"{flops / 1e9:.4g}"),
        "batches": found,
    }


def _batch(models: Models, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds for each segment of a batch."""
    ways: dict[str, Callable[[], float]] = {}
    for name, unet in variants(models):
        call = partial(_call, unet, *_inputs(models, unet, batch))
        for _ in range(3 if "compiled" in name else 1):  # graphs are recorded on the second call
            call()
        ways[name] = partial(_seconds, call, models.device)
    return {name: [s / batch for s in found] for name, found in in_turns(ways, rounds).items()}


def variants(models: Models) -> Iterator[tuple[str, Any]]:
    """The UNet in each way; on a CPU those that are quick to try."""
    unet = copy.deepcopy(models.latent.parts.unet).float()
    plain = unet.to(memory_format=torch.contiguous_format)
    yield "float32", plain
    if models.device.type == "cpu":
        yield "float32, channels last", layout(plain)
        return
    half = copy.deepcopy(plain).to(models.dtype)
    name = str(models.dtype).removeprefix("torch.")
    yield name, half
    last = layout(half)
    yield f"{name}, channels last", last
    yield f"{name}, channels last, attention without SDPA", without_sdpa(last)
    for how, mode in COMPILED.items():
        yield f"{name}, channels last, {how}", compiled(copy.deepcopy(last), mode)


def layout(unet: Any) -> Any:
    """A copy whose convolutions have their channels last."""
    return copy.deepcopy(unet).to(memory_format=torch.channels_last)


def without_sdpa(unet: Any) -> Any:
    """A copy with attention as two products and a softmax."""
    from diffusers.models.attention_processor import AttnProcessor

    unet = copy.deepcopy(unet)
    unet.set_attn_processor(AttnProcessor())
    return unet


def compiled(module: nn.Module, mode: str) -> Any:
    """Compiled by torch; ``reduce-overhead`` also records CUDA graphs, where there is CUDA."""
    return torch.compile(module, mode=mode)


def _inputs(models: Models, unet: Any, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    family, device = models.card.family, models.device
    side = family.segment // family.vae_factor
    dtype = next(unet.parameters()).dtype
    torch.manual_seed(0)
    z = torch.randn(batch, family.latent_channels, side, side, dtype=dtype, device=device)
    text = models.latent.text("a red star").prompt.to(dtype).expand(batch, -1, -1)
    return z, torch.full((), 241, device=device), text


def _call(unet: Any, z: Tensor, step: Tensor, text: Tensor) -> Tensor:
    found: Tensor = unet(z, step, text, return_dict=False)[0]
    return found


def _seconds(call: Call, device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def call_flops(models: Models) -> int:
    """Of one call for one segment, a product with its sum counted as two."""
    unet = models.latent.parts.unet
    with FlopCounterMode(display=False) as counter:
        _call(unet, *_inputs(models, unet, 1))
    return counter.get_total_flops()


def product_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Floating-point operations a second in the best of ten matrix products."""
    side = side or PRODUCT[device.type]
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    seconds = [_seconds(partial(torch.mm, a, b), device) for _ in range(11)][1:]
    return 2 * side**3 / min(seconds)
