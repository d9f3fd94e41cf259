"""What a mask file's samples look like: white on black, or something that must be asked about.

tally = Tally(peak, bands=3, has_alpha=True)
tally.lit(strip)       which pixels of a strip are edited; counted on the way
tally.ambiguous        why it can't be told what is meant
tally.doubts(...)      what may be meant otherwise, a line each
tally.empty(...)       what to do where nothing is edited
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.reader import Samples

Bools = NDArray[np.bool_]

_LUMA = np.array((2126, 7152, 722), dtype=np.uint64)  # Rec. 709, in ten-thousandths
_LUMA_SUM = 10_000
_STRAY = 0.05  # of what is opaque, neither black nor white: edges of strokes, and no more
_PHOTO = 0.25  # and from here on it is no mask but a picture
_FLAT = 0.01  # of all pixels in one grey: no edge of a stroke
_LABELLED = 32  # levels: no soft edges have so few
_FEW = 16  # values that are named


class Tally:
    """Brightness, alpha and colours of a file that is read as a mask, counted strip by strip.

    ``peak`` is white. A pixel is edited from half of it upwards, colours by their Rec. 709 luma,
    transparent parts as on black, all in exact integers.
    """

    def __init__(self, peak: int, *, bands: int, has_alpha: bool) -> None:
        self.peak, self._bands, self._has_alpha = peak, bands, has_alpha
        self.bins = np.zeros(peak + 1, np.int64)  # opaque pixels of each brightness
        self.pixels = self.clear = self.coloured = self.brightest = 0

    def lit(self, strip: Samples) -> Bools:
        """(h, W, bands + alpha) -> (h, W): is it edited?"""
        self.pixels += strip.shape[0] * strip.shape[1]
        colours, alpha = strip[..., : self._bands], strip[..., -1] if self._has_alpha else None
        if alpha is not None and alpha.min() == self.peak:
            alpha = None
        if is_grey(colours) and alpha is None:
            return self._greys(colours[..., 0])
        light = _light(colours)
        if alpha is None:
            self._count(light // _LUMA_SUM, colours)
            return self._bright(light, _LUMA_SUM)
        self.clear += int(np.count_nonzero(alpha < (self.peak + 1) // 2))
        solid = alpha >= self.peak - self.peak // 16
        self._count(light[solid] // _LUMA_SUM, colours[solid])
        return self._bright(light * alpha.astype(np.uint64), _LUMA_SUM * self.peak)

    def _greys(self, values: Samples) -> Bools:
        found = np.bincount(values.ravel(), minlength=len(self.bins))
        self.bins += found
        self.brightest = max(self.brightest, int(np.flatnonzero(found)[-1]))
        lit: Bools = values >= (self.peak + 1) // 2
        return lit

    def _bright(self, light: NDArray[np.uint64], full: int) -> Bools:
        self.brightest = max(self.brightest, int(light.max()) // full)
        lit: Bools = 2 * light >= full * self.peak
        return lit

    def _count(self, brightness: NDArray[np.uint64], colours: Samples) -> None:
        self.bins += np.bincount(brightness.ravel().astype(np.intp), minlength=len(self.bins))
        if self._bands == 3:
            chroma = colours.max(axis=-1).astype(np.int64) - colours.min(axis=-1)
            self.coloured += int(np.count_nonzero(chroma > self.peak * 3 // 16))

    # ---------------------------------------------------------------- what it looks like

    @property
    def _middle(self) -> slice:
        """Of the bins: neither black nor white."""
        return slice((self.peak + 1) // 8, 7 * (self.peak + 1) // 8)

    @property
    def _strays(self) -> float:
        """The part of what is opaque that is neither black nor white, or has a colour."""
        solid = int(self.bins.sum())
        stray = max(int(self.bins[self._middle].sum()), self.coloured)
        return stray / solid if solid else 0.0

    @property
    def levels(self) -> list[int]:
        """Every brightness but 0 that there is."""
        return [int(level) for level in np.flatnonzero(self.bins) if level]

    @property
    def ambiguous(self) -> str | None:
        """Why it can't be told what is meant, with what to write; ``{file}`` is its name."""
        if not self.clear or self._strays <= _STRAY:
            return None
        return (
            f"is a picture that is transparent in {_of(self.clear, self.pixels)} of it, so that it "
            "can't be told what to edit; write mask: {file: {file}, from: alpha, invert: on} for "
            "what is transparent, `from: alpha` alone for what is opaque, or `from: luma` for what "
            "is bright"
        )

    def doubts(self, *, palette: bool, lossy: bool) -> Iterator[str]:
        """What may be meant otherwise, with what to write; ``{file}`` is the file's name. A
        ``lossy`` one has levels beside black and white by itself."""
        if self.clear:
            yield from self._of_holes()
        if self._strays > _PHOTO and not palette:
            yield (
                f"looks like a photograph: {100 * self._strays:.0f} % of it is neither black nor "
                "white; what is brighter than half is edited. Give a mask that is white where to "
                "edit, or say {file: {file}, from: luma}"
            )
        elif self.coloured > _FLAT * self.pixels:
            yield (
                f"has colours in {_of(self.coloured, self.pixels)} of it, which count by their "
                "brightness; " + (_LABELS if palette else _PAINT)
            )
        elif flat := self._flat(lossy=lossy):
            yield (
                f"has areas of grey ({_some(flat)}), as label masks have; what is brighter than "
                "half is edited. For labels write {file: {file}, from: values, values: "
                f"{self.levels if len(self.levels) <= _FEW else flat[:_FEW]}}}, else from: luma"
            )

    def _flat(self, *, lossy: bool) -> list[int]:
        """Levels with areas of their own, of a file that has other ones than black and white."""
        flat = np.flatnonzero(self.bins > _FLAT * self.pixels).tolist()
        middle = range(len(self.bins))[self._middle]
        several = sum(level < middle.stop for level in flat) > 1
        several = several and len(self.levels) <= _LABELLED and not lossy
        odd = several or any(level in middle for level in flat)
        return [int(level) for level in flat if level] if odd else []

    def _of_holes(self) -> Iterator[str]:
        black, solid = int(self.bins[: self._middle.start].sum()), int(self.bins.sum())
        hole = _of(self.clear, self.pixels)
        if black > _FLAT * solid:
            yield (
                f"is transparent in {hole} of it, which counts as black. To edit it write "
                "{file: {file}, from: alpha, invert: on}, else from: luma"
            )
        elif solid > self.pixels / 2:
            yield (
                f"is white with a transparent part ({hole} of it), and the white is edited. For "
                "what is transparent write {file: {file}, from: alpha, invert: on}, else from: luma"
            )

    def empty(self, *, palette: bool) -> str:
        """Why nothing is edited, with what to write; ``{file}`` is the file's name."""
        said = f"the mask is empty (its brightest value is {self.brightest} of {self.peak}); "
        if self.clear:
            return said + (
                "for what is transparent write {file: {file}, from: alpha, invert: on}, for what "
                "is opaque `from: alpha` alone, or paint the part to edit white"
            )
        if palette:
            return said + _LABELS + ", or paint the part to edit white"
        if self.coloured:
            return said + "colours count by their brightness; " + _PAINT
        said += "paint the part to edit white"
        if not self.levels or self._bands == 3:
            return said
        values = f", values: {self.levels}" if len(self.levels) <= _FEW else ""
        return said + f", or, if these are labels, write {{file: {{file}}, from: values{values}}}"


_LABELS = "for labels write {file: {file}, from: values, values: [...]} with the palette's numbers"
_PAINT = "paint the part to edit white and the rest black"


def is_grey(colours: Samples) -> bool:
    """(h, w, bands): is every pixel as grey as can be?"""
    first = colours[..., 0]
    return all(np.array_equal(first, colours[..., band]) for band in range(1, colours.shape[-1]))


def _light(colours: Samples) -> NDArray[np.uint64]:
    """(h, w, bands) -> (h, w): luma in ten-thousandths."""
    wide = colours.astype(np.uint64)
    light: NDArray[np.uint64] = wide[..., 0] * _LUMA_SUM if wide.shape[-1] == 1 else wide @ _LUMA
    return light


def _of(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f} %" if share >= 0.05 else "less than 0.1 %"


def _some(values: list[Any]) -> str:
    return ", ".join(map(str, values[:_FEW])) + (" ..." if len(values) > _FEW else "")
