"""Noise addressed by canvas position.

`NoiseField.box` gives the same values for the same latent position, whichever segment, batch, order
or worker asks: the canvas is divided into blocks of 64 x 64 cells, and each block has its own
counter-based generator (Philox) keyed by a hash of (seed, stage, sample, draw, block). Overlapping
segments therefore start from, and are re-noised with, identical noise. There is no global state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from msbd_dist.core.geometry import Box

BLOCK = 64  # latent cells per side of a block

Draw = tuple[str | int, ...]  # names one draw, e.g. ("renoise", step, repetition)


@dataclass(frozen=True)
class NoiseField:
    """Unit Gaussian noise over the unbounded latent canvas of one stage (and sample)."""

    seed: int
    stage: int
    sample: int = 0
    channels: int = 4

    def box(self, draw: Draw, box_lat: Box) -> torch.Tensor:
        """The noise in a box of latent cells: (channels, height, width), float32, CPU."""
        out = np.empty((self.channels, box_lat.height, box_lat.width), np.float32)
        for block_y in range(box_lat.y0 // BLOCK, (box_lat.y1 - 1) // BLOCK + 1):
            for block_x in range(box_lat.x0 // BLOCK, (box_lat.x1 - 1) // BLOCK + 1):
                y0, x0 = block_y * BLOCK, block_x * BLOCK
                block = Box(y0, x0, y0 + BLOCK, x0 + BLOCK)
                common = block.intersection(box_lat)
                assert common is not None
                ys, xs = common.relative_to(block).slices
                yt, xt = common.relative_to(box_lat).slices
                out[:, yt, xt] = self._block(draw, block_y, block_x)[:, ys, xs]
        return torch.from_numpy(out)

    def _block(self, draw: Draw, block_y: int, block_x: int) -> np.ndarray:
        name = repr((self.seed, self.stage, self.sample, draw, block_y, block_x))
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
        return generator.standard_normal((self.channels, BLOCK, BLOCK), dtype=np.float32)
