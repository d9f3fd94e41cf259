"""A manifest to begin with: one edit for each picture of a folder, with comments on what to change.

Masks are found by their names: ``photo_mask.png``, ``photo-mask.png``, ``masks/photo.png``,
``photo.geojson`` and labelme's ``photo.json`` go with ``photo.jpg``. A picture without one gets a
box in its middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from msbd_dist.batch.expand import distinct, stem_of
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Size
from msbd_dist.errors import ImageError, InputError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".webp", ".zarr")
_MASKS = (
    *(
        form + suffix
        for form in ("{}_mask", "{}-mask", "masks/{}", "masks/{}_mask")
        for suffix in (".png", ".tif", ".tiff", ".webp", ".geojson", ".json")
    ),
    *("{}.geojson", "{}.json"),
)
_MOST = 1000  # edits that a person still looks through

_HEAD = """\
# msbd validate {name}
# msbd plan {name}
# msbd run {name} --out {run}
#
# Paths are relative to this file. All keys: docs/manifest.md, or `msbd schema --markdown`.
# For completion in an editor: `msbd schema > manifest.schema.json`, and a line
# `# yaml-language-server: $schema=manifest.schema.json` in here.

# The bundled family, for trying things out. For the real world a Stable Diffusion folder or file,
# e.g. {{family: /models/sd-v1-4, sr: /models/RealESRGAN_x4plus.pth}}
models: tiny

# Keys that every edit has unless it says otherwise.
defaults:
  prompt: a red star  # what to paint; "" removes what is there
  seed: 1  # leave it out for another result in each new run
  # output: edited/{{id}}.png  # without, results are in the run directory
  # decoder_steps: 20  # quicker on a CPU; the default is 300, or 60 of a stage of one segment
  # feather: 12  # pixels over which edits fade in

edits:
"""


def starter(folder: Path, name: str) -> str:
    """The text of a manifest named ``name`` for the pictures right in a folder.

    InputError where there is none, or more than a thousand.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give one that holds pictures")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    strange = [path for path in found if not _is_text(path.name)]
    found = [path for path in found if path not in strange]
    masks = {path: mask for path in found if (mask := _mask_of(path))}
    pictures = [(p, size) for p in found if p not in masks.values() and (size := _size(p))]
    if not pictures:
        raise InputError(f"{folder}: holds no picture; wanted PNG, JPEG, TIFF, WebP or OME-Zarr")
    if len(pictures) > _MOST:
        raise InputError(
            f"{folder}: holds {len(pictures)} pictures; write `image: '*{pictures[0][0].suffix}'` "
            "in a manifest of your own"
        )
    names = distinct([stem_of(path.name) for path, _ in pictures])
    parts = [
        "\n".join(_edit(path, size, masks.get(path), called))
        for (path, size), called in zip(pictures, names, strict=True)
    ]
    parts += [_left_out(path) for path in strange]
    return _HEAD.format(name=name, run=f"runs/{Path(name).stem}") + "\n\n".join(parts) + "\n"


def _is_text(name: str) -> bool:
    """Whether YAML can hold a name: not where it is not UTF-8."""
    return name.encode(errors="ignore").decode() == name


def _left_out(path: Path) -> str:
    name = ascii(path.name)
    return f"# left out, because its name is not UTF-8: {name}; rename it, or match it by a pattern"


def _edit(path: Path, size: Size, mask: Path | None, name: str) -> Iterator[str]:
    yield f"  - id: {json.dumps(name)}"
    yield f"    image: {json.dumps(path.name, ensure_ascii=False)}  # {size}"
    if mask is not None:
        relative = mask.relative_to(path.parent).as_posix()
        yield f"    mask: {json.dumps(relative, ensure_ascii=False)}"
        return
    width, height = max(1, size.width // 3), max(1, size.height // 3)
    box = [(size.width - width) // 2, (size.height - height) // 2, width, height]
    yield f"    mask: {box}  # x, y, width, height; or a file that is white where to edit"


def _mask_of(path: Path) -> Path | None:
    """A file beside a picture, or in ``masks``, that is named as its mask."""
    stem = stem_of(path.name)
    return next((p for m in _MASKS if (p := path.parent / m.format(stem)).is_file()), None)


def _size(path: Path) -> Size | None:
    """Of a picture that can be edited."""
    try:
        return Picture.open(path).size
    except ImageError:
        return None
