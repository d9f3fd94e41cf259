"""Names of values that stay the same when the code learns more options.

What is stored for a job is found by digests of its options. A value is named by the fields that
differ from their defaults, each with its name: a new option that is off changes no digest. A
default that changes gives other work the name of what is stored, so that the code's format
(`batch.record.SCHEMA`) has to go up with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any


def differing(value: Any) -> Any:
    """A value as JSON holds it; of dataclasses, also inside others, what is not their default."""
    if is_dataclass(value) and not isinstance(value, type):
        given = ((each, getattr(value, each.name)) for each in fields(value))
        return {f.name: differing(v) for f, v in given if not _is_default(f, v)}
    if isinstance(value, Mapping):
        return {str(name): differing(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [differing(one) for one in value]
    return value


def digest_of(value: Any) -> str:
    """A short name: equal values have the same one, in any process."""
    text = json.dumps(differing(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and bool(value == field.default)
