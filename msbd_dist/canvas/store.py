"""The stored pixels of one edit: a zarr group with one writer per chunk and attempt.

    source/<attempt>            (3, h, w)         the picture's own integers, what the plan reads
    mask/<attempt>              (h, w)            0 or 1, the same part
    candidates/<attempt>        (B, 3, n, n)      first stage: every sample's picture
    <stage>/latents/<attempt>   (slots, C, h, w)  float32, what diffusion produced, a chunk per slot
    <stage>/segments/<attempt>  (slots, 3, H, W)  the decoded segments, a chunk per slot
    <stage>/canvas/<attempt>    (3, H, W)         the composed stage, a chunk per stride

Pictures at rest are uint16 fixed point of [0, 1] except the source. Only chunks that a planned
segment meets are ever written, so a canvas costs what is edited. A write that is not exactly one
chunk is refused: two writers of one chunk would lose updates.

Each attempt at a task writes to arrays of its own, and readers are told which attempts count
(`Versions`): whoever was given up and writes all the same, minutes later, changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import ContainsArrayError

from msbd_dist.canvas.files import Files, LocalFiles
from msbd_dist.canvas.images import Picture, from_float, to_float
from msbd_dist.canvas.ledger import Versions
from msbd_dist.core.compose import Bools, Floats, read_reflected
from msbd_dist.core.geometry import Box
from msbd_dist.core.plan import Plan, Stage
from msbd_dist.errors import StoreError

REST = np.dtype(np.uint16)


def canvas_group(work: Files) -> zarr.Group:
    """The arrays of an edit's canvas, made where there are none."""
    return zarr.open_group(work.zarr("canvas.zarr"), mode="a")


def sweep(work: Files) -> None:
    """Remove what killed writers left of chunks; for when nobody writes any more."""
    if isinstance(work, LocalFiles):
        for left in (work.path / "canvas.zarr").rglob("*.partial"):
            left.unlink(missing_ok=True)


class StoredChunks:
    """What is stored of an edit, chunk by chunk, compared with digests of what was written."""

    def __init__(self, work: Files) -> None:
        self._files = work / "canvas.zarr"
        self._group = zarr.open_group(work.zarr("canvas.zarr"), mode="r")

    def wrong(self, name: str, digest: str) -> str | None:
        """How a chunk, ``ARRAY I.J.K``, is not what was written; None where it is."""
        array, place = self._of(name)
        if array is None or not self._is_there(array, place):
            return "is missing on the disk"
        try:
            data = np.asarray(array[_slices(array, place)])
        except (OSError, RuntimeError, ValueError):
            return "is damaged on the disk"
        return None if _digest(data) == digest else "is not what was stored"

    def gone(self, names: Iterable[str]) -> set[str]:
        """Which of these chunks are not there."""
        by_array: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_array[name.rpartition(" ")[0]].append(name)
        return {name for path, some in by_array.items() for name in self._gone_of(path, some)}

    def _gone_of(self, path: str, names: list[str]) -> Iterator[str]:
        array = self._array(path)
        if array is None or array.nchunks_initialized < len(names):
            places = ((name, self._of(name)[1]) for name in names)
            yield from (n for n, at in places if array is None or not self._is_there(array, at))

    def _of(self, name: str) -> tuple[zarr.Array[Any] | None, tuple[int, ...]]:
        path, _, where = name.rpartition(" ")
        return self._array(path), tuple(map(int, where.split(".")))

    def _is_there(self, array: zarr.Array[Any], place: tuple[int, ...]) -> bool:
        key = array.metadata.encode_chunk_key(place)
        return self._files.size(f"{array.path}/{key}") > 0

    def lost(self, path: str) -> str | None:
        """How an array that was written whole is so no more; None where it is."""
        array = self._array(path)
        if array is None:
            return "is missing on the disk"
        missing = array.nchunks - array.nchunks_initialized
        return f"lacks {missing} of {array.nchunks} chunks" if missing else None

    def _array(self, path: str) -> zarr.Array[Any] | None:
        found = self._group.get(path)
        return found if isinstance(found, zarr.Array) else None


