"""Distributed, tile-parallel, text-guided edits of very large images.

    import msbd_dist
    msbd_dist.edit("photo.jpg", "mask.png", "a red star on grass", output="edited.png", seed=7)

`edit` runs one edit, `run` a manifest of many; both take ``workers`` and ``executor``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msbd_dist.errors import InputError, MsbdError

if TYPE_CHECKING:
    from msbd_dist.batch.record import ExecutorKind
    from msbd_dist.batch.run import RunResult

__all__ = ["InputError", "MsbdError", "edit", "run"]


def edit(
    image: str | Path,
    mask: str | Path | list[float] | dict[str, Any],
    prompt: str,
    *,
    output: str | Path,
    models: str = "tiny",
    seed: int | None = None,
    sr: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: ExecutorKind = "ray",
    **options: Any,
) -> Path:
    """Edit one picture and return the path of the finished one.

    ``mask`` is a file, or a box ``[x, y, width, height]`` or a mapping as manifests have them.
    ``options`` are options of the method (``margin``, ``steps``, ``repaint``, ...) and
    ``negative_prompt``. Samples outside the mask equal the input's. Raises `MsbdError` with one
    line that says what is wrong; `InputError` where the input is.
    """
    from msbd_dist.batch.manifest import located_models
    from msbd_dist.batch.run import run_manifest
    from msbd_dist.batch.single import edit_manifest, workspace_of
    from msbd_dist.core.spec import ModelSpec

    spec = ModelSpec(family=models, sr=sr, clip=clip, device=device)
    spec = located_models(spec, Path.cwd())
    manifest = edit_manifest(image, mask, prompt, output=output, models=spec, seed=seed, **options)
    out = workspace_of(manifest)
    run = run_manifest(manifest, out, workers=workers, executor=executor, any_models=True)
    (result,) = run.edits
    if result.error is not None:
        raise result.error
    assert result.output is not None
    return Path(result.output)


def run(
    manifest: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    executor: ExecutorKind = "ray",
    allow_anywhere: bool = False,
) -> RunResult:
    """Run every edit of a manifest that is not finished in ``out``, a path or an fsspec URL.

    Outputs have to lie below the manifest's folder, unless ``allow_anywhere``.
    """
    from msbd_dist.batch.manifest import read_manifest
    from msbd_dist.batch.run import run_manifest

    loaded = read_manifest(Path(manifest), anywhere=allow_anywhere)
    return run_manifest(loaded, out, workers=workers, executor=executor)
