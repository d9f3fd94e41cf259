"""`msbd measure`: files of every kind, exactness, likeness, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from quick import SMALL, pixels

from msbd_dist import cli
from msbd_dist.batch.compare import windows
from msbd_dist.batch.measures import BEFORE, MEASURES
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box

Found = dict[str, Any]
Measure = Callable[..., tuple[int, Found]]
Msbd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msbd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inputs: Path) -> Msbd:
    """`msbd measure` in this process, in the folder of the inputs: (code, stdout, stderr)."""
    monkeypatch.chdir(inputs)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msbd", "measure", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def measure(msbd: Msbd) -> Measure:
    """The same as JSON: (code, what was found)."""

    def run(*arguments: str) -> tuple[int, Found]:
        code, out, err = msbd(*arguments, "-o", "json")
        assert out, err
        return code, json.loads(out)

    return run


@pytest.fixture
def mask(inputs: Path) -> np.ndarray:
    return pixels(inputs / "mask.png") >= 128


def edited(before: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darker inside the mask."""
    after = before.copy()
    after[mask] = after[mask] // 2
    return after


def save(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, tile=(64, 64), photometric="rgb")
    else:
        Image.fromarray(array).save(path)


def test_an_exact_edit(measure: Measure, mask: np.ndarray) -> None:
    save(Path("after.png"), edited(pixels("image.png"), mask))
    code, found = measure("image.png", "after.png", "mask.png", "--set", "overlap=48")
    assert code == 0
    assert (found["kind"], found["version"], found["exact"]) == ("measure", 1, True)
    assert found["outside"] == 3 * np.count_nonzero(~mask)
    values = found["measures"]
    both = {f"{name}{BEFORE}" for name in ("edge_gradient", "edge_colour", "sharpness")}
    assert set(values) == {one.key for one in MEASURES} | both
    assert values["changed_outside"] == 0
    assert values["edge_colour"] > 3 * values[f"edge_colour{BEFORE}"]
    assert values["sharpness"] == pytest.approx(values[f"sharpness{BEFORE}"] / 2, rel=0.1)
    assert values["seam_ratio"] == pytest.approx(1, abs=0.2)  # nothing was painted in segments
    assert 5 < values["psnr"] < 25
    assert 0 < values["ssim"] < 1
    assert (values["clip"], values["lpips"]) == (None, None)
    assert set(found["missing"]) == {"clip", "lpips"}


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("png", (3,), np.uint8),
        ("tif", (3,), np.uint16),
        ("png", (4,), np.uint8),
        ("png", (), np.uint8),
    ],
    ids=["PNG", "tiled TIFF, 16 bit", "alpha", "grey"],
)
def test_what_changed_outside_is_counted(
    kind: str, shape: tuple[int, ...], dtype: type, measure: Measure, mask: np.ndarray
) -> None:
    before = np.random.default_rng(0).integers(0, 200, (*SMALL.shape, *shape), dtype)
    after = edited(before, mask)
    places = np.argwhere(~mask)[[0, 1000, -1]]
    for y, x in places:
        after[y, x] = before[y, x] + 1  # each of its samples
    names = f"before.{kind}", f"after.{kind}"
    for name, array in zip(names, (before, after), strict=True):
        save(Path(name), array)
    code, found = measure(*names, "mask.png")
    samples = int(np.prod(shape))
    assert code == 1
    assert found["measures"]["changed_outside"] == 3 * samples
    assert found["outside"] == samples * np.count_nonzero(~mask)


def test_an_alpha_that_is_gone_counts_where_it_was_not_opaque(
    measure: Measure, mask: np.ndarray
) -> None:
    before = np.full((*SMALL.shape, 4), 255, np.uint8)
    before[0, :7, 3] = 0
    save(Path("before.png"), before)
    save(Path("after.png"), before[..., :3])
    code, found = measure("before.png", "after.png", "mask.png")
    assert (code, found["measures"]["changed_outside"]) == (1, 7)
    assert found["missing"]["psnr"] == "nothing differs"


def test_a_turned_picture(measure: Measure, mask: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    before = pixels("image.png")
    after = edited(before, mask)
    for name, array in (("before.png", before), ("after.png", after)):
        turned = np.ascontiguousarray(np.rot90(array))
        Image.fromarray(turned).save(name, exif=exif)
    assert Picture.open("before.png").size == SMALL
    code, found = measure("before.png", "after.png", "mask.png")
    assert (code, found["measures"]["changed_outside"]) == (0, 0)
    assert found["measures"]["edge_colour"] > 3


def test_a_truth_and_a_prompt(measure: Measure, mask: np.ndarray) -> None:
    after = edited(pixels("image.png"), mask)
    save(Path("after.png"), after)
    save(Path("truth.png"), after)
    code, found = measure(
        "image.png", "after.png", "mask.png", "--truth", "truth.png", "--prompt", "a red star"
    )
    values = found["measures"]
    assert (code, found["against"]) == (0, "truth.png")
    assert (values["psnr"], values["ssim"]) == (None, 1)
    assert 0 < values["clip"] < 100


def test_people_get_a_table(msbd: Msbd, mask: np.ndarray) -> None:
    save(Path("after.png"), edited(pixels("image.png"), mask))
    code, out, _ = msbd("image.png", "after.png", "mask.png")
    assert code == 0
    assert all(one.label in out for one in MEASURES)
    assert "there is no prompt" in out
    assert f"{3 * np.count_nonzero(~mask):,} samples outside the mask" in out


def test_windows_of_a_streamed_file_are_those_of_the_picture(inputs: Path) -> None:
    bounds = Box(13, 20, 250, 300)
    picture, array = Picture.open(inputs / "image.png"), pixels(inputs / "image.png")
    assert not picture.random
    with windows(picture, bounds) as window:
        for box in (bounds, Box(100, 110, 101, 290)):
            np.testing.assert_array_equal(window(box), array[box.slices].transpose(2, 0, 1))


BAD = {
    "size": (["image.png", "small.png", "mask.png"], "small.png: has 50x40 pixels, "),
    "depth": (["image.png", "deep.tif", "mask.png"], "deep.tif: has 16 bits per sample, "),
    "truth": (["image.png", "image.png", "mask.png", "--truth", "small.png"], "has 50x40 pixels"),
    "nothing": (["image.png", "nothing.png", "mask.png"], "nothing.png: no such file"),
    "empty": (["image.png", "image.png", "black.png"], "the mask is empty"),
    "model": (["image.png", "image.png", "mask.png", "--models", "/none"], "/none"),
    "option": (["image.png", "image.png", "mask.png", "--set", "overlap=7"], "overlap: got 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line(case: str, msbd: Msbd, inputs: Path) -> None:
    save(inputs / "small.png", np.zeros((40, 50, 3), np.uint8))
    save(inputs / "black.png", np.zeros(SMALL.shape, np.uint8))
    save(inputs / "deep.tif", np.zeros((*SMALL.shape, 3), np.uint16))
    arguments, words = BAD[case]
    code, out, err = msbd(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
