"""Where memory is short, work is done in pieces: fits and the first stage's samples as well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import FAST, draw_inputs, manifest_of, pixels

from msbd_dist.batch import run
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.record import Launch
from msbd_dist.core.geometry import Size
from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.executor import Executor, SerialExecutor
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve


@pytest.fixture(scope="module")
def models() -> Models:
    return load(resolve(ModelSpec(family="tiny")), device="cpu")


def passed(models: Models, **how: Any) -> tuple[list[torch.Tensor], int]:
    """The gradient of every weight, and the bytes that were kept for it."""
    kept = dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pretrained = models.latent.decoder_weights().items()
    weights = {name: (weight * 1.01).detach().requires_grad_() for name, weight in pretrained}
    z = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(3))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        picture = models.latent.decode(z, weights, **how)
    picture.square().mean().backward()
    return [weight.grad for weight in weights.values()], sum(kept.values())


@pytest.mark.parametrize("half", [False, True])
def test_a_frugal_decoder_keeps_less_and_has_the_same_gradient(models: Models, half: bool) -> None:
    usual, much = passed(models, half=half)
    frugal, little = passed(models, half=half, frugal=True)
    assert all(torch.equal(a, b) for a, b in zip(usual, frugal, strict=True))
    assert little < 0.6 * much
    again, _ = passed(models, half=half)  # and nothing of it stays
    assert all(torch.equal(a, b) for a, b in zip(usual, again, strict=True))


class InPieces:
    """A worker of a host that is short of memory: every task is in four pieces."""

    def __init__(self, spec: WorkerSpec, seen: list[tuple[int, bool]]) -> None:
        self._worker: Any = spec()
        latent = self._worker._models.latent
        predict, decode = latent._predict, latent.decode

        def predicted(z: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append((len(z), False))
            return predict(z, *rest)

        def decoded(*given: Any, **how: Any) -> torch.Tensor:
            seen.append((0, how.get("frugal", False)))
            return decode(*given, **how)

        latent._predict, latent.decode = predicted, decoded

    def run(self, task: Any, attempt: Attempt, **rest: Any) -> dict[str, Any]:
        return dict(self._worker.run(task, replace(attempt, parts=4), **rest))


def test_an_edit_in_pieces_is_the_same_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_inputs(tmp_path, size=Size(150, 160))
    manifest = manifest_of(tmp_path, {**FAST, "samples": 3, "guidance": 1}, models="tiny")
    usual = run.run_manifest(manifest, tmp_path / "usual", executor="serial")
    seen: list[tuple[int, bool]] = []

    def make(launch: Launch, spec: WorkerSpec, *, epoch: int) -> Executor:
        return SerialExecutor(lambda: InPieces(spec, seen), epoch=epoch)

    monkeypatch.setattr(run, "make_executor", make)
    pieces = run.run_manifest(manifest, tmp_path / "pieces", executor="serial")
    assert {batch for batch, _ in seen if batch} == {1}  # each sample by itself
    assert (0, True) in seen
    pictures = [pixels(result.edits[0].output or "") for result in (usual, pieces)]
    assert np.abs(np.subtract(*(picture.astype(int) for picture in pictures))).max() <= 2
