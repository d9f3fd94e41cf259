"""Picture files as windows of samples, and edited pictures written back without loss.

    Picture.open(path)            the header only: size, depth, bands, what must be refused
    picture.read(box)             (3, h, w) of the file's own integers, never colour-managed
    write_edited(picture, ...)    the same file with one window replaced, streamed

Samples keep the file's depth: uint8 or uint16. ``to_float`` and ``from_float`` are the only
conversion between them and floats in [0, 1].

A picture is shown upright: its EXIF orientation is undone when it is read and applied again when it
is written. The tag stays, so stored samples outside the edit are bit-equal to the source's.

libvips decodes and encodes. It isn't asked whether a file may be edited: for compressions it was
built without it can return wrong samples, and it hands out YCbCr, premultiplied alpha and camera
previews as if they were the picture. Headers are looked at here, before anything is decoded.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast
from uuid import uuid4

import numpy as np
import pyvips
from numpy.typing import DTypeLike, NDArray
from PIL import Image as PillowImage
from PIL import TiffTags

from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, NonFiniteError, RunError

Samples: TypeAlias = NDArray[np.uint8 | np.uint16]
"""A picture's integers: uint8 in 0..255 or uint16 in 0..65535."""

# A cached operation would return stale samples for a file that was written again under its name.
pyvips.cache_set_max(0)
# Many workers share a machine, and a decoder gains little past a few threads.
if "VIPS_CONCURRENCY" not in os.environ:
    pyvips.concurrency_set(min(4, os.cpu_count() or 1))


# ---------------------------------------------------------------- integers and floats


def to_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 0..255 or uint16 0..65535 of any shape -> float32 in [0, 1]."""
    return (samples / np.float32(_peak(samples.dtype))).astype(np.float32, copy=False)


def from_float(values: NDArray[Any], dtype: DTypeLike) -> Samples:
    """Floats of any shape -> uint8 or uint16, clipped to [0, 1] and rounded to the nearest integer.

    Raises NonFiniteError where a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError("pixels to be stored hold NaN or infinity")
    scaled = np.clip(values, 0, 1, dtype=np.float32) * np.float32(_peak(dtype))
    return cast(Samples, np.rint(scaled).astype(dtype))


def _peak(dtype: DTypeLike) -> int:
    peaks = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
    try:
        return peaks[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"samples are uint8 or uint16, not {np.dtype(dtype)}") from None


# ---------------------------------------------------------------- EXIF orientation

