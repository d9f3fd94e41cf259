"""COCO's annotations and runs as masks of a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from msbd_dist.canvas.coco import runs_mask, unpacked
from msbd_dist.canvas.combined import look_at_mask, make_mask
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import MaskFile
from msbd_dist.errors import MaskError

SIZE = Size(40, 60)
RING = [10, 5, 30, 5, 30, 25, 10, 25]


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.new("L", (60, 40)).save(tmp_path / "b.png")
    return Picture.open(tmp_path / "b.png")


def lengths_of(mask: np.ndarray) -> list[int]:
    """Down the columns, beginning with what is False."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(np.diff(flat)) + 1
    ends = np.concatenate([[0] if flat[0] else [], turns, [flat.size]])
    return np.diff(ends, prepend=0).astype(int).tolist()


def packed(lengths: list[int]) -> str:
    """As pycocotools' C has it."""
    text = ""
    for index, length in enumerate(lengths):
        value, more = length - (lengths[index - 2] if index > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | (32 if more else 0)))
    return text


def annotation(segmentation: Any, **about: Any) -> dict[str, Any]:
    return {"id": 1, "bbox": [10, 5, 20, 20], "segmentation": segmentation, **about}


def coco(*annotations: Any, images: Any = ("b.png",), categories: Any = ()) -> dict[str, Any]:
    return {
        "images": [
            {"id": n, "file_name": f"train/{name}", "height": 40, "width": 60}
            for n, name in enumerate(images, 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
        "annotations": list(annotations),
    }


def written(content: Any, folder: Path) -> str:
    (folder / "c.json").write_text(json.dumps(content))
    return str(folder / "c.json")


def whole(content: Any, picture: Picture, folder: Path, **meant: Any) -> np.ndarray:
    spec = MaskFile(file=written(content, folder), **meant)
    return make_mask(spec, picture).window(Box.of(SIZE))


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SIZE.shape) < 0.4


@given(st.lists(st.integers(0, 10**7), max_size=20))
def test_a_string_of_runs_is_unpacked(lengths: list[int]) -> None:
    assert unpacked(packed(lengths)) == lengths


def test_a_string_of_pycocotools() -> None:
    """A disc about (20, 30)."""
    lengths = [1100, 1, 37, 5, 35, 5, 34, 7, 34, 5, 35, 5, 37, 1, 1059]
    assert unpacked("\\R11U14N0O20N102Lno0") == lengths
    ys, xs = np.mgrid[:40, :60]
    assert lengths == lengths_of((ys - 20) ** 2 + (xs - 30) ** 2 <= 9)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3), st.floats(0, 1), st.data())
