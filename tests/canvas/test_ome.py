"""OME-Zarr: windows are slices, pyramids are means, and an edit touches the chunks it must."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pydantic_zarr.v2
import pytest
import zarr
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v04.image import Image as Image04
from ome_zarr_models.v05.image import Image as Image05
from zarr.storage import FsspecStore

from msbd_dist.canvas import ome
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.ome import (
    ChunkCounts,
    OmeReader,
    OmeWriter,
    can_copy,
    copy_with_edits,
    is_zarr,
    patch_in_place,
    shrink,
    write_ome,
)
from msbd_dist.canvas.reader import Metadata, Reader
from msbd_dist.canvas.urls import UrlFiles
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, RunError

SIZE = Size(45, 37)
WHOLE = Box.of(SIZE)
EXIF = b"II*\0\x08\0\0\0\1\0\x0f\1\2\0\4\0\0\0you\0\0\0\0\0"  # of a maker called "you"
BLOCKS = Metadata(icc=b"icc\0\xff", exif=EXIF, xmp=b"<xmp/>", resolution=(4000.0, 2000.0))
VERSIONS = ("0.4", "0.5")


def noise(channels: int, dtype: Any = np.uint8, size: Size = SIZE) -> NDArray[Any]:
    """(h, w, channels)"""
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(dtype).max, (*size.shape, channels), dtype, endpoint=True)


def window_of(picture: NDArray[Any]) -> Callable[[Box], NDArray[Any]]:
    return lambda box: picture[box.slices]


def write(target: Path | str, picture: NDArray[Any], **options: Any) -> None:
    channels = picture.shape[2]
    write_ome(
        target,
        Size(*picture.shape[:2]),
        picture.dtype,
        1 if channels < 3 else 3,
        channels in (2, 4),
        options.pop("metadata", Metadata()),
        window_of(picture),
        **{"chunk": 16, "name": "test", **options},
    )


def store(
    folder: Path | str,
    picture: NDArray[Any],
    axes: str,
    *,
    version: str = "0.5",
    omero: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    unit: str | None = None,
    levels: tuple[NDArray[Any], ...] = (),
    **options: Any,
) -> None:
    """An OME-Zarr as others write it, of (h, w, channels)."""
    group = zarr.create_group(folder, zarr_format=2 if version == "0.4" else 3)
    for number, level in enumerate((picture, *levels)):
        data = arranged(level, axes).astype(options.get("dtype", level.dtype), order="C")
        array = group.create_array(
            f"s{number}",
            data=data,
            chunks=tuple({"y": 10, "x": 8}.get(a, 1) for a in axes),
            **{k: v for k, v in options.items() if k != "dtype"},
        )
        assert array.dtype == data.dtype
    kinds = {"t": "time", "c": "channel"}
    multiscale: dict[str, Any] = {
        "name": "theirs",
        "axes": [
            {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if unit else {})}
            for a in axes
        ],
        "datasets": [
            {
                "path": f"s{number}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [0.25 * 2**number for _ in axes]}
                ],
            }
            for number in range(1 + len(levels))
        ],
    }
    inside: dict[str, Any] = {"multiscales": [multiscale]} | ({"omero": omero} if omero else {})
    if version == "0.4":
        multiscale["version"] = "0.4"
        group.attrs.update({**inside, **(extra or {})})
    else:
        group.attrs.update({"ome": {"version": version, **inside, **(extra or {})}})


def arranged(picture: NDArray[Any], axes: str) -> NDArray[Any]:
    """(h, w, c) in an order of axes."""
    missing = [axis for axis in "tzc" if axis not in axes]
    if "c" in missing:
        assert picture.shape[2] == 1
    full = picture[None, None]  # t z y x c
    order = ["tzyxc".index(axis) for axis in [*missing, *axes]]
    return full.transpose(order)[(0,) * len(missing)]


def chunk_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read(path: Path | str) -> NDArray[Any]:
    reader = OmeReader.open(str(path))
    return reader.window(Box.of(reader.size))


# ---------------------------------------------------------------- reading what others wrote


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize(
    ("axes", "channels"),
    [("yx", 1), ("zyx", 1), ("cyx", 1), ("cyx", 3), ("tczyx", 3), ("tzyx", 1), ("yxc", 3)],
)
def test_axes_are_read_as_the_metadata_says(
    version: str, dtype: str, axes: str, channels: int, tmp_path: Path
) -> None:
    picture = noise(channels, np.dtype(dtype).newbyteorder("="))
    store(tmp_path / "a", picture, axes, version=version, dtype=dtype)
    reader = OmeReader.open(str(tmp_path / "a"))
    assert (reader.kind, reader.size, reader.bands) == (f"OME-Zarr {version}", SIZE, channels)
    assert (reader.dtype, reader.has_alpha) == (picture.dtype, False)
    assert reader.dtype.isnative
    np.testing.assert_array_equal(reader.window(WHOLE), picture)
    assert reader.window(WHOLE).dtype == picture.dtype


@pytest.fixture(
    scope="module",
    params=[
        {"version": "0.4", "chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"version": "0.4", "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"version": "0.4", "order": "F", "compressors": None},
        {"version": "0.5"},
        {"version": "0.5", "shards": (3, 20, 16)},
        {"version": "0.5", "chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
    ids=["v2-dot", "v2-slash", "v2-fortran-raw", "v3", "v3-shards", "v3-dot"],
)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RGB picture in one of zarr's layouts."""
    folder = tmp_path_factory.mktemp("layout") / "a"
    store(folder, noise(3), "cyx", **request.param)
    return folder


