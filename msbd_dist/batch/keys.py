"""The keys of a manifest, as pydantic models: what values may be given, in what form.

The models are made from the fields of `EditSpec`, `Method` and `ModelSpec`, so that a key,
its type, default, range and meaning are said once. `given` checks a mapping and returns only what
is in it; its errors name the place, what was got, what is wanted, and the nearest right name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
)

from msbd_dist.batch.documents import At, Place, scalar
from msbd_dist.core.spec import (
    Combined,
    Device,
    Drawn,
    EditSpec,
    LossName,
    MaskFile,
    MaskFrom,
    MaskSpec,
    Method,
    ModelSpec,
    Result,
)
from msbd_dist.errors import ManifestError, MsbdError

METHOD_KEYS = tuple(f.name for f in fields(Method))
EDIT_KEYS = tuple(f.name for f in fields(EditSpec) if f.name != "method")
TOP_KEYS = ("models", "defaults", "edits")
IN_MATRIX = ("prompt", "negative_prompt", "seed", *METHOD_KEYS)
NEEDED = ("id", "image", "mask", "prompt")
# of text whatever it looks like, and of text or a mapping: how cells of a table are read
TEXT_KEYS = ("id", "prompt", "negative_prompt", "output", "ome_zarr")
FILE_KEYS = ("image", "mask")

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MASK_WANTED = "a file, a box [x, y, width, height], or a mapping of file, any, boxes and polygons"


class _Keys(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )


# ---------------------------------------------------------------- values in a form of their own


def _switch(value: Any) -> Any:
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value


def _losses(value: Any) -> Any:
    """On, off, or the names in a list, or in a text with commas: ``iptc, second picture``."""
    value = _switch(value)
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        return value
    return tuple(dict.fromkeys(_loss(name) for name in value))


def _loss(given: Any) -> str:
    known = get_args(LossName)
    name = re.sub(r"[\s_]+", "-", str(given).strip().lower())
    if name in known:
        return name
    near = get_close_matches(name, known, n=1)
    hint = f"; {given!r:.40} is perhaps {near[0]}" if near else ""
    raise ValueError(f"on, off, or a list of {', '.join(known)}{hint}")


def _text_of(kind: type) -> BeforeValidator:
    """What YAML takes for a number is text where text is wanted: 7 as an id, 0.5 as a version."""
    return BeforeValidator(lambda value: str(value) if type(value) is kind else value)


def _rings(polygon: Any) -> Any:
    """A polygon may be one ring, or a list of them: the outer one and its holes."""
    flat = isinstance(polygon, list) and polygon and isinstance(polygon[0], list)
    return [polygon] if flat and not (polygon[0] and isinstance(polygon[0][0], list)) else polygon


def _positive(box: list[float]) -> list[float]:
    if min(box[2:]) <= 0:
        raise ValueError("a width and height above 0")
    return box


Switch = Annotated[
    bool, BeforeValidator(_switch, json_schema_input_type=bool | Literal["on", "off"])
]
Losses = Annotated[
    bool | tuple[LossName, ...],
    BeforeValidator(_losses, json_schema_input_type=bool | Literal["on", "off"] | list[LossName]),
]
Id = Annotated[
    str,
    _text_of(int),
    WithJsonSchema({"type": ["string", "integer"], "pattern": f"^{ID.pattern}$"}),
]
OmeZarr = Annotated[
    Literal["0.4", "0.5"] | None,
    _text_of(float),
    WithJsonSchema({"enum": ["0.4", "0.5", 0.4, 0.5, None]}),
]
Position = Annotated[list[float], pydantic.Field(min_length=2, max_length=2)]
Ring = Annotated[list[Position], pydantic.Field(min_length=3)]
Polygon = Annotated[
    list[Ring],
    pydantic.Field(min_length=1),
    BeforeValidator(_rings, json_schema_input_type=Ring | list[Ring]),
]
Rectangle = Annotated[
    list[float], pydantic.Field(min_length=4, max_length=4), AfterValidator(_positive)
]


def _mask_form(value: Any) -> str | None:
    forms = ((str, "<file>"), (list, "<box>"), (dict | MaskKeys, "<mapping>"))
    return next((form for kind, form in forms if isinstance(value, kind)), None)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


_MEANT = {f.name: f.metadata["what"] for f in fields(MaskFile) if f.metadata}


class MaskKeys(_Keys):
    """A mask of a file or of several parts: what any of them holds, then inverted, then grown."""

    file: str | None = pydantic.Field(None, description="a file, with what is meant by it")
    from_: MaskFrom | None = pydantic.Field(None, alias="from", description=_MEANT["from_"])
    values: Annotated[
        list[Annotated[int, pydantic.Field(ge=0, le=2**63 - 1)]],
        BeforeValidator(_listed, json_schema_input_type=int | list[int]),
    ] = pydantic.Field([], description=_MEANT["values"])
    image_id: int | str | None = pydantic.Field(None, description=_MEANT["image_id"])
    category: Annotated[
        list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])
    ] = pydantic.Field([], description=_MEANT["category"])
    any: list[Mask] = pydantic.Field([], description="masks, of which every pixel is taken")
    boxes: list[Rectangle] = pydantic.Field([], description="[x, y, width, height] in pixels")
    polygons: list[Polygon] = pydantic.Field(
        [], description="rings of [x, y]; of several rings the later ones are holes"
    )
    invert: Switch = pydantic.Field(False, description="edit what the parts leave out")
    grow: int = pydantic.Field(
        0, ge=0, le=1024, description="pixels by which the result reaches further"
    )

    @pydantic.model_validator(mode="after")
    def _not_empty(self) -> MaskKeys:
        if not (self.file or self.any or self.boxes or self.polygons):
            raise ValueError("at least one of file, any, boxes and polygons")
        meant = [key for key in ("from_", *_MEANT) if key in self.model_fields_set]
        if meant and not self.file:
            raise ValueError(f"`file` beside `{meant[0].rstrip('_')}`, which says what it is")
        if self.values and self.from_ != "values":
            raise ValueError("`from: values` beside `values`")
        return self


Mask = Annotated[
    Annotated[str, Tag("<file>")]
    | Annotated[Rectangle, Tag("<box>")]
    | Annotated[MaskKeys, Tag("<mapping>")],
    Discriminator(_mask_form, custom_error_type="form", custom_error_message=_MASK_WANTED),
]
MaskKeys.model_rebuild()


class ResultKeys(_Keys):
    """The finished picture of another edit."""

    edit: Id = pydantic.Field(description="the other edit's id")


def _image_form(value: Any) -> str | None:
    forms = ((str, "<file>"), (dict | ResultKeys, "<mapping>"))
    return next((form for kind, form in forms if isinstance(value, kind)), None)


Image = Annotated[
    Annotated[str, Tag("<file>")] | Annotated[ResultKeys, Tag("<mapping>")],
    Discriminator(
        _image_form,
        custom_error_type="form",
        custom_error_message="a path, a URL, or {edit: ID}",
    ),
]
_FORMS = ("<file>", "<box>", "<mapping>")


# ---------------------------------------------------------------- models of the fields


_SPECIAL: dict[str, Any] = {
    "id": Id,
    "image": Image,
    "mask": Mask,
    "ome_zarr": OmeZarr,
    "allow_loss": Losses,
    "device": Device,
}


def _kind(of: type, field: Field[Any]) -> Any:
    hint = get_type_hints(of)[field.name]
    return Switch if hint is bool else _SPECIAL.get(field.name, hint)


def _range(field: Field[Any]) -> dict[str, Any] | None:
    """For whoever reads the schema; the dataclass holds to it."""
    names = {"low": "minimum", "above": "exclusiveMinimum", "high": "maximum"}
    return {names[k]: v for k, v in field.metadata.items() if k in names} or None


def _about(field: Field[Any]) -> Any:
    """A field's meaning, range and default for pydantic."""
    default = None if field.default is MISSING else field.default
    what = field.metadata["what"]
    return pydantic.Field(default, description=what, json_schema_extra=_range(field))


