"""A 24-megapixel picture with a 3-megapixel mask: what is planned, how long, how much memory.

    python -m benchmarks.large_picture [--workers 2] [--decoder-steps 1] [-o result.json]

The picture is drawn, edited by the bundled family and deleted again. The first stage is cut short
(one sample, no RePaint) because it does not depend on the picture's size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.machine import describe_machine
from msbd_dist.batch.record import load_edit
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.canvas.files import open_files
from msbd_dist.core.geometry import Size
from msbd_dist.core.spec import ModelSpec
from msbd_dist.tiny.scenes import Background, Scene, render

SIZE = Size(4000, 6000)
MASK = (2300, 1100, 4299, 2599)  # x0, y0, x1, y1, inclusive: 2000 x 1500


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        numbers = measure(Path(name), options.workers, options.decoder_steps)
    text = json.dumps({**numbers, "machine": describe_machine()}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decoder-steps", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def draw(folder: Path) -> tuple[Path, Path]:
    scene = Scene(size=SIZE, background=Background("grass"), seed=1, unit=2600.0)
    Image.fromarray(render(scene)).save(folder / "image.png", compress_level=1)
    mask = Image.new("L", (SIZE.width, SIZE.height))
    ImageDraw.Draw(mask).ellipse(MASK, fill=255)
    mask.save(folder / "mask.png")
    return folder / "image.png", folder / "mask.png"


def measure(folder: Path, workers: int, decoder_steps: int) -> dict[str, object]:
    image, mask = draw(folder)
    manifest = edit_manifest(
        image,
        mask,
        "a red circle on grass",
        output=folder / "out.png",
        models=ModelSpec(),
        seed=1,
        samples=1,
        repaint=0,
        steps=20,
        decoder_steps=decoder_steps,
    )
    result = run_manifest(manifest, folder / "run", workers=workers)
    (edit,) = result.edits
    if edit.error is not None:
        raise edit.error
    plan = load_edit(open_files(folder / "run/edit")).plan
    stored = sum(p.stat().st_size for p in (folder / "run").rglob("*") if p.is_file())
    return {
        "picture": f"{SIZE.width}x{SIZE.height}",
        "stages": [f"{s.size.width}x{s.size.height} {s.kind}" for s in plan.stages],
        "segments_planned": len(plan.final.segments),
        "segments_of_the_region": len(plan.final.grid),
        "seconds": round(result.seconds),
        "peak_mb": result.peak_mb,
        "stored_mb": stored // 2**20,
        "samples_changed_outside_the_mask": changed_outside(image, mask, folder / "out.png"),
    }


def changed_outside(image: Path, mask: Path, output: Path) -> int:
    before, after = np.asarray(Image.open(image)), np.asarray(Image.open(output))
    kept = np.asarray(Image.open(mask)) < 128
    return int(np.count_nonzero(before[kept] != after[kept]))


if __name__ == "__main__":
    main()
