"""Charts of the measured numbers, as SVG that reads on light and dark pages alike."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

INK = "#7d8590"  # as far from white as from black
COLOURS = ("#3b82c4", "#2a9d8f", "#c9822b", "#b5546f", "#8a6fc0", "#7d8590", "#5f9e3a", "#c2603a")
WIDTH = 8.0  # inches


@contextmanager
def _figure(height: float) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes; the same numbers give the same file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {
        "svg.hashsalt": "msbd",
        "font.size": 10,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(WIDTH, height), layout="constrained")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        yield figure, axes
        pyplot.close(figure)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return re.sub(r"[ \t]+$", "", text.getvalue(), flags=re.MULTILINE)


def stacked(rows: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """A bar for each row, made of its parts, the first row on top; their sums beside them."""
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    columns = min(3, len(names))
    with _figure(0.45 * len(rows) + 0.9 + 0.3 * -(-len(names) // columns)) as (figure, axes):
        labels, left = list(rows), [0.0] * len(rows)
        for name in names:
            widths = [rows[label].get(name, 0.0) for label in labels]
            axes.barh(labels, widths, left=left, height=0.62, label=name)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        _finish(axes, labels, left, unit)
        axes.legend(frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _svg(figure)


def bars(rows: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """A bar for each row at its median, with a line from least to most."""
    with _figure(0.45 * len(rows) + 0.7) as (figure, axes):
        labels = list(rows)
        medians = [rows[label]["median"] for label in labels]
        low = [rows[label]["median"] - rows[label]["min"] for label in labels]
        high = [rows[label]["max"] - rows[label]["median"] for label in labels]
        axes.barh(labels, medians, height=0.62, color=COLOURS[0])
        if any(low + high):
            axes.errorbar(medians, labels, xerr=[low, high], fmt="none", ecolor=INK, capsize=3)
        _finish(axes, labels, [rows[label]["max"] for label in labels], unit, medians)
        return _svg(figure)


def curves(
    rows: Mapping[str, Sequence[tuple[float, float]]], level: float, *, x: str, y: str
) -> str:
    """A line for each row through its points, and a level across, both axes logarithmic."""
    with _figure(3.6) as (figure, axes):
        for name, points in rows.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.axhline(level, color=INK, linewidth=1, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:.2g}")
        axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _svg(figure)


def _finish(
    axes: Any,
    labels: Sequence[str],
    ends: Sequence[float],
    unit: str,
    values: Sequence[float] | None = None,
) -> None:
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_xlim(0, 1.12 * max(ends))
    for label, end, value in zip(labels, ends, values or ends, strict=True):
        axes.annotate(
            f"{value:.3g}", (end, label), xytext=(5, 0), textcoords="offset points", va="center"
        )
