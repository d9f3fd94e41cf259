"""How much fits: peak memory of each kind of work by batch, and the largest batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from benchmarks.gpu.bench import MB, Bench, Found, fits, forget
from benchmarks.gpu.card import read_card
from benchmarks.gpu.sizes import Full, full_size

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
DRY_BATCHES = (1, 2)


def batches(bench: Bench) -> Found:
    """By batch, up to what fits: the table that chooses ``segment_batch``."""
    tried = DRY_BATCHES if bench.dry else BATCHES
    with bench.card():
        full = full_size(bench)
        total = bench.memory // MB
        rows = []
        for name, px, call in _kinds(full):
            call(1)  # loads what is needed, and chooses kernels
            found = fits(tried, call)
            rows.append({"work": name, "px": px, "peak_mb": found.peaks, "why": found.why})
            forget()
    return {
        "rows": rows,
        "tried": list(tried),
        "card_mb": total,
        "now": read_card(),
        "checks": [],
    }


def _kinds(full: Full) -> Iterator[tuple[str, int, Callable[[int], Tensor]]]:
    """What a worker does, with a batch where it takes one."""
    px, small = full.segment, full.sizes.enlarged
    yield "denoise, one row for each segment", px, partial(full.denoise, px)
    yield "denoise with guidance", px, partial(full.guided, px)
    yield "enlarge", small, partial(full.enlarge, small)
    yield "CLIP", px, full.score


def single(bench: Bench) -> Found:
    """What is done one by one: a segment's encoding, decoding, and pass of the fit."""
    with bench.card():
        full = full_size(bench)
        calls: dict[str, Callable[[int], Tensor]] = {
            "encode": full.encode,
            "decode": full.decode,
            "pass of the fit": full.gradient,
            "pass of the fit, frugal": partial(full.gradient, frugal=True),
        }
        rows = []
        for name, call in calls.items():
            call(full.segment)
            found = fits(full.sizes.pictures, call)
            rows.append({"work": name, "peak_mb": found.peaks, "why": found.why})
            forget()
    return {"rows": rows, "checks": []}
