"""How alike pictures are: known values, windows, and weights that are or are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.likeness import Likeness, load_lpips, lpips_weights

CPU = torch.device("cpu")


@pytest.fixture
def picture() -> Tensor:
    return torch.rand((3, 96, 128), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for weights; returns where AlexNet's would be."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lpips_weights().parent.mkdir()
    return lpips_weights()


def alexnet(file: Path) -> None:
    """Weights of the right names and sizes, drawn: they are what is being loaded, not a judge."""
    from torchvision.models import alexnet as network

    torch.manual_seed(0)
    torch.save(network(weights=None).state_dict(), file)


def measured(one: Tensor, other: Tensor) -> Likeness:
    found = Likeness(None, device=CPU)
    found.add(one, other)
    return found


def test_equal_pictures(picture: Tensor) -> None:
    found = measured(picture, picture.clone())
    assert found.psnr is None  # infinite
    assert found.ssim == pytest.approx(1)


def test_psnr_is_that_of_the_mean_squared_difference(picture: Tensor) -> None:
    assert measured(picture * 0.5, picture * 0.5 + 0.1).psnr == pytest.approx(20, abs=1e-3)


def test_windows_add_up(picture: Tensor) -> None:
    other = (picture + 0.1 * picture.flip(-1)).clamp(0, 1)
    parts = Likeness(None, device=CPU)
    for x in (0, 64):
        parts.add(picture[..., x : x + 64], other[..., x : x + 64])
    whole = measured(picture, other)
    assert parts.psnr == pytest.approx(whole.psnr, abs=1e-4)
    assert parts.ssim == pytest.approx(whole.ssim, abs=0.01)


def test_blur_costs_structure_more_than_a_shade_does(picture: Tensor) -> None:
    blurred = torch.nn.functional.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)[0]
    shaded = (picture + 0.05).clamp(0, 1)
    worse, better = measured(picture, blurred).ssim, measured(picture, shaded).ssim
    assert worse is not None
    assert better is not None
    assert worse < 0.5 < 0.9 < better < 1


def test_pictures_may_be_too_small_for_some_measures() -> None:
    small = torch.zeros((3, 8, 90))
    found = measured(small, small + 0.1)
    assert (found.psnr, found.ssim, found.lpips) == (pytest.approx(20, abs=1e-3), None, None)
    nothing = Likeness(None, device=CPU)
    assert (nothing.psnr, nothing.ssim, nothing.lpips) == (None, None, None)


def test_without_weights_there_is_no_lpips_and_nothing_is_fetched(hub: Path) -> None:
    assert load_lpips(device=CPU) is None
    assert not hub.exists()


def test_with_weights_lpips_is_0_for_equal_pictures_and_grows(hub: Path, picture: Tensor) -> None:
    alexnet(hub)
    lpips = load_lpips(device=CPU)
    assert lpips is not None
    noise = torch.rand(picture.shape, generator=torch.Generator().manual_seed(2)) - 0.5
    found = []
    for much in (0, 0.1, 0.5):
        likeness = Likeness(lpips, device=CPU)
        likeness.add(picture, (picture + much * noise).clamp(0, 1))
        found.append(likeness.lpips)
    assert found[0] == 0
    assert 0 < found[1] < found[2]


@pytest.mark.parametrize("content", [b"", b"nothing", {"features.0.weight": torch.zeros(1)}])
def test_other_files_are_one_line(hub: Path, content: object) -> None:
    if isinstance(content, bytes):
        hub.write_bytes(content)
    else:
        torch.save(content, hub)
    with pytest.raises(ModelError, match=r"lpips: .* is not torchvision's AlexNet") as caught:
        load_lpips(device=CPU)
    assert "\n" not in str(caught.value)
