"""Runs whose masks are made of several: what is edited, and what makes an edit anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from quick import FASTEST, draw_inputs, manifest_of, pixels

from msbd_dist.batch.run import RunResult, run_manifest
from msbd_dist.core.geometry import Size


def test_a_run_with_a_mask_of_files_and_shapes(tmp_path: Path) -> None:
    draw_inputs(tmp_path, size=Size(100, 120))
    ring = [[80, 2], [110, 2], [110, 17], [80, 17], [80, 2]]
    outlines = tmp_path / "outlines.geojson"
    outlines.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    hole = np.full((100, 120, 4), 200, np.uint8)
    hole[30:60, 40:70, 3] = 0
    Image.fromarray(hole).save(tmp_path / "hole.png")
    cut = {"file": "hole.png", "from": "alpha", "invert": "on"}
    inverted = {"any": ["mask.png", [0, 0, 9, 9]], "invert": "on"}
    mask = {"any": ["outlines.geojson", inverted, cut]}

    def run() -> RunResult:
        manifest = manifest_of(tmp_path, {**FASTEST, "mask": mask})
        return run_manifest(manifest, tmp_path / "out", executor="serial")

    (edit,) = run().edits
    assert edit.error is None
    wanted = pixels(tmp_path / "mask.png") < 128
    wanted[0:9, 0:9] = False
    wanted[2:17, 80:110] = wanted[30:60, 40:70] = True
    changed = (pixels(tmp_path / "image.png") != pixels(str(edit.output))).any(axis=2)
    assert not changed[~wanted].any()
    assert np.count_nonzero(changed) > 0.9 * np.count_nonzero(wanted)

    assert run().edits[0].state == "kept"
    ring[2] = [110, 30]
    outlines.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    assert run().edits[0].state == "done"
