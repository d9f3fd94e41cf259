"""What a person looks at afterwards: previews, candidates, a contact sheet, results as JSON.

OUT/report.json                      one entry per edit (`msbd_dist.batch.results`)
OUT/report.html                      the page (`msbd_dist.batch.page`)
OUT/contact-sheet.png                 before / mask / after, one row per finished edit
OUT/<edit>/previews/edit.png          the edit's row
OUT/<edit>/previews/stage-<k>.png     the composed stages
OUT/<edit>/candidates/<b>-<score>.png the first stage's samples; the chosen one is marked
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from msbd_dist.batch.page import row_from, write_page
from msbd_dist.batch.record import EditResult
from msbd_dist.batch.results import candidate_name, entry
from msbd_dist.batch.status import ended_by
from msbd_dist.batch.steps import Edit
from msbd_dist.batch.tiles import around
from msbd_dist.canvas.export import Edited
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.canvas.ledger import Facts
from msbd_dist.canvas.store import Canvas
from msbd_dist.core.compose import (
    Floats,
    Read,
    block_edge,
    block_means,
    read_reflected,
    resample,
    stage_view,
)
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.plan import Stage
from msbd_dist.core.spec import EditSpec

log = logging.getLogger(__name__)

PREVIEW = 768  # longest edge of a stage's preview
ROWS = 40  # edits on one contact sheet
CELL = 360  # edge of a picture on the contact sheet
GAP, TEXT = 16, 44  # margins and caption height on the contact sheet
PAPER, INK, PALE = (250, 250, 248), (32, 32, 32), (120, 120, 120)
MARK = np.array([1.0, 0.0, 0.55], np.float32)[:, None, None]  # the mask's tint


def write_report(
    out: Files, results: tuple[EditResult, ...], specs: Iterable[EditSpec]
) -> str | None:
    """Write results, the page and the contact sheets of a run's edits, both in the same order;
    returns where the first sheet is, if there is one."""
    entries = [entry(out, result) for result in results]
    rows = [row for result in results if (row := _row_of(out, result))]
    ended = {"error": error} if (error := ended_by(out)) else {}
    text = json.dumps({"version": 1, **ended, "edits": entries}, indent=1)
    out.write("report.json", text.encode())
    write_page(out, [row_from(found, spec) for found, spec in zip(entries, specs, strict=True)])
    sheets = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
    for number, some in enumerate(sheets):
        out.write(_sheet_name(number), _png(_stack(some)))
    return f"{out.url}/{_sheet_name(0)}" if sheets else None


def _sheet_name(number: int) -> str:
    return f"contact-sheets/{number + 1}.png" if number else "contact-sheet.png"


def _row_of(out: Files, result: EditResult) -> bytes | None:
    if result.state not in ("done", "kept"):
        return None
    try:
        return (out / result.id).read("previews/edit.png")
    except OSError as error:  # a picture that has gone must not cost the report
        log.warning("edit %s is not on the contact sheet: %s", result.id, error)
        return None


def preview(edit: Edit, stage: Stage, _: str) -> Facts:
    """A composed stage as a small PNG file; for the first one also the candidates."""
    canvas = edit.canvas(stage)
    picture = _image(stage_preview(canvas, stage))
    edit.files.write(f"previews/stage-{stage.index}.png", _png(picture))
    if stage.kind == "base":
        facts = edit.ledger["0-denoise-0"]
        for sample in range(edit.record.plan.method.samples):
            candidate = _image(canvas.candidate(sample))
            edit.files.write(candidate_name(facts, sample), _png(candidate))
    return {}


def stage_preview(canvas: Canvas, stage: Stage) -> Floats:
    """A composed stage at preview size: (3, h, w); parts that no segment meets are the input."""
    scale = min(1.0, PREVIEW / stage.size.long_edge)
    whole = _scaled(Box.of(stage.size), scale)
    preview = np.zeros((3, max(whole.height, 1), max(whole.width, 1)), np.float32)
    planned = set(stage.segments)
    for _, _, box in stage.grid.chunks():
        target = _scaled(box, scale)
        if target.size.area == 0:  # a last chunk that is thinner than a preview pixel
            continue
        touched = any(index in planned for index in stage.grid.meeting(box))
        pixels = canvas.composed(stage, box) if touched else stage_view(canvas.source, stage, box)
        ys, xs = target.slices
        preview[:, ys, xs] = resample(pixels, Rect(0, 0, box.height, box.width), target.size)
    return preview


def _scaled(box: Box, scale: float) -> Box:
    def edge(value: int) -> int:
        return round(value * scale)

    return Box(edge(box.y0), edge(box.x0), edge(box.y1), edge(box.x1))


def write_row(edit: Edit, edited: Edited) -> None:
    """One edit on the contact sheet: before, mask, after, all of the same part of the picture."""
    record, plan = edit.record, edit.record.plan
    box = around(plan.bbox, plan.source_box)
    canvas = edit.canvas(plan.final)

    def before(part: Box) -> Floats:
        return to_float(canvas.source_integers(part))

    def tinted(part: Box) -> Floats:
        masked = np.zeros(part.size.shape, bool)
        if common := part.intersection(plan.bbox):
            masked[common.relative_to(part).slices] = canvas.mask(common)
        pixels = before(part)
        return np.where(masked, 0.35 * pixels + 0.65 * MARK, pixels)

    def after(part: Box) -> Floats:
        pixels = before(part)
        if common := part.intersection(plan.bbox):
            ys, xs = common.relative_to(part).slices
            pixels[:, ys, xs] = to_float(edited.seen(common))
        return pixels

    image = Image.new("RGB", (3 * CELL + 4 * GAP, CELL + TEXT + GAP), PAPER)
    for column, read in enumerate((before, tinted, after)):
        cell = fitted(read, box)
        x = GAP + column * (CELL + GAP) + (CELL - cell.width) // 2
        image.paste(cell, (x, TEXT + (CELL - cell.height) // 2))
    draw = ImageDraw.Draw(image)
    title = record.spec.prompt or "(empty prompt: remove)"
    draw.text((GAP, 6), f"{edit.id}: {title}"[:110], INK, ImageFont.load_default(20))
    megapixels = f"{plan.image.width} x {plan.image.height}, seed {record.seed}"
    draw.text((GAP, 28), megapixels, PALE, ImageFont.load_default(13))
    edit.files.write("previews/edit.png", _png(image))


def fitted(read: Read, box: Box) -> Image.Image:
    """A box of a picture at the size of a cell, in memory that does not grow with the box."""
    scale = CELL / max(box.height, box.width)
    size = Size(max(1, round(box.height * scale)), max(1, round(box.width * scale)))
    edge = block_edge(1 / scale)
    blocks = Box(0, 0, -(-box.height // edge), -(-box.width // edge))

    def inside(part: Box) -> Floats:
        return read_reflected(read, part.shifted(box.y0, box.x0), box)

    small = block_means(inside, blocks, (edge, edge))
    return _image(resample(small, Rect(0, 0, box.height / edge, box.width / edge), size, "bicubic"))


def _bytes(picture: Floats) -> npt.NDArray[Any]:
    return from_float(picture, np.dtype(np.uint8)).transpose(1, 2, 0)


def _image(picture: Floats) -> Image.Image:
    return Image.fromarray(_bytes(picture))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _stack(rows: list[bytes]) -> Image.Image:
    images = [Image.open(BytesIO(row)) for row in rows]
    sheet = Image.new("RGB", (images[0].width, sum(i.height for i in images) + GAP), PAPER)
    y = GAP // 2
    for image in images:
        sheet.paste(image, (0, y))
        y += image.height
    return sheet
