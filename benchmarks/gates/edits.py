"""The edits that gates look at: what is asked, and a studio that makes them in this process.

An edit is made by the product's own parts in the product's own order: planned, taken in, every task
of every stage by a `TaskWorker`, exported. Nothing is drawn by chance, so that an edit has the same
bytes each time on one machine. What passes between the parts is recorded on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image as Pil
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from msbd_dist.batch import steps
from msbd_dist.batch.record import Order, versions_of
from msbd_dist.batch.worker import TaskWorker, stage_mask
from msbd_dist.canvas.files import Files, LocalFiles
from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.canvas.ledger import Facts
from msbd_dist.core.compose import Bools, Floats, read_reflected, stage_view
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.levels import Level
from msbd_dist.core.noise import Draw, NoiseField
from msbd_dist.core.plan import Stage, Task
from msbd_dist.core.spec import EditSpec, Method, ModelSpec
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.card import resolve
from msbd_dist.models.fingerprint import digests
from msbd_dist.models.latent import LatentModel
from msbd_dist.tiny.scenes import (
    Background,
    Colour,
    Image,
    Mask,
    Pattern,
    Plain,
    Scene,
    SceneObject,
    Shape,
    render,
    silhouette,
)

_EPOCH, _ATTEMPT = 1, "1.1"
_GROWN = 5  # pixels that the mask of a removal is wider than object and shadow

# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """Scenes side by side, the part of them that is edited, the words, the method's options.

    ``mask``: an ellipse in this box; None: the first scene's object with its shadow. ``planted``:
    what the stages before the last one are taken to have painted in the mask, so that the last one
    alone is run and looked at.
    """

    name: str
    words: str
    scenes: tuple[Scene, ...]
    mask: Box | None = None
    prompt: str = ""
    seed: int
    method: Mapping[str, Any]
    planted: Scene | None = None

    @cached_property
    def picture(self) -> Image:
        """(H, W, 3) uint8."""
        return np.concatenate([render(scene) for scene in self.scenes], axis=1)

    @cached_property
    def painted(self) -> Floats:
        """The picture with what is planted in the mask: (3, H, W) in [0, 1]."""
        assert self.planted is not None
        whole = np.where(self.masked[..., None], render(self.planted), self.picture)
        return to_float(whole.transpose(2, 0, 1))

    @cached_property
    def masked(self) -> Mask:
        """(H, W), True where the picture is edited."""
        if self.mask is not None:
            return _ellipse(Size(*self.picture.shape[:2]), self.mask)
        scene = self.scenes[0]
        covered = silhouette(scene.objects[0], scene.size, shadow=True)
        mask: Mask = distance_transform_edt(~covered) <= _GROWN
        return mask


def _ellipse(size: Size, box: Box) -> Mask:
    y = (np.arange(size.height)[:, None] + 0.5 - (box.y0 + box.y1) / 2) / (box.height / 2)
    x = (np.arange(size.width)[None, :] + 0.5 - (box.x0 + box.x1) / 2) / (box.width / 2)
    mask: Mask = y**2 + x**2 <= 1
    return mask


_SMALL, _WIDE, _HALF = Size(160, 160), Size(192, 352), Size(192, 176)
_DISC, _LONG = Box(36, 40, 120, 124), Box(26, 36, 166, 316)
_PAINT = {"samples": 1, "steps": 16, "repaint": 1, "decoder_optimization": False}
_LATER = {"upscale_steps": 20, "segment_start": 0.25, "upscaler": "bicubic"}


def _ground(kind: Plain | Pattern, colour: Colour | None = None, *, size: Size, seed: int) -> Scene:
    unit = min(size.height, size.width, 192)
    return Scene(size=size, background=Background(kind, colour), seed=seed, unit=unit)


def _with(scene: Scene, colour: Colour, shape: Shape, radius: float) -> Scene:
    """The scene with a thing in its middle."""
    y, x = scene.size.height / 2, scene.size.width / 2
    thing = SceneObject(colour=colour, shape=shape, center_y=y, center_x=x, radius=radius)
    return replace(scene, objects=(thing,))


_DOTS = _with(_ground("dots", "blue", size=_WIDE, seed=15), "red", "star", 70)

_FIT = {**_LATER, "segment_start": 0.05}
_PATCHED: dict[str, Any] = {
    "scenes": (
        _ground("stripes", "orange", size=_HALF, seed=16),
        _ground("wall", "blue", size=_HALF, seed=16),
    ),
    "mask": Box(46, 36, 146, 316),
    "prompt": "a green wall",
    "seed": 1,
    "planted": _ground("wall", "green", size=_WIDE, seed=17),
}

CASES = {
    case.name: case
    for case in (
        Case(
            name="star",
            words="a star is added to sand: one stage",
            scenes=(_ground("sand", size=_SMALL, seed=11),),
            mask=_DISC,
            prompt="a red star on sand",
            seed=1,
            method=_PAINT,
        ),
        Case(
            name="gone",
            words="a circle is removed from sand: one stage",
            scenes=(_with(_ground("sand", size=_SMALL, seed=12), "blue", "circle", 24),),
            seed=2,
            method=_PAINT,
        ),
        Case(
            name="choice",
            words="a ring is added to grass: the best of three candidates",
            scenes=(_ground("grass", size=_SMALL, seed=14),),
            mask=_DISC,
            prompt="a purple ring on grass",
            seed=1,
            method={**_PAINT, "samples": 3, "steps": 10, "repaint": 0},
        ),
        Case(
            name="wide",
            words="a heart is added to water: three stages, two segments",
            scenes=(_ground("water", size=_WIDE, seed=13),),
            mask=_LONG,
            prompt="a yellow heart on water",
            seed=1,
            method={**_PAINT, **_LATER},
        ),
        Case(
            name="enlarged",
            words="the last stage alone, without diffusion: two segments",
            scenes=(_DOTS,),
            mask=_LONG,
            prompt="a red star",
            seed=1,
            method={"upscale_diffusion": "off"},
            planted=_DOTS,
        ),
        Case(
            name="fitted",
            words="the last stage alone, with decoder optimization: two segments in turn",
            method={**_FIT, "decoder_steps": 10, "decoder_lambda": 10},
            **_PATCHED,
        ),
        Case(
            name="summed",
            words="the same, both segments in each step",
            method={**_FIT, "decoder_steps": 4, "decoder_batch": "full", "decoder_lr": 2e-4},
            **_PATCHED,
        ),
    )
}

# --- how it is made -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of the denoiser: (C, h, w) of the batch's first latent in, the clean one out."""

    t: int
    z: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Drawn:
    """Noise as a segment got it: its name, its place in latent cells, (C, h, w)."""

    draw: Draw
    box: Box
    values: Tensor