def test_runs_are_united_in_every_window(seeds: list[int], share: float, data: Any) -> None:
    size = Size(data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)))
    masks = [np.random.default_rng(seed).random(size.shape) < share for seed in seeds]
    wanted = np.logical_or.reduce(masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msbd_dist.canvas.coco._STRIP", data.draw(st.sampled_from([1, 50, 1000])))
        found = runs_mask(size, tuple(np.cumsum(lengths_of(mask)) for mask in masks))
    if found is None:
        assert not wanted.any()
        return
    assert np.array_equal(found.window(Box.of(size)), wanted)
    assert found.share == pytest.approx(wanted.mean())


@pytest.mark.parametrize("string", [True, False])
def test_polygons_and_runs_are_one_mask(string: bool, tmp_path: Path, picture: Picture) -> None:
    lengths = lengths_of(random(1))
    counts = packed(lengths) if string else lengths
    wanted = random(1)
    wanted[5:25, 10:30] = True
    wanted[30:35, 50:55] = True
    runs = {"size": [40, 60], "counts": counts}
    more = [50, 30, 55, 30, 55, 35, 50, 35]
    content = coco(annotation([RING, more, [1, 2, 3, 4]]), annotation(runs, iscrowd=1))
    assert np.array_equal(whole(content, picture, tmp_path), wanted)
    for alone in (runs, [runs], annotation(runs), [annotation(runs, score=0.9)]):
        assert np.array_equal(whole(alone, picture, tmp_path), random(1))
    segment_anything = {"image": coco()["images"][0], "annotations": [annotation(runs)]}
    assert np.array_equal(whole(segment_anything, picture, tmp_path), random(1))


def test_the_image_is_found_by_its_name_or_said(tmp_path: Path, picture: Picture) -> None:
    one, two = annotation([RING], image_id=1), annotation([[0, 0, 4, 0, 4, 4, 0, 4]], image_id=2)
    content = coco(one, two, images=("a.jpg", "b.jpg", "c.jpg"))
    assert whole(content, picture, tmp_path).sum() == 16  # b.jpg, of b.png
    assert whole(content, picture, tmp_path, image_id=1).sum() == 400
    assert whole(content, picture, tmp_path, image_id="a.jpg").sum() == 400
    assert whole(coco(one, images=("x.jpg",)), picture, tmp_path).sum() == 400
    Image.new("L", (60, 40)).save(tmp_path / "0123456789ab-b.png")  # as it is sent to a cluster
    sent = Picture.open(tmp_path / "0123456789ab-b.png")
    assert whole(content, sent, tmp_path).sum() == 16
    with pytest.raises(MaskError, match=r"3 images and none is 7 \(1 a.jpg, 2 b.jpg, 3 c.jpg\)"):
        whole(content, picture, tmp_path, image_id=7)
    with pytest.raises(MaskError, match=r"none is called b.png .*c.json, image_id: 1}"):
        whole(coco(one, two, images=("x.jpg", "y.jpg")), picture, tmp_path)
    with pytest.raises(MaskError, match="no annotation of it"):
        whole(content, picture, tmp_path, image_id=3)
    results = [one, two]
    with pytest.raises(MaskError, match="holds 2 images"):
        whole(results, picture, tmp_path)
    assert whole(results, picture, tmp_path, image_id=2).sum() == 16


def test_categories_are_chosen_by_name(tmp_path: Path, picture: Picture) -> None:
    dog, cat = (
        annotation([RING], category_id=1),
        annotation([[0, 0, 4, 0, 4, 4, 0, 4]], category_id=2),
    )
    content = coco(dog, cat, categories=("dog", "cat", "cow"))
    assert whole(content, picture, tmp_path, category=("dog",)).sum() == 400
    assert whole(content, picture, tmp_path, category=("2",)).sum() == 16
    assert whole(content, picture, tmp_path, category=("cat", "dog")).sum() == 416
    (note,) = look_at_mask(written(content, tmp_path), picture).notes
    assert "all of its 2 annotations are edited, of the categories dog, cat" in note
    for name in ("cow", "horse"):
        with pytest.raises(
            MaskError, match=f"nothing of the category {name} here; it has cat, dog"
        ):
            whole(content, picture, tmp_path, category=(name,))


RUNS = {"size": [40, 60], "counts": [2400]}
WRONG: dict[str, tuple[Any, str]] = {
    "nothing annotated": (coco(), "holds no annotation of it"),
    "boxes alone": (coco(annotation([])), r"boxes alone.* mask: \[10, 5, 20, 20\]"),
    "empty runs": (RUNS, "holds no area"),
    "runs of another size": ({**RUNS, "size": [60, 40]}, "drawn on 40x60 .* has 60x40"),
    "runs that end too soon": ({**RUNS, "counts": [100, 5]}, "do not fill 60x40"),
    "negative runs": ({**RUNS, "counts": [2500, -100]}, "do not fill"),
    "no string of runs": ({**RUNS, "counts": "a b"}, "not as GeoJSON, COCO"),
    "a string that is cut off": ({**RUNS, "counts": "o"}, "cut off"),
    "x without y": (coco(annotation([[1, 2, 3, 4, 5, 6, 7]])), "an x without a y"),
    "a word": (coco(annotation(["abc"])), "not as GeoJSON, COCO"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str, tmp_path: Path, picture: Picture) -> None:
    content, words = WRONG[case]
    with pytest.raises(MaskError, match=rf"c\.json: .*{words}") as caught:
        whole(content, picture, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_is_refused(tmp_path: Path, picture: Picture) -> None:
    content = coco(annotation([RING]))
    content["images"][0]["height"] = 50
    with pytest.raises(MaskError, match="drawn on 60x50 pixels and the picture has 60x40"):
        whole(content, picture, tmp_path)
