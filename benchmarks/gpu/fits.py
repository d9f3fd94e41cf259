"""Decoder optimization that changes hands: killed and resumed, shared over gloo, gangs of NCCL."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from benchmarks.gpu.bench import Bench, Found, check, checking, short, told
from benchmarks.gpu.edits import NAME, edited, models_are_kept
from msbd_dist.batch import worker
from msbd_dist.core.decoder import DecoderFit, FitSegment, FitSettings, Params
from msbd_dist.core.gang import Alone
from msbd_dist.core.rounds import Rounds
from msbd_dist.fleet.collective import Backend, Formation, Gang, GangBroken, Links, connect, let_go
from msbd_dist.models.bundle import Models

PATIENCE = 120.0  # seconds for a process to come to a point
FOREVER = 3600.0
ALONE = 1.0  # seconds that the first member of a gang waits for the others
SPAWN = get_context("spawn")  # a process that has used CUDA can't be forked


def small_fit(models: Models, *, segments: int = 2, px: int = 32, turns: int = 3) -> DecoderFit:
    """A few turns over a few segments, each of noise of its own."""
    latent, device = models.latent, models.device
    cells = px // models.card.family.vae_factor

    def segment(slot: int) -> FitSegment:
        generator = torch.Generator().manual_seed(slot)
        shape = (1, models.card.family.latent_channels, cells, cells)
        z = torch.randn(shape, generator=generator).to(device)
        source = torch.rand(1, 3, px, px, generator=generator).to(device)
        depth = torch.zeros(1, 1, px, px)
        depth[..., px // 4 : px * 5 // 8, px // 4 : px * 5 // 8] = 1
        weight = torch.ones(1, 1, px, px).to(device)
        return FitSegment(z, latent.decode(z).clone(), source, depth.to(device), weight)

    decode = partial(latent.decode, half=models.products == torch.bfloat16)
    rounds, settings = Rounds(segments, segments, turns), FitSettings(lr=1e-4, lam=100.0)
    return DecoderFit(decode, latent.decoder_weights(), segment, rounds, settings)


def digest(params: Params) -> str:
    return hashlib.sha256(
        b"".join(weight.cpu().numpy().tobytes() for weight in params.values())
    ).hexdigest()


# -- killed ----------------------------------------------------------------------------------------


def resumed(bench: Bench) -> Found:
    """An edit whose process is killed in the middle of a fit, and made again from where it was."""
    checks: list[Found] = []
    folder = bench.place("killed")
    with checking(checks, "an edit that was killed in a fit is finished"):
        victim = SPAWN.Process(target=_fit_and_wait, args=(bench, folder))
        victim.start()
        stored = _when_there(folder, victim)
        victim.kill()
        victim.join()
        checks.append(check("the killed process left a checkpoint", stored.exists()))
        with bench.card(), models_are_kept(), _restored() as turns:
            found = edited(bench, "killed", folder)
            quiet = edited(bench, "quiet")
        checks.append(check("the fit goes on from the checkpoint", sum(turns) > 0, sum(turns)))
        what = "its bytes are those of an edit that was not killed"
        checks.append(check(what, found.digest == quiet.digest))
    return {"checks": checks}


def _fit_and_wait(bench: Bench, folder: Path) -> None:
    """Makes an edit up to the middle of its first fit, and waits there."""
    accumulate = DecoderFit._accumulate

    def waiting(self: DecoderFit, *rest: Any) -> None:
        if self.turn >= self.rounds.steps // 2:
            time.sleep(FOREVER)
        accumulate(self, *rest)

    often = mock.patch.object(worker, "CHECKPOINT_SECONDS", 0.0)
    with bench.card(), often, mock.patch.object(DecoderFit, "_accumulate", waiting):
        edited(bench, "killed", folder)


def _when_there(folder: Path, process: Any) -> Path:
    """The checkpoint, when it is complete."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.is_alive():
        for file in (folder / "run" / NAME).glob("*/*.checkpoint"):
            time.sleep(0.5)  # the turn that comes next waits
            return file
        time.sleep(0.05)
    raise RuntimeError("the process came to no checkpoint")


@contextmanager
def _restored() -> Iterator[list[int]]:
    """The turns at which fits are taken up."""
    turns, restore = list[int](), DecoderFit.restore

    def noted(self: DecoderFit, state: dict[str, torch.Tensor]) -> None:
        restore(self, state)
        turns.append(self.turn)

    with mock.patch.object(DecoderFit, "restore", noted):
        yield turns


# -- gangs -----------------------------------------------------------------------------------------