@dataclass
class Record:
    """What passed between the product's parts, by stage."""

    encoded: defaultdict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    calls: defaultdict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    drawn: defaultdict[int, list[Drawn]] = field(default_factory=lambda: defaultdict(list))
    stage: int = 0  # that is worked at

    def listening(self) -> ExitStack:
        """As long as this lasts, what passes is recorded; whatever is patched now is heard."""
        stack = ExitStack()
        for owner, name, ear in (
            (LatentModel, "encode", self._encode),
            (LatentModel, "denoiser", self._denoiser),
            (NoiseField, "box", self._box),
        ):
            stack.enter_context(patch.object(owner, name, ear(getattr(owner, name))))
        return stack

    def _encode(self, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def encode(model: LatentModel, x: Tensor) -> Tensor:
            self.encoded[self.stage].append(x)
            return real(model, x)

        return encode

    def _denoiser(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def denoiser(*arguments: Any, **options: Any) -> Any:
            denoise = real(*arguments, **options)

            def heard(z: Tensor, level: Level) -> Tensor:
                x0: Tensor = denoise(z, level)
                self.calls[self.stage].append(Call(int(level.t), z[0].clone(), x0[0].clone()))
                return x0

            return heard

        return denoiser

    def _box(self, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def box(noise: NoiseField, draw: Draw, place: Box) -> Tensor:
            values = real(noise, draw, place)
            self.drawn[noise.stage].append(Drawn(draw, place, values))
            return values

        return box


class Made:
    """A finished edit, with all that was stored and recorded on the way."""

    def __init__(self, case: Case, edit: steps.Edit, record: Record) -> None:
        self.case, self.edit, self.record = case, edit, record
        self.plan = edit.record.plan

    @cached_property
    def after(self) -> Image:
        """The finished picture as another library reads it: (H, W, 3) uint8."""
        return np.asarray(Pil.open(self.edit.target).convert("RGB"))

    @property
    def before_paste(self) -> Image:
        """The last stage as 8-bit pixels: (H, W, 3)."""
        return np.asarray(from_float(self.composed(self.final), np.uint8).transpose(1, 2, 0))

    @property
    def final(self) -> Stage:
        return self.plan.final

    def composed(self, stage: Stage) -> Floats:
        """A whole composed stage, before anything is pasted: (3, H, W) in [0, 1]."""
        return self.edit.canvas(stage).composed(stage, Box.of(stage.size))

    def source(self, stage: Stage) -> Floats:
        """The input as a stage sees it: (3, H, W) in [0, 1]."""
        return stage_view(self.edit.canvas(stage).source, stage, Box.of(stage.size))

    def mask(self, stage: Stage) -> Bools:
        """(H, W), of a stage."""
        return stage_mask(self.edit.canvas(stage), stage, Box.of(stage.size))

    def segments(self, stage: Stage) -> list[Floats]:
        """The planned segments' pixels, each (3, H, W)."""
        canvas = self.edit.canvas(stage)
        return [canvas.segment(stage, slot) for slot in range(len(stage.segments))]

    def latents(self, stage: Stage) -> list[Tensor]:
        """The planned segments' latents, each (1, C, h, w)."""
        canvas = self.edit.canvas(stage)
        slots = range(len(stage.segments))
        return [torch.from_numpy(canvas.latent(stage, slot))[None] for slot in slots]


class Studio:
    """One worker and a folder, in which edits are made one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, LocalFiles(folder)
        spec = ModelSpec(device="cpu")
        card = resolve(spec)
        self._models = steps.Models(spec, card, digests(card))
        self._worker = TaskWorker(self._files.url, spec, 1)
        self._count = 0

    def make(self, case: Case) -> Made:
        """Make an edit from its first latent to its file, and never from what was made before."""
        self._count += 1
        name = f"{case.name}-{self._count}"
        edit = steps.prepare(self._spec(case, name), self._at(name), self._models)
        record = Record()
        _chore(edit, "ingest", partial(steps.ingest, edit, _ignore))
        with record.listening():
            for task in _plant(case, edit) if case.planted else edit.record.plan.tasks(name):
                if task.kind != "measure":  # it changes no pixel
                    record.stage = task.stage
                    self._run(edit, task)
        _chore(edit, "export", partial(steps.export, edit, _ignore, _nothing, "off", _ignore))
        return Made(case, edit, record)

    def _at(self, name: str) -> Files:
        return self._files / name

    def _spec(self, case: Case, name: str) -> EditSpec:
        image, mask = (self._folder / f"{case.name}-{what}.png" for what in ("image", "mask"))
        if not mask.exists():
            Pil.fromarray(case.picture).save(image)
            Pil.fromarray(case.masked.astype(np.uint8) * 255).save(mask)
        return EditSpec(
            id=name,
            image=str(image),
            mask=str(mask),
            prompt=case.prompt,
            seed=case.seed,
            method=Method(**case.method),
        )

    def _run(self, edit: steps.Edit, task: Task) -> None:
        plan, work = edit.record.plan, f"{edit.id}/{edit.record.key}"
        order = Order(task, work, versions_of(edit.ledger, plan, plan.stages[task.stage]))
        facts = self._worker.run(order, Attempt(_ATTEMPT), beat=_ignore)
        edit.ledger.learn(task.name, facts)


def _chore(edit: steps.Edit, name: str, run: Callable[[str], Facts]) -> None:
    steps.Chore(edit, name, run)(_EPOCH)


def _plant(case: Case, edit: steps.Edit) -> list[Task]:
    """Store what is planted as the result of the stage before the last; the tasks of the last."""
    plan = edit.record.plan
    stage, size = plan.stages[-2], Box.of(plan.image)
    canvas = edit.canvas(stage, _ATTEMPT)

    def read(box: Box) -> Floats:
        return read_reflected(lambda b: case.painted[(slice(None), *b.slices)], box, size)

    for row, column, box in stage.grid.chunks():
        canvas.write_composed(stage, row, column, stage_view(read, stage, box))
    for wave in plan.waves(edit.id, stage):
        for task in wave:
            if task.kind == "compose":
                edit.ledger.commit(task.name, {"attempt": _ATTEMPT})
    return [task for wave in plan.waves(edit.id, plan.final) for task in wave]


def _ignore(*_: object) -> None:
    return None


def _nothing(*_: object) -> Facts:
    return {}
