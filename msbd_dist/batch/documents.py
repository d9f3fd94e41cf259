"""Manifest files as plain values that know their lines: YAML, JSONL, CSV and TSV.

    read_yaml(path)     all of it, with the line of every key
    read_lines(path)    the mappings of a JSONL file or a table, one at a time

Nothing here knows a key's meaning. Files of a stranger are harmless: no tags that make objects, and
no bounds of memory or depth that a short text could break.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import yaml

from msbd_dist.errors import ManifestError

At = tuple[str | int, ...]
"""A place in a document: ``("edits", 2, "prompt")``."""

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson", *TABLES)  # suffixes of files with an edit on each line
_MOST_VALUES = 1_000_000  # of a YAML document, aliases counted as often as they are used
_DEEPEST = 60
_LONGEST = 16 << 20  # characters of a line or cell


@dataclass(frozen=True)
class Place:
    """Where values came from: turns a key into ``file:line: key`` for errors."""

    file: Path | None
    lines: dict[At, int]

    def line(self, at: At) -> int | None:
        """Where a key is, or the nearest thing around it that has a line."""
        known = (at[:n] for n in range(len(at), -1, -1) if at[:n] in self.lines)
        return next((self.lines[place] for place in known), None)

    def error(self, at: At, got: str, remedy: str | None) -> ManifestError:
        """``file:line: key: got; remedy``."""
        line, key = self.line(at), dotted(at)
        where = "" if line is None else f":{line}"
        prefix = f"{self.file}{where}: " if self.file else ""
        colon = ": " if key else ""
        error = ManifestError(f"{prefix}{key}{colon}{got}" + (f"; {remedy}" if remedy else ""))
        error.file, error.line, error.key = str(self.file or ""), line, key or None
        return error

    def unknown(
        self, at: At, known: Iterable[str], got: str = "is not a known key"
    ) -> ManifestError:
        """The error for a key that nobody reads; it names the nearest right one."""
        near = difflib.get_close_matches(str(at[-1]), known := tuple(known), n=1)
        all_known = "`msbd schema --markdown` lists all"
        if len(known) <= 16:
            all_known = f"known: {', '.join(known)}"
        remedy = f"did you mean `{near[0]}`?" if near else all_known
        return self.error(at, got, remedy)

    def check_keys(self, values: Iterable[Any], known: Iterable[str], at: At = ()) -> None:
        """Refuse a key that is not among those known."""
        known = tuple(known)
        for key in values:
            if key not in known:
                raise self.unknown((*at, str(key)), known)


def dotted(at: At) -> str:
    """``edits[2].prompt``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")


_WORKBOOKS = {b"PK\3\4": "a workbook or another archive", b"\xd0\xcf\x11\xe0": "an old workbook"}


def opened(path: Path, newline: str | None = None) -> TextIO:
    """A manifest as text, UTF-8 or with the mark of UTF-16; ManifestError where there is none."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if workbook := _WORKBOOKS.get(start):
            raise ManifestError(f"{path}: is {workbook}; save its sheet as `CSV UTF-8`")
        wide = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        return path.open("r", encoding="utf-16" if wide else "utf-8-sig", newline=newline)
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror or error}; give a readable manifest"
        ) from None


# ---------------------------------------------------------------- YAML


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without the traps of 1.1: `off`, 1:30, 010 and 2024-01-01 are words, 1e-4 a number."""


_DROPPED = tuple(f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp"))
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$", "-+.0123456789"),
):
    Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(_pattern, re.IGNORECASE), list(_first)
    )


class Dumper(yaml.SafeDumper):
    """Quotes what `Loader` would take for something other than text."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(document: Any) -> str:
    """YAML that `read_yaml` reads as what it was; tuples as lists."""
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False))


def read_yaml(path: Path) -> tuple[Any, Place]:
    """A document and where its keys are. ManifestError for no YAML and keys given twice."""
    try:
        with opened(path) as file:
            text = file.read()
        loader = Loader(text)
        node = loader.get_single_node()
        lines: dict[At, int] = {}
        if node is not None:
            _locate(node, (), lines, path)
        return (None if node is None else loader.construct_document(node)), Place(path, lines)
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not text; give a YAML manifest") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        remedy = _yaml_remedy(str(error.problem))
        raise ManifestError(f"{path}:{line}: not valid YAML: {error.problem}; {remedy}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ManifestError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise ManifestError(f"{path}: is nested too deeply; a manifest has few levels") from None


def _yaml_remedy(problem: str) -> str:
    """What to do about what a parser of YAML says."""
    if any(word in problem for word in ("mapping values", "alias", "anchor", "start any token")):
        return "put a text with `: ` in it, or * & ! % @ ` before it, in quotes; indent with spaces"
    if "expected" in problem:
        return "indent keys that belong together alike, and close quotes and brackets"
    return "look at the quotes, brackets and indents about this line"


def scalar(text: str) -> Any:
    """What YAML makes of a value on its own: ``KEY=VALUE`` of a command line."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text


def _locate(node: yaml.Node, at: At, lines: dict[At, int], path: Path) -> None:
    """Remember the line of every key and item; refuse a key given twice."""
    lines.setdefault(at, node.start_mark.line + 1)
    if len(lines) > _MOST_VALUES or len(at) > _DEEPEST:
        raise ManifestError(
            f"{path}:{node.start_mark.line + 1}: holds too much or itself; "
            "write long lists as JSONL, and no aliases"
        )
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ManifestError(f"{path}:{line}: a key is a list or a mapping; keys are words")
            if key.value in seen:
                raise ManifestError(f"{path}:{line}: {key.value} is given twice; keep one")
            seen.add(key.value)
            lines[(*at, key.value)] = line
            _locate(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*at, index), lines, path)


