"""A region of one megapixel edited in a picture of a gigapixel: what it takes, from which file to
which.

    python -m benchmarks.gigapixel [--side 32768] [--sources tiff png jpeg ome-zarr] [-o FILE]

Sources of the same samples are made one after another and deleted again; each is edited by the
bundled family on two workers and written in every format. The edit is run once for each source, to
its first format; for the others, what is stored is written anew. A picture of four megapixels with
the same edit is the measure. Each run is a process of its own: seconds, CPU seconds of all its
processes, the highest resident memory of any of them, and bytes written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyvips
import tifffile
import yaml

from benchmarks.machine import describe_machine
from msbd_dist.canvas.ome import write_ome
from msbd_dist.canvas.reader import Metadata
from msbd_dist.core.geometry import Box, Size
from msbd_dist.tiny.scenes import Background, Scene, render

EDIT = 1024  # pixels of the mask's side, in the middle
TILE = 512
WORKERS = 2
SOURCES = {"tiff": "source.tif", "png": "source.png", "jpeg": "source.jpg",
           "ome-zarr": "source.ome.zarr"}  # fmt: skip
OUTPUTS = {
    "copy-on-write TIFF": {"output": "out.tif", "tiff": "copy"},
    "BigTIFF": {"output": "out.tif", "tiff": "plain"},
    "PNG": {"output": "out.png"},
    "OME-Zarr": {"output": "out.ome.zarr"},
}
FIRST = {"tiff": "copy-on-write TIFF", "ome-zarr": "OME-Zarr"}  # for which the edit is run


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found = [measure(folder / "small", "tiff", 2048, ["copy-on-write TIFF"])]
        for source in options.sources:
            outputs = [o for o in OUTPUTS if source == "tiff" or "copy" not in o]
            outputs.sort(key=lambda output: output != FIRST.get(source, "BigTIFF"))
            found.append(measure(folder / source, source, options.side, outputs))
            print(table(found), flush=True)
    text = json.dumps({"runs": found, "machine": describe_machine()}, indent=1)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=32768, help="pixels of the picture's side")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--folder", type=Path, help="where there is room for 15 GB")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def measure(folder: Path, source: str, side: int, outputs: list[str]) -> dict[str, Any]:
    """The edit of one source, written in each of the formats."""
    folder.mkdir()
    make_source(folder, source, side)
    box = [(side - EDIT) // 2, (side - EDIT) // 2, EDIT, EDIT]
    written = {}
    for name in outputs:
        edit = {"id": "edit", "image": SOURCES[source], "mask": box, "seed": 1, "samples": 2}
        edit |= {"prompt": "a red circle on grass", "steps": 20, "repaint": 0, "decoder_steps": 4}
        edit |= {"upscale_steps": 40, "margin": 1.0, "allow_loss": True} | OUTPUTS[name]
        (folder / "edits.yaml").write_text(yaml.safe_dump({"edits": [edit]}))
        before = disk(folder)
        written[name] = run(folder)
        written[name]["written_mb"] = (disk(folder) - before) >> 20
        report = json.loads((folder / "run/report.json").read_text())["edits"][0]
        written[name]["pixels_compared"] = report["compared"]
        discard(folder / str(OUTPUTS[name]["output"]))
    shutil.rmtree(folder)
    return {"source": source, "side": side, "outputs": written}


def run(folder: Path) -> dict[str, Any]:
    """`msbd run` in a process of its own, watched."""
    command = [str(Path(sys.executable).with_name("msbd")), "run", "edits.yaml", "--out", "run"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen([*command, "--workers", str(WORKERS)], cwd=folder)
    watch = Watch(process.pid)
    code = process.wait()
    peak = watch.end()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"msbd ended with {code}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_s": round(cpu + watch.lost_cpu, 1), "peak_mb": peak}


class Watch:
    """The highest memory of a process and of each of its children, looked at now and then."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peak: dict[str, int] = {}
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for who, process in self._processes():
                try:
                    memory = process.memory_info().rss >> 20
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                self._peak[who] = max(self._peak.get(who, 0), memory)
                if who == "worker":
                    self._cpu[process.pid] = times.user + times.system

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "driver", self._root
        try:
            for child in self._root.children(recursive=True):
                if "ray::_Actor" in " ".join(child.cmdline()):
                    yield "worker", child
        except psutil.Error:
            return

    @property
    def lost_cpu(self) -> float:
        """Of workers: they are not waited for by the driver, so its own times leave them out."""
        return sum(self._cpu.values())

    def end(self) -> dict[str, int]:
        self._stop.set()
        self._thread.join()
        return self._peak


# --- sources ---


PERIOD = 1024  # pixels after which the noise begins again


@dataclass(frozen=True)
class Drawn:
    """A picture without end: a drawn one in the middle of noise on a slope."""

    side: int
    middle: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, side: int) -> Drawn:
        scene = Scene(size=Size(2048, 2048), background=Background("grass"), seed=1, unit=1400.0)
        noise = np.random.default_rng(1).integers(0, 16, (PERIOD, PERIOD, 3), np.uint8)
        return cls(side, render(scene), noise)

    def window(self, box: Box) -> np.ndarray:
        """(h, w, 3) uint8; the same pixels in any window."""
        ys, xs = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)[None]
        slope = (ys * 200 // self.side + xs * 30 // self.side).astype(np.uint8)
        pixels = self.noise[ys % PERIOD, xs % PERIOD] + slope[..., None]
        start = (self.side - 2048) // 2
        inner = Box(start, start, start + 2048, start + 2048)
        common = box.intersection(inner)
        if common is not None:
            pixels[common.relative_to(box).slices] = self.middle[common.relative_to(inner).slices]
        return pixels


def make_source(folder: Path, source: str, side: int) -> None:
    drawn = Drawn.of(side)
    if source == "ome-zarr":
        write_ome(
            folder / SOURCES[source], Size(side, side), np.dtype(np.uint8), 3, False, Metadata(),
            drawn.window, name="source",
        )  # fmt: skip
        return
    tiff = folder / SOURCES["tiff"]
    tiles = (
        drawn.window(Box(y, x, y + TILE, x + TILE))
        for y in range(0, side, TILE)
        for x in range(0, side, TILE)
    )
    tifffile.imwrite(
        tiff, tiles, shape=(side, side, 3), dtype=np.uint8, photometric="rgb", tile=(TILE, TILE),
        compression="zlib", compressionargs={"level": 1}, predictor=True, bigtiff=True,
        metadata=None, maxworkers=2,
    )  # fmt: skip
    if source != "tiff":
        image = pyvips.Image.new_from_file(str(tiff), access="sequential")
        options = {"compression": 1, "filter": "sub"} if source == "png" else {"Q": 92}
        image.write_to_file(str(folder / SOURCES[source]), **options)
        tiff.unlink()


def disk(folder: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


def discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        os.unlink(path)


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'source':<10}{'side':>7}  {'output':<20}{'s':>7}{'CPU s':>8}{'driver':>8}"
             f"{'worker':>8}{'MB':>7}{'compared':>15}"]  # fmt: skip
    for one in found:
        for name, m in one["outputs"].items():
            driver, worker = m["peak_mb"].get("driver", 0), m["peak_mb"].get("worker", 0)
            lines.append(
                f"{one['source']:<10}{one['side']:>7}  {name:<20}{m['seconds']:>7}{m['cpu_s']:>8}"
                f"{driver:>8}{worker:>8}{m['written_mb']:>7}{m['pixels_compared']:>15,}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