@given(data=st.data())
def test_a_window_is_a_slice(layout: Path, data: st.DataObject) -> None:
    y0, x0 = data.draw(st.integers(0, 44)), data.draw(st.integers(0, 36))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, 45)), data.draw(st.integers(x0 + 1, 37)))
    reader: Reader = OmeReader.open(str(layout))
    np.testing.assert_array_equal(reader.window(box), noise(3)[box.slices])


@pytest.mark.parametrize("rows", [1, 7, 10, 16, 45, 100])
def test_strips_are_the_picture_from_top_to_bottom(layout: Path, rows: int) -> None:
    strips = list(OmeReader.open(str(layout)).strips(rows))
    assert [y for y, _ in strips] == list(range(0, 45, rows))
    assert all(strip.shape[0] == min(rows, 45 - y) for y, strip in strips)
    np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips]), noise(3))


@pytest.mark.parametrize("box", [Box(0, 0, 0, 4), Box(-1, 0, 4, 4), Box(0, 0, 46, 4)])
def test_a_window_outside_is_refused(layout: Path, box: Box) -> None:
    with pytest.raises(ValueError, match="not inside"):
        OmeReader.open(str(layout)).window(box)


def test_a_reader_is_opened_again_where_it_is_sent(layout: Path) -> None:
    reader = pickle.loads(pickle.dumps(OmeReader.open(str(layout))))
    np.testing.assert_array_equal(reader.window(WHOLE), noise(3))


@pytest.mark.parametrize("format_", [2, 3])
@pytest.mark.parametrize(
    ("axes", "channels"), [("yx", 1), *((a, c) for a in ("cyx", "yxc") for c in (1, 2, 3, 4))]
)
def test_a_plain_array_is_read_by_its_shape(
    format_: Any, axes: str, channels: int, tmp_path: Path
) -> None:
    picture = noise(channels)
    zarr.create_array(tmp_path / "a", data=arranged(picture, axes).copy(), zarr_format=format_)
    reader = OmeReader.open(str(tmp_path / "a"))
    assert (reader.kind, reader.size) == ("zarr", SIZE)
    assert (reader.bands, reader.has_alpha) == (1 if channels < 3 else 3, channels in (2, 4))
    np.testing.assert_array_equal(reader.window(WHOLE), picture)
    assert reader.metadata == Metadata()


def test_dimension_names_tell_where_the_shape_does_not(tmp_path: Path) -> None:
    data = np.zeros((3, 5, 4), np.uint8)
    zarr.create_array(tmp_path / "a", data=data)
    with pytest.raises(ImageError, match="can't be told"):
        OmeReader.open(str(tmp_path / "a"))
    zarr.create_array(tmp_path / "b", data=data, dimension_names=("c", "y", "x"))
    assert OmeReader.open(str(tmp_path / "b")).size == Size(5, 4)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("micrometer", (4000.0, 4000.0)), ("millimeter", (4.0, 4.0)), ("parsec", None), (None, None)],
)
def test_the_resolution_is_that_of_the_scale(
    unit: str | None, expected: tuple[float, float] | None, tmp_path: Path
) -> None:
    store(tmp_path / "a", noise(1), "yx", unit=unit)
    assert OmeReader.open(str(tmp_path / "a")).metadata.resolution == pytest.approx(expected)


