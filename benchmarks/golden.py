"""Digests of small jobs that touch every option: whether a change of the code changes a byte.

    python -m benchmarks.golden -o FILE           # makes the jobs and writes their digests
    python -m benchmarks.golden --against FILE    # the same, and says what differs: exit code 1

The jobs are made by the product's own `run_manifest`, serially, on a CPU, by one thread. Of each
there are digests of the finished file, of every stored array, and the ledger's facts that do not
depend on time or place. Names say what an array is, not where it is stored: ``1 latents 0`` are the
latents of slot 0 of stage 1. Digests depend on the processor's float instructions, so compare runs
of one machine; where the machine of FILE was another, a warning says so.

A new option needs a job here: a test compares the jobs with the options that there are.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import tifffile
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load

from benchmarks.machine import describe_machine
from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.record import load_edit, package_versions, tuned_name
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.steps import Edit, ledger_of
from msbd_dist.canvas.files import LocalFiles
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ome import write_ome
from msbd_dist.canvas.reader import Metadata
from msbd_dist.core.geometry import Size
from msbd_dist.models.card import bundled_folder
from msbd_dist.tiny.scenes import Background, Scene, render

Array = npt.NDArray[Any]
Entries = dict[str, Any]
"""Of one job, by what they are: digests of what is stored, and facts as they are."""

FACTS = ("scores", "chosen", "losses", "flat", "measures", "changed_samples", "compared", "pixels")
DATED = "vips-properties.xml"  # of a DeepZoom: libvips writes the time into it
SHOWN = 8  # differences of a job that are printed

# --- what is made ---------------------------------------------------------------------------------

SIZE, SMALL = Size(277, 331), Size(144, 176)

DEFAULTS: dict[str, Any] = {
    "image": "sand.png", "mask": "mask.png", "prompt": "a red star on sand", "seed": 5,
    "samples": 2, "steps": 3, "repaint": 1, "upscale_steps": 10, "segment_start": 0.2,
    "decoder_steps": 2,
}  # fmt: skip
# one segment of a few cells, of which the decoder is the pretrained one: for what files are
LEAST: dict[str, Any] = {
    "image": "small.png", "mask": [40, 30, 60, 70], "samples": 1, "steps": 1, "repaint": 0,
    "decoder_optimization": False,
}  # fmt: skip

# by the models that make them (`FAMILIES`): each job's keys, beside `DEFAULTS`
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "usual": {"negative_prompt": "a blue ring"},
        "paper": {
            "decoder_batch": "full", "decoder_lr": 2e-4, "decoder_lambda": 10.0,
            "lowpass": "half", "upscaler": "bilinear", "upscale_diffusion": "unconditional",
            "base_size": 192, "segment_batch": 1, "overlap": 64, "rerank": False,
        },
        "compared": {
            "decoder_batch": "minibatch", "decoder_reduction": "fast", "compose": "over",
            "lowpass": "off", "noise": "segment", "upscaler": "bicubic", "margin": 1.1,
            "guidance": 4.0, "segment_guidance": 2.0, "middle_start": 0.3, "eta": 0.5,
        },
        "enlarged": {"upscale_diffusion": "off", "decoder_reduction": "bf16", "feather": 9},
        "official": {"upscaler": "realesrganer", "decoder_optimization": False},
        "segments": {"stages": "segments", "decoder_batch": "full", "repaint": 0},
        "unblended": {"blend": False, "eta": 0.0, "upscaler": "bicubic", "decoder_steps": 1},
        "gone": {"image": "small.png", "mask": [40, 30, 60, 70], "prompt": ""},
        "chained": {**LEAST, "image": {"edit": "gone"}, "mask": "drawing"},
        "grey": {**LEAST, "image": "grey.png", "mask": "labels", "output": "grey-out.png"},
        "alpha": {**LEAST, "image": "alpha.png", "mask": "hole", "output": "alpha-out.webp",
                  "allow_loss": ["exif", "icc"]},
        "turned": {**LEAST, "image": "turned.jpg", "output": "turned-out.jpg", "allow_loss": True},
        "deep-zoom": {**LEAST, "output": "small.dzi", "allow_loss": True},
        "tiff-copy": {**LEAST, "image": "slide.tif", "tiff": "copy", "output": "copy.tif"},
        "tiff-plain": {**LEAST, "image": "slide.tif", "tiff": "plain", "output": "plain.tif"},
        "tiff-pyramid": {**LEAST, "tiff": "pyramid", "output": "pyramid.tif"},
        "zarr-copy": {**LEAST, "image": "small.ome.zarr", "mask": "outlines.geojson"},
        "zarr-new": {**LEAST, "ome_zarr": "0.4", "output": "new.ome.zarr"},
        "zarr-in-place": {**LEAST, "image": "changed.ome.zarr", "in_place": True},
    },
    "velocity": {"velocity": {"image": "small.png", "mask": [40, 30, 60, 70], "steps": 4}},
    "linspace": {"linspace": {**LEAST, "steps": 4, "repaint": 1}},
    "distilled": {"distilled": {**LEAST, "steps": 4, "repaint": 1}},
}  # fmt: skip

MASKS: dict[str, Any] = {
    "drawing": {
        "any": [{"any": ["small-mask.png"], "invert": "on", "grow": 8}],
        "polygons": [[[60, 40], [120, 50], [80, 110]], [[70, 50], [90, 60], [80, 80]]],
        "invert": "on",
    },
    "labels": {"file": "labels.png", "from": "values", "values": [1, 3]},
    "hole": {"file": "alpha.png", "from": "alpha", "invert": "on"},
}

# the bundled family, or its weights under another scheduler: what changes in its configuration
FAMILIES: dict[str, dict[str, Any] | None] = {
    "tiny": None,
    "velocity": {
        "prediction_type": "v_prediction", "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True, "set_alpha_to_one": True,
    },
    "linspace": {"prediction_type": "sample", "timestep_spacing": "linspace"},
    "distilled": {"_class_name": "LCMScheduler", "original_inference_steps": 20},
}  # fmt: skip


def can_make(job: Mapping[str, Any]) -> bool:
    """Whether what the job needs beside the package's dependencies is installed."""
    official = job.get("upscaler") == "realesrganer"
    return not official or importlib.util.find_spec("realesrgan") is not None


