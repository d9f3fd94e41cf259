"""COCO's annotations, and masks as runs (RLE) as pycocotools writes them.

    is_coco(content)                         does JSON look like that?
    read_coco(content, spec, picture)        polygons and runs of one picture
    runs_mask(size, runs)                    runs as a Mask

Runs go down the columns, from the first one on, and begin with what is not edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.bitmap import Bitmap
from msbd_dist.canvas.geo import Polygon
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.masks import Mask, stored_mask
from msbd_dist.core.geometry import Size
from msbd_dist.core.spec import MaskFile
from msbd_dist.errors import MaskError

_NAMED = 8  # images, categories that are named
_STRIP = 1 << 22  # pixels that are drawn together
_SENT = re.compile(
    r"^[0-9a-f]{12}-"
)  # what a picture's name begins with that was sent to a cluster


def is_coco(content: Any) -> bool:
    """Does JSON hold annotations, or runs?"""
    if isinstance(content, list):
        return bool(content) and all(map(_is_annotation, content))
    if not isinstance(content, dict) or "features" in content:
        return False
    return isinstance(content.get("annotations"), list) or _is_annotation(content)


def _is_annotation(item: Any) -> bool:
    return isinstance(item, dict) and ("segmentation" in item or {"size", "counts"} <= item.keys())


@dataclass(frozen=True)
class Annotated:
    """What is annotated in one picture."""

    polygons: tuple[Polygon, ...]
    runs: tuple[NDArray[np.int64], ...]  # ends, one after another
    notes: tuple[str, ...]


def read_coco(content: Any, spec: MaskFile, picture: Picture) -> Annotated:
    """The annotations of a picture, by its file's name where there are several, and of the
    categories that are wanted.

    MaskError where it has to be said which, for another size, and where there is nothing.
    ValueError and the like for what is not as COCO has it.
    """
    if not isinstance(content, dict) or "annotations" not in content:
        items = content if isinstance(content, list) else [content]
        content = {"annotations": items}
    found = _of_categories(content, _of_image(content, spec, picture), spec)
    polygons: list[Polygon] = []
    runs: list[NDArray[np.int64]] = []
    boxes = []
    for item in found:
        shape = item if "counts" in item else item.get("segmentation")
        if isinstance(shape, dict):
            runs.append(_ends(shape, spec.file, picture))
        elif shape:
            polygons += _polygons(shape)
        else:
            boxes.append(item.get("bbox"))
    if not polygons and not runs:
        raise MaskError(f"{spec.file}: {_nothing(found, boxes)}")
    notes = list(_notes(content, found, spec))
    if boxes:
        notes.append(f"{len(boxes)} of {len(found)} annotations have no area and are left out")
    return Annotated(tuple(polygons), tuple(runs), tuple(notes))


def _nothing(found: list[Any], boxes: list[Any]) -> str:
    if not found:
        return "holds no annotation of it; draw what is to be edited"
    box = next((list(box) for box in boxes if box), None)
    if box is None:
        return "its annotations have no segmentation; export polygons or RLE"
    return (
        "its annotations are boxes alone, without segmentation; to edit the first write "
        f"mask: {box}"
    )


def _notes(content: dict[str, Any], found: list[Any], spec: MaskFile) -> Iterator[str]:
    names = {c.get("id"): str(c.get("name")) for c in content.get("categories") or ()}
    used = dict.fromkeys(item.get("category_id") for item in found)
    if len(used) > 1 and not spec.category:
        some = _some([names.get(one, str(one)) for one in used])
        yield (
            f"all of its {len(found)} annotations are edited, of the categories {some}; choose by "
            f"{{file: {Path(spec.file).name}, category: ...}}"
        )


# ---------------------------------------------------------------- which annotations


def _of_image(content: dict[str, Any], spec: MaskFile, picture: Picture) -> list[Any]:
    """The annotations of the picture."""
    images = content.get("images") or []
    if isinstance(content.get("image"), dict):  # one for each picture, as SA-1B has them
        images = [content["image"]]
    every = content["annotations"]
    ids = {item["image_id"] for item in every if item.get("image_id") is not None}
    if not images:
        images = [{"id": one} for one in sorted(ids, key=str)]
    if not images:
        return list(every)
    image = _image(images, spec, picture)
    require_size(image.get("height"), image.get("width"), spec.file, picture.size)
    number = image.get("id", image.get("image_id"))
    return [item for item in every if item.get("image_id", number) == number]


def _image(images: list[Any], spec: MaskFile, picture: Picture) -> Any:
    def named(image: Any) -> str:
        return str(image.get("file_name", "")).replace("\\", "/").rsplit("/", 1)[-1]

    def number(image: Any) -> str:
        return str(image.get("id", image.get("image_id")))

    if spec.image_id is not None:
        wanted, what = str(spec.image_id), f"{spec.image_id!r}"
        found = [image for image in images if wanted in (number(image), named(image))]
    else:
        name = Path(picture.path).name
        what, names = f"called {name}", (name, _SENT.sub("", name))
        found = [image for image in images if named(image) in names]
        stems = [Path(one).stem for one in names]
        found = found or [image for image in images if Path(named(image)).stem in stems]
        found = found or (images if len(images) == 1 else [])
    if len(found) == 1:
        return found[0]
    some = _some([f"{number(image)} {named(image)}".strip() for image in found or images])
    many = f"{len(found)} are" if found else "none is"
    raise MaskError(
        f"{spec.file}: holds {len(images)} images and {many} {what} ({some}); say which by "
        f"{{file: {Path(spec.file).name}, image_id: {number((found or images)[0])}}}"
    )


def _of_categories(content: dict[str, Any], items: list[Any], spec: MaskFile) -> list[Any]:
    if not spec.category:
        return items
    names = {c.get("id"): str(c.get("name")) for c in content.get("categories") or ()}
    wanted = {
        one for one, name in names.items() if name in spec.category or str(one) in spec.category
    }
    there = {names.get(one, str(one)) for one in {item.get("category_id") for item in items}}
    missing = [c for c in spec.category if c not in names.values() and c not in map(str, names)]
    found = [item for item in items if item.get("category_id") in wanted]
    if missing or not found:
        what = missing[0] if missing else " and ".join(spec.category)
        raise MaskError(
            f"{spec.file}: has nothing of the category {what} here; it has {_some(sorted(there))}"
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def require_size(height: int | None, width: int | None, place: str, size: Size) -> None:
    """MaskError where outlines say that they were drawn on another picture."""
    if None not in (height, width) and (height, width) != size.shape:
        raise MaskError(
            f"{place}: was drawn on {width}x{height} pixels and the picture has {size}; "
            "draw it on this picture"
        )


# ---------------------------------------------------------------- shapes


def _polygons(shape: Any) -> Iterator[Polygon]:
    """Rings of x, y, x, y ..., each by itself; those of fewer than three vertices are none."""
    for ring in [shape] if isinstance(shape[0], int | float) else shape:
        flat = [float(n) for v in ring for n in (v if isinstance(v, list) else [v])]
        if len(flat) % 2:
            raise ValueError("a polygon with an x without a y")
        if len(flat) >= 6:
            yield (tuple(zip(flat[::2], flat[1::2], strict=True)),)


def _ends(shape: dict[str, Any], place: str, picture: Picture) -> NDArray[np.int64]:
    """Where each of the runs ends."""
    height, width = (int(n) for n in shape["size"])
    require_size(height, width, place, picture.size)
    counts = shape["counts"]
    lengths = unpacked(counts) if isinstance(counts, str) else [int(n) for n in counts]
    ends = np.cumsum(np.array(lengths, np.int64))
    if not lengths or min(lengths) < 0 or int(ends[-1]) != height * width:
        raise MaskError(
            f"{place}: has runs (RLE) that do not fill {width}x{height} pixels; export it again"
        )
    return ends


def unpacked(text: str) -> list[int]:
    """The lengths in a string of pycocotools: 5 bits to a character, least first, the sixth says
    that more follow; from the fourth length on, the difference from the one before the last."""
    lengths: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("runs (RLE) that are not as pycocotools writes them")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("runs (RLE) that are cut off")
    return lengths


def runs_mask(size: Size, runs: tuple[NDArray[np.int64], ...]) -> Mask | None:
    """What any of several masks as runs holds; None where that is nothing."""
    starts = np.concatenate([_padded(ends)[0::2] for ends in runs])
    stops = np.concatenate([_padded(ends)[1::2] for ends in runs])
    some = starts < stops
    order = np.argsort(starts[some], kind="stable")
    starts, stops = starts[some][order], np.maximum.accumulate(stops[some][order])
    if not len(starts):
        return None
    apart = starts[1:] > stops[:-1]
    starts, stops = starts[np.r_[True, apart]], stops[np.r_[apart, True]]
    across = Size(size.width, size.height)
    return stored_mask(Bitmap(across, _columns(across, starts, stops)), turn=5)


def _padded(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    return ends if len(ends) % 2 == 0 else ends[:-1]


def _columns(
    size: Size, starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Strips of runs that do not touch, a column of the picture as a row."""
    step = max(1, _STRIP // size.width)
    for row in range(0, size.height, step):
        first, last = row * size.width, min(row + step, size.height) * size.width
        met = slice(np.searchsorted(stops, first, "right"), np.searchsorted(starts, last, "left"))
        turns = np.zeros(last - first + 1, np.int8)
        turns[np.maximum(starts[met], first) - first] += 1
        turns[np.minimum(stops[met], last) - first] -= 1
        yield row, np.cumsum(turns[:-1], dtype=np.int8).view(np.bool_).reshape(-1, size.width)
