"""A TIFF copied byte for byte, with only the tiles written again that an edit touches.

    why_not = can_copy(reader)                 # None, or a few words
    copy_with_edits(reader, target, boxes, window)

       source   | head | tile 0 | tile 1 | tile 2 | tile 3 | tags |
       target   | head | tile 0 | tile 1 | zeros  | tile 3 | tags | tile 2 again |
                                                  the place of tile 2 in the tags: ^

All that isn't touched keeps its bytes: metadata, private tags, masks, a slide's label. Tiles are
encoded without loss whatever made the old ones, so samples outside the edit are what they were
decoded to; each is decoded again before it is used. Smaller versions of the picture follow it,
level by level.

Nothing of what was edited stays in the file: the old tiles' bytes become zeros, but for those that
another tile shares, and previews that can't follow the edit go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas import tiff
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.tiff import Page, Segments, TiffReader, as_seen
from msbd_dist.canvas.tiff_erase import erase, of_directory, referenced, without
from msbd_dist.canvas.tiff_previews import cleaned
from msbd_dist.canvas.tiff_tags import Damaged, LocalBytes, Tags
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

_CLASSIC = 2**32  # bytes that a classic TIFF's offsets reach
_LARGE = 1 << 26  # bytes of a decoded tile that is still written as one
_LAYERS = 37724  # Photoshop's


@dataclass(frozen=True)
class TileCounts:
    """What a copy took; tiles (or strips) of all planes and of all levels."""

    copied: int  # as they were
    written: int  # again
    appended: int  # bytes


# ---------------------------------------------------------------- whether it can be


def can_copy(source: TiffReader, changed: Iterable[Box] | None = None) -> str | None:
    """None if `copy_with_edits` can copy a TIFF, else why not, in a few words.

    ``changed`` are the boxes to be edited, in stored pixels; without them it might be all of the
    picture, which matters where a classic TIFF comes near its 4 GiB.
    """
    page = source.page
    if source.local is None:
        return "it isn't a file of this machine"
    if _LAYERS in page.directory.entries:
        return "its Photoshop layers would still show the old picture"
    if "picture" in dict(source.contents.beside):
        return "another picture in it might still show the old one"
    why = _unwritable(page)
    if why:
        return why
    for level in source.levels:
        why = _unwritable(level, lossy=True)
        if why:
            return f"of its smaller versions: {why}"
    boxes = [Box.of(source.size)] if changed is None else list(changed)
    if not page.tags.big and page.tags.file.size + _growth(source, boxes) >= _CLASSIC:
        return "it would pass the 4 GiB of a classic TIFF"
    return None


def _unwritable(page: Page, *, lossy: bool = False) -> str | None:
    """Why no tile of a page can be written again; ``lossy`` if it need not be exact."""
    kind = "tiles" if page.tiled else "strips"
    if page.codec == tiff.JPEG:
        if not lossy:
            return f"JPEG {kind} can't be written again without loss"
        if page.dtype != np.uint8 or page.samples not in (1, 3):
            return f"such JPEG {kind} aren't written here"
    elif page.codec not in _ENCODERS:
        return f"{kind} of its compression aren't written here"
    if page.codec == tiff.WEBP and page.samples != 3:
        return f"WebP {kind} lose the colours of transparent pixels"
    if page.codec == tiff.LERC and _packed(page):
        return f"its LERC {kind} are packed once more"
    if page.reversed and page.codec in tiff.BYTES:
        return "the bits of its bytes are reversed"
    if page.segment_bytes > _LARGE:
        return f"its {kind} are too large to be written one by one"
    if tiff.SEGMENT_TAGS[page.tiled][1] not in page.directory.entries:
        return f"it doesn't tell how long its {kind} are"
    return None


def _packed(page: Page) -> bool:
    entry = page.directory.entries.get(50674)
    return entry is not None and any(page.tags.integers(entry)[1:])


def _growth(source: TiffReader, boxes: list[Box]) -> int:
    """Bytes that a copy appends at most: what can't be compressed may grow a little."""
    size = 1 << 16
    for page in (source.page, *source.levels):
        boxes = _mapped(boxes, source.size, page.size) if page is not source.page else boxes
        whole = Box.of(page.size)
        touched = {place for box in boxes for place in page.meeting(_cut(box, whole))}
        size += len(touched) * page.planes * (page.segment_bytes * 3 // 2 + 1024)
        size += 8 * len(page.offsets)  # their places, in a wider type
    return size


def _cut(box: Box, whole: Box) -> Box:
    return box.intersection(whole) or Box(0, 0, 0, 0)


# ---------------------------------------------------------------- encoding

_Encoder: TypeAlias = Callable[[NDArray[Any]], Any]

_ENCODERS: dict[int, _Encoder] = {
    tiff.NONE: lambda array: array.tobytes(),
    tiff.LZW: lambda array: imagecodecs.lzw_encode(array.tobytes()),
    tiff.DEFLATE: lambda array: imagecodecs.zlib_encode(array.tobytes(), level=6),
    tiff.OLD_DEFLATE: lambda array: imagecodecs.zlib_encode(array.tobytes(), level=6),
    # no run goes from one row to the next
    tiff.PACKBITS: lambda array: b"".join(imagecodecs.packbits_encode(r.tobytes()) for r in array),
    tiff.ZSTD: lambda array: imagecodecs.zstd_encode(array.tobytes(), level=9),
    tiff.LZMA: lambda array: imagecodecs.lzma_encode(array.tobytes()),
    tiff.LERC: lambda array: imagecodecs.lerc_encode(array, level=0),
    tiff.JPEG2000: lambda array: _jpeg2000(array),
    tiff.APERIO_RGB: lambda array: _jpeg2000(array),
    tiff.JPEG_XL: lambda array: imagecodecs.jpegxl_encode(array, lossless=True),
    tiff.JPEG_XL_DNG: lambda array: imagecodecs.jpegxl_encode(array, lossless=True),
    tiff.WEBP: lambda array: imagecodecs.webp_encode(array, lossless=True),
}
_JPEG_QUALITY = 90


def _jpeg2000(array: NDArray[Any]) -> Any:
    return imagecodecs.jpeg2k_encode(array, level=0, reversible=True, codecformat="j2k")


def _encode(page: Page, samples: Samples) -> bytes:
    """(h, w, depth) of one segment, as stored, in the page's compression."""
    if page.codec in tiff.BYTES:
        if page.predictor == 2:
            samples = imagecodecs.delta_encode(samples, axis=-2)
        array: NDArray[Any] = samples.astype(page.dtype.newbyteorder(page.tags.order))
    else:
        array = np.ascontiguousarray(samples[..., 0] if page.depth == 1 else samples)
    if page.codec == tiff.JPEG:
        return _jpeg(page, array)
    return bytes(_ENCODERS[page.codec](array))


def _jpeg(page: Page, array: NDArray[Any]) -> bytes:
    """With tables of its own, which go before the page's."""
    if page.depth == 1:
        return bytes(imagecodecs.jpeg_encode(array, level=_JPEG_QUALITY))
    sampling = None
    if page.colours == 6:
        entry = page.directory.entries.get(530)
        across, down = page.tags.integers(entry)[:2].tolist() if entry else (2, 2)
        sampling = (int(across), int(down))
    return bytes(
        imagecodecs.jpeg_encode(
            array,
            level=_JPEG_QUALITY,
            colorspace="RGB",
            outcolorspace="YCBCR" if page.colours == 6 else "RGB",
            subsampling=sampling,
        )
    )


# ---------------------------------------------------------------- the copy


def copy_with_edits(
    source: TiffReader,
    target: Path,
    changed: Iterable[Box],
    window: Callable[[Box], Samples],
) -> TileCounts:
    """Copy a TIFF to ``target`` and write those tiles again that meet a box of ``changed``.

    Boxes are in stored pixels. ``window(box)`` gives the edited picture's samples, (h, w, bands +
    alpha) in the source's dtype, as `TiffReader.window` would; it is asked for one tile at a time.
    Smaller versions are made from the next larger one, by the mean of each area, where an edit
    reaches them. Holds a few tiles. ``target`` is overwritten, and of no use until this returns;
    nothing is synced.

    Raises ImageError where `can_copy` says no or the source is damaged, ValueError for samples of
    another shape or where the target is the source, OSError where the target can't be written.
    """
    boxes = [cut for box in changed if (cut := box.intersection(Box.of(source.size)))]
    why = can_copy(source, boxes)
    if why:
        raise ImageError(f"{source.path}: can't be copied tile by tile ({why}); write it anew")
    if target.exists() and target.samefile(cast(Path, source.local)):
        raise ValueError(f"{target}: is the picture itself")
    try:
        copy = _Copy(source, target)
    except Damaged as error:
        raise ImageError(f"{source.path}: changed while it was copied ({error})") from None

    def edited(box: Box) -> Samples:
        samples = window(box)
        wanted = (box.height, box.width, source.page.samples)
        if samples.shape != wanted or samples.dtype != source.dtype:
            raise ValueError(
                f"{source.path}: the window {box} is {samples.dtype} {samples.shape}, "
                f"wanted {source.dtype} {wanted}"
            )
        return samples

    first, *_ = copy.pages
    for row, column in sorted({place for box in boxes for place in first.meeting(box)}):
        copy.write(first, row, column, edited(first.box(row, column)))
    for above, level in pairwise(copy.pages):
        boxes = _mapped(boxes, above.size, level.size)
        _rebuild(copy, above, level, boxes)
    try:
        return copy.finish()
    except Damaged as error:
        raise ImageError(f"{source.path}: changed while it was copied ({error})") from None


class _Copy:
    """A file in the making: the source's bytes, then new segments; their places come last."""

    def __init__(self, source: TiffReader, target: Path) -> None:
        original = cast(LocalBytes, source.page.tags.file)
        target.write_bytes(b"")
        self.name = source.path
        self.file = LocalBytes(target, write=True)
        original.copy_to(self.file)
        self._start = self.file.size
        self._written: dict[int, int] = {}
        self._dead: list[tuple[int, int]] = []  # ranges that nothing refers to any more
        self._source = source
        self._tags = tags = Tags(self.file)
        self.pages = [
            replace(page, tags=tags, offsets=page.offsets.copy(), counts=page.counts.copy())
            for page in (source.page, *source.levels)
        ]

    def write(self, page: Page, row: int, column: int, seen: Samples) -> None:
        """A segment's samples, (h, w, samples) inside the picture, in place of the old ones."""
        where, samples = page.box(row, column), as_seen(page, seen)
        if page.tiled:  # what reaches beyond the picture is never seen: what compresses well
            missing = page.segment.height - where.height, page.segment.width - where.width
            padded = np.pad(samples, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
        else:
            padded = samples
        for plane in range(page.planes):
            part = slice(None) if page.planes == 1 else slice(plane, plane + 1)
            data = _encode(page, padded[..., part])
            if page.codec != tiff.JPEG:
                again = tiff.decode(page, data, where)
                if not np.array_equal(again, samples[..., part]):
                    raise ImageError(
                        f"{self.name}: its compression can't keep the samples at {where}; "
                        "write it anew"
                    )
            self._place(page, page.number(plane, row, column), data)
        self._written[id(page)] = self._written.get(id(page), 0) + page.planes

    def _place(self, page: Page, number: int, data: bytes) -> None:
        """At the end; in a full classic TIFF in the old place, where it fits and is no other's."""
        at = self.file.size + self.file.size % 2
        room = _CLASSIC - 8 * sum(len(p.offsets) for p in self.pages)
        if not page.tags.big and at + len(data) >= room:
            at = int(page.offsets[number])
            alone = np.count_nonzero(page.offsets == at) == 1
            if len(data) > page.counts[number] or not alone:
                raise ImageError(
                    f"{self.name}: its copy would pass the 4 GiB of a classic TIFF; "
                    "write it anew as BigTIFF"
                )
        old = int(page.offsets[number])
        self._dead.append((old, old + int(page.counts[number])))
        self.file.write(at, data)
        page.offsets[number], page.counts[number] = at, len(data)

    def finish(self) -> TileCounts:
        """Write where the segments are, and erase what they replace."""
        for page in self.pages:
            if id(page) in self._written:
                for code, values in zip(
                    tiff.SEGMENT_TAGS[page.tiled], (page.offsets, page.counts), strict=True
                ):
                    page.tags.rewrite(self.file, page.directory.entries[code], values)
        if self._written:
            self._drop_pages()
            self._clean_tags()
            self._erase()
            _unmark(self.file)
        every = sum(len(page.offsets) for page in self.pages)
        written = sum(self._written.values())
        return TileCounts(every - written, written, self.file.size - self._start)

    def _drop_pages(self) -> None:
        """Take the pages of previews out, from the row of pages or from below the first."""
        tags, gone = self._tags, self._source.contents.previews
        places = {page.at for page in gone}
        kept = [page for page in tags.pages(tiff.MOST_PAGES) if page.at not in places]
        for page, after in zip(kept, [*kept[1:], None], strict=True):
            following = after.at if after else 0
            if page.next != following:
                self.file.write(page.link, tags.pack(tags.offset, following))
        entry = kept[0].entries.get(330)
        if entry:
            below = tags.integers(entry)
            left = below[~np.isin(below, list(places))]
            tags.replace(self.file, kept[0], {330: tags.packed(entry, left)})
        self._dead += [r for page in gone for r in of_directory(tags, page).tolist()]

    def _clean_tags(self) -> None:
        """Take pictures out of metadata."""
        for page, values, _ in list(cleaned(self._tags)):
            old = [page.entries[code] for code in values]
            self._dead += [(entry.at, entry.at + entry.length) for entry in old]
            self._tags.replace(self.file, page, values)

    def _erase(self) -> None:
        """Zeros for what nothing refers to any more."""
        pad = _around(self.file)
        dead = np.array([(start - pad, end + pad) for start, end in self._dead], np.int64)
        erase(self.file, without(dead, referenced(self._tags)))


def _around(file: LocalBytes) -> int:
    """Bytes before and after each tile that repeat something of it: 4 in a file that GDAL made for
    the cloud."""
    return 4 if b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED" in file.read(0, min(file.size, 1024)) else 0


_OPTIMIZED, _EDITED = b"KNOWN_INCOMPATIBLE_EDITION=NO\n ", b"KNOWN_INCOMPATIBLE_EDITION=YES\n"


def _unmark(file: LocalBytes) -> None:
    """Tell GDAL that the tiles of a cloud-optimized file no longer follow each other."""
    head = file.read(0, min(file.size, 1024))
    if b"GDAL_STRUCTURAL_METADATA_SIZE=" in head and _OPTIMIZED in head:
        file.write(head.index(_OPTIMIZED), _EDITED)


# ---------------------------------------------------------------- smaller versions

_BLOCK = 128  # pixels of a level that are made at once, in each direction
_ABOVE = 2048  # pixels of the level above that are read for them


def _rebuild(copy: _Copy, above: Page, level: Page, boxes: list[Box]) -> None:
    """Make a level's boxes from the level above; its other samples stay."""
    source, old = Segments(above), Segments(level)
    edge = max(1, min(_BLOCK, _ABOVE * level.size.long_edge // above.size.long_edge))
    touched: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        for place in level.meeting(box):
            touched.setdefault(place, []).append(box)
    for place, parts in sorted(touched.items()):
        where = level.box(*place)
        samples = as_seen(level, old.window(where))
        for part in parts:
            for block in _blocks(cast(Box, part.intersection(where)), edge):
                samples[block.relative_to(where).slices] = _mean(source, level.size, block)
        copy.write(level, *place, samples)


def _blocks(box: Box, edge: int) -> Iterator[Box]:
    for y in range(box.y0, box.y1, edge):
        for x in range(box.x0, box.x1, edge):
            yield Box(y, x, min(y + edge, box.y1), min(x + edge, box.x1))


def _mapped(boxes: list[Box], large: Size, small: Size) -> list[Box]:
    """The pixels of a smaller version that show something of the boxes."""

    def axis(start: int, end: int, large: int, small: int) -> tuple[int, int]:
        ratio = _ratio(large, small)
        if ratio:
            return min(start // ratio, small), min(-(-end // ratio), small)
        return start * small // large, -(-end * small // large)

    every = []
    for box in boxes:
        y0, y1 = axis(box.y0, box.y1, large.height, small.height)
        x0, x1 = axis(box.x0, box.x1, large.width, small.width)
        if y0 < y1 and x0 < x1:
            every.append(Box(y0, x0, y1, x1))
    return every


def _ratio(large: int, small: int) -> int:
    """How many pixels become one; 0 where that is no integer but for the last one."""
    ratio = round(large / small)
    return ratio if small in (large // ratio, -(-large // ratio)) else 0


def _mean(source: Segments, small: Size, block: Box) -> Samples:
    """(h, w, samples) of a level's box: the mean of the area each pixel covers in the page above,
    rounded, halves up."""
    page = source.page
    y0, y1, rows = _weights(block.y0, block.y1, page.size.height, small.height)
    x0, x1, columns = _weights(block.x0, block.x1, page.size.width, small.width)
    above = as_seen(page, source.window(Box(y0, x0, y1, x1))).astype(np.float64)
    total = np.einsum("yj,jic->yic", rows, above, optimize=True)
    total = np.einsum("xi,yic->yxc", columns, total, optimize=True)
    area = rows.sum(1)[:, None, None] * columns.sum(1)[None, :, None]
    return cast(Samples, np.floor(total / area + 0.5).astype(page.dtype))


def _weights(start: int, end: int, large: int, small: int) -> tuple[int, int, NDArray[np.float64]]:
    """What each pixel of start..end covers of the larger axis: (first, last + 1, (pixels, covered)
    shares)."""
    edges = np.arange(start, end + 1, dtype=np.float64) * (_ratio(large, small) or large / small)
    edges = np.minimum(edges, large)
    first, last = int(np.floor(edges[0])), int(min(np.ceil(edges[-1]), large))
    covered = np.arange(first, last)
    upper = np.minimum(edges[1:, None], covered + 1)
    return first, last, np.clip(upper - np.maximum(edges[:-1, None], covered), 0, 1)
