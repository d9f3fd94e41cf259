"""Edits of pictures in files of every kind, where they are, by masks of every kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image
from quick import FASTEST, draw_inputs, manifest_of

from msbd_dist.batch import look, steps, worker
from msbd_dist.batch.record import load_edit
from msbd_dist.batch.run import RunResult, run_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ome import write_ome
from msbd_dist.canvas.reader import Metadata
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.errors import ImageError, ManifestError, RunError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture in files of four kinds, and a mask."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_inputs(folder)
    samples = np.asarray(Image.open(folder / "image.png"))
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(folder / "tiled.tif", samples, tile=(64, 64), **options)
    tifffile.imwrite(folder / "strips.tif", samples, rowsperstrip=16, **options)
    make_ome(folder / "image.ome.zarr", samples)
    return folder


def make_ome(path: Path, samples: np.ndarray) -> None:
    write_ome(
        path, Size(*samples.shape[:2]), np.uint8, 3, False, Metadata(),
        lambda box: samples[box.slices], chunk=64, name="image",
    )  # fmt: skip


def run(folder: Path, out: Path | str, *edits: dict[str, Any], **options: Any) -> RunResult:
    rows = [{**FASTEST, **edit} for edit in edits]
    return run_manifest(manifest_of(folder, *rows), out, executor="serial", **options)


def test_previews_that_a_copy_goes_without_are_said(tmp_path: Path) -> None:
    samples = np.zeros((64, 80, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(samples, photometric="rgb", metadata=None)
        file.write(samples[::4, ::4, 0].copy(), metadata=None, subfiletype=1)
    spec = EditSpec(id="e", image=str(tmp_path / "a.tif"), mask="none.png", prompt="")
    (said,) = look.gone_without(spec, str(tmp_path / "b.tif"), Picture.open(tmp_path / "a.tif"))
    assert said == (
        "left out, because the old picture shows in it: a smaller version of another make"
    )


def samples_of(place: str | None) -> np.ndarray:
    picture = Picture.open(str(place))
    return picture.reader.window(Box.of(picture.stored_size))


def test_what_comes_out_does_not_depend_on_the_kind_of_file(pictures: Path, tmp_path: Path) -> None:
    kinds = ["image.png", "tiled.tif", "strips.tif", "image.ome.zarr"]
    result = run(pictures, tmp_path / "out", *({"image": kind} for kind in kinds))
    assert [str(edit.output).rsplit("output", 1)[1] for edit in result.edits] == [
        ".png", ".tif", ".tif", ".ome.zarr",
    ]  # fmt: skip
    first, *others = (samples_of(edit.output) for edit in result.edits)
    assert all(np.array_equal(first, other) for other in others)
    direct = [load_edit(open_files(tmp_path / f"out/e{n}")).direct for n in range(4)]
    assert direct == [False, True, False, True]
    stored = [list((tmp_path / f"out/e{n}").glob("*/canvas.zarr/source")) for n in range(4)]
    assert [bool(found) for found in stored] == [True, False, True, False]


def test_a_mask_is_the_same_drawn_as_a_box_a_polygon_and_a_file(
    pictures: Path, tmp_path: Path
) -> None:
    mask = np.zeros(Picture.open(pictures / "image.png").size.shape, np.uint8)
    mask[60:160, 90:250] = 255
    Image.fromarray(mask).save(pictures / "box.png")
    corners = [[90, 60], [250, 60], [250, 160], [90, 160]]
    masks = ["box.png", [90, 60, 160, 100], {"polygons": [corners]}, {"polygons": [[corners]]}]
    result = run(pictures, tmp_path / "out", *({"mask": mask} for mask in masks))
    first, *others = (samples_of(edit.output) for edit in result.edits)
    assert all(np.array_equal(first, other) for other in others)


def test_another_format_of_a_finished_edit_is_only_written(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, out, {"output": str(tmp_path / "a.png")})
    markers = {p: p.read_bytes() for p in out.glob("*/*/ledger/[0-9]*.json")}
    again = {"output": str(tmp_path / "b.tif"), "tiff": "pyramid"}
    assert run(pictures, out, again).edits[0].state == "done"
    assert markers == {p: p.read_bytes() for p in out.glob("*/*/ledger/[0-9]*.json")}
    assert np.array_equal(samples_of(f"{tmp_path}/a.png"), samples_of(f"{tmp_path}/b.tif"))
    assert run(pictures, out, again).edits[0].state == "kept"
    assert run(pictures, out, {**again, "tiff": "plain"}).edits[0].state == "done"


@pytest.mark.long
def test_pictures_may_be_read_from_a_store_and_written_to_it(
    pictures: Path, tmp_path: Path, s3_server: None
) -> None:
    there = f"s3://runs/{tmp_path.name}"
    system = fsspec.filesystem("s3")
    for name in ("tiled.tif", "image.png", "mask.png", "image.ome.zarr"):
        system.put(str(pictures / name), f"{there}/{name}", recursive=True)
    outputs = [f"{there}/a.png", f"{there}/b.tif", f"{there}/c.ome.zarr"]
    images = ["tiled.tif", "image.png", "image.ome.zarr"]
    result = run(
        pictures,
        tmp_path / "out",
        *(
            {"image": f"{there}/{image}", "mask": f"{there}/mask.png", "output": output}
            for image, output in zip(images, outputs, strict=True)
        ),
    )
    assert [edit.error for edit in result.edits] == [None] * 3
    here = run(pictures, tmp_path / "here", {}).edits[0].output
    for output in outputs:
        assert np.array_equal(samples_of(output), samples_of(here))


def test_an_image_that_changes_during_the_run_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, image = steps.write_edited, tmp_path / "tiled.tif"
    image.write_bytes((pictures / "tiled.tif").read_bytes())

    def changing(*arguments: Any, **options: Any) -> None:
        with image.open("ab") as file:
            file.write(b"more")
        real(*arguments, **options)

    monkeypatch.setattr(steps, "write_edited", changing)
    edit = {"image": str(image), "output": str(tmp_path / "b.tif")}
    (result,) = run(pictures, tmp_path / "out", edit).edits
    assert "was changed during the run" in str(result.error)
    assert not (tmp_path / "b.tif").exists()


def test_an_image_that_a_worker_can_t_see_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such file; this is what the worker on .* says"):
        worker._source(str(tmp_path / "scan.tif"))


def test_one_edit_is_not_written_to_a_url(pictures: Path) -> None:
    with pytest.raises(ManifestError, match="is a URL; give a path"):
        edit_manifest(
            pictures / "image.png", pictures / "mask.png", "", output="s3://a/b.png",
            models=ModelSpec(),
        )  # fmt: skip


def test_a_disk_without_room_is_told_before_any_work(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "largest_bytes", lambda *_: 1 << 60)
    with pytest.raises(RunError, match=r"GB free and the run may need .* make room"):
        run(pictures, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_what_is_lost_needs_to_be_allowed(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit = {"output": str(tmp_path / "a.jpg")}
    (result,) = run(pictures, tmp_path / "out", edit).edits
    assert "can't keep exact samples" in str(result.error)
    with caplog.at_level(logging.WARNING):
        (result,) = run(pictures, tmp_path / "out", {**edit, "allow_loss": True}).edits
    assert result.state == "done"
    assert "not kept: " in caplog.text


# ---------------------------------------------------------------- in place


def test_an_ome_zarr_may_be_edited_in_place_once(pictures: Path, tmp_path: Path) -> None:
    samples = samples_of(str(pictures / "image.ome.zarr"))
    make_ome(tmp_path / "mine.ome.zarr", samples)
    edit = {"image": str(tmp_path / "mine.ome.zarr"), "in_place": True}
    (result,) = run(pictures, tmp_path / "out", edit).edits
    assert result.output == edit["image"]
    copy = run(pictures, tmp_path / "copy", {"image": "image.ome.zarr"}).edits[0].output
    assert np.array_equal(samples_of(result.output), samples_of(copy))
    assert not np.array_equal(samples_of(result.output), samples)
    assert run(pictures, tmp_path / "out", edit).edits[0].state == "kept"
    assert np.array_equal(samples_of(result.output), samples_of(copy))
    assert not list((tmp_path / "out").glob("*/*/journal"))


@pytest.mark.long
def test_an_edit_in_place_that_was_interrupted_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ome(tmp_path / "mine.ome.zarr", samples_of(str(pictures / "image.ome.zarr")))
    real = steps.patch_in_place

    def interrupted(reader: Any, changed: Any, window: Any, journal: Any) -> Any:
        asked = iter(range(3))

        def some(box: Box) -> Any:
            if next(asked, None) is None:
                raise KeyboardInterrupt
            return window(box)

        return real(reader, changed, some, journal)

    edit = {"image": str(tmp_path / "mine.ome.zarr"), "in_place": True, "feather": 9, "seed": None}
    before = samples_of(edit["image"])
    monkeypatch.setattr(steps, "patch_in_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "out", edit)
    assert not np.array_equal(samples_of(edit["image"]), before)  # it was in the middle
    monkeypatch.setattr(steps, "patch_in_place", real)
    markers = {p: p.read_bytes() for p in (tmp_path / "out").glob("*/*/ledger/[0-9]*.json")}
    (result,) = run(pictures, tmp_path / "out", edit).edits
    assert result.state == "done"
    assert all(p.read_bytes() == data for p, data in markers.items())
    seed = load_edit(open_files(tmp_path / "out/e0")).seed
    like = {"image": "image.ome.zarr", "feather": 9, "seed": seed}
    copy = run(pictures, tmp_path / "copy", like).edits[0].output
    assert np.array_equal(samples_of(result.output), samples_of(copy))


@pytest.mark.parametrize("image", ["image.png", "tiled.tif"])
def test_only_an_ome_zarr_is_edited_in_place(pictures: Path, tmp_path: Path, image: str) -> None:
    (result,) = run(pictures, tmp_path / "out", {"image": image, "in_place": True}).edits
    assert "only an OME-Zarr is edited in place" in str(result.error)


def test_an_ome_zarr_that_can_t_be_edited_in_place_is_refused_before_any_work(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "can_patch", lambda _: "its chunks are lossy")
    edit = {"image": "image.ome.zarr", "in_place": True}
    (result,) = run(pictures, tmp_path / "out", edit).edits
    assert "can't be edited in place: its chunks are lossy; write a copy" in str(result.error)
    assert not list((tmp_path / "out").glob("e0/*/ledger"))


def test_what_another_edit_reads_is_not_edited_in_place(pictures: Path, tmp_path: Path) -> None:
    edits = [{"image": "image.ome.zarr", "in_place": True}, {"image": "image.ome.zarr"}]
    with pytest.raises(ManifestError, match="read by another edit"):
        run(pictures, tmp_path / "out", *edits)


# ---------------------------------------------------------------- markers that are lost


def test_a_decode_that_is_lost_after_its_stage_was_done_is_made_again(
    pictures: Path, tmp_path: Path
) -> None:
    edit = {"decoder_optimization": True}
    (first,) = run(pictures, tmp_path / "out", edit).edits
    before = samples_of(first.output)
    (marker,) = (tmp_path / "out").glob("*/*/ledger/2-decode-0.json")
    marker.write_text(marker.read_text()[:20])
    Path(str(first.output)).unlink()
    (again,) = run(pictures, tmp_path / "out", edit).edits
    assert again.error is None
    assert np.array_equal(samples_of(again.output), before)
