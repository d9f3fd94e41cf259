"""A row of the table: what was measured, on how many cases, and what the project wants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Unit = Literal["share", "dB", "times"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value. Shares are in 0..1.

    ``bar``: what the project wants (None: for information only). ``real``: the same measure on
    real scenes, which no model can be expected to surpass.
    """

    key: str
    label: str
    value: float
    cases: int
    unit: Unit = "share"
    bar: float | None = None
    at_most: bool = False  # the bar is an upper one
    real: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the bar; None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def written(self) -> dict[str, Any]:
        """For JSON, rounded to what the numbers of cases can tell."""
        return {
            **asdict(self),
            "value": round(self.value, 4),
            "real": None if self.real is None else round(self.real, 4),
            "details": {key: round(value, 4) for key, value in self.details.items()},
            "met": self.met,
        }

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Row:
        """The row that `written` gave."""
        return cls(**{key: value for key, value in written.items() if key != "met"})


def shown(value: float | None, unit: Unit) -> str:
    """A value as people read it: "98.2 %", "30.14 dB", "1.42 x"; "" for None."""
    if value is None:
        return ""
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.2f} {'dB' if unit == 'dB' else 'x'}"


def shown_bar(row: Row) -> str:
    """The bar with its direction: ">= 90 %"; "" where there is none."""
    if row.bar is None:
        return ""
    number = f"{100 * row.bar:g} %" if row.unit == "share" else shown(row.bar, row.unit)
    return f"{'<=' if row.at_most else '>='} {number}"


def table(rows: Sequence[Row], against: Sequence[Row] | None = None) -> str:
    """Plain text, a line for each row; a missed bar is marked."""
    other = {row.key: row for row in against or ()}
    heads = ["measure", "value", "bar", "real", "cases", *(["against"] if other else []), ""]
    lines = [heads]
    for row in rows:
        compared = other.get(row.key)
        lines.append(
            [
                row.label,
                shown(row.value, row.unit),
                shown_bar(row),
                shown(row.real, row.unit),
                str(row.cases),
                *([shown(compared and compared.value, row.unit)] if other else []),
                "MISSED" if row.met is False else "",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(_line(line, widths) for line in lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    wide, *narrow = widths
    right = [cell.rjust(width) for cell, width in zip(rest[:-1], narrow, strict=False)]
    return "  ".join([first.ljust(wide), *right, rest[-1]]).rstrip()
