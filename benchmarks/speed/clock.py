"""How long a worker's models are at work, and with what."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from msbd_dist.models.bundle import Models


class Clock:
    """Seconds in each kind of model call. On CUDA these are the device's, which are not waited for
    until they are asked for."""

    def __init__(self, models: Models, upscaler: str = "realesrgan") -> None:
        """From here on all calls of these models are timed. ``upscaler``: the kind that is used."""
        self._cuda = models.device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        latent: Any = models.latent
        for name in ("encode", "decode", "text"):
            setattr(latent, name, self._timed(name, getattr(latent, name)))
        latent.parts.unet.forward = self._timed("denoise", latent.parts.unet.forward)
        enlarge = self._timed("enlarge", models.upscaler(upscaler))  # type: ignore[arg-type]
        models.upscaler = lambda kind: enlarge  # type: ignore[method-assign, assignment]

    def forget(self) -> None:
        self._spans.clear()

    @property
    def seconds(self) -> dict[str, float]:
        """By kind of call, since they were last forgotten."""
        if self._cuda:
            torch.cuda.synchronize()
        return {name: sum(map(self._length, spans)) for name, spans in self._spans.items()}

    def _length(self, span: tuple[Any, Any]) -> float:
        begun, ended = span
        return float(begun.elapsed_time(ended) / 1000 if self._cuda else ended - begun)

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            with self._span(name):
                return call(*args, **options)

        return timed

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        begun = self._now()
        yield
        self._spans[name].append((begun, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
