"""Manifest files -> edits. The edge where the outside comes in: every error names file and key.

A manifest is YAML:

    models: tiny                 # or a folder, a hub id, a .safetensors file, or a mapping
    defaults: {steps: 50}        # any key of an edit except id
    edits:
      - id: star
        image: meadow.png        # relative to the manifest
        mask: meadow_mask.png
        prompt: a red star on grass

An edit's keys are those of `EditSpec` and, beside them, every option of `Method`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from msbd_dist.core.spec import Drawn, EditSpec, Method, ModelSpec, OmeVersion, TiffWay
from msbd_dist.errors import ManifestError, MsbdError

METHOD_KEYS = tuple(f.name for f in fields(Method))
SWITCHES = tuple(f.name for f in fields(Method) if f.type == "bool")  # take on and off
EDIT_KEYS = tuple(f.name for f in fields(EditSpec) if f.name != "method")
MODEL_KEYS = tuple(f.name for f in fields(ModelSpec))
TOP_KEYS = ("models", "defaults", "edits")
# what lies beside the edits' folders
RESERVED = (
    "run.json",
    "report.json",
    "report.html",
    "report.js",
    "lease",
    "contact-sheet.png",
    "contact-sheets",
)
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_METHOD = TypeAdapter(Method)
_MODELS = TypeAdapter(ModelSpec)
_DRAWN = TypeAdapter(Drawn)
_FIELDS: dict[str, Any] = {  # types, or the words to choose from
    "id": str, "image": str, "prompt": str, "negative_prompt": str,
    "seed": int, "output": str, "tiff": get_args(TiffWay), "ome_zarr": get_args(OmeVersion),
    "allow_loss": bool, "in_place": bool,
}  # fmt: skip


At = tuple[str | int, ...]  # a place in the document: ("edits", 2, "prompt")


@dataclass(frozen=True)
class Place:
    """Where values came from: turns a key into ``file:line: key`` for errors."""

    file: Path | None
    lines: dict[At, int]

    def error(self, at: At, got: str, remedy: str | None) -> ManifestError:
        key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")
        known = (at[:n] for n in range(len(at), -1, -1) if at[:n] in self.lines)
        line = next((f":{self.lines[place]}" for place in known), "")
        prefix = f"{self.file}{line}: " if self.file else ""
        colon = ": " if key else ""
        return ManifestError(f"{prefix}{key}{colon}{got}" + (f"; {remedy}" if remedy else ""))

    def check_keys(self, values: Mapping[Any, Any], allowed: tuple[str, ...], at: At = ()) -> None:
        """Refuse a key that nobody reads; the message names the nearest right one."""
        for key in values:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, n=1)
                remedy = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(allowed)}"
                raise self.error((*at, str(key)), "is not a known key", remedy)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run is to do; all paths are absolute."""

    path: Path
    models: ModelSpec
    edits: Edits


class Edits(Protocol):
    """Edits that can be gone through more than once, one at a time."""

    def __iter__(self) -> Iterator[EditSpec]: ...
    def __len__(self) -> int: ...


def read_manifest(path: Path) -> Manifest:
    """Read and check a YAML manifest; paths in it become absolute. ManifestError if it is wrong."""
    document = _load(path)
    where = Place(path, document.lines)
    content = document.content
    if not isinstance(content, dict):
        raise where.error((), "is not a mapping", "write `edits:` with a list below it")
    where.check_keys(content, TOP_KEYS, ())
    models = _models(content.get("models", "tiny"), where)
    defaults = content.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise where.error(("defaults",), "is not a mapping", "write `key: value` lines below it")
    where.check_keys(defaults, _without_id(), ("defaults",))
    rows = content.get("edits")
    if not isinstance(rows, list) or not rows:
        raise where.error(("edits",), "must be a list with at least one edit", "add one")
    edits = tuple(_edit(row, defaults, where, ("edits", i)) for i, row in enumerate(rows))
    _check_unique(edits, where)
    check_outputs(edits, where)
    return Manifest(path=path, models=models, edits=edits)


