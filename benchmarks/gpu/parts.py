"""The parts of the benchmark, and running them in a process that none of them can harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import diffusers
import torch

from benchmarks.gpu import fast, fits, right, scales, trains
from benchmarks.gpu.bench import Bench, Found, short, told

Part = Callable[[Bench], Found]

PARTS: Mapping[str, Part] = {
    "right.noticed": right.noticed,
    "right.edits": right.edits,
    "right.dtypes": right.dtypes,
    "right.overflow": right.overflow,
    "right.memory": right.memory,
    "right.waits": right.waits,
    "right.resumed": fits.resumed,
    "right.shared": fits.shared,
    "right.nccl": fits.nccl,
    "right.kernels": right.kernels,
    "fast.rates": fast.rates,
    "fast.calls": fast.calls,
    "fast.final": fast.final,
    "fast.profiled": fast.profiled,
    "fast.decoder": fast.decoder,
    "scales.batches": scales.batches,
    "scales.single": scales.single,
    "trains.minute": trains.minute,
}
LAST_WORDS = 2.0  # seconds for a process to end by itself
LONGEST = 240.0  # seconds that a part may take


def chosen(names: str) -> list[str]:
    """Parts by their names, or by the words before the point; ValueError where one is unknown."""
    wanted = names.split(",")
    for name in wanted:
        if name not in PARTS and name not in groups():
            raise ValueError(f"{name!r} is none of {', '.join(groups())}, {', '.join(PARTS)}")
    return [part for part in PARTS if part in wanted or part.split(".")[0] in wanted]


def groups() -> list[str]:
    return list(dict.fromkeys(part.split(".")[0] for part in PARTS))


@dataclass
class Runner:
    """Runs parts one after another in one process; in a new one after a part that failed.

    A card that had a fault can't be used any more by the process that had it, and a process that
    waits for the card for good has to be killed.
    """

    bench: Bench
    parts: Mapping[str, Part]
    _process: Any = None
    _pipe: Any = None

    def run(self, name: str, longest: float = LONGEST) -> Found:
        """What a part found; ``error`` says in a line why it found nothing."""
        began = time.monotonic()
        found = self._answer(name, longest)
        if "error" in found:
            self.close()
        return found | {"seconds": short(time.monotonic() - began)}

    def _answer(self, name: str, longest: float) -> Found:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(name)
            if not self._pipe.poll(longest):
                return {"error": f"it took longer than {longest:g} s and was ended"}
            found: Found = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10)
            return {"error": f"its process ended (exit code {self._process.exitcode})"}
        return found

    def _start(self) -> None:
        context = get_context("spawn")  # a process that has used CUDA can't be forked
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.bench, self.parts))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and all that it has started."""
        if self._process is None:
            return
        self._pipe.close()  # which ends it where it waits for a part
        self._process.join(LAST_WORDS)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()  # it has ended, or not yet begun
        self._process.join()
        self._process = None


def _serve(pipe: Connection, bench: Bench, parts: Mapping[str, Part]) -> None:
    os.setsid()  # what it starts can be ended with it
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            found = parts[name](bench)
        except Exception as error:
            found = {"error": told(error)}
        pipe.send(found)
