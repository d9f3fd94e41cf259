"""Where an edit's work is stored: runs of before go on under the names they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from quick import FASTEST, draw_inputs, manifest_of

from msbd_dist.batch.look import how_of
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import EditRecord, load_edit
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas import combined
from msbd_dist.canvas.combined import mask_digest
from msbd_dist.canvas.export import How
from msbd_dist.canvas.files import open_files
from msbd_dist.core.naming import differing
from msbd_dist.core.spec import Combined, Drawn, MaskFile

EDIT: dict[str, Any] = {**FASTEST, "mask": {"file": "mask.png", "from": "luma"}, "eta": 0.5}


def former_key(record: EditRecord) -> str:
    """As it was made when all options were part of it."""
    text = json.dumps(asdict(record.plan), sort_keys=True, default=str)
    plan = hashlib.sha256(text.encode()).hexdigest()[:16]
    parts = (
        *(record.spec.prompt, record.spec.negative_prompt, record.seed, plan),
        *(record.dtype, sorted(record.inputs.items()), record.weights, record.schema),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def made_former(run: Path) -> Path:
    """A run's edit as the code of before would have left it; where its work is then."""
    record = load_edit(open_files(run))
    work = (run / record.key).rename(run / former_key(record))
    for place in (run, work):
        stored = json.loads((place / "edit.json").read_text())
        del stored["former_key"]
        (place / "edit.json").write_text(json.dumps(stored))
    marker = work / "ledger/export.json"
    facts = json.loads(marker.read_text()) | {"how": repr(how_of(record.spec))}
    marker.write_text(json.dumps(facts))
    return work


@pytest.fixture
def former(tmp_path: Path) -> tuple[Callable[..., str], Path]:
    """What runs the edit, with changes, and says how it ended; where its work is."""
    draw_inputs(tmp_path)

    def run(**changes: Any) -> str:
        manifest: Manifest = manifest_of(tmp_path, {**EDIT, **changes})
        (edit,) = run_manifest(manifest, tmp_path / "out", executor="serial").edits
        return edit.state

    assert run() == "done"
    return run, made_former(tmp_path / "out/e0")


def markers(work: Path) -> dict[str, bytes]:
    return {place.name: place.read_bytes() for place in (work / "ledger").glob("[0-9i]*.json")}


def test_a_finished_edit_of_before_is_kept(former: tuple[Callable[..., str], Path]) -> None:
    run, work = former
    before = markers(work)
    assert run() == "kept"
    assert run(tiff="plain") == "done"  # another way of writing it is written, and not made
    assert run(tiff="plain") == "kept"
    assert markers(work) == before
    assert load_edit(open_files(work.parent)).key == work.name


def test_an_unfinished_edit_of_before_goes_on_where_it_was(
    former: tuple[Callable[..., str], Path],
) -> None:
    run, work = former
    (work / "ledger/export.json").unlink()
    left = max(work.glob("ledger/*-compose-*.json"))
    left.unlink()
    before = markers(work)
    assert run() == "done"
    assert left.exists()
    assert before.items() <= markers(work).items()
    assert run() == "kept"


def test_an_edit_of_before_that_is_changed_is_made_anew(
    former: tuple[Callable[..., str], Path],
) -> None:
    run, work = former
    assert run(eta=1.0) == "done"
    assert not work.exists()
    assert load_edit(open_files(work.parent)).former_key is None
    assert run(eta=1.0) == "kept"


@pytest.mark.parametrize(
    "how", [How(), How(tiff="plain", ome_zarr="0.4"), How(allow_loss=("exif", "icc"))]
)
def test_how_a_picture_was_written_is_kept_by_what_differs(how: How) -> None:
    assert How.of(json.loads(json.dumps(differing(how)))) == how
    assert How.of(repr(how)) == how
    assert differing(How()) == {}


def test_digests_of_masks_are_those_of_before(tmp_path: Path) -> None:
    file = tmp_path / "m.png"
    file.write_bytes(b"mask")
    content = hashlib.sha256(b"mask").hexdigest()
    meant = MaskFile(file="", from_="values", values=(1, 3), category=("a",))
    drawn = Drawn(boxes=((1.0, 2.0, 3.0, 4.0),))

    def before(value: object) -> str:
        return hashlib.sha256(repr(value).encode()).hexdigest()

    mask = MaskFile(file=str(file), from_="values", values=(1, 3), category=("a",))
    first, second = before((content, meant)), before(drawn)
    assert (mask_digest(mask), mask_digest(drawn)) == (first, second)
    assert mask_digest(Combined(any=(mask, drawn), grow=3)) == before(((first, second), False, 3))


def test_a_new_option_of_masks_counts_only_where_it_is_not_off() -> None:
    @dataclass(frozen=True, kw_only=True)
    class More(Drawn):
        soft: int = 0

    boxes = ((1.0, 2.0, 3.0, 4.0),)
    known = combined._named(Drawn(boxes=boxes)).replace("Drawn", "More")
    assert combined._named(More(boxes=boxes)) == known
    assert combined._named(More(boxes=boxes, soft=2)) != known