def make_edit(values: Mapping[str, Any], *, folder: Path, where: Place, at: At = ()) -> EditSpec:
    """One edit from its keys and the method's; paths are made absolute from ``folder``."""
    for key in ("id", "image", "mask", "prompt"):
        if key not in values:
            raise where.error(at, f"has no `{key}`", "every edit needs id, image, mask and prompt")
    own = {k: _typed(v, k, where, at) for k, v in values.items() if k in EDIT_KEYS and k != "mask"}
    own["mask"] = _mask(values["mask"], where, (*at, "mask"))
    if not ID.fullmatch(own["id"]) or own["id"] in RESERVED:
        raise where.error(
            (*at, "id"),
            f"got {own['id']!r}",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit, "
            f"and none of {', '.join(RESERVED)}",
        )
    for key in ("image", "mask", "output"):
        if isinstance(own.get(key), str) and "://" not in own[key]:
            own[key] = str((folder / own[key]).resolve())
    method = make_method({k: v for k, v in values.items() if k in METHOD_KEYS}, where, at)
    return EditSpec(**own, method=method)


def make_method(values: Mapping[str, Any], where: Place, at: At = ()) -> Method:
    """The method's options, type-checked; ManifestError names the key."""
    words = {"on": True, "off": False}
    values = {
        key: words.get(value, value) if key in SWITCHES and isinstance(value, str) else value
        for key, value in values.items()
    }
    try:
        return _METHOD.validate_json(json.dumps(dict(values), default=str), strict=True)
    except ValidationError as error:
        raise _translated(error, where, at) from None
    except ManifestError as error:
        key = str(error).split(":", 1)[0]
        raise where.error((*at, key), str(error).split(":", 1)[1].strip(), None) from None


def manifest_text(manifest: Manifest) -> str:
    """YAML, in ASCII, that says the same: every option of every edit, with places as they are."""
    edits = []
    for spec in manifest.edits:
        own = {key: value for key, value in asdict(spec).items() if key in EDIT_KEYS}
        edits.append({k: v for k, v in {**own, **asdict(spec.method)}.items() if v is not None})
    models = {key: value for key, value in asdict(manifest.models).items() if value is not None}
    document = {"models": models, "edits": edits}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``["steps=20", "rerank=off"]`` -> values typed as YAML types them."""
    where = Place(None, {})
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise ManifestError(f"--set {pair}: got no '=', wanted KEY=VALUE, e.g. --set steps=20")
        settings[key.strip()] = yaml.load(text, Loader=_Loader)
    where.check_keys(settings, METHOD_KEYS, ())
    return settings


# -- below: reading, locating, checking ------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    content: Any
    lines: dict[At, int]


class _Loader(yaml.SafeLoader):
    """YAML without the traps of 1.1: `off` is a word, not False, and 1e-4 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for something other than text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _load(path: Path) -> _Document:
    try:
        text = path.read_text()
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror or error}; give a readable manifest"
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not text; give a YAML manifest") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[At, int] = {}
        if node is not None:
            _locate(node, (), lines, path)
        return _Document(yaml.load(text, Loader=_Loader), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def _locate(node: yaml.Node, at: At, lines: dict[At, int], path: Path) -> None:
    """Remember the line of every key and item; refuse a key given twice."""
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ManifestError(f"{path}:{line}: {key.value} is given twice; keep one")
            seen.add(key.value)
            lines[(*at, key.value)] = key.start_mark.line + 1
            _locate(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*at, index), lines, path)


def _without_id() -> tuple[str, ...]:
    return tuple(k for k in (*EDIT_KEYS, *METHOD_KEYS) if k not in ("id", "output"))


def _edit(row: Any, defaults: Mapping[str, Any], where: Place, at: At) -> EditSpec:
    if not isinstance(row, dict):
        raise where.error(at, f"is {row!r}", "an edit is a mapping with id, image, mask, prompt")
    where.check_keys(row, (*EDIT_KEYS, *METHOD_KEYS), at)
    assert where.file is not None
    return make_edit({**defaults, **row}, folder=where.file.resolve().parent, where=where, at=at)


