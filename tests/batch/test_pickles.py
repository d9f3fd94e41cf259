"""A manifest that names a pickle for a model: refused, and nothing in it runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quick import draw_inputs, manifest_of

from msbd_dist.batch.run import run_manifest
from msbd_dist.errors import ModelError


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("key", ["family", "sr", "clip"])
def test_a_manifest_whose_model_is_a_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, key: str
) -> None:
    """A model that is one ends the run, an upscaler or a scorer the edits that need it."""
    draw_inputs(tmp_path)
    torch.save({"params": Bomb(tmp_path / "gone-off")}, tmp_path / "bomb.pth")
    place = str(tmp_path / "bomb.pth")
    quick = {"steps": 1, "repaint": 0, "decoder_optimization": False}
    models = {"family": "tiny", key: f"ViT-B-32:{place}" if key == "clip" else place}
    manifest = manifest_of(tmp_path, quick, models=models)
    try:
        (edit,) = run_manifest(manifest, tmp_path / "out", executor="serial").edits
        error = edit.error
    except ModelError as raised:
        error = raised
    assert isinstance(error, ModelError)
    assert re.search(r"bomb\.pth: .*pickle", str(error))
    assert not (tmp_path / "gone-off").exists()
    assert not list(tmp_path.glob("out/*/*/ledger/*"))
