"""Where pictures are: web servers, stores without their packages, archives."""

from __future__ import annotations

import gc
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from web import Server, serving

from msbd_dist.canvas import fetched
from msbd_dist.canvas.combined import make_mask, mask_digest
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ome import can_patch
from msbd_dist.canvas.places import Held, _fetched, first_bytes, matching_urls
from msbd_dist.canvas.urls import plain_scheme, why_read_only
from msbd_dist.core.geometry import Box
from msbd_dist.errors import ImageError, InputError, MaskError, RunError

BOX = Box(30, 40, 130, 190)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    """The test's folder at a web server."""
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def samples() -> np.ndarray:
    """(200, 300, 3) uint8."""
    return np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)


def as_zarr(path: Path, samples: np.ndarray) -> Path:
    array = zarr.create_array(path, shape=samples.shape, dtype="u1", chunks=(64, 64, 3))
    array[...] = samples
    return path


def seen(place: str | Path) -> np.ndarray:
    return Picture.open(place).read(BOX).transpose(1, 2, 0)


# ---------------------------------------------------------------- web servers


@pytest.mark.parametrize("parts", [True, False])
@pytest.mark.parametrize("tags", [True, False])
def test_a_picture_is_read_from_any_web_server(
    parts: bool, tags: bool, tmp_path: Path, samples: np.ndarray, web: Server
) -> None:
    web.parts, web.tags = parts, tags
    Image.fromarray(samples).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "tiled.tif", samples, tile=(64, 64), photometric="rgb")
    tifffile.imwrite(tmp_path / "palette.tif", samples[..., 0], colormap=np.zeros((3, 256), "u2"))
    as_zarr(tmp_path / "z.zarr", samples)
    for name in ("a.png", "tiled.tif", "z.zarr", "a.png?sig=a/b.c"):
        assert np.array_equal(seen(f"{web.url}/{name}"), samples[BOX.slices]), name
    assert seen(f"{web.url}/palette.tif").max() == 0


def test_a_mask_and_an_outline_may_be_at_a_web_server(tmp_path: Path, web: Server) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(tmp_path / "m.png")
    ring = "[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]"
    (tmp_path / "o.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{ring}]}}')
    picture = Picture.open(f"{web.url}/a.png")
    for name, count in (("m.png", 20), ("o.geojson?raw=1", 81)):
        mask = make_mask(f"{web.url}/{name}", picture)
        assert np.count_nonzero(mask.window(Box(0, 0, 20, 30))) == count
        assert mask_digest(f"{web.url}/{name}")
    with pytest.raises(MaskError, match="no such file"):
        make_mask(f"{web.url}/none.geojson", picture)


def test_a_tiled_picture_at_a_web_server_is_not_fetched_whole(
    tmp_path: Path, web: Server, samples: np.ndarray
) -> None:
    large = np.tile(samples, (20, 10, 1))
    tifffile.imwrite(tmp_path / "a.tif", large, tile=(256, 256), photometric="rgb")
    assert np.array_equal(seen(f"{web.url}/a.tif"), samples[BOX.slices])
    assert web.sent < (tmp_path / "a.tif").stat().st_size // 2


@pytest.mark.parametrize("tags", [True, False])
def test_a_changed_file_at_a_web_server_is_another_one(
    tags: bool, tmp_path: Path, web: Server, samples: np.ndarray
) -> None:
    web.tags = tags
    Image.fromarray(samples).save(tmp_path / "a.bmp")
    before = content_digest(f"{web.url}/a.bmp")
    assert content_digest(f"{web.url}/a.bmp") == before
    Image.fromarray(255 - samples).save(tmp_path / "a.bmp")
    os.utime(tmp_path / "a.bmp", (1e9, 1e9))
    assert content_digest(f"{web.url}/a.bmp") != before


def test_a_changed_chunk_at_a_web_server_is_another_picture(
    tmp_path: Path, web: Server, samples: np.ndarray
) -> None:
    chunk = as_zarr(tmp_path / "z.zarr", samples) / "c/1/2/0"
    before = content_digest(f"{web.url}/z.zarr")
    assert content_digest(f"{web.url}/z.zarr/") == before
    os.utime(chunk, (1e9, 1e9))
    assert content_digest(f"{web.url}/z.zarr") != before
    chunk.unlink()  # a chunk of nothing but zeros
    assert content_digest(f"{web.url}/z.zarr") != before


def test_the_chunks_of_a_large_zarr_that_are_asked_for_are_spread(
    tmp_path: Path, samples: np.ndarray
) -> None:
    reader = Picture.open(as_zarr(tmp_path / "z.zarr", samples)).reader
    keys = [name for name in reader.file_names(5) if name.startswith("c/")]
    assert keys == ["c/0/0/0", "c/0/4/0", "c/1/3/0", "c/2/2/0", "c/3/1/0"]
    assert len([n for n in reader.file_names(100) if n.startswith("c/")]) == 4 * 5


def test_what_a_web_server_says_is_said_in_one_line(tmp_path: Path, web: Server) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    for name, said in {"none.png": "no such file", "secret.png": "refuses access"}.items():
        with pytest.raises(ImageError, match=said):
            Picture.open(f"{web.url}/{name}")
    with pytest.raises(FileNotFoundError):
        content_digest(f"{web.url}/none.png")
    for asked in (content_digest, Picture.open):
        with pytest.raises(ConnectionError, match="Cannot connect"):
            asked("http://127.0.0.1:9/a.png")
    (tmp_path / "empty.png").touch()
    assert first_bytes(f"{web.url}/empty.png", 12) == b""
    with pytest.raises(InputError, match="can't be asked what there is"):
        matching_urls(f"{web.url}/*.png")


def test_damage_of_a_fetched_file_is_that_of_its_url(
    tmp_path: Path, web: Server, samples: np.ndarray
) -> None:
    Image.fromarray(samples).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-100])
    with pytest.raises(ImageError, match=f"^{web.url}/cut.png: is a PNG without its end"):
        Picture.open(f"{web.url}/cut.png")
    Image.fromarray(samples).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-9000])
    picture = Picture.open(f"{web.url}/cut.jpg")
    with pytest.raises(ImageError, match=f"^{web.url}/cut.jpg: can't be decoded"):
        list(picture.strips())


