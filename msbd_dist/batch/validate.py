"""Is a manifest right? Its keys, and whether its files are there, can be read, and fit together.

Nothing is run and no model is loaded. Masks are read whole, pictures no further than their header.
What may be meant otherwise is a warning: it is told, and wrong is nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import dotted
from msbd_dist.batch.edits import Listed, Located, heads_of
from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.notes import Note, notes_of
from msbd_dist.batch.steps import check_edit, target_of
from msbd_dist.canvas.combined import look_at_mask
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.outlines import is_outlines
from msbd_dist.core.spec import EditSpec, Result, mask_files
from msbd_dist.errors import ManifestError, MsbdError
from msbd_dist.models.card import Card, resolve


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where; ``message`` says it all in one line."""

    message: str
    file: str
    line: int | None = None
    key: str | None = None
    edit: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("message", "file", "line", "key", "edit")}


@dataclass
class Covered:
    """How much a mask covers of the picture, of an edit and of others that have the same."""

    edit: str
    percent: float
    edits: int = 1

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("edit", "percent", "edits")}


@dataclass
class Checked:
    """A manifest that was looked at: how many edits are right by themselves, what is wrong, what
    may be meant otherwise, and how much each mask covers."""

    path: Path
    edits: int
    problems: list[Problem]
    warnings: list[Problem] = field(default_factory=list)
    masks: dict[Any, Covered] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Version 1 of what `msbd validate -o json` prints."""
        problems = [problem.to_json() for problem in self.problems]
        return {
            "version": 1,
            "kind": "validate",
            "edits": self.edits,
            "problems": problems,
            "warnings": [warning.to_json() for warning in self.warnings],
            "masks": [mask.to_json() for mask in self.masks.values()],
        }


def validate(path: Path, *, anywhere: bool = False) -> Checked:
    """Look at all of a manifest and its files; see `read_manifest` for ``anywhere``."""
    wrong: list[ManifestError] = []
    try:
        manifest = read_manifest(path, anywhere=anywhere, tell=wrong.append)
    except ManifestError as error:  # nothing of it can be understood
        return Checked(path, 0, [*map(_said, wrong), Problem(str(error), str(path))])
    checked = Checked(path, len(manifest.edits), [*map(_said, wrong)])
    card = _look_at_models(manifest, checked)
    _look_at_files(manifest, checked)
    if card is not None:
        _look_at_words(manifest, checked, card)
    return checked


def _said(error: ManifestError) -> Problem:
    return Problem(str(error), error.file or "", error.line, error.key)


def _look_at_models(manifest: Manifest, checked: Checked) -> Card | None:
    """The models' card, unless something is wrong; what may be on the hub is not asked for."""
    family = manifest.models.family
    if family.count("/") == 1 and not Path(family).exists():
        return None
    where, key = str(manifest.path), "models"
    try:
        card = resolve(manifest.models)
    except MsbdError as error:
        checked.problems.append(Problem(f"{where}: {key}: {error}", where, None, key))
        return None
    notes = (Problem(f"{where}: {key}: {note}", where, None, key) for note in card.notes)
    checked.warnings.extend(notes)
    return card


def _look_at_words(manifest: Manifest, checked: Checked, card: Card) -> None:
    """What prompts do not do, told once where it is so of many edits."""
    assert isinstance(manifest.edits, Listed)
    first: dict[Note, Problem] = {}
    counts: Counter[Note] = Counter()
    for each in manifest.edits.located():
        for note in notes_of(each.spec, card.family):
            counts[note] += 1
            if note not in first:
                first[note] = _problem(each, note.key, note.text)
    for note, problem in first.items():
        more = f" (and so of {counts[note] - 1:,} more edits)" if counts[note] > 1 else ""
        checked.warnings.append(replace(problem, message=problem.message + more))


def _look_at_files(manifest: Manifest, checked: Checked) -> None:
    """What is wrong with the pictures, masks and outputs of edits that are right by themselves."""
    assert isinstance(manifest.edits, Listed)
    heads = heads_of(manifest.edits)
    for each in manifest.edits.located():
        spec = each.spec
        if spec.id in heads:
            spec = replace(spec, image=heads[spec.id])
        if isinstance(spec.image, Result):  # it leads nowhere, which is said already
            continue
        key = "image"
        try:
            picture = Picture.open(spec.image)
            key = "mask"
            for note in _look_at_mask(spec, picture, checked):
                checked.warnings.append(_problem(each, key, note))
            key = "in_place" if spec.in_place else "output"
            check_edit(spec, target_of(spec, open_files(manifest.path.parent), picture), picture)
        except (MsbdError, OSError) as error:
            checked.problems.append(_problem(each, key, str(error)))


def _look_at_mask(spec: EditSpec, picture: Picture, checked: Checked) -> tuple[str, ...]:
    """What may be wrong with an edit's mask. One that many edits have is read and told of once, as
    long as their pictures are alike."""
    named = (spec.image, spec.mask) if any(map(is_outlines, mask_files(spec.mask))) else spec.mask
    key = named, picture.size, picture.orientation
    found = checked.masks.get(key)
    if found is None:
        looked = look_at_mask(spec.mask, picture)
        checked.masks[key] = Covered(spec.id, looked.percent)
        return looked.notes
    found.edits += 1
    return ()


def _problem(each: Located, key: str, message: str) -> Problem:
    at = (*each.at, key)
    error = each.where.error(at, message, None)
    return Problem(str(error), str(each.where.file), each.where.line(at), dotted(at), each.spec.id)
