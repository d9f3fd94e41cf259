"""New files by libvips, which writes the samples; what else they hold is put in beside them.

    to_be_written(picture, kind)       (metadata, what the file goes without)
    save(image, place, picture, kind)  PNG, TIFF, WebP, JPEG or DeepZoom

What libvips says of its own accord, such as a resolution that nobody gave, is left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyvips

from msbd_dist.canvas import exif, jpeg, photoshop, png, webp
from msbd_dist.canvas.carry import Kind, carried
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.reader import Loss, Metadata
from msbd_dist.canvas.tiff import TiffReader, grafted
from msbd_dist.canvas.tiff_add import add
from msbd_dist.canvas.tiff_own import RESOLUTION

_TILE = 512
_CLASSIC_TIFF = 3_500_000_000  # bytes; offsets of a classic TIFF end at 4 GiB
_QUALITY = 95


def to_be_written(picture: Picture, kind: Kind) -> tuple[Metadata, list[Loss]]:
    """A picture's metadata as a new file of a kind holds it, and what that goes without."""
    held = picture.metadata
    space = (held.icc or b"")[16:20]
    own = b"GRAY" if picture.bands == 1 and kind != "WebP" else b"RGB "
    lost = []
    if space and kind != "OME-Zarr" and space != own:
        what = f"an ICC profile of other colours ({space.decode('latin1').strip()})"
        lost.append(Loss("icc", what))
        held = replace(held, icc=None)
    found, more = carried(held, kind, picture.orientation)
    return found, [*lost, *more]


def save(image: Any, place: Path, picture: Picture, kind: Kind, *, pyramid: bool = False) -> None:
    """Write an image of a picture's edited samples; ``pyramid`` is for TIFFs. pyvips.Error and
    OSError where it can't be."""
    held, _ = to_be_written(picture, kind)
    if kind == "TIFF":
        _save_tiff(image, place, picture, held, pyramid=pyramid)
    else:
        _SAVE[kind](image, place, picture, held)


def _save_png(image: Any, place: Path, picture: Picture, held: Metadata) -> None:
    bits = 8 * picture.dtype.itemsize
    options = {"compression": 3, "filter": "sub", "keep": "none", "bitdepth": bits}
    _save_with(png.chunks_for(held), _end_of_png_head, place, image.pngsave_target, options)


def _save_jpeg(image: Any, place: Path, picture: Picture, held: Metadata) -> None:
    options = {"Q": _QUALITY, "keep": "none"}
    opaque = _opaque(image, picture)
    segments = jpeg.segments_for(held)
    _save_with(segments, _end_of_jpeg_head, place, opaque.jpegsave_target, options)


def _save_webp(image: Any, place: Path, picture: Picture, held: Metadata) -> None:
    image = _to_8_bits(image)
    bare = image.webpsave_buffer(lossless=True, exact=True, keep="none")
    place.write_bytes(webp.with_metadata(bare, held, picture.stored_size, picture.has_alpha))


def _save_tiff(image: Any, place: Path, picture: Picture, held: Metadata, *, pyramid: bool) -> None:
    options: dict[str, Any] = {"compression": "deflate", "predictor": "horizontal"}
    if pyramid or picture.size.long_edge >= _TILE:  # readers take a much larger tile for damage
        options |= {"tile": True, "tile_width": _TILE, "tile_height": _TILE}
    if pyramid:
        options |= {"pyramid": True, "subifd": True, "region_shrink": "mean"}
    raw = picture.raw_bytes * (4 / 3 if pyramid else 1)
    xres, yres = held.resolution or (1.0, 1.0)
    image = image.copy(xres=xres, yres=yres)
    image.tiffsave(os.fsencode(place), bigtiff=raw > _CLASSIC_TIFF, keep="none", **options)
    reader = picture.reader
    add(
        place,
        exif=held.exif,
        own=[*_blocks(held, picture.orientation), *(block for _, block in held.own)],
        pages=grafted(reader.contents) if isinstance(reader, TiffReader) else (),
        without=RESOLUTION if held.resolution is None else set(),
    )