def _fields() -> Iterator[tuple[type, Field[Any]]]:
    for of in (EditSpec, Method):
        yield from ((of, field) for field in fields(of) if field.name != "method")


def _of_edit(*without: str) -> dict[str, Any]:
    return {
        field.name: (_kind(of, field), _about(field))
        for of, field in _fields()
        if field.name not in without
    }


def _lists() -> Iterator[tuple[str, Any]]:
    for of, field in _fields():
        if field.name in IN_MATRIX:
            about = pydantic.Field(json_schema_extra=_range(field))
            one: Any = Annotated[_kind(of, field), about]
            what = f"values: {field.metadata['what']}"
            yield (
                field.name,
                (GenericAlias(list, one), pydantic.Field([], description=what, min_length=1)),
            )


def _model(name: str, what: str, values: Mapping[str, Any]) -> Any:
    make: Any = create_model
    return make(name, __base__=_Keys, __doc__=what, **values)


MatrixKeys = _model("Matrix", "Lists of values: an edit for each choice.", dict(_lists()))
OverrideKeys = _model("Override", "Keys of one file.", _of_edit("id", "image"))
_SEVERAL: dict[str, Any] = {
    "matrix": (
        MatrixKeys | None,
        pydantic.Field(None, description="keys with lists of values: an edit for each choice"),
    ),
    "overrides": (
        GenericAlias(dict, (str, OverrideKeys)),
        pydantic.Field({}, description="of an image pattern: file names, each with its own keys"),
    ),
}
DefaultKeys = _model(
    "Defaults",
    "Keys that every edit has unless it says otherwise.",
    {**_of_edit("id"), "matrix": _SEVERAL["matrix"]},
)
EditKeys = _model(
    "Edit", "One edit, or several by a pattern or a matrix.", {**_of_edit(), **_SEVERAL}
)
LineKeys = _model("Line", "One edit of a JSONL file or a table.", _of_edit())
ModelKeys = _model(
    "Models",
    "Where models come from.",
    {f.name: (_kind(ModelSpec, f), _about(f)) for f in fields(ModelSpec)},
)
_named = pydantic.Field("tiny", description="a family's name or path, or a mapping of its parts")
ManifestKeys = _model(
    "Manifest",
    "Edits of pictures by msbd.",
    {
        "models": (str | ModelKeys, _named),
        "defaults": (DefaultKeys, pydantic.Field({}, description="keys of every edit")),
        "edits": (
            GenericAlias(list, EditKeys),
            pydantic.Field(description="what to do", min_length=1),
        ),
    },
)


