"""Train the bundled family, or one part of it.

    python -m msbd_dist.tiny.train [--part vae|unet|clip|upscaler] [--device cpu] [--minutes N]

Progress and checkpoints go to --work; say the same again to go on after a kill or after --minutes.
A finished part is written to WORK/family, a folder for `msbd --models`.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

import torch
import torch.multiprocessing as mp

from msbd_dist.core.gang import Alone, Team
from msbd_dist.core.threads import intra_op_threads
from msbd_dist.errors import ModelError
from msbd_dist.tiny.train import clip, unet, upscaler, vae
from msbd_dist.tiny.train.loop import Pace, Part, Processes, Trainer
from msbd_dist.tiny.train.settings import SETTINGS, Settings

log = logging.getLogger(__name__)

MOST_DRAWING = 8  # processes; on CUDA each of them encodes on the same card
PARTS = ("vae", "unet", "clip", "upscaler")  # in the order of their needs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One part's training, the same in every process."""

    part: str
    work: Path
    settings: Settings
    device: str
    processes: int  # that train
    drawing: int = 1  # processes that draw pictures before
    deadline: float | None

    @property
    def folder(self) -> Path:
        return self.work / self.part

    @property
    def drawn(self) -> Path:
        """Pictures or latents that are made once, before the training."""
        return self.folder / "drawn"

    @property
    def family(self) -> Path:
        return self.work / "family"


def prepare(job: Job) -> None:
    """Makes what the part learns from, as far as it is not there yet."""
    if job.part == "unet":
        folder = job.family / "vae"
        if not folder.exists():
            raise ModelError(f"unet needs the finished autoencoder {folder}: train vae first")
        unet.prepare(job.settings.unet, folder, job.drawn, device=job.device, processes=job.drawing)
    elif job.part == "clip":
        clip.prepare(job.settings.clip, job.drawn, processes=job.drawing)
    elif job.part == "upscaler":
        upscaler.prepare(job.settings.upscaler, job.drawn, processes=job.drawing)


def build(job: Job) -> Part:
    """The untrained part, with what it learns from."""
    if job.part == "vae":
        return vae.VaePart(job.settings.vae)
    if job.part == "unet":
        return unet.UnetPart(job.settings.unet, job.drawn)
    if job.part == "clip":
        return clip.ClipPart(job.settings.clip, job.drawn)
    return upscaler.UpscalerPart(job.settings.upscaler, job.drawn)


def train(job: Job) -> bool:
    """Trains a part until it is finished or time is up; True where it is finished and written."""
    job.folder.mkdir(parents=True, exist_ok=True)
    prepare(job)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (job, Path(folder) / "meeting")
        if job.processes > 1:
            mp.spawn(_process, arguments, nprocs=job.processes)
        else:
            _process(0, *arguments)
    return (job.folder / "finished").exists()


def _process(rank: int, job: Job, meeting: Path) -> None:
    """What each process does. One thread each: two on shared cores are slower than one."""
    _log_to_stderr()
    _end_with_parent()
    _keep_memory()
    team: Team = Alone()
    if job.processes > 1:
        team = Processes(rank, job.processes, meeting)
    pace = Pace(
        checkpoint_seconds=job.settings.checkpoint_seconds,
        report_seconds=job.settings.report_seconds,
        deadline=job.deadline,
    )
    with intra_op_threads(1):
        trainer = Trainer(build(job), job.folder, torch.device(job.device))
        trainer.run(pace, team)
        if trainer.finished and team.rank == 0:
            trainer.averaged().write(job.family)
            (job.folder / "finished").touch()


def _end_with_parent() -> None:
    """A killed command leaves no process behind that goes on training."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _keep_memory() -> None:
    """Lets the C library keep what is freed (glibc), where every step asks for the same again.

    Giving it back costs a page fault for each 4 kB: a quarter of a step of the UNet.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def main(arguments: Sequence[str] | None = None) -> int:
    _log_to_stderr()
    args = _parser().parse_args(arguments)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    processes = args.processes or (min(2, os.cpu_count() or 1) if device == "cpu" else 1)
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    for name in [args.part] if args.part else PARTS:
        job = Job(
            part=name,
            work=args.work,
            settings=SETTINGS,
            device=device,
            processes=processes,
            drawing=max(processes, min(MOST_DRAWING, os.cpu_count() or 1)),
            deadline=deadline,
        )
        try:
            finished = train(job)
        except ModelError as error:
            log.error("%s", error)
            return error.exit_code
        except ArithmeticError as error:
            log.error("%s: %s; the last checkpoint is in %s", name, error, job.folder)
            return 1
        if not finished:
            log.info("%s is not finished: say the same again to go on", name)
            return 0
        log.info("%s is finished: %s", name, job.family)
    return 0


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m msbd_dist.tiny.train", description=lines[0])
    parser.add_argument("--part", choices=PARTS, help="only this one (default: all)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after so long")
    parser.add_argument("--processes", type=int, metavar="N", help="default: 2 on a CPU")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), metavar="DIR")
    return parser


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
