"""Is a manifest right? Its keys, and whether its files are there, can be read, and fit together.

Nothing is run and no model is loaded. Masks are read whole, pictures no further than their header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import dotted
from msbd_dist.batch.edits import Listed, Located, heads_of
from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.steps import check_edit, mask_of, target_of
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.places import is_url
from msbd_dist.core.spec import Result
from msbd_dist.errors import ManifestError, MsbdError
from msbd_dist.models.card import resolve


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
class Checked:
    """A manifest that was looked at: how many edits are right by themselves, and what is wrong."""

    path: Path
    edits: int
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Version 1 of what `msbd validate -o json` prints."""
        problems = [problem.to_json() for problem in self.problems]
        return {"version": 1, "kind": "validate", "edits": self.edits, "problems": problems}


def validate(path: Path, *, anywhere: bool = False) -> Checked:
    """Look at all of a manifest and its files; see `read_manifest` for ``anywhere``."""
    wrong: list[ManifestError] = []
    try:
        manifest = read_manifest(path, anywhere=anywhere, tell=wrong.append)
    except ManifestError as error:  # nothing of it can be understood
        return Checked(path, 0, [*map(_said, wrong), Problem(str(error), str(path))])
    problems = [*map(_said, wrong), *_of_models(manifest), *_of_files(manifest)]
    return Checked(path, len(manifest.edits), problems)


def _said(error: ManifestError) -> Problem:
    return Problem(str(error), error.file or "", error.line, error.key)


def _of_models(manifest: Manifest) -> Iterator[Problem]:
    """Models that are not there; what may be on the hub is not asked for."""
    family = manifest.models.family
    if is_url(family) or (family.count("/") == 1 and not Path(family).exists()):
        return
    try:
        resolve(manifest.models)
    except MsbdError as error:
        yield Problem(f"{manifest.path}: models: {error}", str(manifest.path), None, "models")


def _of_files(manifest: Manifest) -> Iterator[Problem]:
    """What is wrong with the pictures, masks and outputs of edits that are right by themselves."""
    assert isinstance(manifest.edits, Listed)
    heads, right = heads_of(manifest.edits), None
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
            if (spec.image, spec.mask) != right:  # those of a matrix are looked at once
                mask_of(spec, picture)
                right = spec.image, spec.mask
            key = "in_place" if spec.in_place else "output"
            check_edit(spec, target_of(spec, open_files(manifest.path.parent), picture), picture)
        except (MsbdError, OSError) as error:
            yield _problem(each, key, str(error))


def _problem(each: Located, key: str, message: str) -> Problem:
    at = (*each.at, key)
    error = each.where.error(at, message, None)
    return Problem(str(error), str(each.where.file), each.where.line(at), dotted(at), each.spec.id)