# ---------------------------------------------------------------- checking


def given(values: Mapping[Any, Any], model: Any, where: Place, at: At = ()) -> dict[str, Any]:
    """The keys that a mapping has, with their values as ``model`` reads them.

    ManifestError for an unknown key, a value of the wrong type and an option out of its range.
    """
    try:
        read = model.model_validate(values)
    except ValidationError as error:
        raise _translated(error, model, where, at) from None
    found = {key: getattr(read, key) for key in values}
    method_of(found, where, at)
    matrix = found.get("matrix")
    if matrix is not None:
        found["matrix"] = {key: getattr(matrix, key) for key in values["matrix"]}
        _check_each(found["matrix"], where, (*at, "matrix"))
    if "overrides" in found:
        found["overrides"] = {
            name: given(keys, OverrideKeys, where, (*at, "overrides", name))
            for name, keys in values["overrides"].items()
        }
    return found


def _check_each(matrix: dict[str, list[Any]], where: Place, at: At) -> None:
    for key, values in matrix.items():
        for number, value in enumerate(values):
            try:
                method_of({key: value}, where)
            except ManifestError as error:
                said = str(error).split(": ", 1)[1]
                raise where.error((*at, key, number), said, None) from None


def method_of(values: Mapping[str, Any], where: Place, at: At = ()) -> Method:
    """The method's options among checked values; ManifestError for one out of its range."""
    options = tuple((key, values[key]) for key in METHOD_KEYS if key in values)
    try:
        return _method(options)
    except ManifestError as error:
        key, said = str(error).split(": ", 1)
        raise where.error((*at, key), said, None) from None


@cache
def _method(options: tuple[tuple[str, Any], ...]) -> Method:
    return Method(**dict(options))


def models_of(value: Any, where: Place) -> ModelSpec:
    """The value of ``models``: a family, or a mapping of parts."""
    at = ("models",)
    if isinstance(value, str):
        return ModelSpec(family=value)
    if not isinstance(value, dict):
        raise where.error(at, f"got {value!r}", "wanted a name, a path or a mapping")
    return ModelSpec(**given(value, ModelKeys, where, at))


