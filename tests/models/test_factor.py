"""What upscalers and scorers are, known from their files alone, as spandrel and open_clip say."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import rrdbnet_weights, write_json
from safetensors.torch import save_file
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR

from msbd_dist.errors import ModelError
from msbd_dist.models.asked import Looks
from msbd_dist.models.card import bundled_folder
from msbd_dist.models.clip import check_scorer
from msbd_dist.models.factor import Checkpoint, check_upscaler, look
from msbd_dist.models.shapes import shapes_of
from msbd_dist.models.upscale import kind_of

Weights = dict[str, torch.Tensor]


def older(weights: Weights) -> Weights:
    """The names of the first ESRGAN: model.0, model.1.sub.0.RDB1.conv1.0 ..."""
    blocks = len({name.split(".")[1] for name in weights if name.startswith("body.")})
    tops = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}", "conv_up1": "model.3"}
    tops |= {"conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10"}

    def renamed(name: str) -> str:
        top, *rest = name.split(".")
        if top != "body":
            return f"{tops[top]}.{rest[0]}"
        block, dense, conv, what = rest
        return f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{what}"

    return {renamed(name): weight for name, weight in weights.items()}


def bsrgan(weights: Weights) -> Weights:
    """The names of BSRGAN and RealSR: RRDB_trunk.0.RDB1.conv1, upconv1 ..."""
    tops = {"body": "RRDB_trunk", "conv_body": "trunk_conv", "conv_hr": "HRconv"}
    tops |= {"conv_up1": "upconv1", "conv_up2": "upconv2"}

    def renamed(name: str) -> str:
        top, _, rest = name.partition(".")
        return f"{tops.get(top, top)}.{rest.replace('rdb', 'RDB')}"

    return {renamed(name): weight for name, weight in weights.items()}


def compact(scale: int) -> Weights:
    net = SRVGGNetCompact(num_feat=16, num_conv=4, upscale=scale, act_type="prelu")
    return dict(net.state_dict())


FOUR = rrdbnet_weights()
CHECKPOINTS: dict[str, Any] = {
    "params_ema": {"params_ema": FOUR},
    "both": {"params": rrdbnet_weights(scale=2), "params_ema": FOUR},
    "bare": FOUR,
    "of several cards": {"params": {f"module.{name}": w for name, w in FOUR.items()}},
    "of a training": {"state_dict": FOUR, "epoch": 5, "optimizer": {"lr": 1e-4}},
    "an only key": {"generator": FOUR},
    "x2plus": {"params_ema": rrdbnet_weights(scale=2)},
    "six blocks": rrdbnet_weights(blocks=6),
    "grey": rrdbnet_weights(channels=1),
    "older": older(FOUR),
    "bsrgan": bsrgan(FOUR),
    "compact x4": {"params": compact(4)},
    "compact x2": {"params": compact(2)},
    "compact x1": {"params": compact(1)},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("form", ["archive", "older format", "safetensors"])
def test_kinds_that_names_and_shapes_tell_are_spandrels(
    name: str, form: str, tmp_path: Path
) -> None:
    file = tmp_path / "up.pth"
    if form == "safetensors":
        if not all(isinstance(value, torch.Tensor) for value in CHECKPOINTS[name].values()):
            return  # it has no wrappings
        save_file(CHECKPOINTS[name], file := file.with_suffix(".safetensors"))
    else:
        torch.save(CHECKPOINTS[name], file, _use_new_zipfile_serialization=form == "archive")
    assert look(str(file), file) == kind_of(str(file))


def test_shapes_are_those_of_the_weights(tmp_path: Path) -> None:
    half = {name: weight.half() for name, weight in FOUR.items()}
    parameters = {name: torch.nn.Parameter(weight) for name, weight in FOUR.items()}
    for number, content in enumerate((FOUR, half, {"params": parameters})):
        torch.save(content, tmp_path / f"{number}.pth")
        found = shapes_of(tmp_path / f"{number}.pth")
        assert found == {name: tuple(weight.shape) for name, weight in FOUR.items()}


def test_a_factor_that_is_not_the_models_says_both(tmp_path: Path) -> None:
    file = tmp_path / "x2.pth"
    torch.save(CHECKPOINTS["x2plus"], file)
    check_upscaler("realesrgan", file, 2)
    with pytest.raises(ModelError, match=r"x2\.pth: enlarges by 2, .* by 4: .*sr_factor: 2"):
        check_upscaler("realesrgan", file, 4)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_of_a_rarer_kind_spandrel_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "swin.pth"
    options = {"upsampler": "pixelshuffle", "resi_connection": "1conv", "window_size": 8}
    shape = {"img_size": 16, "depths": [2], "embed_dim": 24, "num_heads": [2], "upscale": 2}
    torch.save({"params": SwinIR(**shape, **options).state_dict()}, file)
    assert look(str(file), file) == Checkpoint("SwinIR", 2, (3, 3))


def _run(file: Path) -> None:
    torch.save({"params": subprocess.check_call}, file)


def _later_protocol(file: Path) -> None:
    torch.save({"params": FOUR}, file, pickle_protocol=4)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "runs something": (_run, "a pickle that calls .*check_call, which is never loaded"),
    "a later protocol": (_later_protocol, "a pickle of protocol 4"),
    "a page": (lambda f: f.write_text("<!doctype html>404"), "no checkpoint that can be read"),
    "a pointer": (lambda f: f.write_text("version https://git-lfs.x\nsize 6\n"), "git lfs pull"),
    "half": (lambda f: f.write_bytes(b"PK\x03\x04" + b"\0" * 90), "download it again"),
    "nothing": (lambda f: f.write_bytes(b""), "download it again"),
    "another archive": (lambda f: zipfile.ZipFile(f, "w").close(), "download it again"),
    "a list": (lambda f: torch.save([1, 2], f), "a file without weights by name"),
    "a number": (lambda f: f.write_bytes(pickle.dumps(5, protocol=2)), "download it again"),
    "a LoRA": (lambda f: torch.save({"lora_unet_x": torch.ones(1)}, f), "is a LoRA, wanted"),
    "a UNet": (lambda f: torch.save({"down_blocks.0.x": torch.ones(1)}, f), "is the UNet"),
    "grey": (lambda f: torch.save(CHECKPOINTS["grey"], f), "from 1 to 1 channels"),
    "no enlarging": (lambda f: torch.save(CHECKPOINTS["compact x1"], f), "for Restoration"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_upscaler_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    file = tmp_path / "up.pth"
    make, words = WRONG[case]
    make(file)
    with pytest.raises(ModelError, match=words) as error:
        check_upscaler("realesrgan", file, 4)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_the_official_package_wants_its_own_names(tmp_path: Path) -> None:
    torch.save(CHECKPOINTS["older"], tmp_path / "up.pth")
    with pytest.raises(ModelError, match=r"realesrgan"):
        check_upscaler("realesrganer", tmp_path / "up.pth", 4)


def test_a_file_is_looked_at_once_until_it_changes(tmp_path: Path) -> None:
    seen = list[str]()

    def refuse(name: str) -> int:
        seen.append(name)
        raise ModelError(name)

    looks, file = Looks(refuse), tmp_path / "x"
    for _ in range(2):
        with pytest.raises(ModelError):
            looks("x", file)
    file.write_text("now it is there")
    with pytest.raises(ModelError):
        looks("x", file)
    assert seen == ["x", "x"]


def test_scorers_that_are_there_are_right(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "w.safetensors")
    for name in (
        str(bundled_folder() / "clip"),
        "ViT-L-14:openai",
        f"RN50:{tmp_path}/w.safetensors",
    ):
        check_scorer(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no such folder"),
        ("RN51:{}/w.safetensors", "no architecture 'RN51': did you mean 'RN50'"),
        ("RN50:{}/none.safetensors", "no such file"),
        ("RN50:{}/w.pt", "is a pickle"),
        ("RN50:{}/half.safetensors", "not a whole safetensors file"),
        ("{}/empty", "has no open_clip_config.json"),
        ("{}/other", "has no model_cfg"),
        ("{}/damaged", "not a whole safetensors file"),
    ],
)
def test_scorers_that_cant_be_used_are_named(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.safetensors").write_bytes(b"\0" * 20)
    for folder in ("other", "damaged"):
        shutil.copytree(bundled_folder() / "clip", tmp_path / folder)
    write_json(tmp_path / "other" / "open_clip_config.json", {})
    for file in (tmp_path / "damaged").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:999])
    with pytest.raises(ModelError, match=words):
        check_scorer(name.format(tmp_path))


def test_looking_loads_no_torch(tmp_path: Path) -> None:
    torch.save(CHECKPOINTS["params_ema"], tmp_path / "up.pth")
    code = (
        "import sys; from pathlib import Path\n"
        "from msbd_dist.models.clip import check_scorer\n"
        "from msbd_dist.models.factor import check_upscaler\n"
        "check_upscaler('realesrgan', Path(sys.argv[1]), 4); check_scorer(sys.argv[2])\n"
        "sys.exit(bool({'torch', 'spandrel', 'open_clip'} & set(sys.modules)))"
    )
    places = [str(tmp_path / "up.pth"), str(bundled_folder() / "clip")]
    subprocess.run([sys.executable, "-c", code, *places], check=True)