# orientation: (swap the axes, then flip y, flip x) turns stored samples upright
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def turn_upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(..., y, x) as stored -> (..., y, x) as meant to be seen; a view."""
    swap, flip_y, flip_x = _TURNS[orientation]
    turned = array.swapaxes(-1, -2) if swap else array
    return turned[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1]


def turn_stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The inverse of ``turn_upright``; a view."""
    swap, flip_y, flip_x = _TURNS[orientation]
    turned = array[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return turned.swapaxes(-1, -2) if swap else turned


def _stored_box(box: Box, size: Size, orientation: int) -> Box:
    """Where a box of the upright picture (of ``size``) lies in the stored one."""
    swap, flip_y, flip_x = _TURNS[orientation]
    y0, y1 = (size.height - box.y1, size.height - box.y0) if flip_y else (box.y0, box.y1)
    x0, x1 = (size.width - box.x1, size.width - box.x0) if flip_x else (box.x0, box.x1)
    return Box(x0, y0, x1, y1) if swap else Box(y0, x0, y1, x1)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Picture:
    """One picture file of uint8 or uint16 samples, grey or RGB, with or without alpha.

    ``size`` is that of the upright picture, ``stored_size`` that of the file. ``bands`` counts
    colours only: 1 or 3. ``metadata`` names what the file holds besides samples. ``unkept`` names
    what it holds and no written file can.
    """

    path: Path
    kind: str  # PNG, JPEG, TIFF or WebP
    size: Size
    dtype: np.dtype[np.uint8 | np.uint16]
    bands: int
    has_alpha: bool
    orientation: int  # the EXIF tag, 1 to 8; 1 is upright
    metadata: tuple[str, ...]
    unkept: tuple[str, ...]

    @classmethod
    def open(cls, path: Path | str) -> Picture:
        """Look at the header. Raises ImageError, in one line, for what can't be edited exactly."""
        path = Path(path)
        kind = _kind_of(path)
        unkept = _LOOKS[kind](path) if kind in _LOOKS else ()
        image = _load(path, kind, access="random")
        _refuse_strange(path, image)
        orientation = _field(image, "orientation", 1)
        orientation = orientation if orientation in _TURNS else 1
        stored = Size(image.height, image.width)
        return cls(
            path=path,
            kind=kind,
            size=Size(stored.width, stored.height) if _TURNS[orientation][0] else stored,
            dtype=np.dtype(np.uint8 if image.format == "uchar" else np.uint16),
            bands=1 if image.bands < 3 else 3,
            has_alpha=image.bands in (2, 4),
            orientation=orientation,
            metadata=_metadata(image),
            unkept=unkept,
        )

    @property
    def stored_size(self) -> Size:
        """Of the file's rows and columns, before its EXIF orientation is undone."""
        if _TURNS[self.orientation][0]:
            return Size(self.size.width, self.size.height)
        return self.size

    @property
    def format(self) -> str:
        """For people, width first: ``JPEG 1803x2117 RGB 8-bit, ICC profile, EXIF``."""
        colours = ("grey" if self.bands == 1 else "RGB") + (" + alpha" if self.has_alpha else "")
        parts = [f"{self.kind} {width_x_height(self.size)} {colours} {8 * self.dtype.itemsize}-bit"]
        parts += self.metadata
        if self.orientation != 1:
            parts.append(f"orientation {self.orientation}")
        return ", ".join(parts)

    def read(self, box: Box) -> Samples:
        """Colour samples of a window of the upright picture: (3, h, w), grey in all three.

        Raises ValueError for a box that is empty or leaves the picture, ImageError where the file
        is damaged. The first window of a PNG, JPEG or WebP decodes the whole file, into memory or,
        when large, into a file in TMPDIR.
        """
        self._require_inside(box)
        stored = _stored_box(box, self.size, self.orientation)
        with _damage(self.path):
            window = self._image.crop(stored.x0, stored.y0, stored.width, stored.height)
            data = window.extract_band(0, n=self.bands).write_to_memory()
        pixels = self._array(data, stored.height, stored.width).transpose(2, 0, 1)
        upright = turn_upright(pixels, self.orientation)
        return np.array(np.broadcast_to(upright, (3, *upright.shape[1:])), order="C")

    def strips(self, rows: int = 512) -> Iterator[tuple[int, Samples]]:
        """The stored picture from top to bottom, decoded once: (y, (h, W, bands + alpha)).

        Not turned upright. Raises ImageError at the first damaged strip.
        """
        image = _load(self.path, self.kind, access="sequential")
        region = pyvips.Region.new(image)  # one for all: a new pipeline per strip would look back
        for y in range(0, image.height, rows):
            height = min(rows, image.height - y)
            with _damage(self.path):
                data = region.fetch(0, y, image.width, height)
            yield y, self._array(data, height, image.width)

    def check(self) -> None:
        """Decode everything once, streaming. Raises ImageError for a damaged or cut-off file.

        JPEG and WebP carry no checksum: a changed byte in them is found only where it breaks the
        code. PNG finds every one.
        """
        with _damage(self.path):
            _load(self.path, self.kind, access="sequential").avg()

    @cached_property
    def _image(self) -> Any:
        return _load(self.path, self.kind, access="random")

    def _array(self, data: Any, height: int, width: int) -> Samples:
        """libvips' bytes as (h, w, bands)."""
        samples: Samples = np.frombuffer(data, dtype=self.dtype)
        return samples.reshape(height, width, -1)

    def _require_inside(self, box: Box) -> None:
        if box.height < 1 or box.width < 1 or not Box.of(self.size).contains(box):
            raise ValueError(f"{self.path}: box {box} is not inside the picture of {self.size}")


def width_x_height(size: Size) -> str:
    """The way people write picture sizes."""
    return f"{size.width}x{size.height}"


def _load(path: Path, kind: str, *, access: str) -> Any:
    """A libvips image that decodes lazily and fails on the decoder's first warning."""
    options = {"unlimited": True} if kind == "TIFF" else {}  # a TIFF may be one strip of any size
    with _damage(path):
        return pyvips.Operation.call(
            f"{kind.lower()}load", str(path), access=access, fail_on="warning", **options
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """libvips' error as an ImageError."""
    try:
        yield
    except pyvips.Error as error:
        raise ImageError(
            f"{path}: can't be decoded ({_reason(error)}); it is damaged, cut off or of a rare "
            "kind: get it again or save it anew as PNG or TIFF"
        ) from error


def _reason(error: Exception) -> str:
    """The last distinct thing libvips said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _field(image: Any, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


_FIELDS = {
    "icc-profile-data": "ICC profile",
    "exif-data": "EXIF",
    "xmp-data": "XMP",
    "iptc-data": "IPTC",
    "photoshop-data": "Photoshop resources",
    "image-description": "description",
}


def _metadata(image: Any) -> tuple[str, ...]:
    """What libvips can hand on, by its names for people."""
    names = [name for field, name in _FIELDS.items() if image.get_typeof(field)]
    if any(field.startswith("png-comment-") for field in image.get_fields()):
        names.append("text")
    return tuple(names)


# ---------------------------------------------------------------- what is refused


def _kind_of(path: Path) -> str:
    """PNG, JPEG, TIFF or WebP by the first bytes, whatever the file is called."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not a picture") from None
    except OSError as error:
        raise ImageError(f"{path}: can't be read ({error.strerror})") from error
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    found = "empty" if not start else "not a PNG, JPEG, TIFF or WebP picture"
    raise ImageError(f"{path}: is {found}; convert it to PNG or TIFF")


_SPACES = {"b-w": "grey", "grey16": "grey", "srgb": "RGB", "rgb16": "RGB", "rgb": "RGB"}
_MAX_COMPRESSION = 8192  # times; only CCITT and WebP, whose sizes have their own limits, do better


def _refuse_strange(path: Path, image: Any) -> None:
    """Whatever can't be edited and put back exactly."""
    pages = _field(image, "n-pages", 1)
    if pages > 1:
        raise ImageError(f"{path}: holds {pages} pages; save the one to edit as its own file")
    space = image.interpretation
    if space not in _SPACES:
        raise ImageError(f"{path}: its colours are {space.upper()}; convert it to RGB or grey")
    if image.format not in ("uchar", "ushort"):
        raise ImageError(f"{path}: its samples are {image.format}; convert it to 8 or 16 bits")
    if image.bands not in ((1, 2) if _SPACES[space] == "grey" else (3, 4)):
        raise ImageError(
            f"{path}: has {image.bands} channels; save it as grey or RGB, with one alpha at most"
        )
    _refuse_absurd(path, image)


def _refuse_absurd(path: Path, image: Any) -> None:
    """A header that declares far more samples than the file can hold, before any is allocated."""
    loader, bits = image.get("vips-loader"), _field(image, "bits-per-sample", 8)
    exempt = loader == "webpload" or (loader == "tiffload" and bits == 1)
    declared = image.width * image.height * image.bands * bits // 8
    stored = path.stat().st_size
    if exempt or declared <= stored * _MAX_COMPRESSION:
        return
    raise ImageError(
        f"{path}: declares {image.width}x{image.height} pixels in {stored} bytes; "
        "the file is damaged or cut off, get it again"
    )


# PNG chunks that change how the samples look and that libvips leaves out of what it writes
_PNG_COLOUR = ("gAMA", "cHRM", "cICP", "mDCV", "cLLI")


def _look_at_png(path: Path) -> tuple[str, ...]:
    """Refuse a PNG that is cut off or animated. Returns what can't be kept of the rest."""
    names = _png_chunks(path)
    if b"acTL" in names:
        raise ImageError(f"{path}: is an animated PNG; save the frame to edit as its own file")
    return tuple(f"the PNG's {name} chunk" for name in _PNG_COLOUR if name.encode() in names)


def _png_chunks(path: Path) -> set[bytes]:
    """The names of all chunks up to the closing one, without which libvips would be content."""
    names: set[bytes] = set()
    position, end = 8, path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while b"IEND" not in names:
            file.seek(position)
            length, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            position += 12 + length
            if not name.isalpha() or position > end:
                raise ImageError(f"{path}: is a PNG without its end; it was cut off, get it again")
            names.add(name)
    return names


# what this libvips decodes: none, CCITT (three), LZW, JPEG, deflate (two), PackBits, WebP
_TIFF_CODECS = {1, 2, 3, 4, 5, 7, 8, 32946, 32773, 50001}
_TIFF_REFUSED = {6: "old-style JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
                 50000: "zstd", 50002: "JPEG XL"}  # fmt: skip
_TIFF_COLOURS = {4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab",
                 32803: "a camera's raw mosaic", 34892: "a camera's raw samples"}  # fmt: skip
_TIFF_KEPT = {  # structure, resolution, what libvips hands on, and what names the writing software
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 270, 273, 274, 277, 278, 279, 280, 281,
    282, 283, 284, 292, 293, 296, 305, 306, 317, 320, 322, 323, 324, 325, 338, 339, 347, 529, 530,
    531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip
_TIFF_EXIF = {34665: "EXIF", 34853: "GPS"}


def _look_at_tiff(path: Path) -> tuple[str, ...]:
    """Refuse what libvips would decode to wrong samples. Returns what can't be kept of the rest."""
    tags = _tiff_tags(path)
    codec, colours, extra = tags.get(259, 1), tags.get(262, 1), tags.get(338)
    if codec not in _TIFF_CODECS:
        raise ImageError(
            f"{path}: is a TIFF compressed with {_TIFF_REFUSED.get(codec, f'code {codec}')}, which "
            "can't be decoded here; save it with deflate, LZW or no compression"
        )
    if tags.get(254, 0) & 1 or 50706 in tags:
        raise ImageError(f"{path}: is a camera raw file or a preview; develop it to PNG or TIFF")
    if colours > 3 and not (colours == 6 and codec == 7):  # a JPEG's YCbCr is decoded to RGB
        name = _TIFF_COLOURS.get(colours, f"code {colours}")
        raise ImageError(f"{path}: is a TIFF whose colours are {name}; convert it to RGB or grey")
    if extra == 1:
        raise ImageError(
            f"{path}: its colours are multiplied by alpha, which can't be kept exact; "
            "save it with straight (unassociated) alpha"
        )
    lost = [f"{_TIFF_EXIF[code]} of a TIFF" for code in _TIFF_EXIF if code in tags]
    lost += [_tiff_name(code) for code in sorted(tags.keys() - _TIFF_KEPT - _TIFF_EXIF.keys())]
    if extra == 0:
        lost.append("the meaning of the extra channel, which becomes alpha")
    return tuple(lost)


_LOOKS = {"PNG": _look_at_png, "TIFF": _look_at_tiff}


def _tiff_name(code: int) -> str:
    name = TiffTags.lookup(code).name
    return f"TIFF tag {code if name == 'unknown' else name}"


def _tiff_tags(path: Path) -> dict[int, int]:
    """Tags of the first page of a classic or big TIFF: the first value where it is a short integer
    kept in the directory itself, else 0."""
    try:
        with path.open("rb") as file:
            return dict(_tiff_entries(file))
    except (struct.error, ValueError, OSError):  # the last two: an absurd offset
        raise ImageError(f"{path}: is a TIFF without its tags; it was cut off") from None


def _tiff_entries(file: BinaryIO) -> Iterator[tuple[int, int]]:
    order = "<" if file.read(2) == b"II" else ">"

    def take(layout: str) -> tuple[int, ...]:
        layout = order + layout
        return struct.unpack(layout, file.read(struct.calcsize(layout)))

    big = take("H") == (43,)
    file.seek(8 if big else 4)
    file.seek(take("Q" if big else "I")[0])
    for _ in range(take("Q" if big else "H")[0]):
        code, kind, count = take("HHQ" if big else "HHI")
        cell = file.read(8 if big else 4)
        layout = {1: "B", 3: "H", 4: "I"}.get(kind, "")
        inline = layout and count * struct.calcsize(layout) <= len(cell)
        yield code, struct.unpack_from(order + layout, cell)[0] if inline else 0


# ---------------------------------------------------------------- writing

_LOSSLESS = ".png, .tif or .webp (lossless, 8-bit)"
_HOLDS = {  # what each target keeps of Picture.metadata
    ".png": {"ICC profile", "EXIF", "XMP", "text"},
    ".tif": {"ICC profile", "XMP", "description", "Photoshop resources"},
    ".tiff": {"ICC profile", "XMP", "description", "Photoshop resources"},
    ".webp": {"ICC profile", "EXIF", "XMP"},
}
_WEBP_EDGE = 16383
_TILE = 512
_CLASSIC_TIFF = 3_500_000_000  # bytes; offsets of a classic TIFF end at 4 GiB


def check_target(picture: Picture, target: Path) -> None:
    """Raise ImageError where the edited picture can't be written to ``target`` without loss."""
    suffix = target.suffix.lower()
    if suffix not in _HOLDS:
        raise ImageError(
            f"{target}: {suffix or 'no suffix'} can't keep the pixels outside the mask exact; "
            f"name the output {_LOSSLESS}"
        )
    if suffix == ".webp" and picture.dtype != np.uint8:
        raise ImageError(f"{target}: WebP has 8 bits and {picture.path} 16; write .png or .tif")
    if suffix == ".webp" and picture.size.long_edge > _WEBP_EDGE:
        raise ImageError(
            f"{target}: WebP ends at {_WEBP_EDGE} pixels and {picture.path} has "
            f"{width_x_height(picture.size)}; write .png or .tif"
        )


def losses(picture: Picture, suffix: str) -> list[str]:
    """What a target of this suffix doesn't keep, in words: ``EXIF can't be kept in TIFF``.

    Samples, alpha, depth and resolution always are. Raises ImageError for a suffix that can't be
    written.
    """
    suffix = suffix.lower()
    if suffix not in _HOLDS:
        raise ImageError(f"{suffix}: is not written; choose {_LOSSLESS}")
    kind = {".png": "PNG", ".webp": "WebP"}.get(suffix, "TIFF")
    lost = [name for name in picture.metadata if name not in _HOLDS[suffix]]
    return [f"{name} can't be kept in {kind}" for name in [*lost, *picture.unkept]]


def write_edited(
    picture: Picture,
    patch: Samples,
    box: Box,
    target: Path,
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """The picture with ``patch`` in the place of ``box``, streamed into a new file at ``target``.

    ``patch`` is (3, h, w) in the picture's dtype, ``box`` a window of the upright picture of that
    size. A grey picture takes the patch's luma (Rec. 709, rounded), which is the grey itself where
    the three are equal. Depth, alpha, ICC profile, EXIF, XMP, resolution and the stored orientation
    are the source's; ``losses`` names the exceptions. WebP has no grey and gets three equal
    colours. A WebP is held in memory whole, PNG and TIFF as a few rows.

    The file appears under its name complete or not at all; ``before`` is called right before, and
    what it raises leaves everything as it was. Raises ImageError for a target that
    can't be exact or a damaged source, RunError where the target can't be written.
    """
    check_target(picture, target)
    picture._require_inside(box)
    if patch.dtype != picture.dtype or patch.shape != (3, box.height, box.width):
        raise ValueError(
            f"{picture.path}: the patch is {patch.dtype} {patch.shape}, "
            f"wanted {picture.dtype} {(3, box.height, box.width)}"
        )
    edited = _inserted(picture, patch, box)
    with _replacing(target) as temporary:
        try:
            _save(edited, temporary, target.suffix.lower())
        except pyvips.Error as error:
            picture.check()  # the source's fault is an ImageError
            raise RunError(f"{target}: can't be written ({_reason(error)})") from error
        before()


def _inserted(picture: Picture, patch: Samples, box: Box) -> Any:
    """The stored picture as a libvips image, with the patch in its colours."""
    image = _load(picture.path, picture.kind, access="sequential")
    colours = _grey(patch) if picture.bands == 1 else patch
    turned = turn_stored(colours, picture.orientation).transpose(1, 2, 0)
    where = _stored_box(box, picture.size, picture.orientation)
    piece = pyvips.Image.new_from_memory(
        np.ascontiguousarray(turned), where.width, where.height, picture.bands, image.format
    )
    edited = image.extract_band(0, n=picture.bands).insert(piece, where.x0, where.y0)
    if picture.has_alpha:
        edited = edited.bandjoin(image.extract_band(picture.bands))
    return edited.copy(interpretation=image.interpretation)


def _grey(patch: Samples) -> Samples:
    """(3, h, w) -> (1, h, w): Rec. 709 luma, in float64, so that equal samples give themselves."""
    luma = np.tensordot((0.2126, 0.7152, 0.0722), patch, axes=1)
    return cast(Samples, np.rint(luma).astype(patch.dtype)[None])


def _save(image: Any, path: Path, suffix: str) -> None:
    """Encode without loss, in the format of ``suffix``, whatever the path is called."""
    options: dict[str, Any] = {"keep": _kept(image, suffix)}
    if suffix == ".png":
        bits = 8 if image.format == "uchar" else 16
        image.pngsave(str(path), compression=3, filter="sub", bitdepth=bits, **options)
    elif suffix == ".webp":
        image.webpsave(str(path), lossless=True, exact=True, **options)
    else:
        raw = image.width * image.height * image.bands * (1 if image.format == "uchar" else 2)
        options |= {"compression": "deflate", "predictor": "horizontal"}
        if max(image.width, image.height) >= _TILE:  # readers take a much larger tile for damage
            options |= {"tile": True, "tile_width": _TILE, "tile_height": _TILE}
        image.tiffsave(str(path), bigtiff=raw > _CLASSIC_TIFF, **options)


def _kept(image: Any, suffix: str) -> str:
    """libvips' list of metadata to write: without IPTC, for which it writes a broken TIFF tag.

    It would make up an EXIF block for a picture without one. That is let happen only where nothing
    else can hold the orientation or the resolution.
    """
    kept = ["xmp", "icc", "other"]
    dpi = round(image.xres * 25.4)
    told = _field(image, "orientation", 1) != 1 or (suffix == ".webp" and dpi not in (25, 72))
    if told or image.get_typeof("exif-data"):
        kept.append("exif")
    return "|".join(kept)


def save_png(path: Path, array: NDArray[Any]) -> None:
    """A preview: (3, h, w) floats in [0, 1] or uint8 -> an 8-bit RGB PNG, complete or not at all.

    Raises RunError where it can't be written.
    """
    samples = array if array.dtype == np.uint8 else from_float(array, np.uint8)
    with _replacing(path) as temporary:
        pixels = np.ascontiguousarray(samples.transpose(1, 2, 0))
        PillowImage.fromarray(pixels).save(temporary, format="PNG")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A file beside the target that takes its name, durably, if the block ends well; else it goes.

    Raises RunError for what the file system refuses.
    """
    temporary = target.with_name(f".{uuid4().hex}.part")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise RunError(f"{target}: can't be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