def draw(folder: Path) -> None:
    """The pictures and masks of all jobs."""
    large, small = (
        render(Scene(size=size, background=Background("sand"), seed=3, unit=unit))
        for size, unit in ((SIZE, 200.0), (SMALL, 120.0))
    )
    for name, picture in (("sand.png", large), ("small.png", small)):
        Image.fromarray(picture).save(folder / name)
    for name, size in (("mask.png", SIZE), ("small-mask.png", SMALL)):
        _ellipse(size).save(folder / name)
    deep = small.astype(np.uint16) * 257 + np.arange(SMALL.width, dtype=np.uint16)[None, :, None]
    Image.fromarray(deep[..., 0]).save(folder / "grey.png")
    labels = np.zeros(SMALL.shape, np.uint8)
    labels[30:70, 40:90], labels[70:100, 40:90], labels[100:120, 40:90] = 1, 2, 3
    Image.fromarray(labels).save(folder / "labels.png")
    hole = 255 - np.asarray(_ellipse(SMALL))
    Image.fromarray(np.dstack([small, hole])).save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.fromarray(small).save(folder / "turned.jpg", quality=92, exif=exif)
    tifffile.imwrite(
        folder / "slide.tif", deep, tile=(64, 64), compression="zlib", photometric="rgb",
        metadata=None,
    )  # fmt: skip
    for name in ("small", "changed"):
        write_ome(
            folder / f"{name}.ome.zarr", SMALL, np.uint8, 3, False, Metadata(),
            lambda box: small[box.slices], chunk=64, name=name,
        )  # fmt: skip
    ring = [[50, 30], [120, 40], [110, 100], [40, 90], [50, 30]]
    outline = {"type": "Polygon", "coordinates": [ring]}
    (folder / "outlines.geojson").write_text(json.dumps(outline))