# ---------------------------------------------------------------- an edit on each line


def read_lines(
    path: Path, *, known: Sequence[str], texts: Sequence[str], files: Sequence[str]
) -> Iterator[tuple[dict[str, Any], Place]]:
    """The mappings of a JSONL file or a table, one at a time, each with its place.

    JSONL: an object on each line. Tables as `_rows` has them: columns have to be ``known``; an
    empty cell is not given. Cells of ``texts`` are text, those of ``files`` too unless they are in
    brackets; others are read as in YAML. Raises ManifestError.
    """
    with opened(path, newline="") as file:
        try:
            if path.suffix.lower() in TABLES:
                for row, where, decimal in _rows(file, path, known):
                    yield {k: _value(k, v, texts, files, decimal) for k, v in row.items()}, where
            else:
                yield from _objects(file, path)
        except UnicodeError:
            raise ManifestError(
                f"{path}: is not UTF-8 text; save it as such (Excel calls it `CSV UTF-8`)"
            ) from None


def _objects(file: TextIO, path: Path) -> Iterator[tuple[dict[str, Any], Place]]:
    number = 0
    while line := file.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST:
            raise ManifestError(
                f"{path}:{number}: is longer than {_LONGEST >> 20} MB; put a line end"
            )
        if not line.strip():
            continue
        where = Place(path, {(): number})
        try:
            values = json.loads(line, object_pairs_hook=_unique)
        except _TwiceError as twice:
            raise where.error((str(twice),), "is given twice", "keep one") from None
        except ValueError as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise where.error((), f"not valid JSON: {said}", "an object on each line") from None
        except RecursionError:
            raise where.error((), "is nested too deeply", "an edit has few levels") from None
        if not isinstance(values, dict):
            raise where.error((), f"is {line.strip()[:40]}", "an edit is an object {...}")
        yield values, where


class _TwiceError(ValueError):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _rows(
    file: TextIO, path: Path, known: Sequence[str]
) -> Iterator[tuple[dict[str, str], Place, str]]:
    """The cells of each row that are not empty, by their columns; with the table's decimal sign.

    Cells are separated by what the header is, or by what a line ``sep=;`` before it says: commas,
    semicolons or tabs. Where that is not a comma, one may be in numbers, as spreadsheets write them
    where people do.
    """
    csv.field_size_limit(_LONGEST)
    first, before = _first_line(file)
    delimiter = ""
    if told := _SEPARATOR.fullmatch(first.strip()):
        delimiter, (first, more) = told[1], _first_line(file)
        before += more
    delimiter = delimiter or _delimiter(first, path, known)
    table = csv.reader(chain([first], file), delimiter=delimiter, strict=True)
    skipped, header = before - 1, list[str]()
    while True:
        try:
            row = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError(
                f"{path}:{skipped + table.line_num}: not valid CSV: {error}; "
                "quote cells that hold separators or quotes"
            ) from None
        where, before = Place(path, {(): before}), skipped + table.line_num + 1
        if not any(cell.strip() for cell in row):
            continue
        if not header:
            header = [_column(cell) for cell in row]
            _check_header(header, known, where)
            continue
        _check_row(row, header, where)
        pairs = zip(header, row, strict=False)
        cells = {key: text for key, text in pairs if text.strip() or key in _EMPTY}
        yield cells, where, "." if delimiter == "," else ","


_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


def _first_line(file: TextIO) -> tuple[str, int]:
    """The next line that holds something, and how many were read for it."""
    number = 0
    while line := file.readline(_LONGEST):
        number += 1
        if line.strip():
            return line, number
    return "", number


def _delimiter(header: str, path: Path, known: Sequence[str]) -> str:
    """What separates most known columns."""

    def count(delimiter: str) -> int:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(_column(cell) in known for cell in cells)

    likely = "\t,;" if path.suffix.lower() == ".tsv" else ",;\t"
    return max(likely, key=count)


def _column(name: str) -> str:
    """A column's key, however it is written: ``Negative Prompt`` is ``negative_prompt``."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _check_header(header: list[str], known: Sequence[str], where: Place) -> None:
    named = [key for key in header if key]
    for key in named:
        if named.count(key) > 1:
            raise where.error((key,), "is given twice", "keep one column")
    where.check_keys(named, known)


def _check_row(row: list[str], header: list[str], where: Place) -> None:
    """Refuse cells that are in no column; empty ones are a spreadsheet's."""
    for number, cell in enumerate(row):
        if cell.strip() and (number >= len(header) or not header[number]):
            if number >= len(header):
                got = f"has {len(row)} cells and the header {len(header)}"
                raise where.error((), got, "quote cells that hold separators")
            got = f"has {cell.strip()[:40]!r} in a column without a name"
            raise where.error((), got, "name the column or empty it")


_EMPTY = ("prompt",)  # of which an empty cell says something: remove what is there
_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)$")
_REAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$")
_TRUTHS = {"true": True, "false": False}


def _value(
    key: str, text: str, texts: Sequence[str], files: Sequence[str], decimal: str = "."
) -> Any:
    if key in texts:
        return text
    cell = text.strip()
    if cell[0] in "[{":
        return scalar(cell)
    if key in files:
        return text
    if cell.lower() in _TRUTHS:
        return _TRUTHS[cell.lower()]
    if _NUMBER.match(cell) and len(cell) < 4000:
        return int(cell)
    number = cell.replace(",", ".") if decimal == "," else cell
    return float(number) if _REAL.match(number) else cell
