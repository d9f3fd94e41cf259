"""Upscalers: what they give, and which checkpoints are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from folders import rrdbnet_weights, write_rrdbnet
from safetensors.torch import save_file
from torch import Tensor

from msbd_dist.core.spec import Upscaler as Kind
from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import Models
from msbd_dist.models.upscale import Upscaler, load_upscaler

CPU = torch.device("cpu")


def load(kind: Kind, path: Path | None = None, *, factor: int = 4) -> Upscaler:
    return load_upscaler(kind, path, factor=factor, device=CPU)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_enlarges_and_stays_in_range(kind: Kind, factor: int) -> None:
    x = torch.zeros(2, 3, 6, 5)
    x[..., 3:, :] = 1
    y = load(kind, factor=factor)(x)
    assert y.shape == (2, 3, 6 * factor, 5 * factor)
    assert (y.min(), y.max()) == (0, 1)
    plain = F.interpolate(x, scale_factor=factor, mode=kind, align_corners=False)
    assert torch.equal(y, plain.clamp(0, 1))


def test_the_bundled_upscaler_beats_bicubic(bundled: Models, scene: Tensor) -> None:
    small = F.interpolate(scene, scale_factor=0.25, mode="bilinear", antialias=True)

    def error(kind: Kind) -> float:
        return float((bundled.upscaler(kind)(small) - scene).square().mean())

    assert error("realesrgan") < 0.7 * error("bicubic")


def test_a_picture_is_enlarged_the_same_in_any_batch(bundled: Models, scene: Tensor) -> None:
    x = torch.cat([scene[..., :24, :32], scene[..., 40:64, :32]])
    up = bundled.upscaler("realesrgan")
    assert torch.equal(up(x), torch.cat([up(x[:1]), up(x[1:])]))
    assert up(x).shape == (2, 3, 96, 128)
    assert (up(x).dtype, up(x).is_inference()) == (torch.float32, False)


def _pth(**wrap: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save({**wrap, "params_ema": rrdbnet_weights()}, folder / "up.pth")
        return folder / "up.pth"

    return write


def _plain(folder: Path) -> Path:
    torch.save(rrdbnet_weights(), folder / "up.pth")
    return folder / "up.pth"


def _halves(folder: Path) -> Path:
    save_file({k: v.half() for k, v in rrdbnet_weights().items()}, folder / "up.safetensors")
    return folder / "up.safetensors"


@pytest.mark.parametrize("write", [_pth(), _pth(params={}), _plain, _halves])
def test_published_forms_of_a_checkpoint_load(
    write: Callable[[Path], Path], tmp_path: Path, made: Path
) -> None:
    x = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = load("realesrgan", made / "x4.pth")(x)
    result = load("realesrgan", write(tmp_path))(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-3 if write is _halves else 0)


class Malicious:
    """Pickled, this would run a command when loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("loaded a pickle",))


def _pickled(file: Path) -> None:
    torch.save({"params_ema": Malicious()}, file)


def _truncated(file: Path) -> None:
    write_rrdbnet(file)
    file.write_bytes(file.read_bytes()[:-5000])


def _mixed(file: Path) -> None:
    weights = rrdbnet_weights()
    weights["conv_body.weight"] = torch.zeros(3, 3, 3, 3)
    torch.save(weights, file)


WRONG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "x2": (lambda f: write_rrdbnet(f, scale=2), ["enlarges by 2", "sr_factor"]),
    "grey": (lambda f: write_rrdbnet(f, channels=1), ["1 to 1 channels", "RGB"]),
    "not a network": (lambda f: torch.save({"a": torch.ones(3)}, f), ["does not know", "bicubic"]),
    "a tensor": (lambda f: torch.save(torch.ones(3), f), ["Tensor", "weights by name"]),
    "a pickle": (_pickled, ["pickled objects", "never loaded", "safetensors"]),
    "empty": (lambda f: f.touch(), ["can't be read", "download"]),
    "text": (lambda f: f.write_text("<html>"), ["never loaded"]),
    "truncated": (_truncated, ["can't be read", "download"]),
    "mixed": (_mixed, ["don't fit together", "download"]),
    "missing": (lambda f: None, ["no such file", "give"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_checkpoints_are_refused(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write, words = WRONG[case]
    file = tmp_path / "up.pth"
    write(file)
    with pytest.raises(ModelError) as caught:
        load("realesrgan", file)
    for word in [str(file), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["up.safetensors", "up.onnx", "up.ckpt"])
def test_files_that_are_no_checkpoints_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08" * 40)
    with pytest.raises(ModelError, match=rf"{name}: .*(give|download)"):
        load("realesrgan", tmp_path / name)


@pytest.mark.parametrize("kind", ["realesrgan", "realesrganer"])
def test_a_network_without_checkpoint_is_refused(kind: Kind) -> None:
    with pytest.raises(ModelError, match=r"sr: PATH/RealESRGAN_x4plus\.pth, or choose.*bicubic"):
        load(kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_picture_is_float16(made: Path, dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    up = load_upscaler("realesrgan", made / "x4.pth", factor=4, device=CPU, dtype=dtype)
    exact = load("realesrgan", made / "x4.pth")(x)
    assert up(x).dtype == torch.float32
    assert 0 < float((up(x) - exact).abs().max()) < 1 / 512


def test_weights_that_an_upscaler_does_not_use_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, file = rrdbnet_weights(), tmp_path / "up.safetensors"
    save_file(weights | {"step": torch.tensor(3)}, file)
    plain = load("realesrgan", file)(torch.full((1, 3, 8, 8), 0.5))
    assert caplog.messages == []
    save_file(weights | {"extra.weight": torch.ones(2), "other.weight": torch.ones(3)}, file)
    assert torch.equal(load("realesrgan", file)(torch.full((1, 3, 8, 8), 0.5)), plain)
    assert caplog.messages == [
        f"{file}: weights that the upscaler does not use: extra.weight and 1 more"
    ]
    save_file(weights | {"conv_first.lora_A.weight": torch.ones(2)}, file)
    with pytest.raises(ModelError, match=r"conv_first\.lora_A\.weight: merge them"):
        load("realesrgan", file)