def _ellipse(size: Size) -> Image.Image:
    mask, (height, width) = Image.new("L", (size.width, size.height)), size.shape
    box = (width // 5, height // 5, width * 4 // 5, height * 7 // 8)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def family_in(folder: Path, name: str) -> str:
    """What a manifest calls a family: the bundled one, or a copy of it that is made here."""
    changes = FAMILIES[name]
    if changes is None:
        return name
    place = folder / f"family-{name}"
    if not place.exists():
        shutil.copytree(bundled_folder(), place)
        config = place / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        index = place / "model_index.json"
        scheduler = changes.get("_class_name", "DDIMScheduler")
        parts = json.loads(index.read_text()) | {"scheduler": ["diffusers", scheduler]}
        index.write_text(json.dumps(parts))
    return str(place)


def manifest_of(folder: Path, family: str, jobs: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """A manifest in a folder with the pictures."""
    rows = [{"id": name} | dict(job) for name, job in jobs.items()]
    for row in rows:
        if isinstance(row.get("mask"), str):
            row["mask"] = MASKS.get(row["mask"], row["mask"])
    text = {
        "models": {"family": family_in(folder, family), "device": "cpu"},
        "defaults": DEFAULTS,
        "edits": rows,
    }
    path = folder / f"{family}.yaml"
    path.write_text(yaml.safe_dump(text))
    return read_manifest(path)


# --- what is looked at ----------------------------------------------------------------------------


def made(folder: Path, family: str, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Entries]:
    """Make jobs of one family in a folder with the pictures, and look at each."""
    out, remove = folder / f"out-{family}", LocalFiles.remove

    def all_but_weights(files: LocalFiles, name: str) -> None:
        if not name.endswith(".safetensors"):
            remove(files, name)

    with patch.object(LocalFiles, "remove", all_but_weights):
        result = run_manifest(manifest_of(folder, family, jobs), out, executor="serial")
    for edit in result.edits:
        if edit.error is not None:
            raise SystemExit(f"{edit.id}: {edit.error}")
    return {name: dict(entries_of(LocalFiles(out / name))) for name in jobs}


def entries_of(files: LocalFiles) -> Iterator[tuple[str, Any]]:
    """All that is looked at of a finished job."""
    record = load_edit(files)
    edit = Edit(record, files, Picture.open(record.spec.source), ledger_of(files, record))
    for name, array in stored(edit):
        yield name, digest_of(array)
    yield from tuned(edit)
    for task in (*(task.name for task in edit.plan.tasks(edit.id)), "export"):
        facts = edit.ledger[task]
        yield from ((f"{task} {fact}", facts[fact]) for fact in FACTS if fact in facts)
    for name, data in files_of(Path(edit.target)):
        yield f"output{name}", hashlib.sha256(data).hexdigest()


def stored(edit: Edit) -> Iterator[tuple[str, Array]]:
    """Every array that the job has stored, as the next step reads it."""
    plan = edit.plan
    canvas = edit.canvas(plan.stages[0])
    yield "source", canvas.source_integers(plan.source_box)
    yield "mask", canvas.mask(plan.source_box)
    for number in range(plan.candidates):
        yield f"candidate {number}", canvas.candidate(number)
    for stage in plan.stages:
        canvas, index = edit.canvas(stage), stage.index
        for slot in range(len(stage.segments)):
            if plan.diffuses(stage):
                yield f"{index} latents {slot}", canvas.latent(stage, slot)
            yield f"{index} segments {slot}", canvas.segment(stage, slot)
        for number in plan.written_chunks(stage):
            yield f"{index} composed {number}", canvas.composed(stage, stage.grid.chunk(number).box)


def tuned(edit: Edit) -> Iterator[tuple[str, str]]:
    """Digests of the weights that decoder optimization has found, by stage."""
    for stage in edit.plan.stages:
        if facts := edit.ledger.get(f"{stage.index}-fit-0"):
            weights = load(edit.work.read(tuned_name(stage, facts["attempt"])))
            digests = [(name, digest_of(weights[name].numpy())) for name in sorted(weights)]
            yield f"{stage.index} tuned", hashlib.sha256(repr(digests).encode()).hexdigest()


def files_of(place: Path) -> Iterator[tuple[str, bytes]]:
    """A finished picture's files, by their places in it: one, or those of a folder."""
    if place.is_file():
        yield "", place.read_bytes()
    if place.suffix == ".dzi":
        place = place.with_name(f"{place.stem}_files")
    for file in sorted(path for path in place.rglob("*") if path.is_file()):
        if file.name != DATED:
            yield f" {file.relative_to(place)}", file.read_bytes()


def digest_of(array: Array) -> str:
    """Of what kind of values they are, how many, and which."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


# --- what is kept and compared --------------------------------------------------------------------


def record_of(jobs: Mapping[str, Entries]) -> dict[str, Any]:
    """What is written to a file."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], check=False, capture_output=True, text=True
        ).stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD"),
        "changed": git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "versions": package_versions(),
        "machine": machine(),
        "jobs": jobs,
    }


