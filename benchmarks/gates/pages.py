"""What `python -m benchmarks.gates` found, as tables for a page and as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from benchmarks.gates.faults import FAULTS
from benchmarks.gates.gates import GATES, Gate
from benchmarks.gates.matrix import Values, caught
from msbd_dist.tiny.scenes import Image

HEADING = "## Measured\n"
_COLUMNS, _HIGH, _WIDE, _GAP, _TEXT = 3, 88, 330, 12, 18  # of the picture, in pixels
_PAPER, _INK = (255, 255, 255), (32, 32, 32)

# --- tables ---------------------------------------------------------------------------------------


def tables(found: Mapping[str, Any]) -> str:
    """Gates, then faults, in Markdown."""
    machine = found["machine"]
    where = f"{machine['cpu']}, one thread, commit {found['commit'][:12]}"
    return "\n".join(
        [
            HEADING,
            f"`python -m benchmarks.gates` on {where}; {found['seconds']:.0f} s.",
            "",
            *_gates(found),
            "",
            *_faults(found),
            "",
        ]
    )


def _gates(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| gate | what is measured | case | passes | intact | its own fault | under it |"
    yield "|---|---|---|--:|--:|---|--:|"
    for gate in GATES.values():
        under = shown(found["faults"][gate.fault][gate.name])
        intact = shown(found["intact"][gate.name])
        yield (
            f"| {gate.name} | {gate.words} | {gate.case} | {passes(gate)} | {intact} "
            f"| {gate.fault} | {under} |"
        )


def _faults(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| fault | what is broken | caught by (intact → under the fault) |"
    yield "|---|---|---|"
    for name, values in found["faults"].items():
        gates = [
            f"{gate} ({shown(found['intact'][gate])} → {shown(values[gate])})"
            for gate in caught(values)
        ]
        yield f"| {name} | {FAULTS[name].words} | {', '.join(gates) or '**not caught**'} |"


def passes(gate: Gate) -> str:
    """The range in words: "≥ 7", "0.91 to 1", "0"."""
    if gate.low == -inf:
        return f"≤ {gate.high:g}" if gate.high else "0"
    return f"≥ {gate.low:g}" if gate.high == inf else f"{gate.low:g} to {gate.high:g}"


def shown(value: float | None) -> str:
    """Three digits; "failed" for an edit that could not be finished."""
    if value is None:
        return "failed"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_tables(page: Path, found: Mapping[str, Any]) -> None:
    """Replace what follows the heading on a page."""
    words = page.read_text().split(HEADING)[0]
    page.write_text(words + tables(found))


# --- the picture ----------------------------------------------------------------------------------


def sheet(pictures: Mapping[tuple[str, str | None], Image]) -> Pil.Image:
    """For each fault its case intact and broken; ``pictures`` by case and fault."""
    cells = [_cell(name, pictures) for name in FAULTS]
    rows = -(-len(cells) // _COLUMNS)
    width, height = _COLUMNS * (_WIDE + _GAP) + _GAP, rows * (_HIGH + _TEXT + _GAP) + _GAP
    page = Pil.new("RGB", (width, height), _PAPER)
    for number, cell in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        page.paste(cell, (_GAP + column * (_WIDE + _GAP), _GAP + row * (_HIGH + _TEXT + _GAP)))
    return page


def _cell(name: str, pictures: Mapping[tuple[str, str | None], Image]) -> Pil.Image:
    cell = Pil.new("RGB", (_WIDE, _HIGH + _TEXT), _PAPER)
    ImageDraw.Draw(cell).text((0, 0), name, _INK, ImageFont.load_default(13))
    x = 0
    for fault in (None, name):
        picture = pictures.get((FAULTS[name].cases[0], fault))
        if picture is None:
            continue
        image = Pil.fromarray(picture)
        image = image.resize((round(image.width * _HIGH / image.height), _HIGH))
        cell.paste(image, (x, _TEXT))
        x += image.width + 4
    return cell


def whole(values: Values) -> dict[str, float | None]:
    """Values as JSON holds them: six digits, None for what is not finite."""
    return {
        name: None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
        for name, value in values.items()
    }
