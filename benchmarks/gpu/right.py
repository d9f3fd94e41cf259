"""Is it right there: whole edits, dtypes, memory and numbers that run out, waits, fixed orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.bench import MB, Bench, Found, check, checking, forget, short, told
from benchmarks.gpu.edits import Edited, computing_in, edited, models_are_kept
from benchmarks.gpu.sizes import Full, full_size
from benchmarks.speed.edit import Prepared, prepare
from msbd_dist.batch import worker
from msbd_dist.batch.worker import TaskWorker
from msbd_dist.core.decoder import DecoderFit
from msbd_dist.core.levels import Level
from msbd_dist.core.rounds import Part
from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.latent import LatentModel

LEAST_DB = {"bfloat16": 25.0, "float16": 35.0}  # inside the mask, beside float32


def edits(bench: Bench) -> Found:
    """A whole edit, twice: the same bytes, nothing changed outside the mask."""
    checks: list[Found] = []
    with bench.card(), checking(checks, "a whole edit is made"), models_are_kept():
        first = edited(bench, "first")
        checks.append(check("a whole edit is made", True, _models(first)))
        checks.append(check("outside the mask every sample is the picture's", first.exact))
        changed = (first.made != first.image)[first.mask].mean()
        checks.append(check("inside the mask it is changed", changed > 0.5, short(changed)))
        again = edited(bench, "again")
        checks.append(check("two runs write the same bytes", first.digest == again.digest))
    return {"checks": checks}


def _models(made: Edited) -> str:
    """What ran where, without the files' names."""
    return str(made.markers[0]["models"]).partition(", native")[0]


def dtypes(bench: Bench) -> Found:
    """The same edit in bfloat16 and float16, beside float32."""
    checks: list[Found] = []
    with bench.card(), checking(checks, "edits in each dtype are made"):
        with computing_in(torch.float32):
            wanted = edited(bench, "float32")
        for name, least in LEAST_DB.items():
            with computing_in(getattr(torch, name)):
                found = edited(bench, name)
            inside = found.psnr(wanted, inside=True)
            what = f"{name} is float32 within {least:g} dB inside the mask"
            checks.append(check(what, inside >= least, short(inside)))
            checks.append(check(f"{name} is exact outside it", found.exact))
    return {"checks": checks}


def overflow(bench: Bench) -> Found:
    """Half precision that gives NaN: the task is done again in float32."""
    checks: list[Found] = []
    predict = LatentModel._predict

    def overflowing(self: LatentModel, z: Tensor, level: Level, text: Tensor) -> Tensor:
        raw = predict(self, z, level, text)
        return raw if self.parts.dtype == torch.float32 else raw * torch.nan

    planted = mock.patch.object(LatentModel, "_predict", overflowing)
    with bench.card(), checking(checks, "an edit whose UNet overflows is made"), planted:
        found = edited(bench, "overflow", decoder_optimization=False)
        repeated = [m for m in found.markers if m.get("dtype") == "float32"]
        what = "tasks that came out as NaN were done again in float32"
        checks.append(check(what, bool(repeated), len(repeated)))
        checks.append(check("outside the mask every sample is the picture's", found.exact))
    return {"checks": checks}


def memory(bench: Bench) -> Found:
    """A task that needs more memory than it may have: it is done in smaller pieces."""
    checks: list[Found] = []
    with bench.card(), checking(checks, "a task that runs out of memory is split"):
        few = {"across": 2, "upscaler": "bicubic", "upscale_steps": 5} if bench.dry else {}
        prepared = prepare(bench.place("memory"), ModelSpec(), **few)
        given = prepared.spec
        one = TaskWorker(given.run, given.models, given.threads)
        most = len(prepared.stage.segments)
        small, large = (_peak(prepared, one, slots) for slots in (range(1), range(most)))
        limit = (small + large) // 2
        what = f"{most} segments need more than one"
        checks.append(check(what, limit > small, f"{large // MB} MB, {small // MB} MB"))
        try:
            torch.cuda.set_per_process_memory_fraction(limit / bench.memory)
            forget()
            backwards = range(most)[::-1]  # another task, which has not been done
            facts = one.run(prepared.order(backwards), Attempt("9.less"), beat=lambda: None)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        said = " ".join(map(str, facts.get("log", [])))
        what = f"under {limit // MB} MB the task is done in smaller pieces"
        checks.append(check(what, "smaller pieces" in said))
    return {"checks": checks}