def shared(bench: Bench) -> Found:
    """Two processes on one card, over gloo: the bytes of one."""
    with bench.card():
        wanted = digest(small_fit(bench.tiny()).run(Alone()))
    return {"checks": _lives(bench, "gloo", 2, wanted)}


def nccl(bench: Bench) -> Found:
    """Gangs over NCCL: of one, and of two where there are two cards. In a dry run over gloo."""
    backend: Backend = "gloo" if bench.dry else "nccl"
    checks = _in_processes(_single, bench, backend, 1)
    with bench.card():
        cards = torch.cuda.device_count()
        wanted = digest(small_fit(bench.tiny()).run(Alone()))
    if cards > 1:
        checks += _lives(bench, backend, 2, wanted)
    return {"checks": checks, "backend": backend, "cards": cards}


def _lives(bench: Bench, backend: Backend, size: int, wanted: str) -> list[Found]:
    checks = _in_processes(_life, bench, backend, size)
    digests = {row.pop("digest") for row in checks if "digest" in row}
    what = f"{backend}, {size} processes: the tuned weights are those of one"
    return [*checks, check(what, digests == {wanted})]


Member = Callable[[Bench, Formation], list[Found]]


def _in_processes(member: Member, bench: Bench, backend: Backend, size: int) -> list[Found]:
    """What the members of a gang have found, each in a process of its own."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    places = [
        Formation(
            host="127.0.0.1", port=store.port, generation=1, rank=rank, size=size, backend=backend
        )
        for rank in range(size)
    ]
    pairs = [SPAWN.Pipe() for _ in places]
    processes = [
        SPAWN.Process(target=_told, args=(theirs, member, bench, place))
        for place, (_, theirs) in zip(places, pairs, strict=True)
    ]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
    found: list[Found] = []
    for place, (ours, _) in zip(places, pairs, strict=True):
        silent = [check(f"{backend}: member {place.rank} of {size} answers", False)]
        try:
            found += ours.recv() if ours.poll(PATIENCE) else silent
        except EOFError:
            found += silent
    for process in processes:
        process.kill()
        process.join()
    return found


def _told(pipe: Connection, member: Member, bench: Bench, place: Formation) -> None:
    """A member's process."""
    with bench.card():
        if place.backend == "nccl":
            torch.cuda.set_device(place.rank)
        try:
            pipe.send(member(bench, place))
        except Exception as error:
            what = f"{place.backend}: member {place.rank} of {place.size} comes to its end"
            pipe.send([check(what, False, told(error))])
        pipe.recv()  # never comes: a gang's last words are sent while the process lives


def _again(place: Formation, generation: int) -> Formation:
    return Formation(**{**vars(place), "generation": generation})


def _life(bench: Bench, place: Formation) -> list[Found]:
    """A fit is shared; a sum that not all come to is left; the gang forms again."""
    checks: list[Found] = []
    name, links = f"{place.backend}, member {place.rank} of {place.size}", Links()
    fit = small_fit(bench.tiny())
    with Gang(place, stopped=lambda: False, links=links) as gang:
        checks.append({"digest": digest(fit.run(gang)), **check(f"{name}: shares a fit", True)})
    began = time.monotonic()
    try:
        with Gang(
            _again(place, 2), stopped=lambda: time.monotonic() - began > 3, links=links
        ) as two:
            if place.rank:
                time.sleep(4)
            two.start_sum(torch.ones(4, device="cuda")).wait()
        checks.append(check(f"{name}: parts from a sum that not all come to", False))
    except GangBroken as broken:
        what = f"{name}: parts from a sum that not all come to"
        checks.append(check(what, True, f"{broken}, {short(time.monotonic() - began)} s"))
    with Gang(_again(place, 3), stopped=lambda: False, links=links) as again:
        values = torch.full((4,), place.rank + 1, dtype=torch.int64, device="cuda")
        again.start_sum(values).wait()
        wanted = place.size * (place.size + 1) // 2
        right = values.tolist() == [wanted] * 4
        checks.append(check(f"{name}: is in the gang that forms again", right))
    return checks


def _single(bench: Bench, place: Formation) -> list[Found]:
    """A link of one: it sums, is aborted, and is made again."""
    checks: list[Found] = []
    for generation, what in ((1, "sums"), (2, "sums again after it was aborted")):
        link = connect(_again(place, generation), None)
        values = torch.arange(4, device=link.device)
        link.reduce(values, dist.ReduceOp.SUM).wait()
        link.broadcast(values, 0).wait()
        right = values.tolist() == [0, 1, 2, 3]
        checks.append(check(f"{place.backend}, a gang of one {what}", right))
        let_go(link)
    return checks
