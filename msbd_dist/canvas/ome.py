"""OME-Zarr pictures: read by window, written chunk by chunk, and edited where they lie.

    OmeReader.open(path)                 a window costs the chunks it meets; folder or fsspec URL
    write_ome(target, ...)               a pyramid; what makes it an OME-Zarr is written last
    copy_with_edits(source, target, ...) every file as it is but the chunks that an edit meets
    patch_in_place(source, ...)          those chunks in the source itself

A *unit* is what has one writer: the shard where there are shards, else the chunk.

Reading is of OME-Zarr 0.4 (zarr 2), 0.5 (zarr 3) and plain zarr arrays. zarr takes a missing chunk
for one that holds nothing but the fill value. What is written here holds every chunk and says so
(``complete``), so that one that was lost is an error.

ICC profile, EXIF, XMP and the like have no place in an OME-Zarr; they are kept, bytes as base64,
with what else a reader must know, under a key of our own beside its metadata.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ContainsArrayError
from zarr.storage import WrapperStore

from msbd_dist.canvas.carry import as_json, from_json
from msbd_dist.canvas.files import Files, LocalFiles, open_files, sync_folder
from msbd_dist.canvas.previews import without_previews
from msbd_dist.canvas.reader import Metadata, Samples
from msbd_dist.canvas.urls import READ_ONLY, is_web, store_errors
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, MsbdError, RunError

Window: TypeAlias = Callable[[Box], Samples]
"""The samples of a box of the full picture: (h, w, bands + alpha)."""

_OWN = "msbd_dist"  # our key among the attributes
_ROOTS = ("zarr.json", ".zgroup", ".zarray")  # one of them makes a folder a zarr
_NO_CHUNKS = (*_ROOTS, ".zattrs", ".zmetadata")
_MILLIMETRES = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "kilometer": 1e6,
    "inch": 25.4,
    "foot": 304.8,
    "yard": 914.4,
}
_RGB = ("FF0000", "00FF00", "0000FF")


# ---------------------------------------------------------------- one array of a picture


class _Lost(Exception):
    """A chunk that should be there is not, or not all of it."""


class _CheckedStore(WrapperStore[Store]):
    """A store that finds what zarr and its codecs let pass."""

    whole = False  # every chunk is there
    blosc = False  # every file is a blosc chunk, whose header says how long it is
    _supports_sync_io = False  # newer zarrs would ask the store within, past `get`

    def get_ranges(self, *arguments: Any, **options: Any) -> Any:
        """Several parts of a file, by way of `get`, in zarrs that ask so."""
        return cast(Any, Store).get_ranges(self, *arguments, **options)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if key.rsplit("/", 1)[-1] in _NO_CHUNKS:
            return found
        if found is None and self.whole:
            raise _Lost(f"chunk {key} is lost")
        if found is not None and self.blosc:
            told = int.from_bytes(found.as_numpy_array()[12:16].tobytes(), "little")
            if told != len(found):
                raise _Lost(f"chunk {key} holds {len(found)} bytes, not {told}")
        return found


@contextmanager
def _damage(url: str) -> Iterator[None]:
    """What a decoder raises as ImageError; what a store raises stays an OSError."""
    try:
        with store_errors(url):
            yield
    except (MsbdError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ImageError(
            f"{url}: can't be decoded ({reason}); it is damaged or incomplete, get it again"
        ) from error


@dataclass(frozen=True)
class _Level:
    """One array as a picture of (h, w, channels), whatever the order of its axes."""

    url: str
    path: str  # in the zarr; empty where that is the array itself
    array: zarr.Array[Any]
    axes: str  # a letter of tczyx for each

    @property
    def size(self) -> Size:
        return Size(*self._of(self.array.shape))

    @property
    def unit(self) -> Size:
        return Size(*self._of(self._unit))

    @property
    def units(self) -> int:
        """How many there are."""
        return math.prod(map(len, self._counts))

    def read(self, box: Box) -> Samples:
        """(h, w, channels), in this machine's byte order. ImageError where it is damaged."""
        with _damage(self.url):
            stored = np.asarray(self.array[self._index(box)])
        picture = stored.transpose(self._order).reshape(*box.size.shape, -1)
        return np.require(picture, picture.dtype.newbyteorder("="), ["C", "W"])

    def write(self, box: Box, samples: Samples) -> None:
        """The inverse of ``read``; the box must be whole units."""
        index = self._index(box)
        lengths = [part.stop - part.start for part in index]
        stored = samples.reshape([lengths[axis] for axis in self._order])
        with store_errors(self.url):
            self.array[index] = stored.transpose(np.argsort(self._order))

    def unit_box(self, row: int, column: int) -> Box:
        """The pixels of one unit that are inside the picture."""
        y, x = row * self.unit.height, column * self.unit.width
        size = self.size
        return Box(
            y, x, min(y + self.unit.height, size.height), min(x + self.unit.width, size.width)
        )

    def keys(self, row: int, column: int) -> list[str]:
        """The files of one unit, in the zarr: several where channels have chunks of their own."""
        counts = list(self._counts)
        counts[self.axes.index("y")], counts[self.axes.index("x")] = [row], [column]
        grid = np.stack(np.meshgrid(*counts, indexing="ij"), axis=-1).reshape(-1, len(counts))
        names = [self.array.metadata.encode_chunk_key(tuple(map(int, where))) for where in grid]
        return [f"{self.path}/{name}".lstrip("/") for name in names]

    def spread_keys(self, most: int) -> list[str]:
        """The files of units that are spread over the array: of all of them, where they are at most
        so many."""
        across, step = len(self._counts[self.axes.index("x")]), -(-self.units // most) or 1
        keys: list[str] = []
        for number in range(0, len(self._counts[self.axes.index("y")]) * across, step):
            keys += self.keys(*divmod(number, across))
        return keys

    @property
    def _unit(self) -> tuple[int, ...]:
        return self.array.shards or self.array.chunks

    @property
    def _counts(self) -> list[Sequence[int]]:
        """The numbers of the units along each axis."""
        pairs = zip(self.array.shape, self._unit, strict=True)
        return [range(-(-length // unit)) for length, unit in pairs]

    @property
    def _order(self) -> list[int]:
        """The axes as t, z, y, x, c."""
        return sorted(range(len(self.axes)), key=lambda axis: "tzyxc".index(self.axes[axis]))

    def _index(self, box: Box) -> tuple[slice, ...]:
        lengths = zip(self.axes, self.array.shape, strict=True)
        parts = {axis: slice(0, length) for axis, length in lengths}
        parts["y"], parts["x"] = box.slices
        return tuple(parts[axis] for axis in self.axes)

    def _of(self, values: tuple[int, ...]) -> tuple[int, int]:
        return values[self.axes.index("y")], values[self.axes.index("x")]


# ---------------------------------------------------------------- reading


class OmeReader:
    """An OME-Zarr image (its finest level) or a plain zarr array; a ``Reader``.

    Crosses process borders by its path: it is opened again on the other side.
    """

    random = True
    orientation = 1

    def __init__(self, url: str, files: Files, node: _Node) -> None:
        """Use ``open``."""
        self.path = url
        self._files, self._node = files, node
        first = self._level(node.levels[0])
        _refuse_strange(url, first)
        channels = first.array.shape[first.axes.index("c")] if "c" in first.axes else 1
        with _bad_metadata(url):
            self.bands, self.has_alpha = _colours(url, channels, node)
            found = _metadata(node, _others(files))
            self.metadata, self.unkept = without_previews(found)
        self.kind: str = node.kind
        self.size = first.size
        self.dtype: np.dtype[np.uint8 | np.uint16] = np.dtype(first.array.dtype.newbyteorder("="))
        self._first = first

    @classmethod
    def open(cls, path: str) -> OmeReader:
        """Look at the metadata. ImageError, in one line, for what can't be edited exactly.

        RunError where a URL's library is not installed, OSError where a store can't be reached.
        """
        url = str(path).rstrip("/")
        files = open_files(url)
        return cls(url, files, _look_at(url, files))

    @property
    def held_bytes(self) -> int:
        return 0

    def window(self, box: Box) -> Samples:
        """(h, w, bands + alpha) of a box inside the picture.

        ValueError for a box that is empty or leaves it, ImageError where a chunk is damaged, or
        lost and known to be.
        """
        if box.height < 1 or box.width < 1 or not Box.of(self.size).contains(box):
            raise ValueError(f"{self.path}: box {box} is not inside the picture of {self.size}")
        return self._first.read(box)

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        """From top to bottom, each chunk decoded once: (y, (rows or less, W, bands + alpha)).

        Holds a row of chunks beside the strip.
        """
        step = self._first._of(self._first.array.chunks)[0]
        held, bottom = np.empty((0, self.size.width, self._channels), self.dtype), 0
        for y in range(0, self.size.height, rows):
            parts = [held]
            while bottom < min(y + rows, self.size.height):
                top, bottom = bottom, min(bottom + step, self.size.height)
                parts.append(self.window(Box(top, 0, bottom, self.size.width)))
            held = np.concatenate(parts)
            yield y, held[:rows]
            held = held[rows:]

    def file_names(self, most: int) -> list[str]:
        """Its files: those of metadata that it may have, and at most so many of its chunks, spread
        over all levels."""
        folders = ("", *(f"{path}/" for path in self._node.levels if path))
        keys = [k for path in self._node.levels for k in self._level(path).spread_keys(most)]
        step = -(-len(keys) // most) or 1
        return [*(f"{folder}{name}" for folder in folders for name in _NO_CHUNKS), *keys[::step]]

    def __reduce__(self) -> tuple[Any, ...]:
        return OmeReader.open, (self.path,)

    @property
    def _channels(self) -> int:
        return self.bands + self.has_alpha

    def _levels(self, files: Files) -> list[_Level]:
        """All levels in a copy of the source, or in itself, to be written to."""
        return [self._level(path, files) for path in self._node.levels]

    def _level(self, path: str, files: Files | None = None) -> _Level:
        """A level to be read; to be written to where files are given."""
        url = (files or self._files).url
        with _damage(f"{url}/{path}".rstrip("/")):
            store = (files or self._files).zarr("").with_read_only(files is None)
            return _open_level(url, store, path, self._node)


def open_labels(path: str, *, asked: bool) -> _Level | None:
    """The finest level of a label image, of whole numbers of any size: what is at the path, or the
    only one of a group of labels there; where it is ``asked`` for, of any image or array. None
    where there are no labels. ImageError where it has to be said which, or they are no plane.
    """
    url = path.rstrip("/")
    files = open_files(url)
    format_, is_array, attributes = _root(url, files)
    ome = attributes if format_ == 2 else attributes.get("ome")
    ome = ome if isinstance(ome, dict) else {}
    names = ome.get("labels")
    if isinstance(names, list) and not is_array and "multiscales" not in ome:
        if len(names) != 1:
            raise ImageError(f"{url}: holds {len(names)} labels; give one, {_first(url, names)}")
        return open_labels(f"{url}/{names[0]}", asked=True)
    if not asked and "image-label" not in ome and "/labels/" not in url:
        return None
    node = _node_of(url, format_, is_array, attributes, ome)
    with _damage(f"{url}/{node.levels[0]}".rstrip("/")):
        level = _open_level(url, files.zarr("").with_read_only(), node.levels[0], node)
    _refuse_stacks(url, level)
    if level.array.dtype.kind not in "ui" or math.prod(level.array.shape) != level.size.area:
        raise ImageError(f"{url}: its labels are no plane of whole numbers; save them as one")
    return level


def _first(url: str, names: list[Any]) -> str:
    return f"such as {url}/{names[0]}" if names else f"such as {url}/cells"


def is_zarr(path: str) -> bool:
    """Whether a local folder, or what is at a URL, looks like a zarr; False where it can't be
    read, and where an address ends with a query, which is that of one file."""
    if is_web(path) and "?" in path:
        return False
    try:
        files = open_files(path)
        if isinstance(files, LocalFiles):
            return any((files.path / name).is_file() for name in _ROOTS)
        return any(_has(files, name) for name in _ROOTS)
    except Exception:  # whatever a store's library raises: it can't be read
        return False


@dataclass(frozen=True)
class _Node:
    """What the metadata says."""

    kind: str
    format: Literal[2, 3]
    levels: tuple[str, ...]  # the paths of the arrays, the finest first
    axes: str | None  # None: to be told by the shape
    ome: dict[str, Any]
    own: dict[str, Any]
    scales: tuple[float | None, float | None] = (None, None)  # millimetres per pixel, y and x

    @property
    def complete(self) -> bool:
        return self.own.get("complete") is True


def _look_at(url: str, files: Files) -> _Node:
    format_, is_array, attributes = _root(url, files)
    ome = attributes.get("ome") if format_ == 3 else attributes
    ome = ome if isinstance(ome, dict) else {}
    if not is_array:
        _refuse_others(url, ome)
    return _node_of(url, format_, is_array, attributes, ome)


def _node_of(
    url: str,
    format_: Literal[2, 3],
    is_array: bool,
    attributes: dict[str, Any],
    ome: dict[str, Any],
) -> _Node:
    own = attributes.get(_OWN)
    own = own if isinstance(own, dict) else {}
    if is_array:
        return _Node("zarr", format_, ("",), None, {}, own)
    with _bad_metadata(url):
        multiscale = ome["multiscales"][0]
        default = "0.4" if format_ == 2 else None
        version = ome.get("version") if format_ == 3 else multiscale.get("version", default)
        if version != ("0.4" if format_ == 2 else "0.5"):
            raise ImageError(
                f"{url}: is OME-Zarr {version} in zarr {format_}; convert it to 0.4 or 0.5"
            )
        axes = _axes(url, multiscale["axes"])
        levels = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        scales = _scales(axes, multiscale)
    return _Node(f"OME-Zarr {version}", format_, levels, axes, ome, own, scales)


def _root(url: str, files: Files) -> tuple[Literal[2, 3], bool, dict[str, Any]]:
    """zarr's format, whether it is an array, and its attributes."""
    found = _json(url, files, "zarr.json")
    if found is not None:
        attributes = found.get("attributes")
        is_array = found.get("node_type") == "array"
        return 3, is_array, attributes if isinstance(attributes, dict) else {}
    for name in (".zarray", ".zgroup"):
        if _json(url, files, name) is not None:
            return 2, name == ".zarray", _json(url, files, ".zattrs") or {}
    if isinstance(files, LocalFiles) and not files.path.exists():
        raise ImageError(f"{url}: no such file or folder")
    raise ImageError(
        f"{url}: has no zarr metadata (zarr.json, .zgroup or .zarray); give the folder of an "
        "OME-Zarr image or of a zarr array"
    )


def _json(url: str, files: Files, name: str) -> dict[str, Any] | None:
    try:
        data = files.read(name)
    except FileNotFoundError:
        return None
    except PermissionError:  # what stores behind web servers say of what they have not
        if is_web(url):
            return None
        raise
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ImageError(f"{url}: its {name} is damaged; get it again")
    return found


def _has(files: Files, name: str) -> bool:
    """Whether there is such metadata; a web server may send a page for whatever it has not."""
    try:
        return files.read(name).lstrip()[:1] == b"{"
    except (FileNotFoundError, PermissionError):
        return False


@contextmanager
def _bad_metadata(url: str) -> Iterator[None]:
    """What is not as the specification has it as ImageError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ImageError(
            f"{url}: its OME-Zarr metadata is damaged ({type(error).__name__}: {error}); "
            "get it again or convert it anew"
        ) from error


_OTHERS = {
    "plate": "a plate; give one image in it, such as {url}/A/1/0",
    "well": "a well; give one image in it, such as {url}/0",
    "image-label": "a label image; give the picture that it belongs to",
    "labels": "a group of labels; give the picture that they belong to",
    "bioformats2raw.layout": "a collection of images; give one of them, such as {url}/0",
    "series": "a collection of images; give one of them, such as {url}/0",
}


def _refuse_others(url: str, ome: dict[str, Any]) -> None:
    """Groups that are no picture."""
    for key, what in _OTHERS.items():
        if key in ome and (key == "image-label" or "multiscales" not in ome):
            raise ImageError(f"{url}: is {what.format(url=url)}")
    if not ome.get("multiscales"):
        raise ImageError(
            f"{url}: is a zarr group without an image (no multiscales); give the folder of an "
            "OME-Zarr image or of one array"
        )


def _axes(url: str, axes: list[dict[str, Any]]) -> str:
    if any(isinstance(axis, str) for axis in axes):
        raise ImageError(f"{url}: is older than OME-Zarr 0.4; convert it to 0.4 or 0.5")
    names = [str(axis["name"]) for axis in axes]
    if sorted(set(names)) != sorted(names) or not {"y", "x"} <= set(names) <= set("tczyx"):
        raise ImageError(
            f"{url}: its axes are {', '.join(names)}; save one plane with axes c, y, x"
        )
    return "".join(names)


def _scales(axes: str, multiscale: dict[str, Any]) -> tuple[float | None, float | None]:
    """Millimetres per pixel of the finest level along y and x, where the unit is known."""
    factors = np.ones(len(axes))
    for holder in (multiscale["datasets"][0], multiscale):
        for transformation in holder.get("coordinateTransformations", ()):
            if transformation["type"] == "scale" and "scale" in transformation:
                factors = factors * np.asarray(transformation["scale"], np.float64)

    def along(axis: str) -> float | None:
        number = axes.index(axis)
        unit = _MILLIMETRES.get(multiscale["axes"][number].get("unit"))
        length = unit and unit * float(factors[number])
        return length if length and 0 < length < math.inf else None

    return along("y"), along("x")


def _open_level(url: str, store: Store, path: str, node: _Node) -> _Level:
    mode: Literal["r", "r+"] = "r" if store.read_only else "r+"
    try:
        array = zarr.open_array(_CheckedStore(store), path=path, zarr_format=node.format, mode=mode)
    except FileNotFoundError:
        raise ImageError(f"{url}: its array {path!r} is missing; get it again") from None
    array = array.with_config({"write_empty_chunks": True})
    checked = cast(_CheckedStore, array.store)
    checked.whole = node.complete
    checked.blosc = not array.shards and any(
        type(codec).__name__ in ("Blosc", "BloscCodec") for codec in array.compressors[-1:]
    )
    axes = node.axes or _axes_by_shape(url, array)
    if len(axes) != array.ndim:
        raise ImageError(f"{url}: has {array.ndim} axes and metadata for {len(axes)}; get it again")
    return _Level(url, path, array, axes)


def _axes_by_shape(url: str, array: zarr.Array[Any]) -> str:
    """Of a plain array: y, x; c, y, x; or y, x, c with at most four channels."""
    shape = array.shape
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        raise ImageError(f"{url}: has {len(shape)} axes; save one plane as y, x or c, y, x")
    named = "".join(name or "?" for name in getattr(array.metadata, "dimension_names", None) or ())
    if named in ("cyx", "yxc"):
        return named
    fits = [axes for axes, count in (("cyx", shape[0]), ("yxc", shape[2])) if count <= 4]
    if len(fits) == 1:
        return fits[0]
    raise ImageError(
        f"{url}: of shape {shape} it can't be told which axis holds the channels; "
        "name its dimensions, or save it as an OME-Zarr image"
    )


def _refuse_strange(url: str, level: _Level) -> None:
    """Whatever is more than one plane of 8 or 16 bits."""
    _refuse_stacks(url, level)
    if level.array.dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ImageError(
            f"{url}: its samples are {level.array.dtype.name}; convert it to 8 or 16 bits"
        )


def _refuse_stacks(url: str, level: _Level) -> None:
    for axis, length in zip(level.axes, level.array.shape, strict=True):
        if axis in "tz" and length != 1:
            what = "times" if axis == "t" else "planes"
            raise ImageError(f"{url}: holds {length} {what}; save the one to edit as its own image")
        if length < 1:
            raise ImageError(f"{url}: is empty (shape {level.array.shape})")


def _colours(url: str, channels: int, node: _Node) -> tuple[int, bool]:
    """How many colours there are, and whether there is an alpha channel after them."""
    if channels in (1, 3):
        return channels, False
    if channels in (2, 4) and (node.kind == "zarr" or _says_alpha(channels, node)):
        return channels - 1, True
    raise ImageError(f"{url}: has {channels} channels; save the three to edit as RGB")


def _says_alpha(channels: int, node: _Node) -> bool:
    if node.own.get("has_alpha") is True:
        return True
    told = (node.ome.get("omero") or {}).get("channels", [])
    return len(told) == channels and str(told[-1].get("label")).lower() == "alpha"


def _metadata(node: _Node, others: tuple[str, ...]) -> Metadata:
    y, x = node.scales
    resolution = (1 / x, 1 / y) if x and y else None
    return replace(from_json(node.own), resolution=resolution, others=others)


def _others(files: Files) -> tuple[str, ...]:
    labels = any(_has(files, f"labels/{name}") for name in ("zarr.json", ".zgroup"))
    return ("labels",) if labels else ()


# ---------------------------------------------------------------- pyramids


def shrink(samples: Samples, ratio: tuple[int, int] = (2, 2)) -> Samples:
    """(h, w, c) -> (ceil(h / ratio), ceil(w / ratio), c): the mean of each block, of what is there
    of it at the edges, rounded half up."""
    total: NDArray[np.uint32] = samples.astype(np.uint32)
    for axis, step in enumerate(ratio):
        lines = total.swapaxes(0, axis)
        total = lines[::step].copy()
        for first in range(1, step):
            part = lines[first::step]
            total[: len(part)] += part
        total = total.swapaxes(0, axis)
    height, width = samples.shape[:2]
    area = _counts(height, ratio[0])[:, None, None] * _counts(width, ratio[1])[:, None]
    divisor: Any = area if area.min() < area.max() else area.max()  # one number is much faster
    return cast(Samples, ((total + divisor // 2) // divisor).astype(samples.dtype))


def _counts(length: int, step: int) -> NDArray[np.uint32]:
    """How many of ``length`` lines each block of ``step`` holds."""
    return np.minimum(step, length - np.arange(0, length, step)).astype(np.uint32)


class OmeWriter:
    """An OME-Zarr in the making: levels of half the size each, until one fits a chunk.

    ``create``, then ``write_chunk`` for every chunk, level by level, then ``finish``. A chunk is a
    function of ``window`` or of 2 x 2 chunks of the level before, so chunks of one level may be
    written by different workers, and again. Each needs a writer made with the same arguments.
    """

    def __init__(
        self,
        target: str | Path,
        size: Size,
        dtype: DTypeLike,
        bands: int,
        has_alpha: bool,
        metadata: Metadata,
        window: Window,
        *,
        version: Literal["0.4", "0.5"] = "0.5",
        chunk: int = 640,
        name: str,
    ) -> None:
        """``chunk`` in pixels, ``name`` for people; ``window`` as `Window` has it."""
        self._files, self._window = open_files(target), window
        self._dtype, self._channels = np.dtype(dtype), bands + has_alpha
        self._bands, self._has_alpha = bands, has_alpha
        self._metadata, self._version, self._chunk, self._name = metadata, version, chunk, name
        self.sizes = [size]
        while self.sizes[-1].long_edge > chunk:
            last = self.sizes[-1]
            self.sizes.append(Size(-(-last.height // 2), -(-last.width // 2)))
        self._opened: dict[int, _Level] = {}

    def create(self) -> None:
        """Make the levels' arrays, or keep those that are just so; the target is no zarr then."""
        for name in (*_ROOTS, ".zattrs"):
            self._files.remove(name)
        if isinstance(self._files, LocalFiles):
            _sweep(self._files.path.rglob("*.partial"))
        for level in range(len(self.sizes)):
            with store_errors(self._files.url):
                self._create_array(level)

    def chunks(self, level: int) -> Iterator[tuple[int, int]]:
        """The rows and columns of a level's chunks."""
        size = self.sizes[level]
        for row in range(-(-size.height // self._chunk)):
            for column in range(-(-size.width // self._chunk)):
                yield row, column

    def write_chunk(self, level: int, row: int, column: int) -> None:
        """Make one chunk and store it; done again, it is the same.

        ImageError where the level before has not all that is needed.
        """
        target = self._level(level)
        box = target.unit_box(row, column)
        if level == 0:
            samples = self._window(box)
        else:
            below = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1)
            inside = below.intersection(Box.of(self.sizes[level - 1]))
            assert inside is not None
            samples = shrink(self._level(level - 1).read(inside))
        wanted = (*box.size.shape, self._channels)
        if samples.shape != wanted or samples.dtype != self._dtype:
            raise ValueError(
                f"box {box}: wanted {wanted} {self._dtype}, got {samples.shape} {samples.dtype}"
            )
        target.write(box, samples)

    def finish(self) -> None:
        """Write what makes it an OME-Zarr."""
        own: dict[str, Any] = {"complete": True, "has_alpha": self._has_alpha}
        own |= as_json(self._metadata)
        multiscale = {
            "name": self._name,
            "axes": self._axes,
            "datasets": [self._dataset(level) for level in range(len(self.sizes))],
            "type": "mean",
        }
        ome: dict[str, Any] = {"multiscales": [multiscale], "omero": self._omero}
        if self._version == "0.5":
            attributes = {"ome": {"version": "0.5", **ome}, _OWN: own}
            self._write("zarr.json", zarr_format=3, node_type="group", attributes=attributes)
        else:
            multiscale["version"] = "0.4"
            self._write(".zattrs", **ome, **{_OWN: own})
            self._write(".zgroup", zarr_format=2)

    def _create_array(self, level: int) -> None:
        shape = (self._channels, *self.sizes[level].shape)
        chunks = (self._channels, *(min(self._chunk, length) for length in shape[1:]))
        v3 = self._version == "0.5"
        options: dict[str, Any] = {
            "shape": shape,
            "chunks": chunks,
            "dtype": self._dtype,
            "fill_value": 0,
            "zarr_format": 3 if v3 else 2,
            # without a checksum in 0.4, whose other readers know blosc but often not zstd alone
            "compressors": ZstdCodec(level=1, checksum=True)
            if v3
            else {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0},
            "filters": None,
            "chunk_key_encoding": {
                "name": "default" if v3 else "v2",
                "separator": "/",
            },
            "dimension_names": ["c", "y", "x"] if v3 else None,
        }
        store = self._files.zarr(str(level))  # of its own, so that no group is made around it
        try:
            zarr.create_array(store, **options)
        except ContainsArrayError:
            found = zarr.open_array(store, mode="r")
            same = found.shape == shape and found.chunks == chunks and found.dtype == self._dtype
            if not same or found.metadata.zarr_format != options["zarr_format"]:
                zarr.create_array(store, **options, overwrite=True)

    def _level(self, level: int) -> _Level:
        if level not in self._opened:
            node = _Node("", 3 if self._version == "0.5" else 2, (), "cyx", {}, {"complete": True})
            url = f"{self._files.url}/{level}"
            with _damage(url):
                self._opened[level] = _open_level(url, self._files.zarr(str(level)), "", node)
        return self._opened[level]

    def _write(self, name: str, **content: Any) -> None:
        self._files.write(name, json.dumps(content, indent=2).encode())

    @property
    def _axes(self) -> list[dict[str, str]]:
        unit = {"unit": "micrometer"} if self._metadata.resolution else {}
        space = [{"name": axis, "type": "space", **unit} for axis in "yx"]
        return [{"name": "c", "type": "channel"}, *space]

    def _dataset(self, level: int) -> dict[str, Any]:
        x, y = self._metadata.resolution or (1000, 1000)  # without one, a pixel is 1
        scale = [1.0, 1000 / y * 2**level, 1000 / x * 2**level]
        return {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": scale}],
        }

    @property
    def _omero(self) -> dict[str, Any]:
        """How viewers are to show the channels."""
        peak = np.iinfo(self._dtype).max
        shown = (
            dict(zip(("red", "green", "blue"), _RGB, strict=True))
            if self._bands == 3
            else {"grey": "FFFFFF"}
        )
        if self._has_alpha:
            shown["alpha"] = "FFFFFF"
        channels = [
            {
                "label": label,
                "color": colour,
                "active": label != "alpha",
                "coefficient": 1,
                "family": "linear",
                "inverted": False,
                "window": {"min": 0, "max": int(peak), "start": 0, "end": int(peak)},
            }
            for label, colour in shown.items()
        ]
        model = "color" if self._bands == 3 else "greyscale"
        return {
            "name": self._name,
            "channels": channels,
            "rdefs": {"defaultT": 0, "defaultZ": 0, "model": model},
        }


def write_ome(
    target: str | Path,
    size: Size,
    dtype: DTypeLike,
    bands: int,
    has_alpha: bool,
    metadata: Metadata,
    window: Window,
    *,
    version: Literal["0.4", "0.5"] = "0.5",
    chunk: int = 640,
    name: str,
) -> None:
    """Write a picture of ``bands`` colours as OME-Zarr to a folder or URL, chunk by chunk.

    A local target should have another name until this returns; a crash leaves what is not taken for
    an OME-Zarr.
    """
    writer = OmeWriter(
        target,
        size,
        dtype,
        bands,
        has_alpha,
        metadata,
        window,
        version=version,
        chunk=chunk,
        name=name,
    )
    writer.create()
    for level in range(len(writer.sizes)):
        for row, column in writer.chunks(level):
            writer.write_chunk(level, row, column)
    writer.finish()


# ---------------------------------------------------------------- copy on write, and in place


@dataclass(frozen=True)
class ChunkCounts:
    """Of all levels' chunks, or shards where there are."""

    written: int
    kept: int  # as they were in the source


_LOSSLESS = {
    *("adler32", "blosc", "bytes", "bz2", "crc32", "crc32c", "fletcher32", "gzip", "lz4", "lzma"),
    *("sharding_indexed", "shuffle", "transpose", "zlib", "zstd"),
}


def can_copy(source: OmeReader) -> str | None:
    """Why a source can't be copied with some of its chunks written anew; None where it can."""
    if not isinstance(source._files, LocalFiles):
        return "is not in a local folder"
    return can_patch(source)


def copy_with_edits(
    source: OmeReader, target: Path, changed: Sequence[Box], window: Window
) -> ChunkCounts:
    """Copy every file as it is, then write ``window`` into the changed boxes of the finest level
    and their means into the others; pixels outside them stay.

    The target must not be there; give it another name until this returns. ImageError for what
    ``can_copy`` refuses and for damaged chunks.
    """
    _refuse(source, can_copy(source))
    shutil.copytree(source._files.url, target)
    edit = _Edit(source, open_files(target), changed)
    edit.apply(window)
    return edit.counts


def patch_in_place(
    source: OmeReader, changed: Sequence[Box], window: Window, journal: str | Path
) -> ChunkCounts:
    """The same in the source itself, once the chunks that change are copied to a journal folder.

    Called again with the same boxes after a crash, it starts from the original chunks. The journal
    is left to the caller. RunError for a journal of another edit or inside the source.
    """
    _refuse(source, can_patch(source))
    edit, files = _Edit(source, source._files, changed), open_files(journal)
    if f"{files.url}/".startswith(f"{source._files.url}/"):
        raise RunError(f"{files.url}: is inside {source.path}; give a journal outside of it")
    about = {"source": source._files.url, "changed": [_corners(box) for box in changed]}
    record = _journal(files)
    if record is None:
        edit.save(files, about)
    elif {key: record[key] for key in about} != about:
        raise RunError(
            f"{files.url}: is the journal of another edit; finish that one, or give another"
        )
    else:
        _put_back(record, source._files, files)
    edit.apply(window)
    edit.sync()
    return edit.counts


@dataclass(frozen=True)
class _Unit:
    """A unit that is written anew."""

    level: int
    box: Box
    parts: tuple[Box, ...]  # of it, that change
    keys: tuple[str, ...]


class _Edit:
    """The units of all levels of one zarr that changed boxes meet, the finest level first."""

    def __init__(self, source: OmeReader, files: Files, changed: Sequence[Box]) -> None:
        self._source, self._files = source, files
        self._levels = source._levels(files)
        self._ratios = _ratios(self._levels)
        self.units: list[_Unit] = []
        boxes = list(changed)
        for number, level in enumerate(self._levels):
            if number:
                boxes = [_shrunk(box, self._ratios[number - 1]) for box in boxes]
            self.units += _met(number, level, boxes)

    @property
    def counts(self) -> ChunkCounts:
        written = sum(len(unit.keys) for unit in self.units)
        return ChunkCounts(written, sum(level.units for level in self._levels) - written)

    def apply(self, window: Window) -> None:
        """Read each unit whole, change the parts, write it whole."""
        for unit in self.units:
            samples = self._levels[unit.level].read(unit.box)
            for part in unit.parts:
                new = self._from_below(unit.level, part) if unit.level else window(part)
                if new.shape != (*part.size.shape, samples.shape[2]) or new.dtype != samples.dtype:
                    raise ValueError(f"box {part}: got {new.shape} {new.dtype}")
                samples[part.relative_to(unit.box).slices] = new
            self._levels[unit.level].write(unit.box, samples)

    def save(self, journal: Files, about: dict[str, Any]) -> None:
        """Copy the units' files to the journal; it counts once its record is there."""
        kept, absent = [], []
        for key in (key for unit in self.units for key in unit.keys):
            try:
                journal.write(f"chunks/{key}", self._files.read(key))
                kept.append(key)
            except FileNotFoundError:
                absent.append(key)
        if absent and self._source._node.complete:
            raise ImageError(f"{self._source.path}: chunk {absent[0]} is lost; get it again")
        record = {**about, "kept": kept, "absent": absent}
        journal.write("journal.json", json.dumps(record).encode())

    def sync(self) -> None:
        """Make what was written last through a crash of the machine."""
        if not isinstance(self._files, LocalFiles):
            return
        paths = [self._files.path / key for unit in self.units for key in unit.keys]
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for folder in {path.parent for path in paths}:
            sync_folder(folder)

    def _from_below(self, level: int, part: Box) -> Samples:
        (ry, rx), below = self._ratios[level - 1], self._levels[level - 1]
        box = Box(part.y0 * ry, part.x0 * rx, part.y1 * ry, part.x1 * rx)
        inside = box.intersection(Box.of(below.size))
        assert inside is not None
        return shrink(below.read(inside), (ry, rx))


def _met(number: int, level: _Level, boxes: Sequence[Box]) -> list[_Unit]:
    parts: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        inside = box.intersection(Box.of(level.size))
        if inside is None:
            continue
        unit = level.unit
        for row in range(inside.y0 // unit.height, -(-inside.y1 // unit.height)):
            for column in range(inside.x0 // unit.width, -(-inside.x1 // unit.width)):
                part = inside.intersection(level.unit_box(row, column))
                assert part is not None
                parts.setdefault((row, column), []).append(part)
    return [
        _Unit(number, level.unit_box(*where), tuple(found), tuple(level.keys(*where)))
        for where, found in sorted(parts.items())
    ]


def _shrunk(box: Box, ratio: tuple[int, int]) -> Box:
    """The pixels of the next level to which a box contributes."""
    ry, rx = ratio
    return Box(box.y0 // ry, box.x0 // rx, -(-box.y1 // ry), -(-box.x1 // rx))


def _ratios(levels: Sequence[_Level]) -> list[tuple[int, int]]:
    """How many rows and columns become one, between each level and the next; ValueError where
    that is not an integer."""
    ratios = []
    known = (2, 2)  # sizes tell it to within one: the ratio of the levels before goes first
    for fine, coarse in pairwise(level.size.shape for level in levels):
        known = (_ratio(fine[0], coarse[0], known[0]), _ratio(fine[1], coarse[1], known[1]))
        ratios.append(known)
    return ratios


def _ratio(fine: int, coarse: int, known: int) -> int:
    for factor in (known, fine // coarse, -(-fine // coarse)):
        if 0 < factor <= 256 and coarse in (fine // factor, -(-fine // factor)):
            return factor
    raise ValueError(f"its levels' sizes {fine} and {coarse} are in no integer ratio")


def can_patch(source: OmeReader) -> str | None:
    """Why a source's chunks can't be written anew, each by itself; None where they can."""
    if (scheme := source.path.partition("://")[0]) in READ_ONLY:
        return f"what is behind {scheme}:// can only be read"
    for path in source._node.levels:
        lossy = sorted(set(_codecs(source, path)) - _LOSSLESS)
        if lossy:
            return f"its chunks are compressed with {lossy[0]}, which is not known to be lossless"
    levels = source._levels(source._files)
    first = levels[0].array
    for level in levels[1:]:
        strange = [i for i, axis in enumerate(level.axes) if axis not in "yx"]
        other = any(level.array.shape[i] != first.shape[i] for i in strange)
        if other or level.array.dtype.newbyteorder("=") != source.dtype:
            return f"its level {level.path} has other channels or samples than the finest"
    try:
        _ratios(levels)
    except ValueError as error:
        return str(error)
    return None


def _codecs(source: OmeReader, path: str) -> Iterator[str]:
    """The names of all that changes an array's bytes."""
    name = "zarr.json" if source._node.format == 3 else ".zarray"
    found = _json(source.path, source._files, f"{path}/{name}".lstrip("/")) or {}

    def names(codecs: Sequence[Any]) -> Iterator[str]:
        for codec in codecs:
            told: dict[str, Any] = {"name": codec} if isinstance(codec, str) else codec
            yield str(told.get("name", told.get("id"))).removeprefix("numcodecs.")
            yield from names((told.get("configuration") or {}).get("codecs", ()))

    with _bad_metadata(source.path):
        compressor = found.get("compressor")
        yield from names(found.get("codecs") or ())
        yield from names([*(found.get("filters") or ()), *([compressor] if compressor else ())])


def _refuse(source: OmeReader, reason: str | None) -> None:
    if reason is not None:
        raise ImageError(f"{source.path}: {reason}; save the result as a new file instead")


def _corners(box: Box) -> list[int]:
    return [box.y0, box.x0, box.y1, box.x1]


def _journal(files: Files) -> dict[str, Any] | None:
    """The record of a journal that is whole."""
    try:
        record = json.loads(files.read("journal.json"))
    except FileNotFoundError:
        return None
    return cast("dict[str, Any]", record)


def _put_back(record: dict[str, Any], files: Files, journal: Files) -> int:
    if isinstance(files, LocalFiles):
        for folder in {(files.path / key).parent for key in (*record["kept"], *record["absent"])}:
            _sweep(folder.glob("*.partial"))
    for key in record["kept"]:
        files.write(key, journal.read(f"chunks/{key}"))
    for key in record["absent"]:
        files.remove(key)
    return len(record["kept"]) + len(record["absent"])


def _sweep(unfinished: Iterable[Path]) -> None:
    """Remove what a killed process was writing: zarr writes chunks under another name first."""
    for path in list(unfinished):
        path.unlink(missing_ok=True)
