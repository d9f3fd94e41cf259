"""The tables that are printed, and docs/claims.md: numbers from JSON, words from `text.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.question import Claim, Column, Question
from benchmarks.claims.suite import QUESTIONS

TEXT = Path(__file__).with_name("text.md")
IMAGES = Path("docs/images/claims")


def page(found: Mapping[str, Any], text: str) -> str:
    """The page of a run's results, with the hand-written ``text`` of each question."""
    words = sections(text)
    parts = [words[""], _run_of(found), _summary(found)]
    for key, entry in found["questions"].items():
        question = QUESTIONS[key]
        parts += [f"## {key.upper()}: {question.title}", words[f"{key} claim"]]
        if question.variants:
            parts.append(_settings(question))
        parts += [table_of(question, entry), claims_of(question, entry)]
        if entry["edits"]:
            parts.append(
                f"*{entry['edits']} edits in {entry['seconds'] / 60:.0f} minutes, "
                f"at commit {str(entry['commit'])[:12]}.*"
            )
        if question.tiles is not None:
            parts.append(f"![{question.title}](images/claims/{key}.png)")
        parts.append(words[f"{key} why"])
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(text: str) -> dict[str, str]:
    """The parts of the hand-written text by the words of their headings; "" is before the first."""
    found, name = {"": list[str]()}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            name = line[3:].strip()
            found[name] = []
        else:
            found[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def _run_of(found: Mapping[str, Any]) -> str:
    machine, part = found["machine"], found["scale"]
    seconds = sum(entry["seconds"] for entry in found["questions"].values())
    words = (
        f"Made by `python -m benchmarks.claims`, in {seconds / 60:.0f} minutes on "
        f"{machine['cores']} cores ({machine['cpu']})."
    )
    return words if part == 1 else f"{words} **A trial with {100 * part:.0f} % of the scenes.**"


def _summary(found: Mapping[str, Any]) -> str:
    """All claims, each with its verdict."""
    lines = ["| | claim | verdict |", "|---|---|---|"]
    for key, entry in found["questions"].items():
        lines += [
            f"| [{key.upper()}](#{anchor(key)}) | {one['claim']} | {one['verdict']} |"
            for one in entry["claims"]
        ]
    return "\n".join(lines)


def anchor(key: str) -> str:
    """Of a question's heading, as Markdown renderers make it."""
    kept = [c for c in f"{key}: {QUESTIONS[key].title}".lower() if c.isalnum() or c in " -"]
    return "".join(kept).replace(" ", "-")


def _settings(question: Question) -> str:
    """What is given to all edits of a question, and to each of its variants."""
    lines = ["```yaml", f"defaults: {_flow(question.shared)}"]
    lines += [
        f"{variant.key}: {_flow(variant.keys)}  # {variant.words}"
        + (f", one scene of {variant.every}" if variant.every > 1 else "")
        + (f", {variant.seeds} seeds" if variant.seeds > 1 else "")
        for variant in question.variants
    ]
    return "\n".join([*lines, "```"])


def _flow(keys: Mapping[str, Any]) -> str:
    def scalar(value: Any) -> str:
        return ("on" if value else "off") if isinstance(value, bool) else str(value)

    return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in keys.items()) + "}"


def table_of(question: Question, entry: Mapping[str, Any]) -> str:
    """Means with their intervals; n is the smallest number of scenes of a row."""
    columns = [c for c in question.columns if any(c.key in row for row in entry["table"].values())]
    lines = [
        "| | " + " | ".join(column.label for column in columns) + " | n |",
        "|---" + "|--:" * (len(columns) + 1) + "|",
    ]
    for variant, row in entry["table"].items():
        cells = [_cell(column, row.get(column.key)) for column in columns]
        count = min(one["count"] for one in row.values())
        lines.append(f"| {question.words(variant)} | {' | '.join(cells)} | {count} |")
    return "\n".join(lines)


def _cell(column: Column, found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    value, low, high = (column.text(found[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def claims_of(question: Question, entry: Mapping[str, Any]) -> str:
    """Every claim with the number that decides it."""
    lines = ["| claim | measure | found | wanted | n | verdict |", "|---|---|--:|--:|--:|---|"]
    for one in entry["claims"]:
        claim = next(c for c in question.claims if c.words == one["claim"])
        value, low, high, bound = (
            number_of(question, claim, one[key]) for key in ("value", "low", "high", "bound")
        )
        measure = question.column(claim.column).label
        lines.append(
            f"| {claim.words} | {measure}, {_how(question, claim)} | {value} ({low} to {high}) "
            f"| {'>' if claim.more else '<'} {bound} | {one['count']} | **{one['verdict']}** |"
        )
    return "\n".join(lines)


def number_of(question: Question, claim: Claim, value: float) -> str:
    """A claim's number: of its measure's own kind, a difference of it, or a ratio."""
    if claim.how == "ratio":
        return f"{value:.3f} x"
    text = question.column(claim.column).text(value)
    if claim.how == "mean":
        return text
    points = text.replace(" %", " points")
    return points if value < 0 else f"+{points}"


def _how(question: Question, claim: Claim) -> str:
    if claim.against is None:
        return f"mean of {question.words(claim.variant)}"
    sign = "minus" if claim.how == "difference" else "over"
    return f"{question.words(claim.variant)} {sign} {question.words(claim.against)}"
