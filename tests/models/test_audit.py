"""Models are checked without loading anything; what a pickle would do is never done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import SD1_FILE, edit_json
from safetensors.torch import load_file, save_file

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.audit import SUMS, check, write_sums
from msbd_dist.models.card import bundled_folder, resolve


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


def _shards(folder: Path, part: str = "unet") -> Path:
    """A part's weights in two files with an index, as larger models have them."""
    place = folder / part
    whole = place / "diffusion_pytorch_model.safetensors"
    weights, places = load_file(whole), dict[str, str]()
    whole.unlink()
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        name = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({key: weights[key] for key in names}, place / name)
        places |= dict.fromkeys(names, name)
    index = place / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_a_model_in_shards_is_sound(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundled_folder(), tmp_path / "model"))
    _shards(folder)
    assert sum(file.path.startswith("unet/") for file in check(str(folder)).files) == 2


def _replaced(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def _lose_a_shard(folder: Path) -> None:
    (_shards(folder).parent / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def _misplace(folder: Path) -> None:
    index = _shards(folder)
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = content["weight_map"]["conv_in.bias"]
    index.write_text(json.dumps(content))


def _no_map(folder: Path) -> None:
    _shards(folder).write_text("{}")


UNET = "unet/diffusion_pytorch_model.safetensors"
DISAGREEMENTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a lost shard": (_lose_a_shard, ["1 of 2 files are missing", "00002-of-00002"]),
    "a tensor in another shard": (_misplace, ["has no conv_in.weight", "index.json places there"]),
    "an index of nothing": (_no_map, ["index.json", "weight_map"]),
    "another width": (
        lambda d: _replaced(
            d / UNET, lambda w: w.update({"conv_in.weight": torch.ones(8, 4, 3, 3)})
        ),
        ["unet", "conv_in.weight is [8, 4, 3, 3]", "config.json describes"],
    ),
    "no way out": (
        lambda d: _replaced(d / UNET, lambda w: w.pop("conv_out.weight")),
        ["unet", "no tensor conv_out.weight"],
    ),
    "another vocabulary": (
        lambda d: edit_json(d / "text_encoder/config.json", vocab_size=49408),
        ["text_encoder", "token_embedding.weight", "49408"],
    ),
    "a pointer": (
        lambda d: (d / UNET).write_text("version https://git-lfs.github.com/spec/v1\n"),
        [UNET, "git lfs pull"],
    ),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_weights_that_are_not_the_configurations_are_refused_before_any_work(
    case: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundled_folder(), tmp_path / "model"))
    spoil, words = DISAGREEMENTS[case]
    spoil(folder)
    for look in (lambda: check(str(folder)), lambda: resolve(ModelSpec(family=str(folder)))):
        with pytest.raises(ModelError) as error:
            look()
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)


def test_what_a_file_is_is_said(tmp_path: Path) -> None:
    save_file({"lora_unet_x.weight": torch.ones(3)}, tmp_path / "lora.safetensors")
    assert check(str(tmp_path / "lora.safetensors")).what == "a LoRA"
    upscaler = check(str(bundled_folder() / "upscaler" / "esrgan_x4.safetensors"))
    assert upscaler.what == "ESRGAN, enlarges by 4, from 3 to 3 channels"


def test_what_a_single_file_predicts_is_told(tmp_path: Path) -> None:
    weights = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in SD1_FILE.items()}
    plain, named = tmp_path / "m.safetensors", tmp_path / "m-vpred.safetensors"
    save_file(weights, plain)
    assert check(str(plain)).what.endswith("predicts epsilon")
    save_file(weights | {"v_pred": torch.zeros(0), "zz": torch.zeros(1)}, plain)
    assert "predicts v_prediction; " in check(str(plain)).what
    save_file(weights, named)
    found = check(str(named))
    assert found.family is None
    assert "can't be used as it is" in found.what
    assert "give config" in found.what