@pytest.mark.parametrize(("channels", "bands"), [(2, 1), (4, 3)])
def test_alpha_is_where_omero_says_so(channels: int, bands: int, tmp_path: Path) -> None:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    labels = ["a", "b", "c", "Alpha"][-channels:]
    omero = {"channels": [{"label": x, "color": "FFFFFF", "window": window} for x in labels]}
    store(tmp_path / "a", noise(channels), "cyx", omero=omero)
    reader = OmeReader.open(str(tmp_path / "a"))
    assert (reader.bands, reader.has_alpha) == (bands, True)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_fluorescence_is_refused(channels: int, tmp_path: Path) -> None:
    store(tmp_path / "a", noise(channels), "cyx")
    with pytest.raises(ImageError, match=f"has {channels} channels; save the three to edit as RGB"):
        OmeReader.open(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"plate": {}}, "is a plate; give one image"),
        ({"well": {"images": []}}, "is a well; give one image"),
        ({"labels": ["nuclei"]}, "is a group of labels"),
        ({"image-label": {}}, "is a label image"),
        ({"bioformats2raw.layout": 3}, "is a collection of images"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_no_picture_is_named(
    extra: dict[str, Any], message: str, version: str, tmp_path: Path
) -> None:
    store(tmp_path / "a", noise(1), "yx", version=version, extra=extra)
    if "image-label" not in extra:
        assert OmeReader.open(str(tmp_path / "a")).size == SIZE  # an image, whatever else it says
        group = zarr.open_group(tmp_path / "a", mode="r+")
        group.attrs.put(extra if version == "0.4" else {"ome": {"version": "0.5", **extra}})
    refused(tmp_path / "a", message)


def refused(path: Path | str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        OmeReader.open(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no such file or folder")
    refused(tmp_path, "no zarr metadata")
    (tmp_path / "file").write_text("hello")
    refused(tmp_path / "file", "no zarr metadata")
    zarr.create_group(tmp_path / "group")
    refused(tmp_path / "group", "without an image")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/zarr.json").write_text("{")
    refused(tmp_path / "bad", "zarr.json is damaged")
    zarr.create_array(tmp_path / "float", shape=(8, 8), dtype="f4")
    refused(tmp_path / "float", "its samples are float32; convert it to 8 or 16 bits")
    zarr.create_array(tmp_path / "four", shape=(1, 1, 8, 8), dtype="u1")
    refused(tmp_path / "four", "has 4 axes")
    zarr.create_array(tmp_path / "empty", shape=(0, 8), dtype="u1")
    refused(tmp_path / "empty", "is empty")
    store(tmp_path / "new", noise(1), "yx", version="0.6")
    refused(tmp_path / "new", "is OME-Zarr 0.6 in zarr 3; convert it to 0.4 or 0.5")


@pytest.mark.parametrize(("axis", "what"), [("t", "times"), ("z", "planes")])
def test_more_than_one_plane_is_refused(axis: str, what: str, tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), f"{axis}yx")
    data = np.zeros((2, 8, 8), np.uint8)
    zarr.create_array(tmp_path / "a", name="s0", data=data, overwrite=True)
    refused(tmp_path / "a", f"holds 2 {what}; save the one to edit")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("axes", ["y", "x"], "older than"),
        ("axes", [{"name": "y"}, {"name": "q"}], "its axes are y, q"),
        ("axes", [{"name": a} for a in "cyx"], "metadata is damaged"),
        ("axes", None, "metadata is damaged"),
        ("datasets", [], "metadata is damaged"),
        ("datasets", [{"path": "s9"}], "'s9' is missing"),
        ("datasets", [{"path": "../b"}], "can't be decoded"),
        ("datasets", [{"path": "s0", "coordinateTransformations": [{}]}], "metadata is damaged"),
    ],
)
def test_damaged_metadata_is_one_line(key: str, value: Any, message: str, tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), "yx")
    path = tmp_path / "a/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["ome"]["multiscales"][0][key] = value
    path.write_text(json.dumps(metadata))
    refused(tmp_path / "a", message)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-9],
    "empty": lambda _: b"",
    "reversed": lambda data: data[::-1],
}


