"""One edit without a manifest file: what `msbd edit` and `msbd_dist.edit` do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from msbd_dist.batch.documents import Place
from msbd_dist.batch.keys import mask_argument
from msbd_dist.batch.manifest import Manifest, make_edit, one_edit, parse_settings
from msbd_dist.batch.record import load_run
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import RunError

_LONGEST = 240  # bytes of an output's name that the workspace's can be made of


def edit_manifest(
    image: str | Path,
    mask: str | Path | list[float] | dict[str, Any],
    prompt: str,
    *,
    output: str | Path,
    models: ModelSpec,
    settings: list[str] | None = None,
    **options: Any,
) -> Manifest:
    """A manifest of one edit.

    ``mask`` is a file, or a box or a mapping as a manifest has them, as text too.
    ``options`` are keys of an edit (``seed``, ``negative_prompt``, ``margin``, ``steps``, ...),
    ``settings`` the method's as KEY=VALUE. ManifestError where a key or value is wrong.
    """
    where = Place(None, {})
    if "://" in str(output):
        raise where.error(
            ("output",), f"{output} is a URL", "give a path, or write a manifest for `msbd run`"
        )
    values = {
        "id": "edit",
        "image": _text(image),
        "mask": mask_argument(mask) if isinstance(mask, str) else _text(mask),
        "prompt": prompt,
        "output": _text(output),
        **options,
        **parse_settings(settings or []),
    }
    spec = make_edit(values, folder=Path.cwd(), where=where)
    assert spec.output is not None
    return Manifest(path=Path(spec.output), models=models, edits=one_edit(spec, where))


def _text(path: Any) -> Any:
    return str(path) if isinstance(path, Path) else path


def workspace_of(manifest: Manifest) -> Path:
    """The run directory beside the output: ``star.png`` -> ``star.png.msbd``.

    A name that would be too long is cut, with a digest.

    It holds the candidates, the previews and what an interrupted edit needs to continue. Something
    of that name that is not a run is refused.
    """
    name = manifest.path.name
    if len(os.fsencode(name)) > _LONGEST:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
        name = f"{os.fsencode(name)[:200].decode(errors='ignore')}-{digest}"
    path = manifest.path.with_name(f"{name}.msbd")
    if path.exists():
        folder = path.is_dir()
        if not folder or (any(path.iterdir()) and load_run(path) is None):
            raise RunError(f"{path}: is in the way and is not a run; move it or rename the output")
    return path
