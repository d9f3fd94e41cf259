"""Files behind URLs that libvips reads: from copies, which are there only while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from msbd_dist.canvas.places import Held, held_copy
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.vips import VipsReader, call_copy
from msbd_dist.core.geometry import Box
from msbd_dist.errors import ImageError


@dataclass(frozen=True)
class FetchedReader(VipsReader):
    """What is known of a file's header; its samples are fetched when they are asked for."""

    place: str = ""

    @classmethod
    def of(cls, place: str, kind: str) -> FetchedReader:
        """Fetch the file at a URL and look at its header. ImageError names the URL."""
        copy = held_copy(place)
        with _called(place, copy):
            header = VipsReader.open(Path(copy.name), kind)
        known = {field.name: getattr(header, field.name) for field in fields(header)}
        return cls(**known, place=place)

    def window(self, box: Box) -> Samples:
        copy, reader = self._here
        with _called(self.place, copy):
            return reader.window(box)

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        copy, reader = self._here
        with _called(self.place, copy):
            yield from reader.strips(rows)

    @cached_property
    def _here(self) -> tuple[Held, VipsReader]:
        """The copy, held as long as this reader is, and what reads it."""
        copy = held_copy(self.place)
        with _called(self.place, copy):
            return copy, VipsReader.open(Path(copy.name), self.kind)


@contextmanager
def _called(place: str, copy: Held) -> Iterator[None]:
    """Errors and warnings about a copy as such about what it is of."""
    call_copy(copy.name, place)
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error).replace(copy.name, place)) from error
