"""Where a part of the benchmark works, how large its models are, and how it says what it found."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.twin import MEMORY, Twin
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import Models, load, make_deterministic
from msbd_dist.models.card import resolve

Found = dict[str, Any]  # what a part has measured, in plain values
MB = 2**20
PACKAGE = "/msbd_dist/"


@dataclass(frozen=True)
class Bench:
    """The same for all parts of one command."""

    folder: Path  # for what is made on the way; parts share what they find there
    dry: bool = False  # tiny sizes, on the twin of a card

    @contextmanager
    def card(self, *, strict: bool = True) -> Iterator[None]:
        """There is a CUDA device inside, the card or its twin; ``strict``: set up as a worker has
        it, with sums in a fixed order."""
        with Twin() if self.dry else nullcontext():
            if strict:
                make_deterministic()
            yield
            torch.use_deterministic_algorithms(False)
            torch.cuda.empty_cache()

    @property
    def memory(self) -> int:
        """Bytes of the card."""
        return MEMORY if self.dry else torch.cuda.get_device_properties(0).total_memory

    def tiny(self) -> Models:
        """The bundled family."""
        return load(resolve(ModelSpec()), device="cuda")

    def place(self, name: str) -> Path:
        """A new folder."""
        number = sum(1 for _ in self.folder.glob(f"{name}-*"))
        made = self.folder / f"{name}-{number}"
        made.mkdir(parents=True)
        return made


# -- what is right ---------------------------------------------------------------------------------


def check(what: str, ok: bool, found: object = None) -> Found:
    """A row of a part's ``checks``. ``found``: what it says beside that, a number or words."""
    return {"what": what, "ok": bool(ok), **({} if found is None else {"found": found})}


@contextmanager
def checking(checks: list[Found], what: str) -> Iterator[None]:
    """What is raised inside makes one check fail, and says where the package was."""
    try:
        yield
    except Exception as error:
        checks.append(check(what, False, told(error)))


def told(error: BaseException) -> str:
    """An error in one line, with the package's innermost line that led to it."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PACKAGE in frame.filename]
    if not own:
        return line
    place = own[-1].filename.rpartition(PACKAGE)[2]
    return f"{line} ({place}:{own[-1].lineno})"


# -- time and memory -------------------------------------------------------------------------------


def seconds(call: Callable[[], object], times: int = 5, *, least: float = 0.0) -> float:
    """The median of ``times`` calls or more, until ``least`` seconds are spent; after one call
    that does not count."""
    call()
    found: list[float] = []
    while len(found) < times or sum(found) < least:
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def peak_mb(call: Callable[[], object]) -> float:
    """What torch had allocated on the card at most during a call."""
    forget()
    call()
    torch.cuda.synchronize()
    return short(torch.cuda.max_memory_allocated() / MB)


def forget() -> None:
    """Free what is not used any more, and peaks."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def short(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


@dataclass
class Fits:
    """Peaks in MB by size, up to the first size that does not go through, and why not."""

    peaks: dict[int, float]
    why: str = ""


def fits(sizes: Sequence[int], call: Callable[[int], object]) -> Fits:
    """Try a call at one size after another. Mostly memory ends that, but libraries have limits."""
    found = Fits({})
    for size in sizes:
        try:
            found.peaks[size] = peak_mb(partial(call, size))
        except RuntimeError as error:
            forget()
            found.why = f"{size}: {told(error)}"
            break
    return found