def _peak(prepared: Prepared, one: TaskWorker, slots: Any) -> int:
    prepared.run(one, slots)
    forget()
    prepared.run(one, slots)
    return torch.cuda.max_memory_reserved()


def waits(bench: Bench) -> Found:
    """The host never waits for the card in a denoising loop, nor in a pass of decoder optimization
    over segments that are held."""
    checks: list[Found] = []
    with bench.card(), checking(checks, "an edit is made"), models_are_kept():
        edited(bench, "warm")  # loads what is needed
        loop, passes = Watched("the denoising loop"), Watched("a pass of decoder optimization")
        strict = loop.on(worker, "blended_diffusion"), passes.on(DecoderFit, "_accumulate", held)
        with checking(checks, "an edit is made in which waits are errors"), strict[0], strict[1]:
            edited(bench, "waits")
        for one in (loop, passes):
            what = f"the host does not wait in {one.name}"
            checks.append(check(what, one.entered > 0 and not one.error, one.error or one.entered))
    return {"checks": checks}


def held(fit: DecoderFit, _: object, parts: Sequence[Part], __: object) -> bool:
    """Whether a pass has to read no segment."""
    return all(part.slot in fit._held for part in parts)


@dataclass
class Watched:
    """A function in which waiting for the card is an error."""

    name: str
    entered: int = 0
    error: str = ""

    @contextmanager
    def on(
        self, owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True
    ) -> Iterator[None]:
        """``when``: of which calls, by their arguments."""
        function = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            if not when(*args, **options):
                return function(*args, **options)
            self.entered += 1
            try:
                with waits_are_errors():
                    return function(*args, **options)
            except RuntimeError as error:
                self.error = self.error or told(error)
                raise

        with mock.patch.object(owner, name, watched):
            yield


@contextmanager
def waits_are_errors() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


# -- fixed orders, at full size --------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A call whose result is to be the same bits each time."""

    name: str
    call: Callable[[], Tensor]


def kernels(bench: Bench) -> Found:
    """Every network at full size, twice, under deterministic algorithms: the same bits."""
    checks: list[Found] = []
    with bench.card():
        full = full_size(bench)
        for kernel in _kernels(full):
            what = f"{kernel.name}: the same bits twice"
            with checking(checks, what):
                first, again = kernel.call(), kernel.call()
                checks.append(check(what, torch.equal(first, again)))
        mates = _mates(full)
    return {"checks": checks, "rows": mates}


def _kernels(full: Full) -> Iterator[Kernel]:
    px, small = full.segment, full.sizes.enlarged
    for batch in (1, 2):
        yield Kernel(f"UNet, {px} px, batch {batch}", partial(full.denoise, px, batch))
    yield Kernel(f"decoder, {px} px", partial(full.decode, px))
    yield Kernel(f"encoder, {px} px", partial(full.encode, px))
    yield Kernel(f"gradient of the decoder, {px} px", partial(full.gradient, px))
    yield Kernel(f"super-resolution, {small} px", partial(full.enlarge, small))
    yield Kernel("CLIP", partial(full.score, 1))


def _mates(full: Full) -> Found:
    """Whether a row of the UNet depends on how many others, and on which others, it is with."""
    px = full.segment
    alone = full.denoise(px, 1)
    four = full.denoise(px, 4)
    others = full.denoise(px, 4, others=9)
    return {
        "batch": 4,
        "apart_from_alone": short(float((four[:1] - alone).abs().max())),
        "apart_with_others": short(float((four[:1] - others[:1]).abs().max())),
    }


# -- does the command notice -----------------------------------------------------------------------


def noticed(bench: Bench) -> Found:
    """What these checks are to find, planted on the card itself."""
    checks: list[Found] = []
    with bench.card():
        for what, plant in PLANTS.items():
            found = ""
            try:
                plant()
            except RuntimeError as error:
                found = str(error).splitlines()[0][:120]
            checks.append(check(f"{what} is noticed", bool(found), found or "nothing was raised"))
    return {"checks": checks}


def _wait_for_the_card() -> None:
    values = torch.ones(3, device="cuda")
    with waits_are_errors():
        float(values.sum())


def _no_fixed_order() -> None:
    torch.histc(torch.rand(100, device="cuda"), bins=4)


def _two_places() -> None:
    torch.ones(3, device="cuda") + torch.ones(3)


PLANTS: dict[str, Callable[[], None]] = {
    "a wait for the card": _wait_for_the_card,
    "an operator without a fixed order": _no_fixed_order,
    "a sum of tensors of two places": _two_places,
}
