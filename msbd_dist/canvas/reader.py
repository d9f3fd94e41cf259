"""What every kind of picture file looks like to the rest: windows of stored samples, metadata.

A reader knows one kind of file (`vips`, `tiff`, `ome`); `images.Picture` turns what it reads
upright and makes it RGB. Samples are handed out as stored: not turned, not colour-managed, with all
bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import LossName

Samples: TypeAlias = NDArray[np.uint8 | np.uint16]
"""A picture's integers: uint8 in 0..255 or uint16 in 0..65535."""


@dataclass(frozen=True)
class Loss:
    """Something that a picture has and a written file would lack."""

    name: LossName  # by which it is allowed
    what: str  # for people
    matters: bool = True  # else it is only said

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Text:
    """What a PNG says about itself under a keyword, and the chunk's type and data as stored."""

    keyword: str
    text: str
    chunk: bytes


@dataclass(frozen=True)
class Metadata:
    """What a picture file holds besides samples; blocks as they are stored, None where there is
    none."""

    icc: bytes | None = None
    exif: bytes | None = None  # from its byte order on (II*. or MM.*), without an `Exif` before it
    xmp: bytes | None = None
    iptc: bytes | None = None  # its records
    photoshop: bytes | None = None  # image resources, from `8BIM` on, without IPTC
    description: str | None = None  # a TIFF's
    comments: tuple[str, ...] = ()  # a JPEG's
    texts: tuple[Text, ...] = ()  # a PNG's
    resolution: tuple[float, float] | None = None  # pixels per millimetre, x and y
    chunks: Mapping[str, bytes] = field(default_factory=dict)  # a PNG's other ones, whole, by name
    own: tuple[tuple[Loss | None, bytes], ...] = ()  # tags of TIFFs alone, as small TIFFs
    pages: tuple[str, ...] = ()  # names of a TIFF's other pictures: mask, label
    others: tuple[str, ...] = ()  # names of what else there is and nobody here writes

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, for people; the resolution goes without saying."""
        found = {
            "ICC profile": self.icc,
            "EXIF": self.exif,
            "XMP": self.xmp,
            "IPTC": self.iptc,
            "Photoshop resources": self.photoshop,
            "description": self.description,
            "comment": self.comments,
            "text": self.texts,
        }
        return (*(name for name, held in found.items() if held), *self.others)


LOSSES: dict[str, LossName] = {
    "ICC profile": "icc", "EXIF": "exif", "XMP": "xmp", "IPTC": "iptc",
    "Photoshop resources": "photoshop", "description": "description", "comment": "comment",
    "text": "text", "labels": "labels",
}  # fmt: skip
"""`Metadata.names` -> how their loss is allowed."""


class Reader(Protocol):
    """One opened picture file of uint8 or uint16 samples, grey or RGB, with or without alpha."""

    @property
    def kind(self) -> str:
        """For people: PNG, TIFF, OME-Zarr 0.5 ..."""
        ...

    @property
    def size(self) -> Size:
        """Of the stored rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[np.uint8 | np.uint16]: ...

    @property
    def bands(self) -> int:
        """Colours: 1 or 3."""
        ...

    @property
    def has_alpha(self) -> bool: ...

    @property
    def orientation(self) -> int:
        """The EXIF tag, 1 to 8; 1 is upright."""
        ...

    @property
    def random(self) -> bool:
        """Whether a window costs what it holds; else all that is above it is decoded too."""
        ...

    @property
    def held_bytes(self) -> int:
        """What decoding holds at once, beyond a few rows: of a progressive JPEG, all of it."""
        ...

    @property
    def metadata(self) -> Metadata: ...

    @property
    def unkept(self) -> tuple[Loss, ...]:
        """What the file holds and no new file does."""
        ...

    def window(self, box: Box) -> Samples:
        """(h, w, bands + alpha) of a box inside the stored picture; ImageError where the file is
        damaged."""
        ...

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        """The stored picture from top to bottom, decoded once: (y, (h, W, bands + alpha))."""
        ...
