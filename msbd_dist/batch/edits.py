"""The edits of a manifest, gone through one at a time, and what is checked of all of them together.

    for spec in edits: ...       again and again; `Held` in memory, or read anew
    heads_of(edits)              the pictures that chains of edits begin with
    check_together(edits, ...)   names and files that get in each other's way

Of the edits of a long list nothing is kept but their names.
"""

from __future__ import annotations

import difflib
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

from msbd_dist.batch.documents import At, Place, dotted
from msbd_dist.core.spec import EditSpec, Result, mask_files
from msbd_dist.errors import ManifestError

Tell = Callable[[ManifestError], None]


@dataclass
class Wrong:
    """What is wrong with edits: raised, or told where the others are to be read all the same."""

    tell: Tell | None
    found: bool = False

    def __call__(self, error: ManifestError) -> None:
        if self.tell is None:
            raise error
        self.found = True
        self.tell(error)


@dataclass(frozen=True)
class Located:
    """An edit and where it stands."""

    spec: EditSpec
    where: Place
    at: At


class Edits(Protocol):
    """Edits that can be gone through more than once, one at a time."""

    def __iter__(self) -> Iterator[EditSpec]: ...
    def __len__(self) -> int: ...


class Listed(ABC):
    """Edits that know where they stand."""

    @abstractmethod
    def located(self) -> Iterator[Located]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[EditSpec]:
        return (each.spec for each in self.located())


class Held(Listed):
    """Edits in memory."""

    def __init__(self, edits: Iterable[Located]) -> None:
        self._edits = tuple(edits)

    def located(self) -> Iterator[Located]:
        return iter(self._edits)

    def __len__(self) -> int:
        return len(self._edits)

    def __getitem__(self, index: int) -> EditSpec:
        return self._edits[index].spec


@dataclass(frozen=True)
class Changed(Listed):
    """Edits with some of their fields changed, as they are gone through."""

    edits: Listed
    changes: Mapping[str, Any]

    def located(self) -> Iterator[Located]:
        for each in self.edits.located():
            yield replace(each, spec=replace(each.spec, **self.changes))

    def __len__(self) -> int:
        return len(self.edits)


def heads_of(edits: Iterable[EditSpec]) -> dict[str, str]:
    """The first picture of the chain of each edit that begins with another's result, by its id."""
    befores = {spec.id: spec.image.edit for spec in edits if isinstance(spec.image, Result)}
    if not befores:
        return {}
    firsts: dict[str, str] = {}
    for name in befores:
        chain, at = dict[str, None](), name
        while at in befores and at not in firsts and at not in chain:
            chain[at] = None
            at = befores[at]
        firsts.update(dict.fromkeys(chain, firsts.get(at, at)))
    wanted = set(firsts.values())
    images = {s.id: s.image for s in edits if s.id in wanted and isinstance(s.image, str)}
    return {name: images[first] for name, first in firsts.items() if first in images}


# ---------------------------------------------------------------- all edits together


@dataclass
class _Seen:
    """What the checks of all edits together keep of each: names, by the number of the edit."""

    ids: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)
    in_place: dict[int, str] = field(default_factory=dict)
    befores: dict[str, tuple[str, int]] = field(default_factory=dict)


def check_together(edits: Listed, wrong: Wrong) -> int:
    """Refuse edits that get in each other's way. Returns how many there are.

    One pass, which keeps names alone. What depends on all edits is looked at when each of them is
    right by itself.
    """
    seen, count = _Seen(), 0
    for each in edits.located():
        try:
            _enter(each, count, seen, edits)
        except ManifestError as error:
            wrong(error)
        count += 1
    if not wrong.found:
        for one in (*_chain_errors(seen, edits), *_output_errors(seen, edits)):
            wrong(one)
    return count


def _enter(each: Located, number: int, seen: _Seen, edits: Listed) -> None:
    spec, where, at = each.spec, each.where, each.at
    for what, names, value in (("id", seen.ids, spec.id), ("output", seen.outputs, spec.output)):
        if value is None:
            continue
        key = _alike(value)
        if key in names:
            other = _nth(edits, names[key])
            if other.at == at and at and what == "output":
                remedy = "write {id} into it, so that every output is its own"
            elif other.at == at and at:
                remedy = "give a pattern and a matrix items of their own, or rename a file"
            else:
                remedy = f"{_called(other)} has it too; every {what} must be its own"
            raise where.error((*at, what), f"{value!r} is used twice", remedy)
        names[key] = number
        if what == "output" and key.endswith(".dzi"):
            names.setdefault(f"{key.removesuffix('.dzi')}_files", number)  # its tiles
    if spec.in_place:
        if spec.output:
            raise where.error((*at, "in_place"), "has an output too", "write a copy, or remove it")
        seen.in_place[number] = spec.source
    if isinstance(spec.image, Result):
        seen.befores[spec.id] = spec.image.edit, number
    else:
        seen.reads[spec.image] += 1
    seen.reads.update(mask_files(spec.mask))


def _output_errors(seen: _Seen, edits: Listed) -> Iterator[ManifestError]:
    """Outputs that would replace a picture or mask that any edit reads."""
    for number, image in seen.in_place.items():
        if seen.reads[image] > 1:
            each, got = _nth(edits, number), f"{image} is read by another edit"
            yield each.where.error((*each.at, "in_place"), got, "write a copy, or edit it alone")
    read = {_alike(place) for place in seen.reads} if seen.outputs else set()
    for place, number in seen.outputs.items():
        got, remedy = "", "give it another name"
        above = [folder for folder in _above(place) if folder in read or folder in seen.outputs]
        if place in read:
            got, remedy = "is an input", f"{remedy}; to edit a result, write `image: {{edit: ID}}`"
        elif above:
            what = "an input" if above[0] in read else "another output"
            got, remedy = f"lies inside of {what}", "write it beside that"
        if got:
            each = _nth(edits, number)
            yield each.where.error((*each.at, "output"), f"{each.spec.output} {got}", remedy)


def _alike(name: str) -> str:
    """The same for names that a file system may take for one: Star and star, é in two forms."""
    return unicodedata.normalize("NFC", name).casefold()


def _above(place: str) -> Iterator[str]:
    """The folders that a path or URL is in, from below."""
    while (place := place.rpartition("/")[0]) and not place.endswith((":", "/")):
        yield place


def _chain_errors(seen: _Seen, edits: Listed) -> Iterator[ManifestError]:
    """Images that are results of no edit, of what can't be read, or of themselves."""
    befores = {name: before for name, (before, _) in seen.befores.items()}
    names = {spec.id: str(spec.output or "") for spec in edits} if befores else {}
    known = set[str]()  # where a chain leads
    for name, (before, number) in seen.befores.items():
        got, remedy = "", "name another edit, or give a picture"
        chain = dict.fromkeys([name])
        if before not in names:
            got = f"no edit has the id {before!r}"
            near = difflib.get_close_matches(before, names, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else remedy
        elif names[before].lower().endswith(".dzi"):
            got, remedy = f"{before} writes a .dzi, which can't be read", "give it a .tif or .png"
        elif name not in known:
            at = before
            while at in befores and at not in known and at not in chain:
                chain[at] = None
                at = befores[at]
            if at in chain:
                got = f"begins with its own result: {' <- '.join([*islice(chain, 9), at])}"
        known.update(chain)
        if got:
            each = _nth(edits, number)
            yield each.where.error((*each.at, "image"), got, remedy)


def _nth(edits: Listed, number: int) -> Located:
    return next(islice(edits.located(), number, None))


def _called(each: Located) -> str:
    return dotted(each.at) or f"line {each.where.line(())}"
