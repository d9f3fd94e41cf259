"""Edited pictures as files: streamed, complete or not there, and compared with their sources.

    Edited(picture, box, ...)        a picture with some of its pixels replaced, as windows
    check_target(picture, target, how)   what can't be written, before any work
    write_edited(edited, target, how)    PNG, TIFF, WebP, JPEG, OME-Zarr or DeepZoom, by the name
    verify(edited, target, ...)          every sample outside the mask is the source's

PNG, JPEG, WebP, DeepZoom and new TIFFs are made by libvips from strips. A TIFF or an OME-Zarr
is copied as it is compressed, and only what is edited is written anew (copy on write).
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyvips
from PIL import Image as PillowImage

from msbd_dist.canvas import ome, tiff_copy
from msbd_dist.canvas.carry import Kind
from msbd_dist.canvas.digests import stored_bytes
from msbd_dist.canvas.files import sync_folder
from msbd_dist.canvas.images import Picture, from_float, width_x_height
from msbd_dist.canvas.ome import OmeReader
from msbd_dist.canvas.reader import LOSSES, Loss, Samples
from msbd_dist.canvas.save import save, to_be_written
from msbd_dist.canvas.tiff import TiffReader, page_loss
from msbd_dist.canvas.tiff_previews import cleaned
from msbd_dist.canvas.vips import Streamed, naming, reason, strip_rows
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import LossName, OmeVersion, TiffWay, Verify
from msbd_dist.errors import ImageError, RunError, StoreError

SUFFIXES: dict[str, Kind] = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".zarr": "OME-Zarr",
    ".dzi": "DeepZoom",
}
_LOSSY: set[Kind] = {"JPEG", "DeepZoom"}
_EDGES: dict[Kind, int] = {"WebP": 16383, "JPEG": 65500}  # the longest that the format can say
_BAND = 640  # rows of the edit that are composed at a time
_BAND_BYTES = 64 << 20
_WIDEST = 1024  # pixels of a tile or chunk that is written anew for one of them
_LONGEST = 128  # bytes of a name that others are made of
_SAMPLES = 64  # blocks far from the edit that are compared


@dataclass(frozen=True, kw_only=True)
class How:
    """How an edited picture is written. ``tiff``: copy on write, anew, anew with a pyramid, or
    whichever of the first two can be. ``ome_zarr``: the version; None is the source's, or 0.5."""

    tiff: TiffWay = "auto"
    ome_zarr: OmeVersion | None = None
    allow_loss: bool | tuple[LossName, ...] = False

    @classmethod
    def of(cls, stored: str | dict[str, Any]) -> How:
        """From what a run has kept: what differs from the defaults, by name; or, of an older run,
        the text that Python has for all of it."""
        if isinstance(stored, str):
            (call,) = ast.parse(stored).body
            assert isinstance(call, ast.Expr)
            assert isinstance(call.value, ast.Call)
            stored = {str(k.arg): ast.literal_eval(k.value) for k in call.value.keywords}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
        }
        return cls(**values)

    def allows(self, loss: Loss) -> bool:
        named = () if isinstance(self.allow_loss, bool) else self.allow_loss
        return self.allow_loss is True or not loss.matters or loss.name in named


class Masked(Protocol):
    """Where pixels of the upright picture may differ from the source's."""

    def any(self, box: Box) -> bool: ...


