"""How fast: each network by batch, the final stage beside diffusers' own loops, and the fit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench, Found, forget, peak_mb, seconds, short
from benchmarks.gpu.sizes import Full, full_size, random, spec
from benchmarks.speed import final as final_stage
from benchmarks.speed.edit import Prepared, prepare
from msbd_dist.batch.worker import TaskWorker
from msbd_dist.core.decoder import DecoderFit, FitSegment, FitSettings
from msbd_dist.core.gang import Alone
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.spec import Method
from msbd_dist.models.bundle import Models

SPEED = Path(__file__).parents[1] / "results" / "speed.json"
PRODUCT = 8192  # side of the matrices whose product is the card's rate
COPIED = 2**30  # bytes
SEGMENTS = 15  # of 768 pixels, which 3000 x 2000 pixels have in Stable Diffusion
LISTED = 12  # kernels that take the most time
SHORTER: dict[str, Any] = {"across": 2, "upscaler": "bicubic", "upscale_steps": 5}  # in a dry run


def rates(bench: Bench) -> Found:
    """What the card can do at most: matrix products and copies."""
    side, size = (64, 2**16) if bench.dry else (PRODUCT, COPIED)
    found: Found = {"checks": []}
    with bench.card(strict=False):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            a, b = (random((side, side), seed).to(dtype) for seed in (0, 1))
            took = seconds(partial(torch.mm, a, b), 10)
            found[f"{dtype}_tflops".removeprefix("torch.")] = short(2 * side**3 / took / 1e12)
        values = torch.empty(size, dtype=torch.uint8, device="cuda")
        other = torch.empty_like(values)
        took = seconds(lambda: other.copy_(values), 10)
        found["copy_gb_per_second"] = short(2 * size / took / 1e9)  # read and written
    return found


def calls(bench: Bench) -> Found:
    """Calls of each network by size and batch: rows a second, and the share of the bf16 rate."""
    with bench.card():
        full = full_size(bench)
        rate = _product_rate(full, bench)
        rows = []
        for px in full.sizes.pictures:
            flops = _flops(partial(full.denoise, px, 1))
            for batch in full.sizes.batches:
                took = seconds(partial(full.denoise, px, batch), 3)
                row = {"network": "UNet", "px": px, "batch": batch, "seconds": short(took)}
                share = short(flops * batch / took / rate)
                rows.append(row | {"per_second": short(batch / took), "of_rate": share})
        rows += [_row(name, px, call, rate) for name, px, call in _single_calls(full)]
    return {"rows": rows, "rate_tflops": short(rate / 1e12), "checks": []}


def _row(name: str, px: int, call: Callable[[], torch.Tensor], rate: float) -> Found:
    flops, took = _flops(call), seconds(call, 3)
    row = {"network": name, "px": px, "batch": 1, "seconds": short(took)}
    return row | {"per_second": short(1 / took), "of_rate": short(flops / took / rate)}


def _single_calls(full: Full) -> list[tuple[str, int, Callable[[], torch.Tensor]]]:
    parts: dict[str, Callable[[int], torch.Tensor]] = {
        "decoder": full.decode,
        "encoder": full.encode,
        "decoder and its gradient": full.gradient,
    }
    rows = [
        (name, px, partial(call, px)) for px in full.sizes.pictures for name, call in parts.items()
    ]
    small = full.sizes.enlarged
    rows.append(("super-resolution", small, partial(full.enlarge, small)))
    rows.append(("CLIP", full.segment, partial(full.score, 1)))
    return rows


def _flops(call: Callable[[], object]) -> int:
    """A product with its sum counted as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _product_rate(full: Full, bench: Bench) -> float:
    side = 64 if bench.dry else PRODUCT
    a, b = (random((side, side), seed).to(full.models.dtype) for seed in (0, 1))
    return 2 * side**3 / seconds(partial(torch.mm, a, b), 10)


# -- the final stage -------------------------------------------------------------------------------


def final(bench: Bench) -> Found:
    """Segments of the final stage by batch, and diffusers' loops over the same segments."""
    with bench.card():
        found = final_stage.measured(_prepared(bench), rounds=1 if bench.dry else 3)
    return found | {"checks": []}


