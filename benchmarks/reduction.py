"""What sharing a decoder optimization costs: step time and the share that the all-reduce has.

    python -m benchmarks.reduction [--ranks 1 2 3 5] [--segments 6] [--pixels 64] [--steps 3] [-o F]

The decoder of the Stable Diffusion autoencoder (50 million parameters, random weights); each rank
is a process with one thread, gloo between them. Printed for each number of ranks and kind of
reduction: seconds of a step, the seconds in it that the slowest rank waits for sums, their share,
the seconds of an all-reduce of the same buffer with nothing else to do, and a digest of the tuned
weights, which under ``exact`` must be one and the same. On one machine: messages cross its memory
only, and more ranks than cores share these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist

from benchmarks.machine import describe_machine
from msbd_dist.core.decoder import DecoderFit, FitSegment, FitSettings, Params
from msbd_dist.core.gang import Sum, Team
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.spec import Reduction
from msbd_dist.fleet.collective import Formation, Gang

KINDS: tuple[Reduction, ...] = get_args(Reduction)
FACTOR = 8  # pixels of a latent cell
CHANNELS = (128, 256, 512, 512)


@dataclass
class Timed:
    """A team whose waiting is measured."""

    team: Team
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.rank, self.size = self.team.rank, self.team.size

    def start_sum(self, values: torch.Tensor) -> Sum:
        with self:
            return _TimedSum(self.team.start_sum(values), self)

    def max(self, values: torch.Tensor) -> None:
        self.team.max(values)

    def send(self, values: torch.Tensor, root: int) -> None:
        self.team.send(values, root)

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@dataclass
class _TimedSum:
    sum: Sum
    clock: Timed

    def wait(self) -> None:
        with self.clock:
            self.sum.wait()


def member(place: Formation, segments: int, pixels: int, steps: int, answers: Any) -> None:
    """One rank: a fit of each kind, with its share of the segments."""
    torch.set_num_threads(1)
    team = Timed(Gang(place, stopped=lambda: False))
    decoder, pretrained = make_decoder()

    def decode(z: torch.Tensor, params: Params | None) -> torch.Tensor:
        return torch.func.functional_call(decoder, params or pretrained, (z,))

    def segment(slot: int) -> FitSegment:
        generator = torch.Generator().manual_seed(slot)
        picture = torch.rand(1, 3, pixels, pixels, generator=generator)
        z = torch.randn(1, 4, pixels // FACTOR, pixels // FACTOR, generator=generator)
        one = torch.ones(1, 1, pixels, pixels)
        return FitSegment(z, picture, picture, one / 2, one)

    for kind in KINDS:
        settings = FitSettings(lr=1e-4, lam=100.0, reduction=kind)
        rounds = Rounds(segments, segments, steps + 1)
        fit = DecoderFit(decode, pretrained, segment, rounds, settings)
        turns: list[Any] = []

        def on_turn(_: int, turns: list[Any] = turns) -> None:
            turns.append((time.perf_counter(), team.seconds))

        tuned = fit.run(team, on_turn=on_turn)
        (began, waited), *rest = turns  # the first one also warms up
        whole = (rest[-1][0] - began) / steps
        waits = (rest[-1][1] - waited) / steps
        answers.put((kind, digest(tuned), whole, waits, bare(team, kind, pretrained)))


def digest(weights: Params) -> str:
    found = hashlib.sha256()
    for weight in weights.values():
        found.update(weight.numpy().tobytes())
    return found.hexdigest()[:12]


def bare(team: Team, kind: Reduction, weights: Params) -> float:
    """Seconds of one all-reduce of a gradient of all weights, in buckets as the fit sends them."""
    dtype = {"exact": torch.int64, "fast": torch.float32, "bf16": torch.bfloat16}[kind]
    buffer = torch.zeros(sum(w.numel() for w in weights.values()), dtype=dtype)
    seconds = []
    for _ in range(3):
        team.start_sum(torch.zeros(1)).wait()
        began = time.perf_counter()
        for started in [team.start_sum(part) for part in buffer.split(1 << 22)]:
            started.wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def make_decoder() -> tuple[torch.nn.Module, Params]:
    from diffusers.models.autoencoders.vae import Decoder

    torch.manual_seed(0)
    blocks = ("UpDecoderBlock2D",) * len(CHANNELS)
    decoder = Decoder(4, 3, up_block_types=blocks, block_out_channels=CHANNELS, layers_per_block=2)
    return decoder.eval(), dict(decoder.named_parameters())


def measure(ranks: int, segments: int, pixels: int, steps: int) -> list[dict[str, Any]]:
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    context = get_context("spawn")
    answers = context.Queue()
    processes = []
    for rank in range(ranks):
        place = Formation(host="127.0.0.1", port=store.port, generation=1, rank=rank, size=ranks)
        arguments = (place, segments, pixels, steps, answers)
        processes.append(context.Process(target=member, args=arguments, daemon=True))
        processes[-1].start()
    found = [answers.get(timeout=1800) for _ in range(ranks * len(KINDS))]
    for process in processes:
        process.join()
    rows = []
    for kind in KINDS:
        (weights,) = {f[1] for f in found if f[0] == kind}  # the same in all ranks
        whole, waited, alone = map(max, zip(*(f[2:] for f in found if f[0] == kind), strict=True))
        rows.append(
            {
                "ranks": ranks,
                "reduction": kind,
                "step_s": round(whole, 3),
                "waits_s": round(waited, 3),
                "share": round(waited / whole, 3),
                "bare_all_reduce_s": round(alone, 3),
                "weights": weights,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--segments", type=int, default=6)
    parser.add_argument("--pixels", type=int, default=64, help="side of a segment")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    numel = sum(weight.numel() for weight in make_decoder()[1].values())
    rows = []
    for ranks in options.ranks:
        for row in measure(ranks, options.segments, options.pixels, options.steps):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    exact = {row["weights"] for row in rows if row["reduction"] == "exact"}
    print(
        "exact: the same weights for any number of ranks" if len(exact) == 1 else "exact: DIFFERS"
    )
    if options.output:
        found = {"machine": describe_machine(), "segments": options.segments}
        found |= {"pixels": options.pixels, "rows": rows}
        options.output.write_text(json.dumps({"parameters": numel, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
