"""Manifest files -> edits. The edge where the outside comes in: every error names file, line, key.

A manifest is YAML:

    models: tiny                 # or a folder, a hub id, a .safetensors file, or a mapping
    defaults: {steps: 50}        # any key of an edit except id
    edits:
      - id: star
        image: meadow.png        # relative to the manifest
        mask: meadow_mask.png
        prompt: a red star on grass

or, for generated lists, JSONL, CSV or TSV with an edit on each line, which is read anew each time
the edits are gone through and never held. Keys are fields of `EditSpec` and of `Method`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import LINES, At, Place, read_lines, read_yaml, scalar, written
from msbd_dist.batch.edits import (
    Changed,
    Edits,
    Held,
    Listed,
    Located,
    Tell,
    Wrong,
    check_together,
    heads_of,
)
from msbd_dist.batch.expand import absolute, as_stored, expanded, stem_of
from msbd_dist.batch.keys import (
    EDIT_KEYS,
    FILE_KEYS,
    ID,
    METHOD_KEYS,
    NEEDED,
    TEXT_KEYS,
    TOP_KEYS,
    DefaultKeys,
    EditKeys,
    LineKeys,
    given,
    image_of,
    mask_of,
    mask_value,
    method_of,
    models_of,
)
from msbd_dist.core.spec import EditSpec, ModelSpec, Result, with_files
from msbd_dist.errors import ManifestError

# what lies beside the edits' folders
RESERVED = (
    "run.json",
    "edits.jsonl",
    "status.json",
    "profile.json",
    "report.json",
    "report.html",
    "report.js",
    "cancel.json",
    "lease",
    "contact-sheet.png",
    "contact-sheets",
)

LINE_KEYS = (*EDIT_KEYS, *METHOD_KEYS)
_LOCAL = re.compile(r"(?:^|::)(?:file|local)://")  # URLs that are paths


@dataclass
class Lines(Listed):
    """Edits of a JSONL file or a table, which is read anew each time they are gone through.

    ManifestError, on the way, where the file is not as it was when it was checked.
    """

    path: Path
    folder: Path
    root: Path | None
    stamp: tuple[int, int]
    say: Tell = field(default_factory=lambda: Wrong(None))
    count: int = 0

    def located(self) -> Iterator[Located]:
        if self.stamp != _stamp(self.path):
            raise ManifestError(f"{self.path}: was changed since it was checked; run it again")
        for values, where in read_lines(
            self.path, known=LINE_KEYS, texts=TEXT_KEYS, files=FILE_KEYS
        ):
            try:
                spec = _made(given(values, LineKeys, where), self.folder, where, (), self.root)
            except ManifestError as error:
                self.say(error)
                continue
            yield Located(spec, where, ())

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run is to do; all paths are absolute."""

    path: Path
    models: ModelSpec
    edits: Edits

    def with_(
        self, *, models: ModelSpec | None = None, changes: Mapping[str, Any] | None = None
    ) -> Manifest:
        """The same with other models, or with some fields of every edit changed."""
        edits = self.edits
        if changes:
            assert isinstance(edits, Listed)
            edits = Changed(edits, changes)
        return replace(self, models=models or self.models, edits=edits)

    def settled(self) -> Iterator[EditSpec]:
        """The edits, with the first picture of its chain for one that begins with another's result:
        edits keep a picture's size, depth and bands."""
        heads = heads_of(self.edits)
        for spec in self.edits:
            yield replace(spec, image=heads[spec.id]) if spec.id in heads else spec


def read_manifest(path: Path, *, anywhere: bool = False, tell: Tell | None = None) -> Manifest:
    """Read and check a manifest; paths in it become absolute.

    Outputs, and images that are edited in place, have to lie in the manifest's folder or below it,
    or at the URL of a store, unless they may be ``anywhere``. ManifestError where something is
    wrong; with ``tell``, what is wrong with single edits is told and they are left out.
    """
    folder = path.resolve().parent
    root = None if anywhere else folder
    wrong = Wrong(tell)
    if path.suffix.lower() in LINES:
        edits = Lines(path, folder, root, _stamp(path), say=wrong)
        edits.count = check_together(edits, wrong)
        if not (edits.count or wrong.found):
            raise ManifestError(f"{path}: has no edits; write one on each line")
        edits.say = Wrong(tell and (lambda _: None))  # it was told
        return Manifest(path=path, models=ModelSpec(), edits=edits)
    models, held = _read_yaml(path, folder, root, wrong)
    check_together(held, wrong)
    return Manifest(path=path, models=models, edits=held)


def make_edit(values: Mapping[str, Any], *, folder: Path, where: Place, at: At = ()) -> EditSpec:
    """One edit from its keys and the method's; paths are made absolute from ``folder``."""
    return _made(given(values, LineKeys, where, at), folder, where, at)


def one_edit(spec: EditSpec, where: Place) -> Held:
    """An edit by itself. ManifestError where it would write what it reads."""
    edits = Held([Located(spec, where, ())])
    check_together(edits, Wrong(None))
    return edits