def profiled(bench: Bench) -> Found:
    """One task of the final stage: its kernels, their launches, and the card's idle share."""
    with bench.card():
        prepared = _prepared(bench)
        given = prepared.spec
        worker = TaskWorker(given.run, given.models, given.threads)
        size = min(prepared.plan.method.segment_batch, len(prepared.stage.segments))
        batches = {"default": size, "largest": len(prepared.stage.segments)}
        seen = [ProfilerActivity.CPU if bench.dry else ProfilerActivity.CUDA]
        found = {n: _profiled(prepared, worker, batch, seen) for n, batch in batches.items()}
    return {**found, "checks": []}


def _profiled(
    prepared: Prepared, worker: TaskWorker, batch: int, seen: list[ProfilerActivity]
) -> Found:
    slots = range(batch)
    wall = seconds(lambda: prepared.run(worker, slots), 3)
    with profile(activities=seen, acc_events=True) as profiler:
        prepared.run(worker, slots)
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    by_name: dict[str, list[float]] = {}
    for event in kernels:
        by_name.setdefault(event.name[:100], []).append(event.self_device_time_total / 1e6)
    most = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:LISTED]
    return {
        "segments": batch,
        "seconds": short(wall),
        "busy_seconds": short(busy),
        "idle": short(max(0.0, 1 - busy / wall)),
        "launches": len(kernels),
        "kernels": [
            {"name": name, "launches": len(times), "share": short(sum(times) / (busy or 1))}
            for name, times in most
        ],
    }


@lru_cache(maxsize=1)
def _prepared(bench: Bench) -> Prepared:
    """An edit that is done, whose final stage is done again and again."""
    return prepare(bench.place("final"), spec(bench), **(SHORTER if bench.dry else {}))


# -- decoder optimization --------------------------------------------------------------------------


def decoder(bench: Bench) -> Found:
    """The fit of an edit of 3000 x 2000 pixels: how long it takes, and how long to the loss that
    the paper's 100 steps reach.

    After how many steps that is does not depend on the card: `benchmarks.speed --only decoder`
    measures it with trained weights. Of the paper's own steps a few are timed.
    """
    known = json.loads(SPEED.read_text())["decoder"]["ways"]["sample"]["reached"]["steps"]
    with bench.card():
        full = full_size(bench)
        ours = Method().settled(full.models.card.family)
        paper = Method(decoder_batch="full").settled(full.models.card.family)
        turns = _turns(full, ours, 4 if bench.dry else None)
        theirs = _turns(full, paper, 2)
        memory = peak_mb(partial(full.gradient, full.segment))
        frugal = peak_mb(partial(full.gradient, full.segment, frugal=True))
    reached = min(int(known), len(turns))
    return {
        "segments": SEGMENTS,
        "px": full.segment,
        "turns": len(turns),
        "seconds_to_end": short(turns[-1]),
        "turns_to_paper": reached,
        "seconds_to_paper": short(turns[reached - 1]),
        "seconds_of_paper": short(100 * theirs[-1] / len(theirs)),
        "paper_turns_timed": len(theirs),
        "pass_peak_mb": memory,
        "frugal_pass_peak_mb": frugal,
        "checks": [],
    }


def _turns(full: Full, method: Method, most: int | None) -> list[float]:
    """When each turn of a fit has ended, in seconds since the first one began."""
    rounds = Rounds.of(method, SEGMENTS)
    rounds = Rounds(**{**vars(rounds), "steps": most or rounds.steps})
    fit = _fit(full.models, full, method, rounds)
    ends: list[float] = []
    fit.run(Alone(), on_turn=lambda _: ends.append(time.perf_counter()))
    torch.cuda.synchronize()
    forget()
    # the first turn also reads the segments, and chooses kernels
    usual = (ends[-1] - ends[0]) / (len(ends) - 1)
    return [end - ends[0] + usual for end in ends]


def _fit(models: Models, full: Full, method: Method, rounds: Rounds) -> DecoderFit:
    latent, px = models.latent, full.segment

    def segment(slot: int) -> FitSegment:
        z = full.latents(px, slot)
        depth = torch.zeros(1, 1, px, px, device="cuda")
        depth[..., px // 4 : px // 2, px // 4 : px // 2] = 1
        source, weight = full.picture(px), torch.ones_like(depth)
        return FitSegment(z, latent.decode(z).clone(), source, depth, weight)

    half = method.decoder_batch == "sample" and models.products == torch.bfloat16
    decode = partial(latent.decode, half=half)
    return DecoderFit(decode, latent.decoder_weights(), segment, rounds, FitSettings.of(method))
