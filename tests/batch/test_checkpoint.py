"""An unfinished decoder optimization is taken up, and one that is damaged is begun anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from msbd_dist.batch.worker import Checkpoint
from msbd_dist.canvas.files import LocalFiles
from msbd_dist.core.decoder import DecoderFit, FitSegment, FitSettings, Params
from msbd_dist.core.gang import Alone
from msbd_dist.core.rounds import Rounds

NAME = "tuned-2.checkpoint"


def decode(z: torch.Tensor, params: Params | None) -> torch.Tensor:
    return z * (params or {"gain": torch.ones(1)})["gain"]


def new_fit(steps: int) -> DecoderFit:
    z = torch.linspace(0, 1, 48).view(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    segment = FitSegment(z, z, z * 1.5, mask, torch.ones(1, 1, 4, 4))
    settings = FitSettings(lr=1e-2, lam=1.0)
    load = [segment].__getitem__
    return DecoderFit(decode, {"gain": torch.ones(1)}, load, Rounds(1, 1, steps), settings)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(LocalFiles(folder), 2, lambda: None)


def begun() -> DecoderFit:
    fit = new_fit(3)
    fit.run(Alone())
    return fit


def test_a_fit_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = begun()
    (tmp_path / NAME).write_bytes(save(first.state()))
    second = new_fit(8)
    checkpoint(tmp_path).restore(second)
    assert second.turn == 3
    assert second.params["gain"].equal(first.params["gain"])
    second.run(Alone())
    assert second.losses[:3] == first.losses


DAMAGED = {
    "cut short": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "of another fit": lambda whole: save({"weights": torch.zeros(3, 7), "losses": torch.zeros(2)}),
    "not finite": lambda whole: save(
        {"weights": torch.full((3, 1), torch.nan), "losses": torch.zeros(2, dtype=torch.float64)}
    ),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_checkpoint_is_removed_with_a_word_and_the_fit_begins_anew(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(DAMAGED[how](save(begun().state())))
    fit = new_fit(3)
    with caplog.at_level(logging.WARNING, "msbd_dist"):
        checkpoint(tmp_path).restore(fit)
    assert fit.turn == 0
    assert not (tmp_path / NAME).exists()
    assert f"{NAME}: can't be taken up" in caplog.text
    assert fit.run(Alone())["gain"].equal(begun().params["gain"])
