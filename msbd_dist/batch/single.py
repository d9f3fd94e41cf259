"""One edit without a manifest file: what `msbd edit` and `msbd_dist.edit` do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from msbd_dist.batch.manifest import METHOD_KEYS, Manifest, Place, make_method, parse_settings
from msbd_dist.batch.record import load_run
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.errors import RunError


def edit_manifest(
    image: str | Path,
    mask: str | Path,
    prompt: str,
    *,
    output: str | Path,
    models: ModelSpec,
    seed: int | None = None,
    margin: float = 1.3,
    negative_prompt: str = "",
    settings: list[str] | None = None,
    **options: Any,
) -> Manifest:
    """A manifest of one edit; ``options`` are the method's, ``settings`` the same as KEY=VALUE."""
    path = Path(output).resolve()
    values = {"margin": margin, **options, **parse_settings(settings or [])}
    where = Place(None, {})
    where.check_keys(values, METHOD_KEYS)
    spec = EditSpec(
        id="edit",
        image=str(Path(image).resolve()),
        mask=str(Path(mask).resolve()),
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        output=str(path),
        method=make_method(values, where),
    )
    return Manifest(path=path, models=models, edits=(spec,))


def workspace_of(manifest: Manifest) -> Path:
    """The run directory beside the output: ``star.png`` -> ``star.msbd``.

    It holds the candidates, the previews and what an interrupted edit needs to continue. One with
    other models is replaced; a folder of that name that is not a run is refused.
    """
    path = manifest.path.with_suffix(".msbd")
    if path.exists():
        earlier = load_run(path) if path.is_dir() else None
        if earlier is None and not (path.is_dir() and not any(path.iterdir())):
            raise RunError(f"{path}: is in the way and is not a run; move it or rename the output")
        if earlier is not None and earlier.models != manifest.models:
            shutil.rmtree(path)
    return path