def _blocks(held: Metadata, orientation: int) -> list[bytes]:
    """What a TIFF holds in tags of its own."""
    tags: dict[int, exif.Given | None] = {
        **exif.resolution_tags(held.resolution),
        exif.DESCRIPTION: held.description,
        exif.ORIENTATION: orientation if orientation != 1 else None,
        exif.ICC: held.icc,
        exif.XMP: held.xmp,
        exif.IPTC: held.iptc,
        exif.PHOTOSHOP: photoshop.joined(held.photoshop, held.iptc),
    }
    block = exif.exif_with(None, {code: value for code, value in tags.items() if value})
    return [block] if block else []


def _save_deepzoom(image: Any, place: Path, picture: Picture, held: Metadata) -> None:
    image = _with_icc(_opaque(image, picture), held)
    suffix = f".jpg[Q={_QUALITY}]"
    name = os.fsencode(place.with_suffix(""))  # libvips adds its own
    image.dzsave(name, layout="dz", suffix=suffix, tile_size=254, overlap=1, keep="icc")


_SAVE: dict[Kind, Callable[[Any, Path, Picture, Metadata], None]] = {
    "PNG": _save_png,
    "WebP": _save_webp,
    "JPEG": _save_jpeg,
    "DeepZoom": _save_deepzoom,
}


def _with_icc(image: Any, held: Metadata) -> Any:
    image = image.copy()
    if held.icc:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", held.icc)
    return image


def _opaque(image: Any, picture: Picture) -> Any:
    """8 bits, and white where it was transparent."""
    image = _to_8_bits(image)
    return image.flatten(background=255) if picture.has_alpha else image


def _to_8_bits(image: Any) -> Any:
    if image.format == "uchar":
        return image
    space = "b-w" if image.bands < 3 else "srgb"
    return (image / 257).rint().cast("uchar").copy(interpretation=space)


# ---------------------------------------------------------------- more at a file's beginning


def _end_of_png_head(data: bytes) -> tuple[int, int] | None:
    """(where the header ends, where the samples begin)."""
    at = 33
    while len(data) >= at + 8:
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            return 33, at
        at += 12 + length
    return None


def _end_of_jpeg_head(data: bytes) -> tuple[int, int] | None:
    """(where the mark of the beginning ends, where JFIF's segment does)."""
    if len(data) < 6:
        return None
    if data[2:4] != b"\xff\xe0":
        return 2, 2
    end = 4 + int.from_bytes(data[4:6], "big")
    return (2, end) if len(data) >= end else None


_Ends = Callable[[bytes], tuple[int, int] | None]


def _save_with(
    more: bytes, ends: _Ends, place: Path, write: Callable[..., None], options: dict[str, Any]
) -> None:
    """What libvips writes, with ``more`` in place of what it has between two of ``ends``."""
    with place.open("wb") as file:
        target = _Target(file, more, ends)
        write(target.vips, **options)
    target.require_whole()


class _Target:
    """A file on its way to a disk, with something else at its beginning."""

    def __init__(self, file: BinaryIO, more: bytes, ends: _Ends) -> None:
        self._file, self._more, self._ends = file, more, ends
        self._start: bytes | None = b""
        self._error: OSError | None = None
        self.vips = pyvips.TargetCustom()
        self.vips.on_write(self._write)

    def require_whole(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self, data: Any) -> int:
        try:
            self._put(bytes(data))
        except OSError as error:
            self._error = error
            return 0
        return len(data)

    def _put(self, data: bytes) -> None:
        if self._start is not None:
            self._start += data
            found = self._ends(self._start)
            if found is None:
                return
            data = self._start[: found[0]] + self._more + self._start[found[1] :]
            self._start = None
        self._file.write(data)
