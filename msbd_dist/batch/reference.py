"""What may stand in a manifest, for editors and for people: a JSON Schema, and tables of all keys.

Both are made from the models that check manifests (`keys.py`), and printed by `msbd schema`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msbd_dist.batch.keys import EDIT_KEYS, NEEDED, ManifestKeys

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The JSON Schema of a YAML manifest. An edit needs its id; the other keys may be defaults."""
    found: dict[str, Any] = ManifestKeys.model_json_schema()
    _tidy(found)
    models = found["$defs"]
    for name in ("Defaults", "Edit", "Override"):
        for key in NEEDED:
            models[name]["properties"].get(key, {}).pop("default", None)
    models["Edit"]["required"] = ["id"]
    return {"$schema": _DIALECT, **found}


def tables() -> str:
    """Every key in Markdown: of an edit, of the method, of a mask, of models."""
    models = schema()["$defs"]
    edit = models["Edit"]["properties"]
    parts = {
        "Keys of an edit": {k: edit[k] for k in (*EDIT_KEYS, "matrix", "overrides")},
        "Options of the method": {
            k: v for k, v in edit.items() if k not in (*EDIT_KEYS, "matrix", "overrides")
        },
        "Keys of a mask": models["MaskKeys"]["properties"],
        "Keys of `models`": models["Models"]["properties"],
    }
    return "\n".join(line for title, keys in parts.items() for line in _table(title, keys))


def _table(title: str, keys: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {title}", "", "| key | value | default | what it does |", "|---|---|---|---|")
    for key, about in keys.items():
        values = " or ".join(dict.fromkeys(_values(about))).replace("|", "\\|")
        yield f"| `{key}` | {values} | {_default(about)} | {about['description']} |"
    yield ""


def _values(about: dict[str, Any]) -> Iterator[str]:
    """What a key may be, in words."""
    choices = about.get("oneOf") or about.get("anyOf")
    if choices:
        for choice in choices:
            yield from _values({**choice, **_limits(about)})
    elif "$ref" in about:
        yield {"Matrix": "mapping of lists"}.get(about["$ref"].rsplit("/", 1)[-1], "mapping")
    elif "enum" in about:
        yield ", ".join(dict.fromkeys(str(one) for one in about["enum"] if one is not None))
    elif about["type"] == "boolean":
        yield "on, off"
    elif about["type"] in ("integer", "number"):
        yield _number(about)
    elif about["type"] == "array":
        yield "list" if about["items"].get("type") != "number" else "[x, y, width, height]"
    elif about["type"] != "null":
        yield "mapping" if about["type"] == "object" else "text"


def _limits(about: dict[str, Any]) -> dict[str, Any]:
    return {k: about[k] for k in ("minimum", "exclusiveMinimum", "maximum") if k in about}


def _number(about: dict[str, Any]) -> str:
    kind = "whole number" if about["type"] == "integer" else "number"
    if "maximum" not in about:
        return kind
    low, above, high = about.get("minimum"), about.get("exclusiveMinimum"), about["maximum"]
    least = f"above {above:g}" if low is None else f"{low:g}"
    return f"{kind}, {least} to {high:g}"


def _default(about: dict[str, Any]) -> str:
    value = about.get("default")
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value}"


def _tidy(part: Any) -> None:
    """Leave out titles, which repeat the keys."""
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            del part["title"]
        for value in part.values():
            _tidy(value)
    elif isinstance(part, list):
        for value in part:
            _tidy(value)
