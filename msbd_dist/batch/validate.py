"""Is a manifest right? Its keys, and whether its files are there, can be read, and fit together.

Nothing is run and no model is loaded. Masks are read whole, pictures as far as a run reads them.
What may be meant otherwise is a warning: it is told, and wrong is nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import LINES, dotted
from msbd_dist.batch.foresee import Seen, foresee, mask_key, run_directory
from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.notes import Note
from msbd_dist.canvas.files import Files
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import (
    HubError,
    ManifestError,
    ModelError,
    MsbdError,
    PromptError,
    RunError,
)
from msbd_dist.models.card import Card, pinned, resolve

_NOTES = 100  # different ones that are told


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
    told: dict[Note, int] = field(default_factory=dict)  # which warning tells it
    counts: Counter[Note] = field(default_factory=Counter)  # of how many edits it is so
    models: set[str] = field(default_factory=set)  # what is wrong with them and was told
    unsaid: bool = False  # for which models it is

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


def validate(
    path: Path,
    *,
    anywhere: bool = False,
    out: str | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Checked:
    """Look at all of a manifest and its files; see `read_manifest` for ``anywhere``.

    ``out``: the run directory that is meant, if it is known. ``change``: what is to be otherwise
    than the manifest says.
    """
    wrong: list[ManifestError] = []
    try:
        manifest = change(read_manifest(path, anywhere=anywhere, tell=wrong.append))
    except ManifestError as error:  # nothing of it can be understood
        return Checked(path, 0, [*map(_said, wrong), Problem(str(error), str(path))])
    checked = Checked(path, len(manifest.edits), [*map(_said, wrong)])
    checked.unsaid = path.suffix.lower() in LINES and manifest.models == ModelSpec()
    card = _look_at_models(manifest, checked)
    if card is not None:
        manifest = manifest.with_(models=pinned(manifest.models, card))
    try:
        for seen in foresee(manifest, card, _run_directory(manifest, out, checked)):
            _enter(seen, checked)
    except RunError as error:
        checked.problems.append(Problem(f"{path}: {error}", str(path)))
    for note, number in checked.told.items():
        if checked.counts[note] > 1:
            _say_of_how_many(checked, number, checked.counts[note])
    if others := sum(n for note, n in checked.counts.items() if note not in checked.told):
        text = f"{path}: {others:,} more warnings of this kind"
        checked.warnings.append(Problem(text, str(path)))
    return checked


def _run_directory(manifest: Manifest, out: str | None, checked: Checked) -> Files:
    """Where the run is meant to be, or beside the manifest, where it can't be there."""
    try:
        return run_directory(manifest, out)
    except RunError as error:
        path = manifest.path
        checked.problems.append(Problem(f"{path}: {error}", str(path)))
        return run_directory(manifest, None)


def _say_of_how_many(checked: Checked, number: int, edits: int) -> None:
    warning = checked.warnings[number]
    message = f"{warning.message} (and so of {edits - 1:,} more edits)"
    checked.warnings[number] = replace(warning, message=message)


def _enter(seen: Seen, checked: Checked) -> None:
    """What is wrong with an edit, or may be, and what its mask covers; each told once."""
    if seen.error is not None:
        _enter_error(seen, seen.error, checked)
        return
    look = seen.look
    key = mask_key(look.spec.mask, look.picture)
    if key in checked.masks:
        checked.masks[key].edits += 1
    else:
        checked.masks[key] = Covered(seen.id, look.mask.percent)
    for note in look.notes:
        checked.counts[note] += 1
        if note not in checked.told and len(checked.told) < _NOTES:
            checked.told[note] = len(checked.warnings)
            checked.warnings.append(_problem(seen, note.key, note.text))


def _enter_error(seen: Seen, error: Exception, checked: Checked) -> None:
    """What is wrong with an edit; with a model once, and not where it is another one that is meant:
    a list can't say for which models it is, and they may hold longer prompts."""
    key = seen.look.key
    text = str(error).removeprefix(f"{key.replace('_', ' ')} ")
    if isinstance(error, ModelError):
        if text in checked.models:
            return
        checked.models.add(text)
    if isinstance(error, PromptError) and checked.unsaid:
        hint = "; give --models as for the run"
        checked.warnings.append(_problem(seen, key, f"{text}{hint}"))
    else:
        checked.problems.append(_problem(seen, key, text))


def _said(error: ManifestError) -> Problem:
    return Problem(str(error), error.file or "", error.line, error.key)


def _look_at_models(manifest: Manifest, checked: Checked) -> Card | None:
    """The models' card, unless something is wrong, or the hub does not answer here and now."""
    where, key = str(manifest.path), "models"
    try:
        card = resolve(manifest.models)
    except HubError as error:
        text = f"{where}: {key}: not looked at: {error}"
        checked.warnings.append(Problem(text, where, None, key))
        return None
    except MsbdError as error:
        checked.problems.append(Problem(f"{where}: {key}: {error}", where, None, key))
        return None
    notes = (Problem(f"{where}: {key}: {note}", where, None, key) for note in card.notes)
    checked.warnings.extend(notes)
    return card


def _problem(seen: Seen, key: str, message: str) -> Problem:
    at, where = (*seen.each.at, key), seen.each.where
    return Problem(seen.said(message, key), str(where.file), where.line(at), dotted(at), seen.id)
