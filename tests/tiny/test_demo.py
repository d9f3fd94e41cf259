from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from msbd_dist.tiny.demo import DEMOS, main, write_demo
from msbd_dist.tiny.scenes import COLOURS, PATTERNS, PLAINS, SHAPES

WORDS = {"a", "an", "and", "on", *SHAPES, *COLOURS, *PLAINS, *PATTERNS}
SIZES = {  # height, width
    "meadow": (1400, 1600),
    "wall": (1200, 2000),
    "beach": (1280, 1600),
    "valley": (1420, 2100),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "for it"
    write_demo(folder)
    return folder


@pytest.fixture(params=DEMOS, ids=lambda demo: demo.name)
def demo(request):
    return request.param


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def extent(mask):
    """(y0, x0, y1, x1) of what is not 0."""
    ys, xs = np.nonzero(mask)
    return ys.min(), xs.min(), ys.max() + 1, xs.max() + 1


def test_every_image_has_a_mask_and_nothing_else_is_written(folder):
    files = {name for demo in DEMOS for name in (demo.image_file, demo.mask_file)}
    assert {path.name for path in folder.iterdir()} == files


def test_images_are_rgb_of_a_few_megapixels(folder, demo):
    image = read(folder / demo.image_file)
    assert image.dtype == np.uint8
    assert image.shape == (*SIZES[demo.name], 3)


def test_masks_are_black_and_white_and_as_large_as_their_image(folder, demo):
    mask = read(folder / demo.mask_file)
    assert mask.dtype == np.uint8
    assert mask.shape == SIZES[demo.name]
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_edit_regions_are_inside_and_of_one_size(demo, seed, monkeypatch):
    monkeypatch.setattr("msbd_dist.tiny.demo.render", lambda scene: None)
    monkeypatch.setattr("msbd_dist.tiny.demo.photo_like", lambda seed, size: None)
    _, mask = demo.draw(np.random.default_rng(seed), seed)
    y0, x0, y1, x1 = extent(mask)
    assert 360 <= y1 - y0 <= 520
    assert 360 <= x1 - x0 <= 520
    assert y0 - 0.15 * (y1 - y0) > 0
    assert x0 - 0.15 * (x1 - x0) > 0
    assert y1 + 0.15 * (y1 - y0) < mask.shape[0]
    assert x1 + 0.15 * (x1 - x0) < mask.shape[1]


def test_masks_are_not_all_boxes(folder):
    filled = {}
    for demo in DEMOS:
        mask = read(folder / demo.mask_file)
        y0, x0, y1, x1 = extent(mask)
        filled[demo.name] = (mask[y0:y1, x0:x1] > 0).mean()
    assert filled["wall"] > 0.95 > filled["valley"] > filled["meadow"] > filled["beach"]
    assert filled["valley"] == pytest.approx(np.pi / 4, abs=0.01)


@pytest.mark.parametrize(("name", "dark"), [("wall", (30, 60, 200)), ("beach", (30, 30, 25))])
def test_objects_to_be_edited_lie_within_their_mask(folder, name, dark):
    image = read(folder / f"{name}.png")[..., ::-1].astype(int)
    outside = read(folder / f"{name}_mask.png") == 0
    of_object = abs(image - np.array(dark)).max(-1) < 45
    assert of_object.sum() > 20_000
    assert (of_object & outside).sum() < 100


def test_the_demo_job_edits_these_pictures_with_words_that_the_family_knows():
    manifest = Path(__file__).parents[2] / "jobs" / "demo.yaml"
    edits = yaml.safe_load(manifest.read_text())["edits"]
    pairs = [(f"demo-inputs/{d.image_file}", f"demo-inputs/{d.mask_file}") for d in DEMOS]
    assert [(edit["image"], edit["mask"]) for edit in edits] == pairs
    for edit in edits:
        assert set(edit["prompt"].split()) <= WORDS


def test_the_seed_decides_the_pixels(folder):
    beach = DEMOS[2]
    image, mask = beach.draw(np.random.default_rng(4), 4)
    assert (image != read(folder / beach.image_file)[..., ::-1]).any()
    assert (mask != (read(folder / beach.mask_file) > 0)).any()


def test_the_command_says_what_it_wrote(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("msbd_dist.tiny.demo.DEMOS", DEMOS[2:3])
    main([str(tmp_path), "--seed", "3"])
    assert capsys.readouterr().out == f"wrote images and masks of beach to {tmp_path}\n"
    first = read(tmp_path / "beach.png")
    write_demo(tmp_path, 3)
    np.testing.assert_array_equal(read(tmp_path / "beach.png"), first)