def manifest_text(manifest: Manifest) -> str:
    """YAML, in ASCII, that says the same: every option of every edit, with places as they are."""
    edits = []
    for spec in manifest.edits:
        own = {key: value for key, value in asdict(spec).items() if key in EDIT_KEYS}
        own["mask"] = mask_value(spec.mask)
        edits.append({k: v for k, v in {**own, **asdict(spec.method)}.items() if v is not None})
    models = {key: value for key, value in asdict(manifest.models).items() if value is not None}
    return written({"models": models, "edits": edits})


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["steps=20", "rerank=off"]`` -> values typed as YAML types them."""
    where = Place(None, {})
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ManifestError(f"--set {pair}: got no '=', wanted KEY=VALUE, e.g. --set steps=20")
        settings[key.strip()] = scalar(text)
    where.check_keys(settings, METHOD_KEYS)
    return settings


def located_models(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The same with paths that exist below ``folder`` made absolute; names stay names."""

    def located(value: str | None) -> str | None:
        if value and (folder / value).exists() and value != "tiny":
            return str((folder / value).resolve())
        return value

    return ModelSpec(
        family=located(spec.family) or "tiny",
        config=located(spec.config),
        sr=located(spec.sr),
        clip=located(spec.clip),
        device=spec.device,
    )


# ---------------------------------------------------------------- reading


def _read_yaml(path: Path, folder: Path, root: Path | None, say: Tell) -> tuple[ModelSpec, Held]:
    content, where = read_yaml(path)
    if not isinstance(content, dict):
        raise where.error((), "is not a mapping", "write `edits:` with a list below it")
    where.check_keys(content, TOP_KEYS)
    models = located_models(models_of(content.get("models", "tiny"), where), folder)
    defaults = content.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise where.error(("defaults",), "is not a mapping", "write `key: value` lines below it")
    defaults = given(defaults, DefaultKeys, where, ("defaults",))
    rows = content.get("edits")
    if not isinstance(rows, list) or not rows:
        raise where.error(("edits",), "must be a list with at least one edit", "add one")
    found: list[Located] = []
    for index, row in enumerate(rows):
        at = ("edits", index)
        try:
            for values in _of_row(row, defaults, folder, where, at):
                found.append(Located(_made(values, folder, where, at, root), where, at))
        except ManifestError as error:
            say(error)
    return models, Held(found)


def _of_row(
    row: Any, defaults: dict[str, Any], folder: Path, where: Place, at: At
) -> Iterator[dict[str, Any]]:
    """The edits that one item of the list stands for."""
    if not isinstance(row, dict):
        raise where.error(
            at, f"is {row!r:.60}", "an edit is a mapping with id, image, mask, prompt"
        )
    values = {**defaults, **given(row, EditKeys, where, at)}
    _check_needed(values, where, at, ("id",))
    yield from expanded(values, folder, where, at)


def _check_needed(values: Mapping[str, Any], where: Place, at: At, keys: Iterable[str]) -> None:
    for key in keys:
        if key not in values:
            raise where.error(at, f"has no `{key}`", "every edit needs id, image, mask and prompt")


def _made(
    values: Mapping[str, Any], folder: Path, where: Place, at: At, root: Path | None = None
) -> EditSpec:
    """One edit of checked keys; what it writes has to lie below ``root``, if there is one."""
    _check_needed(values, where, at, NEEDED)
    name, image = values["id"], image_of(values["image"])
    if not ID.fullmatch(name) or name.casefold() in RESERVED:
        raise where.error(
            (*at, "id"),
            f"got {name!r:.60}",
            "use up to 100 letters, digits, '.', '_' and '-', starting with a letter or digit, "
            f"and none of {', '.join(RESERVED)}",
        )

    def placed(key: str, text: str) -> str:
        if "\0" in text:
            raise where.error((*at, key), f"got {text!r:.60}", "no path has a zero in it")
        if "{stem}" in text and isinstance(image, Result):
            got = "has {stem} and the image is another edit's result"
            raise where.error((*at, key), got, "write {id}")
        stem = stem_of(image) if isinstance(image, str) else ""
        place = absolute(text.replace("{id}", name).replace("{stem}", stem), folder)
        return place if key == "output" else as_stored(place)

    own = {key: value for key, value in values.items() if key in EDIT_KEYS}
    own["image"] = placed("image", image) if isinstance(image, str) else image
    own["mask"] = with_files(mask_of(values["mask"]), lambda text: placed("mask", text))
    if own.get("output") is not None:
        own["output"] = placed("output", own["output"])
    spec = EditSpec(**own, method=method_of(values, where, at))
    _check_written(spec, root, where, at)
    return spec


def _check_written(spec: EditSpec, root: Path | None, where: Place, at: At) -> None:
    """Refuse what would be written where a manifest has no business, or nobody can foresee."""
    if spec.in_place and isinstance(spec.image, Result):
        got = "would change the result of another edit"
        raise where.error((*at, "in_place"), got, "write a copy")
    key, place = ("in_place", spec.image) if spec.in_place else ("output", spec.output)
    if root is None or not isinstance(place, str):
        return
    local = "://" not in place or _LOCAL.search(place)
    if local and not Path(place).is_relative_to(root):
        raise where.error(
            (*at, key),
            f"{place} is outside of the manifest's folder",
            f"write below {root}, or allow it with --allow-anywhere",
        )


def _stamp(path: Path) -> tuple[int, int]:
    """Changes with a file."""
    try:
        found = path.stat()
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror or error}; give a readable manifest"
        ) from None
    return found.st_mtime_ns, found.st_size
