"""TIFFs made and read back by other libraries than the code under test, and copies with edits."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from msbd_dist.canvas.tiff import TiffReader
from msbd_dist.canvas.tiff_copy import TileCounts, copy_with_edits
from msbd_dist.core.geometry import Box

Array = NDArray[Any]


def picture(height: int, width: int, bands: int = 3, bits: int = 8, seed: int = 0) -> Array:
    """(h, w, bands): waves and noise, every band another; no sample is like another's zero."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (9 + b)) + np.cos(y / (7 + b)) for b in range(bands)], -1)
    peak = 2**bits - 1
    values = peak * (0.5 + 0.2 * waves + rng.normal(0, 0.02, waves.shape))
    return values.clip(1, peak).astype(f"u{bits // 8}")


def make(
    path: Path | io.BytesIO,
    samples: Array,
    *,
    codec: str | None = "zlib",
    tile: tuple[int, int] | None = (32, 48),
    planar: bool = False,
    **options: Any,
) -> Array:
    """A TIFF of (h, w, bands) samples; returns what another library reads in it."""
    bands = samples.shape[-1]
    array = samples[..., 0] if bands == 1 else samples
    settings: dict[str, Any] = {
        "photometric": "rgb" if bands > 2 else "minisblack",
        "compression": codec,
        "tile": tile,
        "metadata": None,
    }
    if tile is None:
        settings["rowsperstrip"] = 13
    if bands > 1:
        settings["planarconfig"] = "separate" if planar else "contig"
        array = np.moveaxis(samples, -1, 0).copy() if planar else array
    if bands in (2, 4):
        settings["extrasamples"] = ["unassalpha"]
    if codec in ("jpegxl", "webp"):
        settings["compressionargs"] = {"lossless": True}
    tifffile.imwrite(path, array, **(settings | options))
    return read_back(path)


def read_back(path: Path | io.BytesIO, level: int = 0) -> Array:
    """(h, w, bands), as tifffile reads them."""
    if isinstance(path, io.BytesIO):
        path.seek(0)
    with tifffile.TiffFile(path) as file:
        page: Any = file.series[0].levels[level].keyframe
        array = page.asarray()
        planar = page.planarconfig == 2 and array.ndim == 3
    if planar:
        array = np.moveaxis(array, 0, -1)
    return array if array.ndim == 3 else array[..., None]


def add_tag(path: Path, code: int, kind: int, count: int, cell: bytes) -> None:
    """Add one tag to a classic little-endian TIFF, its values in its cell, by moving its page."""
    data = path.read_bytes()
    at = struct.unpack("<I", data[4:8])[0]
    number = struct.unpack("<H", data[at : at + 2])[0]
    cells = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(number)]
    cells = [c for c in cells if struct.unpack("<H", c[:2])[0] != code]
    cells.append(struct.pack("<HHI", code, kind, count) + cell.ljust(4, b"\0"))
    cells.sort(key=lambda c: struct.unpack("<H", c[:2]))
    tail = data[at + 2 + 12 * number : at + 6 + 12 * number]
    data += bytes(len(data) % 2)
    page = struct.pack("<H", len(cells)) + b"".join(cells) + tail
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + page)


def edited_copy(
    source: Path, target: Path, boxes: list[Box], seed: int = 9
) -> tuple[Array, Array, TileCounts]:
    """(the source's samples, the edited ones as seen, counts): noise in each box."""
    reader = TiffReader.open(str(source))
    before = reader.window(Box.of(reader.size))
    after = before.copy()
    rng = np.random.default_rng(seed)
    peak = np.iinfo(after.dtype).max
    for box in boxes:
        shape = (box.height, box.width, reader.bands)
        after[box.slices][..., : reader.bands] = rng.integers(0, peak + 1, shape, after.dtype)
    counts = copy_with_edits(reader, target, boxes, lambda box: after[box.slices])
    return before, after, counts