def test_a_copy_that_was_given_up_is_fetched_again(
    tmp_path: Path, web: Server, samples: np.ndarray
) -> None:
    Image.fromarray(samples).save(tmp_path / "a.png")
    picture = Picture.open(f"{web.url}/a.png")
    assert isinstance(picture.reader, fetched.FetchedReader)
    _fetched.cache_clear()
    assert np.array_equal(picture.read(BOX).transpose(1, 2, 0), samples[BOX.slices])
    _fetched.cache_clear()  # it is held as long as it is read
    assert np.array_equal(picture.read(BOX).transpose(1, 2, 0), samples[BOX.slices])


def test_a_copy_goes_when_nobody_holds_it() -> None:
    held = Held(".png")
    place = Path(held.name)
    circle: list[object] = [held]
    circle.append(circle)
    del held
    assert place.exists()
    del circle
    gc.collect()
    assert not place.exists()


# ---------------------------------------------------------------- schemes


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("htp://x/a.png", "htp:// is not known; did you mean https://?"),
        ("htttps://x/a.png", "did you mean https://?"),
        ("S4://b/a.png", "did you mean s3://?"),
        ("nothing://b/a.png", "is not known; give a path"),
        ("gs://b/a.png", "for gs:// install gcsfs (pip install gcsfs)"),
        ("AZ://c/a.png", "for az:// install adlfs (pip install adlfs)"),
        ("abfs://c/a.png", "install adlfs"),
    ],
)
def test_a_url_that_can_t_be_opened_says_what_to_do(place: str, said: str) -> None:
    for asked in (Picture.open, content_digest, why_read_only):
        with pytest.raises(InputError) as error:
            asked(place)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(RunError):
        open_files(place)


def test_a_scheme_is_read_in_any_letters() -> None:
    assert plain_scheme("S3://Bucket/A.png") == "s3://Bucket/A.png"
    assert plain_scheme("MEMORY://a") == open_files("MEMORY://a").url.replace("///", "//")
    assert plain_scheme("/home/A://b") == "/home/A://b"


def test_what_can_only_be_read_is_known(web: Server) -> None:
    assert why_read_only(f"{web.url}/a.png") == "http:// can only be read from"
    assert why_read_only("zip://a::b.zip") == "zip:// can only be read from"
    assert why_read_only("memory://a") is None


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="not a regular file"):
        Picture.open(tmp_path / "a.png")


# ---------------------------------------------------------------- archives


@pytest.mark.parametrize("folder", ["", "in/it.zarr"])
def test_a_zipped_zarr_is_read_where_it_is(
    folder: str, tmp_path: Path, samples: np.ndarray, web: Server
) -> None:
    as_zarr(tmp_path / "whole" / folder, samples)
    shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "whole")
    shutil.copy(tmp_path / "z.zip", tmp_path / "z.ozx")
    here = tmp_path / "z.zip"
    for place in (here, f"{tmp_path}/z.ozx", f"zip://{folder}::{here}", f"{web.url}/z.ozx"):
        assert np.array_equal(seen(place), samples[BOX.slices]), place
    assert content_digest(f"zip://{folder}::{here}") == content_digest(str(here))
    reader = Picture.open(here).reader
    again = reader.__reduce__()
    assert np.array_equal(again[0](*again[1]).window(BOX), reader.window(BOX))
    assert "can only be read" in str(can_patch(reader))


def test_an_archive_that_is_no_picture_says_why(tmp_path: Path, samples: np.ndarray) -> None:
    wrong = {name: tmp_path / f"{name}.zip" for name in ("none", "two", "broken")}
    with zipfile.ZipFile(wrong["none"], "w") as archive:
        archive.writestr("a.png", b"x")
    for name in ("b.zarr", "a.zarr"):
        as_zarr(tmp_path / "both" / name, samples)
    shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "both")
    wrong["broken"].write_bytes(wrong["two"].read_bytes()[:-50])
    said = {
        "none": "is an archive without a zarr; unpack it",
        "two": f"holds several zarrs; give one of them, such as zip://a.zarr::{wrong['two']}",
        "broken": "is a damaged zip archive",
    }
    for name, place in wrong.items():
        with pytest.raises(ImageError) as error:
            Picture.open(place)
        assert said[name] in str(error.value)
    assert np.array_equal(seen(f"zip://b.zarr::{wrong['two']}"), samples[BOX.slices])
    with pytest.raises(ImageError, match="names no archive"):
        Picture.open("zip://a.zarr")
    with pytest.raises(ImageError, match="no such file"):
        Picture.open("zip://a.zarr::nowhere.zip")
