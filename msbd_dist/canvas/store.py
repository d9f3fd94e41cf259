"""The stored pixels of one edit: a zarr group with one writer per chunk.

    source            (3, h, w)     the picture's own integers, the part that the plan reads
    mask              (h, w)        0 or 1, the same part
    candidates        (B, 3, n, n)  first stage: every sample's picture
    <stage>/latents   (slots, C, h, w) float32   what diffusion produced, one chunk per slot
    <stage>/segments  (slots, 3, H, W)           the decoded segments, one chunk per slot
    <stage>/canvas    (3, H, W)                  the composed stage, one chunk per stride

Pictures at rest are uint16 fixed point of [0, 1] except the source. Only chunks that a planned
segment meets are ever written, so a canvas costs what is edited. A write that is not exactly one
chunk is refused: two writers of one chunk would lose updates.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.core.compose import Bools, Floats, read_reflected
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, Stage

REST = np.dtype(np.uint16)


class Canvas:
    """Open an edit's canvas with `create` (the driver, once) or the constructor (workers)."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self._group = zarr.open_group(path, mode="r+")
        self._arrays: dict[str, zarr.Array[Any]] = {}

    @classmethod
    def create(cls, path: Path, plan: Plan, dtype: np.dtype[Any]) -> Canvas:
        """A canvas with all its arrays and no pixels; replaces one that was left half made."""
        shutil.rmtree(path, ignore_errors=True)
        group = zarr.create_group(path)
        family, method = plan.family, plan.method
        box, stride = plan.source_box, family.stride
        tile = (min(stride, box.height), min(stride, box.width))
        native = (family.native, family.native)
        _array(group, "source", (3, *box.size.shape), (3, *tile), dtype)
        _array(group, "mask", box.size.shape, tile, np.dtype(np.uint8))
        _array(group, "candidates", (method.samples, 3, *native), (1, 3, *native), REST)
        for stage in plan.stages:
            slots, segment, step = len(stage.segments), stage.grid.segment, stage.grid.stride
            cells = Size(segment.height // family.vae_factor, segment.width // family.vae_factor)
            latent = (family.latent_channels, *cells.shape)
            name = str(stage.index)
            _array(group, f"{name}/latents", (slots, *latent), (1, *latent), np.dtype(np.float32))
            picture = (3, *segment.shape)
            _array(group, f"{name}/segments", (slots, *picture), (1, *picture), REST)
            chunk = (min(step.height, stage.size.height), min(step.width, stage.size.width))
            _array(group, f"{name}/canvas", (3, *stage.size.shape), (3, *chunk), REST)
        return cls(path, plan)

    def array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            self._arrays[name] = cast("zarr.Array[Any]", self._group[name])
        return self._arrays[name]

    # -- the picture and its mask, in image pixels -------------------------------------------------

    def write_source(self, rows: Box, pixels: npt.NDArray[Any], mask: Bools) -> None:
        """Store a band of the source box; ``rows`` spans its width, in image pixels.

        The driver is the only writer, band after band.
        """
        ys, xs = rows.relative_to(self.plan.source_box).slices
        self.array("source")[:, ys, xs] = pixels
        self.array("mask")[ys, xs] = mask.astype(np.uint8)

    def source_integers(self, box: Box) -> npt.NDArray[Any]:
        """The picture's own samples in a box inside the stored part: (3, h, w)."""
        ys, xs = box.relative_to(self.plan.source_box).slices
        return np.asarray(self.array("source")[:, ys, xs])

    def source(self, box: Box) -> Floats:
        """The picture in a box, reflected beyond the image's edge: (3, h, w) in [0, 1]."""
        bounds = Box.of(self.plan.image)
        return to_float(read_reflected(self.source_integers, box, bounds))

    def mask(self, box: Box) -> Bools:
        """The mask in a box, reflected beyond the image's edge: (h, w)."""

        def read(inside: Box) -> npt.NDArray[Any]:
            ys, xs = inside.relative_to(self.plan.source_box).slices
            return np.asarray(self.array("mask")[ys, xs])

        return np.asarray(read_reflected(read, box, Box.of(self.plan.image)), bool)

    # -- slots: each written once, by the worker that ran its task ---------------------------------

    def write_latent(self, stage: Stage, slot: int, z: Floats) -> None:
        self._write_chunk(f"{stage.index}/latents", (slot, 0, 0, 0), z[None])

    def latent(self, stage: Stage, slot: int) -> Floats:
        """(C, h, w) float32."""
        return np.asarray(self.array(f"{stage.index}/latents")[slot])

    def write_segment(self, stage: Stage, slot: int, pixels: Floats) -> None:
        """Store one decoded segment: (3, H, W), clipped to [0, 1]."""
        self._write_chunk(
            f"{stage.index}/segments", (slot, 0, 0, 0), from_float(pixels, REST)[None]
        )

    def segment(self, stage: Stage, slot: int) -> Floats:
        return to_float(np.asarray(self.array(f"{stage.index}/segments")[slot]))

    def write_candidate(self, sample: int, pixels: Floats) -> None:
        self._write_chunk("candidates", (sample, 0, 0, 0), from_float(pixels, REST)[None])

    def candidate(self, sample: int) -> Floats:
        return to_float(np.asarray(self.array("candidates")[sample]))

    # -- composed stages: each chunk a pure function of at most four slots -------------------------

    def write_composed(self, stage: Stage, row: int, column: int, pixels: Floats) -> None:
        self._write_chunk(f"{stage.index}/canvas", (0, row, column), from_float(pixels, REST))

    def composed(self, stage: Stage, box: Box) -> Floats:
        """The composed stage in a box inside it: (3, h, w); 0 where no segment was planned."""
        return to_float(np.asarray(self.array(f"{stage.index}/canvas")[(slice(None), *box.slices)]))

    def _write_chunk(self, name: str, chunk: tuple[int, ...], data: npt.NDArray[Any]) -> None:
        array = self.array(name)
        where = tuple(
            slice(i * size, min((i + 1) * size, limit))
            for i, size, limit in zip(chunk, array.chunks, array.shape, strict=True)
        )
        wanted = tuple(s.stop - s.start for s in where)
        if data.shape != wanted:
            raise ValueError(f"{name} chunk {chunk} is {wanted}, got {data.shape}")
        array[where] = data


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
) -> None:
    group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=0,
        compressors=ZstdCodec(level=1, checksum=True),
        config={"write_empty_chunks": True},
    )