def _slices(array: zarr.Array[Any], chunk: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(i * size, min((i + 1) * size, limit))
        for i, size, limit in zip(chunk, array.chunks, array.shape, strict=True)
    )


class Canvas:
    """An edit's pixels, as ``versions`` has them; what is written is ``attempt``'s."""

    def __init__(
        self,
        group: zarr.Group,
        plan: Plan,
        dtype: np.dtype[Any],
        versions: Versions,
        *,
        attempt: str | None = None,
        picture: Picture | None = None,
    ) -> None:
        """``picture``: what the source is read from, where it is not stored here."""
        self.plan, self._picture = plan, picture
        self.digests: dict[str, str] = {}  # of what was written here, by array and chunk
        self.written = 0  # bytes of chunks, before compression
        self._dtype, self._versions, self._attempt = dtype, versions, attempt
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}

    # -- the picture and its mask, in image pixels -------------------------------------------------

    def write_source(self, box: Box, pixels: npt.NDArray[Any]) -> None:
        """Store (3, h, w) of the source box, in image pixels. The driver is the only writer."""
        whole = self.plan.source_box
        array = self._own("source", (3, *whole.size.shape), (3, *self._tile), self._dtype)
        array[(slice(None), *box.relative_to(whole).slices)] = pixels

    def write_mask(self, box: Box, mask: Bools) -> None:
        """The same of the mask, (h, w)."""
        whole = self.plan.source_box
        array = self._own("mask", whole.size.shape, self._tile, np.dtype(np.uint8))
        array[box.relative_to(whole).slices] = mask.view(np.uint8)

    @property
    def _tile(self) -> tuple[int, int]:
        """Of what is taken in, a chunk."""
        stride, size = self.plan.family.stride, self.plan.source_box.size
        return min(stride, size.height), min(stride, size.width)

    def source_integers(self, box: Box) -> npt.NDArray[Any]:
        """The picture's own samples in a box inside the stored part: (3, h, w)."""
        if self._picture is not None:
            return self._picture.read(box)
        ys, xs = box.relative_to(self.plan.source_box).slices
        return np.asarray(self._read("source", "ingest")[:, ys, xs])

    def source(self, box: Box) -> Floats:
        """The picture in a box, reflected beyond the image's edge: (3, h, w) in [0, 1]."""
        bounds = Box.of(self.plan.image)
        return to_float(read_reflected(self.source_integers, box, bounds))

    def mask(self, box: Box) -> Bools:
        """The mask in a box, reflected beyond the image's edge: (h, w)."""

        def read(inside: Box) -> npt.NDArray[Any]:
            ys, xs = inside.relative_to(self.plan.source_box).slices
            return np.asarray(self._read("mask", "ingest")[ys, xs])

        return np.asarray(read_reflected(read, box, Box.of(self.plan.image)), bool)

    # -- slots: each written once, by the worker that ran its task ---------------------------------

    def write_latent(self, stage: Stage, slot: int, z: Floats) -> None:
        shape = (len(stage.segments), *z.shape)
        array = self._own(f"{stage.index}/latents", shape, (1, *z.shape), np.dtype(np.float32))
        self._write_chunk(array, (slot, 0, 0, 0), z[None])

    def latent(self, stage: Stage, slot: int) -> Floats:
        """(C, h, w) float32."""
        array = self._read(f"{stage.index}/latents", f"{stage.index}-denoise", slot)
        return np.asarray(array[slot])

    def write_segment(self, stage: Stage, slot: int, pixels: Floats) -> None:
        """Store one decoded segment: (3, H, W), clipped to [0, 1]."""
        picture = (3, *stage.grid.segment.shape)
        shape = (len(stage.segments), *picture)
        array = self._own(f"{stage.index}/segments", shape, (1, *picture), REST)
        self._write_chunk(array, (slot, 0, 0, 0), from_float(pixels, REST)[None])

    def segment(self, stage: Stage, slot: int) -> Floats:
        kind = self.plan.kinds(stage)[-2]  # the last before it is composed
        array = self._read(f"{stage.index}/segments", f"{stage.index}-{kind}", slot)
        return to_float(np.asarray(array[slot]))

    def write_candidate(self, sample: int, pixels: Floats) -> None:
        shape = (self.plan.method.samples, *pixels.shape)
        array = self._own("candidates", shape, (1, *pixels.shape), REST)
        self._write_chunk(array, (sample, 0, 0, 0), from_float(pixels, REST)[None])

    def candidate(self, sample: int) -> Floats:
        return to_float(np.asarray(self._read("candidates", "0-denoise", 0)[sample]))

    # -- composed stages: each chunk a pure function of at most four slots -------------------------

    def write_composed(self, stage: Stage, row: int, column: int, pixels: Floats) -> None:
        step = stage.grid.stride
        chunk = (3, min(step.height, stage.size.height), min(step.width, stage.size.width))
        array = self._own(f"{stage.index}/canvas", (3, *stage.size.shape), chunk, REST)
        self._write_chunk(array, (0, row, column), from_float(pixels, REST))

    def composed(self, stage: Stage, box: Box) -> Floats:
        """The composed stage in a box inside it: (3, h, w); 0 where no segment was planned."""
        name, wave = f"{stage.index}/canvas", f"{stage.index}-compose"
        pixels = np.asarray(self._read(name, wave)[(slice(None), *box.slices)])
        for number in self._versions[wave].others:
            part = stage.grid.chunk(number).box.intersection(box)
            if part is not None:
                other = self._read(name, wave, number)[(slice(None), *part.slices)]
                pixels[(slice(None), *part.relative_to(box).slices)] = other
        return to_float(pixels)

    # -- arrays ------------------------------------------------------------------------------------

    def _read(self, name: str, wave: str, slot: int = 0) -> zarr.Array[Any]:
        full = f"{name}/{self._versions[wave].of(slot)}"
        if full not in self._arrays:
            self._arrays[full] = cast("zarr.Array[Any]", self._group[full])
        return self._arrays[full]

    def _own(
        self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]
    ) -> zarr.Array[Any]:
        """This attempt's array, made when it is first written to; others may make it as well."""
        full = f"{name}/{self._attempt}"
        if full not in self._arrays:
            try:
                self._arrays[full] = self._group.create_array(
                    full,
                    shape=shape,
                    chunks=chunks,
                    dtype=dtype,
                    fill_value=0,
                    compressors=ZstdCodec(level=1, checksum=True),
                    config={"write_empty_chunks": True},
                )
            except ContainsArrayError:
                self._arrays[full] = cast("zarr.Array[Any]", self._group[full])
        return self._arrays[full]

    def _write_chunk(
        self, array: zarr.Array[Any], chunk: tuple[int, ...], data: npt.NDArray[Any]
    ) -> None:
        """Write a chunk, read it again, and note its digest."""
        where = _slices(array, chunk)
        wanted = tuple(s.stop - s.start for s in where)
        if data.shape != wanted:
            raise ValueError(f"{array.path} chunk {chunk} is {wanted}, got {data.shape}")
        array[where] = data
        digest = _digest(data)
        if _digest(np.asarray(array[where])) != digest:
            raise StoreError(f"{array.path}: what was stored is not what was written")
        self.digests[f"{array.path} {'.'.join(map(str, chunk))}"] = digest
        self.written += data.nbytes


def _digest(data: npt.NDArray[Any]) -> str:
    return blake2b(np.ascontiguousarray(data).tobytes(), digest_size=8).hexdigest()