def machine() -> dict[str, Any]:
    """What of this machine can decide bytes."""
    instructions = torch.backends.cpu.get_cpu_capability()
    found: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older versions of torch have none
    flags = sorted(name for name, there in found.items() if there is True)
    return {"cpu": describe_machine()["cpu"], "instructions": instructions, "flags": flags}


def unequal(former: Entries, now: Entries) -> list[str]:
    """Names of what differs, in the order in which it was made."""
    names = dict.fromkeys([*now, *former])
    return [name for name in names if former.get(name) != now.get(name)]


def compare(former: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Print what differs, by job; whether all is equal."""
    for what in ("machine", "versions"):
        if former[what] != now[what]:
            print(f"WARNING: the {what} differed, so digests may: {former[what]}, now {now[what]}")
    print(f"against commit {former['commit'][:12]}")
    equal = True
    for job in dict.fromkeys([*former["jobs"], *now["jobs"]]):
        entries = now["jobs"].get(job, {})
        names = unequal(former["jobs"].get(job, {}), entries)
        equal = equal and not names
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        if job not in former["jobs"]:
            told = "is not in the file"
        elif job not in now["jobs"]:
            told = "was not made"
        elif names:
            told = f"{len(names)} of {len(entries)} differ: {', '.join(names[:SHOWN])}{more}"
        else:
            told = f"{len(entries)} equal"
        print(f"  {job}: {told}")
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="write the digests to this file")
    parser.add_argument("--against", type=Path, help="compare with the digests of this file")
    arguments = parser.parse_args()
    if arguments.output is None and arguments.against is None:
        parser.error("give -o FILE, --against FILE, or both")
    former = json.loads(arguments.against.read_text()) if arguments.against else None
    jobs: dict[str, Entries] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder)
        for family, wanted in JOBS.items():
            started = time.perf_counter()
            there = {name: job for name, job in wanted.items() if can_make(job)}
            jobs |= made(folder, family, there)
            seconds = time.perf_counter() - started
            print(f"{family}: {len(there)} of {len(wanted)} jobs in {seconds:.0f} s")
    now = record_of(json.loads(json.dumps(jobs)))
    if arguments.output:
        arguments.output.write_text(json.dumps(now, indent=1) + "\n")
    return int(former is not None and not compare(former, now))


if __name__ == "__main__":
    sys.exit(main())
