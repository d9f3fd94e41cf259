"""Edits that stand for several: an image pattern becomes one for each file, a matrix one for each
choice of its values.

    {"id": "scan", "image": "scans/*.tif", "matrix": {"seed": [1, 2]}}
        -> scan-one-1, scan-one-2, scan-two-1, scan-two-2

The order is that of the file names, then that in which the matrix names its keys and values.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import At, Place
from msbd_dist.batch.keys import mask_of
from msbd_dist.canvas.urls import is_web, plain_scheme
from msbd_dist.core.spec import mask_files

_LONGEST = 32  # characters of a name that is made of a value
_DOUBLE = (".ome.zarr", ".ome.zarr.zip", ".zarr.zip", ".ome.tif", ".ome.tiff")


def expanded(
    values: dict[str, Any], folder: Path, where: Place, at: At
) -> Iterator[dict[str, Any]]:
    """The edits that checked keys stand for, as keys without ``matrix`` and ``overrides``.

    ManifestError for a pattern that nothing matches, and for an override of no file.
    """
    rest = {key: value for key, value in values.items() if key not in ("matrix", "overrides")}
    overrides = values.get("overrides") or {}
    for one in _files(rest, overrides, folder, where, at):
        yield from _choices(one, values.get("matrix") or {})


# ---------------------------------------------------------------- an edit for each file


def _files(
    values: dict[str, Any], overrides: dict[str, dict[str, Any]], folder: Path, where: Place, at: At
) -> Iterator[dict[str, Any]]:
    pattern = values.get("image")
    if not isinstance(pattern, str) or not is_pattern(pattern, folder):
        if overrides:
            got = "is for an image that is a pattern"
            raise where.error((*at, "overrides"), got, "give the keys to the edit itself")
        yield values
        return
    found = matching(pattern, folder)
    if not found:
        raise where.error((*at, "image"), f"{pattern} matches nothing", "give another pattern")
    overrides = {composed(name): keys for name, keys in overrides.items()}
    names = {composed(name_of(place)) for place in found}
    for name in overrides:
        if name not in names:
            got = f"is no file that {pattern} matches"
            raise where.unknown((*at, "overrides", name), sorted(names), got)
    edits = [
        {**values, **overrides.get(composed(name_of(place)), {}), "image": place} for place in found
    ]
    others = {other for edit in edits for other in _others(edit, folder)}
    edits = [edit for edit in edits if absolute(edit["image"], folder) not in others]
    if not edits:
        got = f"{pattern} matches nothing but masks and outputs of one another"
        raise where.error((*at, "image"), got, "give another pattern")
    for edit, name in zip(edits, names_of([e["image"] for e in edits]), strict=True):
        yield {**edit, "id": f"{values['id']}-{name}"}


def names_of(places: list[str]) -> list[str]:
    """A name for each picture: its stem, with its folders where others have the same."""
    twice = Counter(map(stem_of, places))
    folders = [place.split("/")[:-1] for place in places]
    shared = sum(
        1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*folders, strict=False))
    )
    texts = (
        "/".join([*inside[shared:], stem]) if twice[stem := stem_of(place)] > 1 else stem
        for place, inside in zip(places, folders, strict=True)
    )
    return distinct(list(texts))


def _others(edit: dict[str, Any], folder: Path) -> Iterator[str]:
    """The mask's files and the output of an edit: what a pattern may match beside pictures."""
    stem = stem_of(edit["image"])
    files = list(mask_files(mask_of(edit["mask"]))) if "mask" in edit else []
    for place in (*files, edit.get("output")):
        if place and place.replace("{stem}", stem) != edit["image"]:
            yield absolute(place.replace("{stem}", stem), folder)


def composed(name: str) -> str:
    """A name with letters and their accents as one, however a file system has stored it."""
    return unicodedata.normalize("NFC", name)


def as_stored(place: str) -> str:
    """A path to what is there, if it is there under a name with accents stored the other way."""
    if place.isascii() or "://" in place or os.path.lexists(place):
        return place
    here = Path(place).anchor
    for part in Path(place).parts[1:]:
        path = os.path.join(here, part)
        here = path if os.path.lexists(path) else _equal_in(here, part)
    return here if os.path.lexists(here) else place


def _equal_in(folder: str, name: str) -> str:
    with suppress(OSError):
        for other in os.listdir(folder):
            if composed(other) == composed(name):
                return os.path.join(folder, other)
    return os.path.join(folder, name)


def is_pattern(place: str, folder: Path) -> bool:
    """Does an image's path or URL stand for several? Not where a file has that very name."""
    if "://" in place:
        return "*" in place
    return glob.has_magic(place) and not (folder / place).exists()


def matching(pattern: str, folder: Path) -> list[str]:
    """Files, and folders named ``.zarr``, that match a pattern of a path or URL; sorted."""
    if "://" in pattern:
        from msbd_dist.canvas.places import matching_urls

        return matching_urls(pattern)
    inside = Path(glob.escape(str(folder)))
    forms = (pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD")))
    every = (glob.glob(str(inside / form), recursive=True) for form in dict.fromkeys(forms))
    found = {place for each in every for place in each}
    return sorted(p for p in found if Path(p).suffix == ".zarr" or Path(p).is_file())


def absolute(place: str, folder: Path) -> str:
    """A path from a folder on, without links; a URL stays, with its scheme in small letters."""
    if "://" in place:
        head, chained, tail = place.rpartition("::")
        if chained and "://" not in tail:
            return f"{plain_scheme(head)}::{absolute(tail, folder)}"
        return plain_scheme(place)
    head, tail = os.path.split(os.path.join(folder, place))
    if tail in ("", ".", ".."):
        return os.path.realpath(os.path.join(head, tail))
    path = os.path.join(_real(head), tail)
    return os.path.realpath(path) if os.path.islink(path) else path


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    """Of the files of a long list most are in one folder."""
    return os.path.realpath(folder)


def name_of(place: str) -> str:
    """The last part of a path or URL, without what a web address says after it."""
    place = place.partition("?")[0] if is_web(place) else place
    return place.rstrip("/").rsplit("/", 1)[-1]


def stem_of(place: str) -> str:
    """A picture's name without its suffix: ``slide`` of ``scans/slide.ome.tif``."""
    name = name_of(place)
    for suffix in _DOUBLE:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


# ---------------------------------------------------------------- an edit for each choice


def _choices(values: dict[str, Any], matrix: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    keys = list(matrix)
    named = [list(zip(distinct([_text(v) for v in of]), of, strict=True)) for of in matrix.values()]
    for choice in product(*named):
        name = "-".join((values["id"], *(name for name, _ in choice)))
        picked = {key: value for key, (_, value) in zip(keys, choice, strict=True)}
        yield {**values, **picked, "id": name}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)


def distinct(texts: list[str]) -> list[str]:
    """Names that an id may hold, one for each text: its letters and digits, shortened; with a
    digest where two would be the same."""
    names = [_slug(text) for text in texts]
    for length in (6, 12, 64):
        twice = Counter(name.casefold() for name in names)
        if max(twice.values(), default=1) == 1:
            break
        pairs = list(zip(names, texts, strict=True))
        names = [
            name if twice[name.casefold()] == 1 else f"{_slug(text)}-{_digest(text)[:length]}"
            for name, text in pairs
        ]
    return names


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-.")
    return slug[:_LONGEST].strip("-.") or _digest(text)[:6]


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