def _typed(value: Any, key: str, where: Place, at: At) -> Any:
    wanted = _FIELDS[key]
    if value is None and key in ("seed", "output", "ome_zarr"):
        return value
    if type(value) is {"id": int, "ome_zarr": float}.get(key):  # what YAML makes of 7 and of 0.5
        value = str(value)
    if isinstance(wanted, tuple):
        if value in wanted:
            return value
        raise where.error((*at, key), f"got {value!r}", f"wanted {', '.join(wanted)}")
    if wanted is bool:
        value = {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value
    if isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool):
        return value
    noun = {int: "a whole number", str: "text", bool: "on or off"}[wanted]
    raise where.error((*at, key), f"got {value!r}", f"wanted {noun}")


def _mask(value: Any, where: Place, at: At) -> str | Drawn:
    """A file's name, a box ``[x, y, width, height]``, or a mapping of boxes and polygons."""
    if isinstance(value, str):
        return value
    shapes = {"boxes": [value]} if isinstance(value, list) else value
    if isinstance(shapes, dict):
        where.check_keys(shapes, ("boxes", "polygons"), at)
        polygons = [_rings(polygon) for polygon in shapes.get("polygons") or []]
        with suppress(ValidationError):
            return _DRAWN.validate_python({**shapes, "polygons": polygons})
    raise where.error(
        at,
        f"got {str(value)[:60]!r}",
        "wanted a file, a box [x, y, width, height], or boxes: and polygons: [[[x, y], ...], ...]",
    )


def _rings(polygon: Any) -> Any:
    """A polygon may be one ring, or a list of them: the outer one and its holes."""
    flat = isinstance(polygon, list) and polygon and isinstance(polygon[0], list)
    return [polygon] if flat and not isinstance(polygon[0][0], list) else polygon


def _models(value: Any, where: Place) -> ModelSpec:
    if isinstance(value, str):
        value = {"family": value}
    if not isinstance(value, dict):
        raise where.error(("models",), f"got {value!r}", "wanted a name, a path or a mapping")
    where.check_keys(value, MODEL_KEYS, ("models",))
    try:
        spec = _MODELS.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise _translated(error, where, ("models",)) from None
    return located_models(spec, where.file.resolve().parent if where.file else Path.cwd())


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


def _translated(error: ValidationError, where: Place, at: At) -> MsbdError:
    first = error.errors()[0]
    key = first["loc"][0] if first["loc"] else "?"
    message = first["msg"].removeprefix("Input should be ").replace("Value error, ", "")
    return where.error((*at, str(key)), f"got {first['input']!r}", f"wanted {message}")


def check_outputs(edits: tuple[EditSpec, ...], where: Place) -> None:
    """Refuse an output that would replace a picture or mask that any edit reads."""
    read = Counter(path for edit in edits for path in (edit.image, edit.mask))
    for index, edit in enumerate(edits):
        if edit.in_place and (edit.output or read[edit.image] > 1):
            got = "has an output too" if edit.output else f"{edit.image} is read by another edit"
            raise where.error(("edits", index, "in_place"), got, "write a copy, or edit it alone")
        if edit.output in read:
            raise where.error(
                ("edits", index, "output") if where.file else ("output",),
                f"{edit.output} is an input",
                "give it another name",
            )


def _check_unique(edits: tuple[EditSpec, ...], where: Place) -> None:
    for what in ("id", "output"):
        seen: dict[str, int] = {}
        for index, edit in enumerate(edits):
            value = getattr(edit, what)
            if value is None:
                continue
            key = value.casefold()  # file systems may not tell Star from star
            if key in seen:
                raise where.error(
                    ("edits", index, what),
                    f"{value!r} is used twice",
                    f"edits[{seen[key]}] has it too; every {what} must be its own",
                )
            seen[key] = index
