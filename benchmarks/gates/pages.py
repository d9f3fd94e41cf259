"""What `python -m benchmarks.gates` found, as tables for a page and as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
_COLUMNS, _SIDE, _BETWEEN, _GAP, _TEXT = 4, 128, 4, 14, 18  # of the picture, in pixels
_WIDE, _HIGH = 2 * _SIDE + _BETWEEN, _SIDE + _TEXT
Pictures = dict[tuple[str, str | None], Image | None]
"""By case and fault: what there is to see; None where the edit has failed."""

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


def sheet(pictures: Pictures) -> Pil.Image:
    """For each fault the middle of its first case, intact and broken."""
    rows = -(-len(FAULTS) // _COLUMNS)
    size = (_COLUMNS * (_WIDE + _GAP) + _GAP, rows * (_HIGH + _GAP) + _GAP)
    page = Pil.new("RGB", size, _PAPER)
    for number, (name, fault) in enumerate(FAULTS.items()):
        row, column = divmod(number, _COLUMNS)
        pair = [pictures[fault.cases[0], which] for which in (None, name)]
        page.paste(_cell(name, pair), (_GAP + column * (_WIDE + _GAP), _GAP + row * (_HIGH + _GAP)))
    return page


def _cell(name: str, pair: Sequence[Image | None]) -> Pil.Image:
    cell = Pil.new("RGB", (_WIDE, _HIGH), _PAPER)
    ImageDraw.Draw(cell).text((0, 0), name, _INK, ImageFont.load_default(13))
    for number, picture in enumerate(pair):
        if picture is not None:
            cell.paste(_middle(picture), (number * (_SIDE + _BETWEEN), _TEXT))
    return cell


def _middle(picture: Image) -> Pil.Image:
    height, width = picture.shape[:2]
    x = (width - height) // 2
    return Pil.fromarray(picture).crop((x, 0, x + height, height)).resize((_SIDE, _SIDE))


def whole(values: Values) -> dict[str, float | None]:
    """Values as JSON holds them: six digits, None for what is not finite."""
    return {
        name: None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
        for name, value in values.items()
    }
