"""Shared models: the bundled family, and folders of Stable Diffusion's shape made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from folders import write_rrdbnet, write_sd_folder, write_single_file
from torch import Tensor

from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No test waits for the network: the model hub is an empty cache, read offline."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def bundled() -> Models:
    return load(resolve(ModelSpec()), device="cpu")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only: eps/, v/ (zero terminal SNR), single.safetensors of eps, x4.pth."""
    root = tmp_path_factory.mktemp("models")
    write_sd_folder(root / "eps")
    write_sd_folder(root / "v", prediction="v_prediction", zero_snr=True)
    write_single_file(root / "eps", root / "single.safetensors")
    write_rrdbnet(root / "x4.pth")
    return root


@pytest.fixture(scope="session")
def scene() -> Tensor:
    """A picture of the bundled family's world, (1, 3, 128, 128): a red circle on light blue."""
    large = np.full((512, 512, 3), (150, 190, 235), np.uint8)
    cv2.circle(large, (270, 250), 130, (210, 40, 40), -1, cv2.LINE_AA)
    small = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