@dataclass(frozen=True)
class Edited:
    """A picture with the pixels of ``box`` replaced; nothing outside ``box`` is asked for.

    ``patch``: (3, h, w) in the picture's own integers, of a box inside ``box``; the source's own
    where ``mask`` is False. Boxes are of the upright picture.
    """

    picture: Picture
    box: Box
    patch: Callable[[Box], Samples]
    mask: Masked
    tell: Callable[[float], None] = lambda _: None  # how much of the picture was streamed

    def window(self, stored: Box) -> Samples:
        """(h, w, bands + alpha) of a box of the stored picture."""
        pixels = self.picture.reader.window(stored)
        return self._patched(pixels, stored, self._colours)

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        """The stored picture from top to bottom: (y, (h, W, bands + alpha))."""
        bands = _Bands(self)
        width = self.picture.stored_size.width
        height = self.picture.stored_size.height
        for y, strip in self.picture.strips(rows):
            self.tell(y / height)
            yield y, self._patched(strip, Box(y, 0, y + len(strip), width), bands.rows)

    def seen(self, box: Box) -> Samples:
        """(3, h, w) of a box inside the edited one, as what is written will look: a grey picture's
        three colours are equal."""
        return self.picture.seen(self._colours(self.picture.stored_box(box)))

    def blocks(self) -> Iterator[Box]:
        """Boxes of the stored picture that together hold all that the mask holds."""
        for block in self.box.tiles(Size(_BAND, _BAND)):
            if self.mask.any(block):
                yield self.picture.stored_box(block)

    def _patched(self, pixels: Samples, stored: Box, colours: Callable[[Box], Samples]) -> Samples:
        common = stored.intersection(self.picture.stored_box(self.box))
        if common is None:
            return pixels
        ys, xs = common.relative_to(stored).slices
        pixels = pixels.copy()
        pixels[ys, xs, : self.picture.bands] = colours(common)
        return pixels

    def _colours(self, stored: Box) -> Samples:
        """(h, w, bands) of a box of the stored picture inside the edited one."""
        box = self.picture.upright_box(stored)
        patch, wanted = self.patch(box), (3, box.height, box.width)
        if patch.dtype != self.picture.dtype or patch.shape != wanted:
            raise ValueError(
                f"{self.picture.path}: the patch is {patch.dtype} {patch.shape}, "
                f"wanted {self.picture.dtype} {wanted}"
            )
        return self.picture.unseen(patch)


