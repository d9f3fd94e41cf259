"""What errors say of a card, and cards that lose worker after worker."""

from __future__ import annotations

import pickle

import pytest
import torch

from msbd_dist.fleet.cards import CardFault, CardFull, Cards, Place, card_fault
from msbd_dist.fleet.retry import Failure, MemoryShort, WorkerLost, classify

ACCELERATOR: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        ACCELERATOR("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors"),
        ACCELERATOR("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("No CUDA GPUs are available"),
    ],
)
def test_errors_of_cuda_mean_that_the_worker_is_lost(error: Exception) -> None:
    fault = card_fault(error, "on a, GPU 1")
    assert type(fault) is CardFault
    assert str(fault).endswith("(on a, GPU 1)")
    assert "\n" not in str(fault)
    assert classify(fault) is Failure.TRANSIENT
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)  # they travel


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_memory_that_a_library_of_cuda_lacks_asks_for_smaller_pieces_too(text: str) -> None:
    fault = card_fault(RuntimeError(text), "on a")
    assert isinstance(fault, CardFull)
    assert classify(fault) is Failure.RESOURCE


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: said by somebody else"),
        WorkerLost("gone"),
    ],
)
def test_other_errors_say_nothing_of_the_card(error: Exception) -> None:
    assert card_fault(error, "on a") is None


CARD = Place("node", "GPU 1")


def test_a_card_is_left_out_when_it_has_lost_three_workers_in_a_row() -> None:
    cards, fault = Cards(), CardFault("CUDA error")
    assert [cards.lost(CARD, fault) for _ in range(3)] == [False, False, True]
    assert cards.bad == {CARD: fault}
    assert Place("node", "GPU 0") not in cards.bad


def test_a_task_that_is_done_clears_its_card() -> None:
    cards, fault = Cards(), CardFault("CUDA error")
    for _ in range(2):
        assert not cards.lost(CARD, fault)
        assert not cards.lost(CARD, fault)
        cards.worked(CARD)
    assert not cards.bad
    assert cards.ever_worked(CARD)
    assert not cards.ever_worked(Place("node", "GPU 0"))
    assert cards.node_worked("node")


def test_want_of_memory_is_held_against_a_card_half_as_much() -> None:
    cards, full = Cards(), CardFull("CUBLAS_STATUS_ALLOC_FAILED")
    assert isinstance(full, MemoryShort)
    assert [cards.lost(CARD, full) for _ in range(6)].index(True) == 5
