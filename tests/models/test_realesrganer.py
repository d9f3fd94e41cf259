"""The official Real-ESRGAN package, where the extra is installed, against spandrel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from folders import rrdbnet_weights, write_rrdbnet

from msbd_dist.errors import ModelError
from msbd_dist.models.upscale import load_upscaler

CPU = torch.device("cpu")
INSTALLED = all(importlib.util.find_spec(name) for name in ("realesrgan", "basicsr"))
needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs pip install 'msbd_dist[realesrgan]'")


@needs_extra
@pytest.mark.parametrize("scale", [2, 4])
def test_the_official_package_gives_the_same_picture(tmp_path: Path, scale: int) -> None:
    file = write_rrdbnet(tmp_path / "up.pth", scale=scale, blocks=2)
    x = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    ours = load_upscaler("realesrgan", file, factor=scale, device=CPU)(x)
    theirs = load_upscaler("realesrganer", file, factor=scale, device=CPU)(x)
    assert theirs.shape == (2, 3, 12 * scale, 16 * scale)
    assert float(ours.std()) > 0.02
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@needs_extra
def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "up.pth"
    torch.save({"params": {"a": torch.ones(1)}}, file)
    with pytest.raises(ModelError, match=r"not a published Real-ESRGAN.*upscaler: realesrgan"):
        load_upscaler("realesrganer", file, factor=4, device=CPU)
    weights = rrdbnet_weights()
    del weights["conv_hr.weight"]
    torch.save({"params": weights}, file)
    with pytest.raises(ModelError, match=r"does not load as RRDBNet.*upscaler: realesrgan"):
        load_upscaler("realesrganer", file, factor=4, device=CPU)


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_without_the_extra_the_remedy_is_named(tmp_path: Path) -> None:
    file = write_rrdbnet(tmp_path / "up.pth")
    with pytest.raises(ModelError, match=r"pip install 'msbd_dist\[realesrgan\]'"):
        load_upscaler("realesrganer", file, factor=4, device=CPU)