class _Bands:
    """Rows of an edit, asked for from top to bottom, and composed in bands of more."""

    def __init__(self, edited: Edited) -> None:
        self._edited, self._box = edited, edited.picture.stored_box(edited.box)
        row = self._box.width * edited.picture.bands * edited.picture.dtype.itemsize
        self._height = max(1, min(_BAND, _BAND_BYTES // row))
        self._band: tuple[Box, Samples] | None = None

    def rows(self, stored: Box) -> Samples:
        pieces, y = [], stored.y0
        while y < stored.y1:
            band, pixels = self._of(y)
            stop = min(stored.y1, band.y1)
            pieces.append(pixels[y - band.y0 : stop - band.y0])
            y = stop
        return np.concatenate(pieces)

    def _of(self, y: int) -> tuple[Box, Samples]:
        box = self._box
        if self._band is None or not self._band[0].y0 <= y < self._band[0].y1:
            top = box.y0 + (y - box.y0) // self._height * self._height
            band = Box(top, box.x0, min(top + self._height, box.y1), box.x1)
            self._band = None
            self._band = band, self._edited._colours(band)
        return self._band


# ---------------------------------------------------------------- what can be written


def kind_of(target: Path | str) -> Kind:
    """By the suffix; ImageError for one that nobody writes."""
    suffix = Path(target).suffix
    kind = SUFFIXES.get(suffix.lower())
    if kind is None:
        what = f"{suffix} is" if suffix else "a file without a suffix is"
        raise ImageError(
            f"{target}: {what} not written; name the output .png, .tif, .webp "
            "or .ome.zarr (lossless), .jpg or .dzi"
        )
    return kind


SMALLER = Loss(
    "thumbnail", "the smaller versions of the picture (tiff: pyramid makes new ones)", matters=False
)


def losses(picture: Picture, target: Path | str, how: How) -> list[Loss]:
    """What a target doesn't keep: EXIF, 16 bits ...; nothing where it is a copy."""
    kind = kind_of(target)
    if why_no_copy(picture, target, how) is None:
        return []
    _, lost = to_be_written(picture, kind)
    if kind != "TIFF":
        lost += [loss for loss, _ in picture.metadata.own if loss]
        lost += map(page_loss, picture.metadata.pages)
    elif isinstance(picture.reader, TiffReader) and how.tiff != "pyramid":
        lost += [SMALLER] * bool(picture.reader.contents.levels)
    lost += [Loss(LOSSES[name], name) for name in picture.metadata.others]
    lost += picture.reader.unkept
    if kind in ("WebP", "JPEG", "DeepZoom") and picture.dtype != np.uint8:
        lost.append(Loss("16-bit", "16 bits"))
    if kind in _LOSSY:
        lost += [Loss("alpha", "alpha")] * picture.has_alpha + [Loss("samples", "exact samples")]
    return lost


def left_out(picture: Picture, target: Path | str, how: How) -> list[str]:
    """What a copy goes without because it would still show what was edited, in words."""
    reader = picture.reader
    if not isinstance(reader, TiffReader) or why_no_copy(picture, target, how):
        return []
    found = [name for *_, names in cleaned(reader.page.tags) for name in names]
    pages = ["a smaller version of another make"] * bool(reader.contents.previews)
    return pages + found


def why_no_copy(picture: Picture, target: Path | str, how: How) -> str | None:
    """None where the target is a copy of the source's file with only the edit written anew; else
    why it is not, in a few words."""
    kind, reader = kind_of(target), picture.reader
    if kind == "TIFF":
        if how.tiff in ("plain", "pyramid"):
            return "a new file is asked for"
        if not isinstance(reader, TiffReader):
            return "it is not a TIFF of 8 or 16 bits"
        return tiff_copy.can_copy(reader)
    if kind == "OME-Zarr" and isinstance(reader, OmeReader):
        if how.ome_zarr not in (None, reader.kind.split()[-1]):
            return "another version is asked for"
        return ome.can_copy(reader)
    if picture.kind.split()[0] == kind:
        return f"a {kind} can't be changed in part"
    return "it is of another kind than the image"


def check_target(picture: Picture, target: Path | str, how: How) -> None:
    """ImageError where the edited picture can't be written to ``target``, or not whole."""
    kind, edge = kind_of(target), picture.size.long_edge
    if edge > _EDGES.get(kind, edge):
        raise ImageError(
            f"{target}: {kind} ends at {_EDGES[kind]} pixels and {picture.path} has "
            f"{width_x_height(picture.size)}; write .png, .tif or .ome.zarr"
        )
    if how.tiff == "copy" and kind == "TIFF" and (why := why_no_copy(picture, target, how)):
        raise ImageError(f"{target}: can't be a copy of {picture.path}: {why}; say tiff: plain")
    if kind == "OME-Zarr" and picture.orientation != 1:
        raise ImageError(
            f"{target}: OME-Zarr can't say that {picture.path} is turned (its EXIF orientation is "
            f"{picture.orientation}); write .tif or .png"
        )
    lost = [loss for loss in losses(picture, target, how) if not how.allows(loss)]
    if lost:
        names = list(dict.fromkeys(loss.name for loss in lost))
        copied = picture.kind not in ("PNG", "JPEG", "WebP")  # where a file of its kind keeps all
        helpless = not copied and all(loss in picture.reader.unkept for loss in lost)
        keep = "no written file keeps" if helpless else f"{kind} can't keep"
        remedy = "allow it" if helpless else "choose another format, or allow it"
        raise ImageError(
            f"{target}: {keep} {_listed([loss.what for loss in lost])} of {picture.path}; {remedy} "
            f"with --allow-loss {','.join(names)} (in a manifest: allow_loss: [{', '.join(names)}])"
        )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def largest_bytes(picture: Picture, target: Path | str, how: How, box: Box) -> int:
    """What the written file can take at most, about; ``box`` is the part that is edited."""
    if why_no_copy(picture, target, how) is None:
        anew = box.grown(_WIDEST).intersection(Box.of(picture.size))
        assert anew is not None
        return stored_bytes(picture.path) + int(anew.size.area * picture.pixel_bytes * 1.35)
    levels = kind_of(target) in ("OME-Zarr", "DeepZoom") or how.tiff == "pyramid"
    return int(picture.raw_bytes * (1.35 if levels else 1.01)) + (1 << 20)


def memory_bytes(picture: Picture, target: Path | str) -> int:
    """What taking a picture in, writing it edited and comparing it hold at most, beside programs
    and models: whole pictures where a format asks for it, else strips, bands and a row of tiles."""
    held = {"WebP": 4 * picture.size.area * 4}.get(kind_of(target), 0)
    rows = picture.raw_bytes // picture.stored_size.height * _BAND  # of tiles, of chunks, of a band
    return held + picture.reader.held_bytes + 8 * rows + 6 * _BAND_BYTES


# ---------------------------------------------------------------- writing


def write_edited(
    edited: Edited,
    target: Path,
    how: How,
    *,
    before: Callable[[Path], None] = lambda _: None,
    attempt: str = "0.0",
) -> None:
    """The edited picture as a new file or folder at ``target``, in the format of its suffix.

    Depth, alpha, ICC profile, EXIF, XMP, resolution and the stored orientation are the source's;
    ``losses`` names the exceptions. WebP has no grey and gets three equal colours. A WebP is held
    in memory whole, everything else as a few rows or blocks.

    It appears under its name complete or not at all; ``before`` is called right before with the
    place where it is, and what it raises leaves everything as it was. ``attempt``: two numbers;
    what attempts with smaller ones left behind, when they were killed, is swept up. Raises
    ImageError for a target that can't be written or a damaged source, RunError where the target
    can't be written.
    """
    check_target(edited.picture, target, how)
    with replacing(target, attempt) as temporary:
        _write(edited, temporary, target, how)
        before(temporary)


def _write(edited: Edited, place: Path, target: Path, how: How) -> None:
    kind, picture, reader = kind_of(target), edited.picture, edited.picture.reader
    copied = why_no_copy(picture, target, how) is None
    if kind == "OME-Zarr":
        place.unlink()  # it is to be a folder
    if copied and isinstance(reader, TiffReader):
        tiff_copy.copy_with_edits(reader, place, edited.blocks(), edited.window)
    elif copied and isinstance(reader, OmeReader):
        ome.copy_with_edits(reader, place, list(edited.blocks()), edited.window)
    elif kind == "OME-Zarr":
        _write_ome(edited, place, target, how)
    else:
        strips = edited.strips(strip_rows(picture.stored_size, picture.pixel_bytes))
        bands = picture.bands + picture.has_alpha
        streamed = Streamed(picture.stored_size, picture.dtype, bands, strips)
        try:
            with naming(target), streamed.saving() as image:
                save(image, place, picture, kind, pyramid=how.tiff == "pyramid")
        except pyvips.Error as error:
            raise RunError(f"{target}: can't be written ({reason(error)})") from error


def _write_ome(edited: Edited, place: Path, target: Path, how: How) -> None:
    picture = edited.picture
    row = picture.stored_size.width * picture.pixel_bytes
    chunk = max(64, min(_BAND, _BAND_BYTES * 2 // row // 64 * 64))
    ome.write_ome(
        place,
        picture.stored_size,
        picture.dtype,
        picture.bands,
        picture.has_alpha,
        to_be_written(picture, "OME-Zarr")[0],
        edited.window if picture.random else _Rows(edited, chunk).window,
        version=how.ome_zarr or "0.5",
        chunk=chunk,
        name=target.name.split(".")[0],
    )


class _Rows:
    """Windows of an edited picture that are asked for row by row, from its strips."""

    def __init__(self, edited: Edited, rows: int) -> None:
        self._strips = edited.strips(rows)
        self._y, self._strip = next(self._strips)

    def window(self, box: Box) -> Samples:
        while box.y0 >= self._y + len(self._strip):
            self._y, self._strip = next(self._strips)
        return self._strip[box.y0 - self._y : box.y1 - self._y, box.x0 : box.x1]


def save_png(path: Path, array: npt.NDArray[Any]) -> None:
    """A preview: (3, h, w) floats in [0, 1] or uint8 -> an 8-bit RGB PNG, complete or not at all.

    Raises RunError where it can't be written.
    """
    samples = array if array.dtype == np.uint8 else from_float(array, np.uint8)
    with replacing(path) as temporary:
        pixels = np.ascontiguousarray(samples.transpose(1, 2, 0))
        PillowImage.fromarray(pixels).save(temporary, format="PNG")


@contextmanager
def replacing(target: Path, attempt: str = "0.0") -> Iterator[Path]:
    """A file or folder beside the target that takes its name, durably, if the block ends well; else
    it goes.

    Raises RunError for what the file system refuses.
    """
    called = _shortened(target.name)
    former = re.compile(rf"\.{re.escape(called)}\.(\d+)\.(\d+)\.\w+\.part.*")
    for left in target.parent.glob(".*"):
        numbers = former.fullmatch(left.name)
        if numbers and tuple(map(int, numbers.groups())) < tuple(map(int, attempt.split("."))):
            _discard(left)
    temporary = target.with_name(f".{called}.{attempt}.{uuid4().hex}.part{target.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        for source, name in ((_tiles_of(temporary), _tiles_of(target)), (temporary, target)):
            if source.exists():
                _sync(source)
                if name.is_dir():
                    shutil.rmtree(name)
                os.replace(source, name)
        sync_folder(target.parent)
    except OSError as error:
        raise RunError(f"{target}: can't be written ({error.strerror or error})") from error
    finally:
        _discard(temporary)
        _discard(_tiles_of(temporary))


def _shortened(name: str) -> str:
    """A name that leaves room for what is put about it; file systems have 255 bytes."""
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def _tiles_of(dzi: Path) -> Path:
    """Where a DeepZoom picture has its tiles."""
    return dzi.with_name(f"{dzi.stem}_files")


def _discard(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Onto the disk; of a folder, all that is in it."""
    for inside in (path, *path.rglob("*")) if path.is_dir() else (path,):
        descriptor = os.open(inside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------- verifying


@dataclass(frozen=True)
class Verified:
    """How many of a written picture's pixels were compared, and how many there are."""

    compared: int
    pixels: int


def verify(edited: Edited, target: Path, which: Verify = "sample") -> Verified:
    """Compare a written picture with the source outside the mask and with the edit inside it.

    ``sample``: all blocks that the mask meets and some far from it, where both files can be read
    at random; otherwise, and for ``full``, every pixel, streamed. StoreError at the first
    difference.
    """
    source, total = edited.picture, edited.picture.size.area
    if which == "off" or kind_of(target) in _LOSSY:
        return Verified(0, total)
    written = Picture.open(target)
    if written.stored_size != source.stored_size:
        raise StoreError(f"{target}: has {written.size} pixels, wanted {source.size}")
    if which == "sample" and source.random and written.random:
        near = source.stored_box(edited.box)
        far = [box for box in _far_blocks(source.stored_size) if not box.intersection(near)]
        boxes = [*edited.blocks(), *far]
        compared = sum(box.size.area for box in boxes)
        if compared < total:  # else it is less to look at everything
            for box in boxes:
                _require_equal(edited.window(box), written.reader.window(box), target, box)
            return Verified(compared, total)
    rows = strip_rows(source.stored_size, source.pixel_bytes)
    pairs = zip(edited.strips(rows), written.strips(rows), strict=True)
    for (y, wanted), (_, got) in pairs:
        _require_equal(wanted, got, target, Box(y, 0, y + len(wanted), wanted.shape[1]))
    return Verified(total, total)


def _far_blocks(size: Size) -> list[Box]:
    """Blocks spread over a picture, the same ones each time."""
    rng = np.random.default_rng(0)
    side = min(256, *size.shape)
    ys = rng.integers(0, size.height - side + 1, _SAMPLES)
    xs = rng.integers(0, size.width - side + 1, _SAMPLES)
    return [Box(y, x, y + side, x + side) for y, x in zip(ys.tolist(), xs.tolist(), strict=True)]


def _require_equal(wanted: Samples, got: Samples, target: Path, box: Box) -> None:
    if got.shape[-1] > wanted.shape[-1] and wanted.shape[-1] < 3:  # WebP's three equal colours
        grey = np.repeat(wanted[..., :1], 3, axis=-1)
        wanted = np.concatenate([grey, wanted[..., 1:]], axis=-1)
    if not np.array_equal(wanted, got):
        raise StoreError(f"{target}: what was written differs from what was to be, in {box}")
