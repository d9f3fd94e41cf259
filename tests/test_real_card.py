"""What the twin of a card does, a card does: the same snippets on both (`make gpu`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.gpu.right import waits_are_errors
from benchmarks.gpu.twin import Twin

# what a call does on CUDA: it goes through, or it raises with these words
GOES = ""
MIXES = "same device"
WAITS = "called a synchronizing"
UNORDERED = "deterministic implementation"


def ones(*shape: int, device: str = "cuda", **options: Any) -> torch.Tensor:
    return torch.ones(*shape, device=device, **options)


def strictly_ordered(call: Callable[[], object]) -> Callable[[], object]:
    def strict() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            call()
        finally:
            torch.use_deterministic_algorithms(False)

    return strict


def without_waits(call: Callable[[], object]) -> Callable[[], object]:
    def free() -> None:
        with waits_are_errors():
            call()

    return free


def pinned() -> torch.Tensor:
    return torch.ones(3).pin_memory().to("cuda", non_blocking=True)


def gradient_of(call: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = ones(1, 2, 8, 8, requires_grad=True)
    call(x).sum().backward()


def resized(mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.nn.functional.interpolate(x, scale_factor=2, mode=mode)


SNIPPETS: dict[str, tuple[Callable[[], object], str]] = {
    "a sum of both places": (lambda: ones(3) + torch.ones(3), MIXES),
    "a host's scalar": (lambda: ones(3) + torch.tensor(2.0), GOES),
    "a layer of the host": (lambda: torch.nn.Linear(3, 3)(ones(3)), MIXES),
    "indices of the host": (lambda: ones(3)[torch.tensor([0, 2])], GOES),
    "a value that is asked for": (without_waits(lambda: float(ones(3).sum())), WAITS),
    "places of what is not zero": (without_waits(lambda: ones(3).nonzero()), WAITS),
    "a copy to the host": (without_waits(lambda: ones(3).cpu()), WAITS),
    "a copy to the card": (without_waits(lambda: torch.ones(3).to("cuda")), WAITS),
    "a pinned copy": (without_waits(pinned), GOES),
    "a made scalar": (without_waits(lambda: torch.full((), 3, device="cuda")), GOES),
    "a product": (strictly_ordered(lambda: ones(8, 8) @ ones(8, 8)), GOES),
    "a running sum": (strictly_ordered(lambda: ones(9).cumsum(0)), UNORDERED),
    "a histogram": (strictly_ordered(lambda: torch.histc(ones(9), 3)), UNORDERED),
    "counts": (strictly_ordered(lambda: ones(9, dtype=torch.int64).bincount(ones(9))), UNORDERED),
    "nearest, backwards": (
        strictly_ordered(lambda: gradient_of(resized("nearest"))),
        GOES,
    ),
    "bicubic, backwards": (
        strictly_ordered(lambda: gradient_of(resized("bicubic"))),
        UNORDERED,
    ),
}


@pytest.fixture(params=["twin", pytest.param("card", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where snippets run."""
    if request.param == "twin":
        with Twin():
            yield "twin"
        return
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    yield "card"


@pytest.mark.parametrize("name", SNIPPETS)
def test_card_and_twin_do_the_same(place: str, name: str) -> None:
    call, wanted = SNIPPETS[name]
    try:
        call()
    except RuntimeError as error:
        found = str(error)
    else:
        found = GOES
    assert wanted in found
    assert bool(wanted) == bool(found), found
