"""Models are checked without loading anything; what a pickle would do is never done."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from msbd_dist.errors import ModelError
from msbd_dist.models.audit import SUMS, check, write_sums
from msbd_dist.models.card import bundled_folder


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled family, with a list of digests."""
    shutil.copytree(bundled_folder(), tmp_path / "model")
    write_sums(tmp_path / "model")
    return tmp_path / "model"


def test_the_bundled_family_is_sound() -> None:
    found = check("tiny")
    assert found.family is not None
    assert found.family.native == 128
    assert {file.path for file in found.files} >= {"unet/diffusion_pytorch_model.safetensors"}
    assert not any(file.listed for file in found.files)


def test_a_folder_with_a_list_is_held_to_it(folder: Path) -> None:
    assert all(file.listed for file in check(str(folder)).files)
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder, check=True)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a changed weight": (
        lambda d: _flip(d / "vae/diffusion_pytorch_model.safetensors"),
        ["vae/diffusion_pytorch_model.safetensors", SUMS],
    ),
    "half a file": (
        lambda d: os.truncate(d / "unet/diffusion_pytorch_model.safetensors", 5000),
        ["unet/diffusion_pytorch_model.safetensors", "whole"],
    ),
    "another text": (lambda d: (d / "README.md").write_text("x"), ["README.md", SUMS]),
    "a missing file": (lambda d: (d / "tokenizer/vocab.json").unlink(), ["vocab.json"]),
    "only pickles": (
        lambda d: (d / "unet/diffusion_pytorch_model.safetensors").rename(
            d / "unet/diffusion_pytorch_model.bin"
        ),
        ["unet", "pickled"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(folder: Path, damage: str) -> None:
    spoil, words = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(ModelError) as error:
        check(str(folder))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_pickle_beside_the_weights_is_named_and_not_opened(folder: Path, tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "gone-off"), folder / "unet" / "old.bin")
    found = check(str(folder))
    assert found.ignored == ("unet/old.bin",)
    assert not (tmp_path / "gone-off").exists()


@pytest.mark.parametrize("kind", ["archive", "older format", "plain pickle", "newer protocol"])
def test_a_pickle_that_runs_something_is_refused_and_does_not_run(
    tmp_path: Path, kind: str
) -> None:
    file, bomb = tmp_path / "upscaler.pth", {"params": Bomb(tmp_path / "gone-off")}
    if kind == "archive":
        torch.save(bomb, file)
    elif kind == "older format":
        torch.save(bomb, file, _use_new_zipfile_serialization=False)
    else:
        file.write_bytes(pickle.dumps(bomb, protocol=4 if kind == "newer protocol" else 2))
    with pytest.raises(ModelError, match="never loaded"):
        check(str(file), allow_pickle=True)
    assert not (tmp_path / "gone-off").exists()
    if kind == "plain pickle":  # it is what it is meant to be
        pickle.loads(file.read_bytes())
        assert (tmp_path / "gone-off").exists()


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_of_tensors_will_do_if_it_is_asked_for(tmp_path: Path, archive: bool) -> None:
    file = tmp_path / "upscaler.pth"
    weights = {"params_ema": {"conv.weight": torch.ones(2, 3).half(), "x": torch.zeros(1)}}
    torch.save(weights, file, _use_new_zipfile_serialization=archive)
    with pytest.raises(ModelError, match="--allow-pickle"):
        check(str(file))
    found = check(str(file), allow_pickle=True)
    assert [(f.path, f.bytes) for f in found.files] == [("upscaler.pth", file.stat().st_size)]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"hello")
    with pytest.raises(ModelError, match="can't be read"):
        check(str(tmp_path / "x.pth"), allow_pickle=True)
    with pytest.raises(ModelError, match="is a pickle"):
        check("model.ckpt")


def test_a_part_of_a_model_has_no_geometry(tmp_path: Path) -> None:
    save_file({"conv_first.weight": torch.ones(3)}, tmp_path / "upscaler.safetensors")
    found = check(str(tmp_path / "upscaler.safetensors"))
    assert found.family is None
    assert len(found.files) == 1


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no"):
        check(str(tmp_path))


def test_checking_loads_no_torch() -> None:
    code = (
        "import sys; from msbd_dist.models.audit import check; check('tiny'); "
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
