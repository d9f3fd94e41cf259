"""Contact sheets of what an evaluation saw: small PNG files with words below each case.

    text-to-image.png   the kinds, at the middle guidance
    sizes.png           small ones and big ones
    two-objects.png     pairs
    inpainting.png      before, mask, after
    seams.png           the same, with nothing drawn
    removal.png         the same, for removals
    autoencoder.png     before, after
    segments.png        at the size of a segment
    upscaler.png        bicubic, learned, truth: a detail of each

An exclamation mark is what a judge objects to.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw

from msbd_dist.tiny.evaluate.measure import Outcome
from msbd_dist.tiny.scenes import Image

_LARGEST = 600_000  # bytes of a file
_LINE = 12  # pixels of a line of words
_GAP = 4
_LETTER = 6  # pixels across a letter of the default font, about


@dataclass(frozen=True)
class Sheet:
    """One file: ``cases`` outcomes of a measure, ``columns`` of them in a row."""

    name: str
    measures: tuple[str, ...]
    title: str
    cases: int
    columns: int
    side: int  # pixels of a picture on the sheet
    detail: bool = False  # show the middle of each picture in its own pixels
    heads: tuple[str, ...] = ()  # above the pictures of each outcome of the first row


SHEETS = (
    Sheet(
        "text-to-image",
        ("text_to_image_6",),
        "text to image, guidance 6, and what CLIP says where it is not that",
        56,
        8,
        112,
    ),
    Sheet("sizes", ("sizes",), "small and big objects: radius in widths", 24, 8, 112),
    Sheet("two-objects", ("two_objects",), "two objects in a prompt", 40, 8, 112),
    Sheet("inpainting", ("inpainting",), "before, mask, after: an object is put in", 24, 3, 112),
    Sheet(
        "seams",
        ("seam_words", "seam_empty"),
        "before, mask, after: nothing is drawn, no rectangle must show",
        12,
        3,
        112,
    ),
    Sheet("removal", ("removal",), "before, mask, after: the empty prompt", 24, 3, 112),
    Sheet("autoencoder", ("vae", "stars"), "before, after the autoencoder", 16, 4, 112),
    Sheet("segments", ("segments",), "text to image at a segment's size", 24, 6, 144),
    Sheet("upscaler", ("upscaler",), "bicubic, learned, truth (a detail)", 8, 2, 128, detail=True),
)


def write_grids(outcomes: Mapping[str, Sequence[Outcome]], folder: Path) -> None:
    """Write every sheet whose measures have outcomes, as FOLDER/NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for sheet in SHEETS:
        each = sheet.cases // len(sheet.measures)
        shown = [o for key in sheet.measures for o in list(outcomes.get(key, ()))[:each]]
        if shown:
            (folder / f"{sheet.name}.png").write_bytes(small_png(drawn(sheet, shown)))


def drawn(sheet: Sheet, outcomes: Sequence[Outcome]) -> Pil.Image:
    """The sheet as a picture."""
    tiles = [_tile(outcome, sheet) for outcome in outcomes]
    width, height = (max(tile.size[axis] for tile in tiles) + _GAP for axis in (0, 1))
    columns = min(sheet.columns, len(tiles))
    rows = -(-len(tiles) // columns)
    heads = _heads(sheet)
    top = heads.height + _LINE + 2 * _GAP
    canvas = Pil.new("RGB", (columns * width + _GAP, rows * height + top), "white")
    ImageDraw.Draw(canvas).text((_GAP, _GAP), sheet.title, fill="black")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        if row == 0:
            canvas.paste(heads, (column * width + _GAP, _LINE + 2 * _GAP))
        canvas.paste(tile, (column * width + _GAP, row * height + top))
    return canvas


def _heads(sheet: Sheet) -> Pil.Image:
    """What stands above an outcome's pictures; of no height where nothing does."""
    texts = [_wrapped(head, sheet.side // _LETTER) for head in sheet.heads]
    height = max((len(lines) for lines in texts), default=0) * _LINE
    image = Pil.new("RGB", (max(len(texts) * (sheet.side + 2) - 2, 1), height), "white")
    for index, lines in enumerate(texts):
        place = (index * (sheet.side + 2), 0)
        ImageDraw.Draw(image).multiline_text(
            place, "\n".join(lines), fill="black", spacing=1, font_size=10
        )
    return image


def _tile(outcome: Outcome, sheet: Sheet) -> Pil.Image:
    """An outcome's pictures side by side, its words below."""
    count = len(outcome.pictures)
    width = count * sheet.side + 2 * (count - 1)
    lines = _wrapped(outcome.words, width // _LETTER)
    tile = Pil.new("RGB", (width, sheet.side + 3 * _LINE), "white")
    for index, picture in enumerate(outcome.pictures):
        tile.paste(_fitted(picture, sheet), (index * (sheet.side + 2), 0))
    red = "!" in outcome.words
    text = "\n".join(lines[:3])
    ImageDraw.Draw(tile).multiline_text(
        (0, sheet.side), text, fill="firebrick" if red else "black", spacing=1, font_size=10
    )
    return tile


def _fitted(picture: Image, sheet: Sheet) -> Pil.Image:
    if sheet.detail:
        y, x = ((side - sheet.side) // 2 for side in picture.shape[:2])
        return Pil.fromarray(np.ascontiguousarray(picture[y : y + sheet.side, x : x + sheet.side]))
    return Pil.fromarray(picture).resize((sheet.side, sheet.side), Pil.Resampling.LANCZOS)


def _wrapped(words: str, letters: int) -> list[str]:
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) > letters and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def small_png(picture: Pil.Image) -> bytes:
    """PNG of at most `_LARGEST` bytes: in 256 colours, and then smaller, if it must be."""
    data = _png(picture)
    while len(data) > _LARGEST:
        data = _png(picture.quantize(256))
        picture = picture.resize((picture.width * 7 // 8, picture.height * 7 // 8))
    return data


def _png(picture: Pil.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