def mask_value(mask: MaskSpec) -> Any:
    """The inverse of ``mask_of``, as plain values."""
    if isinstance(mask, str):
        return mask
    if isinstance(mask, Combined):
        return {**asdict(mask), "any": [mask_value(part) for part in mask.any]}
    found = {key.rstrip("_"): value for key, value in asdict(mask).items()}
    return {k: v for k, v in found.items() if v or v == 0} if "file" in found else found


def mask_argument(text: str) -> Any:
    """A mask on a command line: a file, or in brackets a box or a mapping, as YAML has them."""
    return scalar(text) if text[:1] in ("[", "{") and not Path(text).exists() else text


def mask_words(mask: MaskSpec) -> str:
    """The inverse of ``mask_argument``."""
    return mask if isinstance(mask, str) else json.dumps(mask_value(mask), ensure_ascii=False)


def mask_of(value: Any) -> MaskSpec:
    """A mask as it was read -> as it is worked with."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return Drawn(boxes=(_floats(value),))
    boxes = tuple(_floats(box) for box in value.boxes)
    polygons = tuple(
        tuple(tuple((x, y) for x, y in ring) for ring in polygon) for polygon in value.polygons
    )
    own: list[MaskSpec] = [_file_of(value)] if value.file else []
    if boxes or polygons:
        own.append(Drawn(boxes=boxes, polygons=polygons))
    if len(own) == 1 and not (value.any or value.invert or value.grow):
        return own[0]
    parts = (*map(mask_of, value.any), *own)
    return Combined(any=parts, invert=value.invert, grow=value.grow)


def _file_of(keys: MaskKeys) -> str | MaskFile:
    assert keys.file is not None
    found = MaskFile(
        file=keys.file,
        from_=keys.from_,
        values=tuple(keys.values),
        image_id=keys.image_id,
        category=tuple(keys.category),
    )
    return keys.file if found == MaskFile(file=keys.file) else found


def _floats(box: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x, y, width, height


def image_of(value: Any) -> str | Result:
    """An image as it was read -> as it is worked with."""
    return value if isinstance(value, str) else Result(edit=value.edit)


# ---------------------------------------------------------------- errors


_UNKNOWN = ("extra_forbidden", "invalid_key")
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "on or off",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _translated(error: ValidationError, model: Any, where: Place, at: At) -> MsbdError:
    """What is wrong, in one line: a key that nobody reads, or the first value."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] in _UNKNOWN), found[0])
    loc = tuple(part for part in first["loc"] if part not in _FORMS)
    kind, context, value = first["type"], first.get("ctx", {}), first["input"]
    if kind in _UNKNOWN:
        return where.unknown((*at, *loc[:-1], str(loc[-1])), _known_at(loc, model))
    if kind == "missing":
        return where.error((*at, *loc[:-1]), f"has no `{loc[-1]}`", "add it")
    wanted = _WANTED.get(kind)
    if kind == "literal_error":
        wanted = context["expected"].replace("'", "")
    elif kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        count = f"at least {least}" if least is not None else f"at most {most}"
        return where.error((*at, *loc), f"has {len(value)} items", f"wanted {count}")
    elif kind == "value_error":
        wanted = str(context["error"])
    elif kind == "form" or wanted is None:
        wanted = first["msg"].removeprefix("Input should be ")
    return where.error((*at, *loc), f"got {_short(value)}", f"wanted {wanted}")


def _known_at(loc: tuple[str | int, ...], model: Any) -> tuple[str, ...]:
    """The keys that are known where an unknown one is."""
    if loc[0] == "mask" and len(loc) > 1:
        return tuple(of.alias or name for name, of in MaskKeys.model_fields.items())
    if loc[0] == "image" and len(loc) > 1:
        return tuple(ResultKeys.model_fields)
    if loc[0] == "matrix" and len(loc) > 1:
        return tuple(MatrixKeys.model_fields)
    if loc[0] == "overrides" and len(loc) > 2:
        return _known_at(loc[2:], OverrideKeys)
    return tuple(model.model_fields)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