@pytest.mark.parametrize(
    ("codec", "damage"),
    [
        *((codec, kind) for codec in ("zstd", "gzip", "blosc") for kind in DAMAGE),
        (None, "cut"),
        (None, "empty"),  # without a codec, nothing tells what else happened to the bytes
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_chunk_is_one_line(
    version: str, codec: str | None, damage: str, tmp_path: Path
) -> None:
    named: Any = {"id": codec} if version == "0.4" else {"name": codec, "configuration": {}}
    if codec == "gzip" and version == "0.5":
        named["configuration"] = {"level": 1}
    store(tmp_path / "a", noise(1), "yx", version=version, compressors=codec and named)
    name = "s0/1.1" if version == "0.4" else "s0/c/1/1"
    path = tmp_path / "a" / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    reader = OmeReader.open(str(tmp_path / "a"))
    reader.window(Box(0, 0, 10, 37))
    with pytest.raises(ImageError, match="can't be decoded") as caught:
        reader.window(WHOLE)
    assert "\n" not in str(caught.value)


def test_a_chunk_that_others_left_out_is_fill_value(tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), "yx", fill_value=7)
    (tmp_path / "a/s0/c/1/1").unlink()
    expected = noise(1)
    expected[10:20, 8:16] = 7
    np.testing.assert_array_equal(read(tmp_path / "a"), expected)


def test_a_folder_looks_like_a_zarr_or_not(tmp_path: Path) -> None:
    assert not is_zarr(str(tmp_path))
    assert not is_zarr(str(tmp_path / "nothing"))
    assert not is_zarr(f"memory://{uuid4().hex}")
    assert not is_zarr("unheard://of")
    for version in VERSIONS:
        store(tmp_path / version, noise(1), "yx", version=version)
        assert is_zarr(str(tmp_path / version))
        assert is_zarr(str(tmp_path / version / "s0"))


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_was_written_is_read(version: str, dtype: Any, channels: int, tmp_path: Path) -> None:
    picture = noise(channels, dtype)
    write(tmp_path / "a", picture, version=version, metadata=BLOCKS)
    reader = OmeReader.open(str(tmp_path / "a"))
    assert (reader.kind, reader.size) == (f"OME-Zarr {version}", SIZE)
    assert (reader.bands, reader.has_alpha) == (1 if channels < 3 else 3, channels in (2, 4))
    assert reader.metadata.resolution == pytest.approx(BLOCKS.resolution)
    for name in ("icc", "exif", "xmp"):
        assert getattr(reader.metadata, name) == getattr(BLOCKS, name)
    np.testing.assert_array_equal(reader.window(WHOLE), picture)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("metadata", [Metadata(), BLOCKS])
def test_the_specification_is_met(
    version: Any, channels: int, metadata: Metadata, tmp_path: Path
) -> None:
    write(tmp_path / "a", noise(channels), version=version, metadata=metadata)
    group = zarr.open_group(tmp_path / "a", mode="r")
    image = {"0.4": Image04, "0.5": Image05}[version]
    Image04.model_rebuild(_types_namespace=vars(pydantic_zarr.v2))  # which its authors forgot
    image.from_zarr(group)
    assert isinstance(open_ome_zarr(group, version=version), image)
    if version == "0.5":
        names = {array.metadata.dimension_names for _, array in group.arrays()}  # type: ignore[union-attr]
        assert names == {("c", "y", "x")}


@pytest.mark.parametrize("size", [Size(45, 37), Size(16, 16), Size(17, 1), Size(1, 1), Size(3, 67)])
def test_each_level_is_the_mean_of_the_one_before(size: Size, tmp_path: Path) -> None:
    picture = noise(3, np.uint16, size)
    write(tmp_path / "a", picture)
    level, number = picture.astype(int), 0
    while max(level.shape[:2]) > 16:
        h, w = level.shape[:2]
        expected = np.empty((-(-h // 2), -(-w // 2), 3), int)
        for y, x in np.ndindex(*expected.shape[:2]):
            block = level[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            expected[y, x] = np.floor(block.mean(axis=(0, 1)) + 0.5)
        level, number = expected, number + 1
        np.testing.assert_array_equal(read(tmp_path / f"a/{number}"), level)
    assert not (tmp_path / f"a/{number + 1}").exists()


@given(ratio=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 99))
def test_means_are_rounded_half_up(ratio: tuple[int, int], seed: int) -> None:
    samples = np.random.default_rng(seed).integers(0, 65535, (7, 9, 2), np.uint16, endpoint=True)
    small = shrink(samples, ratio)
    for y, x in np.ndindex(*small.shape[:2]):
        block = samples[
            y * ratio[0] : (y + 1) * ratio[0], x * ratio[1] : (x + 1) * ratio[1]
        ].astype(int)
        area = block.shape[0] * block.shape[1]
        np.testing.assert_array_equal(small[y, x], (2 * block.sum((0, 1)) + area) // (2 * area))


@pytest.mark.parametrize("version", VERSIONS)
def test_even_a_black_chunk_is_there_and_its_loss_is_an_error(version: str, tmp_path: Path) -> None:
    write(tmp_path / "a", np.zeros((*SIZE.shape, 3), np.uint8), version=version)
    chunks = tmp_path / "a/0" / ("c" if version == "0.5" else "") / "0"
    assert len([p for p in chunks.rglob("*") if p.is_file()]) == 9
    (chunks / "1/1").unlink()
    reader = OmeReader.open(str(tmp_path / "a"))
    reader.window(Box(0, 0, 16, 37))
    with pytest.raises(ImageError, match="0/1/1 is lost"):
        reader.window(WHOLE)


def test_a_flipped_bit_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a", noise(3))
    chunk = tmp_path / "a/0/c/0/1/1"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ImageError, match="can't be decoded"):
        read(tmp_path / "a")


class Stop(Exception):
    pass


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_not_finished_is_not_taken_for_whole_and_is_written_anew(
    version: str, tmp_path: Path
) -> None:
    picture, asked = noise(3), list[Box]()

    def window(box: Box) -> NDArray[Any]:
        asked.append(box)
        if len(asked) == 6:
            raise Stop
        return picture[box.slices]

    def run() -> None:
        arguments = (tmp_path / "a", SIZE, np.uint8, 3, False, Metadata(), window)
        write_ome(*arguments, version=version, chunk=16, name="a")  # type: ignore[arg-type]

    with pytest.raises(Stop):
        run()
    assert not is_zarr(str(tmp_path / "a"))
    refused(tmp_path / "a", "no zarr metadata")
    damaged = tmp_path / "a/0" / ("c" if version == "0.5" else "") / "0/0/2"
    damaged.write_bytes(b"")
    run()
    np.testing.assert_array_equal(read(tmp_path / "a"), picture)


def test_another_picture_under_the_same_name_replaces_it(tmp_path: Path) -> None:
    write(tmp_path / "a", noise(3))
    write(tmp_path / "a", noise(4, np.uint16), version="0.5")
    np.testing.assert_array_equal(read(tmp_path / "a"), noise(4, np.uint16))


def test_chunks_may_be_written_by_several_writers_in_any_order(tmp_path: Path) -> None:
    picture = noise(3)

    def writer(name: str) -> OmeWriter:
        arguments = (SIZE, np.uint8, 3, False, Metadata(), window_of(picture))
        return OmeWriter(tmp_path / name, *arguments, chunk=16, name="a")

    write(tmp_path / "one", picture, name="a")
    first = writer("many")
    first.create()
    for level in range(len(first.sizes)):
        for row, column in reversed(list(first.chunks(level))):
            other = writer("many")
            other.write_chunk(level, row, column)
            other.write_chunk(level, row, column)
    first.finish()
    assert chunk_files(tmp_path / "many") == chunk_files(tmp_path / "one")


def test_a_window_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted"):
        write_ome(
            tmp_path / "a",
            SIZE,
            np.uint8,
            3,
            False,
            Metadata(),
            window_of(noise(4)),
            chunk=16,
            name="a",
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_urls_are_written_and_read(kind: str, version: str, request: pytest.FixtureRequest) -> None:
    if kind == "s3":
        request.getfixturevalue("s3_server")
    url = {"memory": "memory://", "s3": "s3://runs/"}[kind] + f"{uuid4().hex}/a.zarr"
    write(url, noise(4), version=version, metadata=BLOCKS)
    assert is_zarr(url)
    np.testing.assert_array_equal(read(url), noise(4))
    assert can_copy(OmeReader.open(url)) == "is not in a local folder"
    key = "0/c/0/0/1" if version == "0.5" else "0/0/0/1"
    open_files(url).remove(key)
    with pytest.raises(ImageError, match="is lost"):
        read(url)
    refused(f"{url}/nothing", "no zarr metadata")


def test_a_store_out_of_reach_is_no_damage(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://runs/{uuid4().hex}/a.zarr"
    write(url, noise(3))
    reader = OmeReader.open(url)

    async def unreachable(*_: Any) -> None:
        raise EndpointConnectionError(endpoint_url=s3_server)

    monkeypatch.setattr(FsspecStore, "get", unreachable)
    with pytest.raises(ConnectionError, match="Could not connect"):
        reader.window(WHOLE)
    with pytest.raises(ConnectionError, match="Could not connect"):
        OmeReader.open(url)


def test_a_store_out_of_reach_does_not_look_like_a_zarr(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(UrlFiles, "read", unreachable)
    assert not is_zarr("memory://a.zarr")


# ---------------------------------------------------------------- copy on write, in place

CHANGED = (Box(3, 5, 12, 9), Box(8, 7, 18, 17), Box(40, 30, 45, 37))


def edited(picture: NDArray[Any]) -> NDArray[Any]:
    """Another picture; what is outside of `CHANGED` must not be asked for."""
    return (picture ^ np.array(0xA5, picture.dtype)).astype(picture.dtype)


def expected(picture: NDArray[Any]) -> NDArray[Any]:
    result = picture.copy()
    for box in CHANGED:
        result[box.slices] = edited(picture)[box.slices]
    return result


def halves(picture: NDArray[Any], number: int) -> tuple[NDArray[Any], ...]:
    levels = []
    for _ in range(number):
        picture = shrink(picture)
        levels.append(picture)
    return tuple(levels)


SOURCES: dict[str, dict[str, Any]] = {
    "v2": {"version": "0.4"},
    "v3": {"version": "0.5"},
    "shards": {"version": "0.5", "shards": (1, 20, 16)},
    "all-channel-shards": {"version": "0.5", "shards": (3, 10, 8)},
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An RGB pyramid of three levels that another tool wrote, with labels and a stray file."""
    folder = tmp_path / "source"
    store(folder, noise(3), "cyx", levels=halves(noise(3), 2), **SOURCES[request.param])
    zarr.open_group(folder, mode="r+").create_group("labels").attrs["labels"] = ["cells"]
    (folder / "OME").mkdir()
    (folder / "OME/METADATA.ome.xml").write_text("<OME/>")
    return folder


def check_edited(folder: Path) -> None:
    levels = (expected(noise(3)), *halves(expected(noise(3)), 2))
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(read(folder / f"s{number}"), level)


def test_a_copy_has_the_edit_on_all_levels_and_else_the_same_files(
    source: Path, tmp_path: Path
) -> None:
    before = chunk_files(source)
    reader = OmeReader.open(str(source))
    assert reader.metadata.others == ("labels",)
    counts = copy_with_edits(reader, tmp_path / "copy", CHANGED, window_of(edited(noise(3))))
    check_edited(tmp_path / "copy")
    assert chunk_files(source) == before
    after = chunk_files(tmp_path / "copy")
    assert after.keys() == before.keys()
    differ = {name for name in before if before[name] != after[name]}
    assert len(differ) == counts.written
    assert counts.kept > 0
    chunks = [name for name in before if name.startswith("s") and name[-1].isdigit()]
    assert counts == ChunkCounts(len(differ), len(chunks) - len(differ))


def test_only_the_edited_pixels_of_a_coarse_level_change(tmp_path: Path) -> None:
    strange = noise(3, size=Size(23, 19))  # no mean of the finest level
    store(tmp_path / "a", noise(3), "cyx", levels=(strange,))
    reader = OmeReader.open(str(tmp_path / "a"))
    copy_with_edits(reader, tmp_path / "b", [Box(5, 6, 9, 8)], window_of(edited(noise(3))))
    after = read(tmp_path / "b/s1")
    differ = np.argwhere((after != strange).any(axis=2))
    assert differ.min(axis=0).tolist() == [2, 3]
    assert differ.max(axis=0).tolist() == [4, 3]


@pytest.mark.parametrize(
    ("ratio", "size"), [(2, Size(22, 18)), (4, Size(12, 10)), (3, Size(15, 12))]
)
def test_levels_of_other_ratios_are_kept_right(ratio: int, size: Size, tmp_path: Path) -> None:
    picture = noise(3)

    def level(picture: NDArray[Any]) -> NDArray[Any]:
        cut = picture[: size.height * ratio, : size.width * ratio]
        return shrink(cut, (ratio, ratio))

    store(tmp_path / "a", picture, "cyx", levels=(level(picture),))
    reader = OmeReader.open(str(tmp_path / "a"))
    copy_with_edits(reader, tmp_path / "b", CHANGED, window_of(edited(picture)))
    np.testing.assert_array_equal(read(tmp_path / "b/s1"), level(expected(picture)))


def test_our_own_output_is_still_complete_after_a_copy(tmp_path: Path) -> None:
    write(tmp_path / "a", noise(4))
    reader = OmeReader.open(str(tmp_path / "a"))
    copy_with_edits(reader, tmp_path / "b", CHANGED, window_of(edited(noise(4))))
    write(tmp_path / "c", expected(noise(4)))
    assert chunk_files(tmp_path / "b") == chunk_files(tmp_path / "c")


def test_a_plain_array_is_copied(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=noise(3), chunks=(10, 8, 3))
    reader = OmeReader.open(str(tmp_path / "a"))
    copy_with_edits(reader, tmp_path / "b", CHANGED, window_of(edited(noise(3))))
    np.testing.assert_array_equal(read(tmp_path / "b"), expected(noise(3)))


def test_what_can_not_be_kept_exact_is_not_copied(tmp_path: Path) -> None:
    lossy = {"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "|u1", "astype": "|u1"}
    path = tmp_path / "a/s0/.zarray"
    store(tmp_path / "a", noise(1), "yx", version="0.4")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"filters": [lossy]}))
    reader = OmeReader.open(str(tmp_path / "a"))
    assert "fixedscaleoffset" in (can_copy(reader) or "")
    with pytest.raises(ImageError, match="not known to be lossless"):
        copy_with_edits(reader, tmp_path / "copy", [], window_of(noise(1)))
    assert not (tmp_path / "copy").exists()
    store(tmp_path / "b", noise(1), "yx", levels=(noise(1, size=Size(30, 19)),))
    assert "no integer ratio" in (can_copy(OmeReader.open(str(tmp_path / "b"))) or "")
    store(tmp_path / "c", noise(1), "yx", levels=halves(noise(1).astype(np.uint16), 1))
    zarr.create_array(tmp_path / "c", name="s1", shape=(23, 19), dtype="u2", overwrite=True)
    assert "other channels or samples" in (can_copy(OmeReader.open(str(tmp_path / "c"))) or "")


def put_back(journal: Path) -> int:
    """As an edit in place begins that finds a journal: how many chunks are as they were again."""
    files = open_files(journal)
    record = ome._journal(files)
    return ome._put_back(record, open_files(record["source"]), files) if record else 0


@pytest.mark.parametrize("steps", [0, 1, 7, 20, 27, 1000])
@pytest.mark.parametrize("then", ["resume", "undo"])
def test_an_edit_in_place_that_is_killed_anywhere_is_resumed_or_undone(
    source: Path, steps: int, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are writes: of the journal's files, then of chunks."""
    before, journal = chunk_files(source), tmp_path / "journal"
    whole = tmp_path / "whole"
    reader = OmeReader.open(str(source))
    counts = copy_with_edits(reader, whole, CHANGED, window_of(edited(noise(3))))
    left = [steps]

    def counted(inner: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return inner(*args, **kwargs)

        return call

    def edit() -> ChunkCounts:
        # asks the source itself, as one does who blends
        return patch_in_place(reader, CHANGED, lambda box: edited(reader.window(box)), journal)

    with monkeypatch.context() as patch:
        patch.setattr(ome.LocalFiles, "write", counted(ome.LocalFiles.write))
        patch.setattr(ome._Level, "write", counted(ome._Level.write))
        if steps < 1000:
            with pytest.raises(Stop):
                edit()
        else:
            assert edit() == counts
    if then == "undo":
        put_back(journal)
        assert chunk_files(source) == before
    assert edit() == counts
    assert chunk_files(source) == chunk_files(whole)
    assert put_back(journal) == counts.written
    assert put_back(journal) == counts.written
    assert chunk_files(source) == before


def test_an_edit_in_place_that_is_killed_again_and_again_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "a", noise(3), "cyx", levels=halves(noise(3), 1), shards=(3, 20, 16))
    reader = OmeReader.open(str(tmp_path / "a"))
    left, write_level = [0], ome._Level.write

    def call(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        write_level(*args)

    monkeypatch.setattr(ome._Level, "write", call)
    for kills in range(100):
        left[0] = kills
        try:
            patch_in_place(
                reader, CHANGED, lambda box: edited(reader.window(box)), tmp_path / "journal"
            )
        except Stop:
            continue
        break
    assert 0 < kills < 99
    np.testing.assert_array_equal(read(tmp_path / "a"), expected(noise(3)))
    np.testing.assert_array_equal(read(tmp_path / "a/s1"), shrink(expected(noise(3))))
    put_back(tmp_path / "journal")
    np.testing.assert_array_equal(read(tmp_path / "a"), noise(3))


def test_chunks_that_were_not_there_are_gone_again(tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), "yx")
    (tmp_path / "a/s0/c/1/1").unlink()
    before = chunk_files(tmp_path / "a")
    reader = OmeReader.open(str(tmp_path / "a"))
    counts = patch_in_place(reader, CHANGED, window_of(edited(noise(1))), tmp_path / "journal")
    assert (tmp_path / "a/s0/c/1/1").exists()
    assert put_back(tmp_path / "journal") == counts.written
    assert chunk_files(tmp_path / "a") == before


def test_what_a_killed_process_was_writing_is_swept_up(tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), "yx")
    before = chunk_files(tmp_path / "a")
    reader = OmeReader.open(str(tmp_path / "a"))
    patch_in_place(reader, CHANGED, window_of(edited(noise(1))), tmp_path / "journal")
    (tmp_path / "a/s0/c/1/1.0123.partial").write_bytes(b"half")
    put_back(tmp_path / "journal")
    assert chunk_files(tmp_path / "a") == before
    write(tmp_path / "b", noise(1))
    after = chunk_files(tmp_path / "b")
    (tmp_path / "b/0/c/0/1/1.0123.partial").write_bytes(b"half")
    write(tmp_path / "b", noise(1))
    assert chunk_files(tmp_path / "b") == after


def test_a_journal_of_another_edit_or_inside_the_source_is_refused(tmp_path: Path) -> None:
    store(tmp_path / "a", noise(1), "yx")
    reader = OmeReader.open(str(tmp_path / "a"))
    window = window_of(edited(noise(1)))
    with pytest.raises(RunError, match="outside"):
        patch_in_place(reader, CHANGED, window, tmp_path / "a/journal")
    patch_in_place(reader, CHANGED, window, tmp_path / "journal")
    with pytest.raises(RunError, match="another edit"):
        patch_in_place(reader, CHANGED[:1], window, tmp_path / "journal")


def test_a_picture_in_s3_is_edited_in_place(s3_server: str, tmp_path: Path) -> None:
    url = f"s3://runs/{uuid4().hex}/a.zarr"
    write(url, noise(3))
    reader = OmeReader.open(url)
    patch_in_place(reader, CHANGED, window_of(edited(noise(3))), tmp_path / "journal")
    np.testing.assert_array_equal(read(url), expected(noise(3)))
    put_back(tmp_path / "journal")
    np.testing.assert_array_equal(read(url), noise(3))


def test_no_way_of_reading_goes_past_the_search_for_lost_chunks(tmp_path: Path) -> None:
    """Newer zarrs ask for several parts of a file, or without waiting, beside `get`."""
    from msbd_dist.canvas.ome import _CheckedStore

    assert _CheckedStore._supports_sync_io is False
    array = zarr.create_array(
        tmp_path, shape=(256, 256), chunks=(32, 32), shards=(64, 64), dtype="u1"
    )
    array[...] = 7
    array.attrs["msbd_dist"] = {"complete": True}
    (tmp_path / "c/1/1").unlink()
    for box in (Box(64, 64, 80, 80), Box(60, 60, 100, 130)):  # a part of a shard, and several
        with pytest.raises(ImageError, match="c/1/1 is lost"):
            OmeReader.open(str(tmp_path)).window(box)
