"""A worker: the models, and one short method for each kind of task.

Tasks name an edit, a stage and slots; everything else is read from the run directory, and every
result is written there, each slot by the one task that owns it. The same task always writes the
same bytes: threads per worker, batches and noise do not depend on who runs it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import zarr
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from msbd_dist.batch.beside import Beside, ReadAhead
from msbd_dist.batch.journal import heard
from msbd_dist.batch.latest import Latest
from msbd_dist.batch.measures import Sides, appearance, framed, likeness, pasted, rounded
from msbd_dist.batch.patch import Patch
from msbd_dist.batch.record import (
    EditRecord,
    Order,
    load_edit,
    peak_memory_mb,
    tuned_name,
)
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.images import Picture, grey
from msbd_dist.canvas.ledger import Facts, Ledger, Versions
from msbd_dist.canvas.masks import feather, scale_mask
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.canvas.urls import store_errors
from msbd_dist.core.compose import (
    Bools,
    Floats,
    between,
    colour_agreement,
    compose_chunk,
    composed,
    latent_mask,
    lowpass,
    read_reflected,
    resample,
    stage_view,
)
from msbd_dist.core.decoder import ALIKE, Decode, DecoderFit, FitSegment, FitSettings, Params, shown
from msbd_dist.core.gang import Alone, Team, from_time_to_time
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.levels import Level
from msbd_dist.core.noise import Draw, NoiseField
from msbd_dist.core.plan import SR_HALO, Plan, Stage, Task
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.sampling import Noise, blended_diffusion
from msbd_dist.core.spec import ModelSpec
from msbd_dist.core.threads import intra_op_threads
from msbd_dist.core.tiling import Grid
from msbd_dist.errors import ImageError, NonFiniteError
from msbd_dist.fleet.executor import Beat
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.bundle import Models, load, make_deterministic
from msbd_dist.models.card import resolve

log = logging.getLogger(__name__)

FLAT = 1 / 512  # less than this between the darkest and the brightest sample
CHECKPOINT_SECONDS = 60.0  # between two of an unfinished decoder optimization


@dataclass(frozen=True)
class Given:
    """What a segment starts from, before any model has worked on it; arrays of [0, 1]."""

    mask: Bools  # (h, w)
    background: Floats  # LP(x_in), or x_in where no stage is before: (3, h, w)
    small: Floats | None  # of the stage before, with a halo: (3, h', w')
    rect: Rect  # the segment in ``small``, in its pixels


@dataclass(frozen=True)
class Scene:
    """One stage of one edit, opened for work."""

    record: EditRecord
    stage: Stage
    canvas: Canvas
    work: Files
    attempt: str  # whose results are written
    versions: Versions  # and which are read
    beat: Beat  # a sign that work goes on
    beside: Beside  # threads that read and write meanwhile
    given: ReadAhead[int, Given]  # of a later stage, what each slot starts from
    parts: int = 1  # pieces that the task is to be done in, where memory is short
    flat: list[int] = field(default_factory=list)  # slots whose segment is all of one colour

    @property
    def plan(self) -> Plan:
        return self.record.plan

    def mask(self, window: Box) -> Bools:
        """The mask in a window of the stage: True where any pixel under it is (h, w)."""
        return stage_mask(self.canvas, self.stage, window)

    @property
    def paints(self) -> bool:
        """Whether something is painted that is to stay as it is: an empty prompt only continues
        what is around the mask."""
        return bool(self.record.spec.prompt.strip())

    def depth(self, window: Box) -> Floats:
        """How far inside the mask pixels are, as `core.decoder` has it: (h, w) in [0, 1]."""
        if not self.paints:
            return np.where(self.mask(window), np.float32(ALIKE), np.float32(0))
        return stage_depth(self.canvas, self.plan, self.stage, window)

    def source(self, window: Box) -> Floats:
        """x_in in a window of the stage: (3, h, w) in [0, 1]."""
        return stage_view(self.canvas.source, self.stage, window)


@dataclass(frozen=True)
class _Opened:
    """An edit's stored work; tasks of one edit come in runs, so the latest one is kept open."""

    record: EditRecord
    work: Files
    group: zarr.Group
    picture: Picture | None  # where the source is read from


class TaskWorker:
    """Runs tasks of any edit of one run; loads each model when it first needs it."""

    def __init__(self, run: str, models: ModelSpec, threads: int) -> None:
        """``run``: its directory, a path or URL; ``threads`` of an operation."""
        self._run, self._threads = open_files(run), threads
        self._models: Models = load(resolve(models), device=models.device)
        if self._models.device.type == "cuda":
            make_deterministic()
        self._opened = Latest[_Opened]()
        self._tuned = Latest[Params]()
        self._fits = Latest[DecoderFit]()  # the one that is not finished
        self._kinds: dict[str, Callable[[Scene, tuple[int, ...]], Facts]] = {
            "denoise": self._denoise,
            "decode": self._decode,
            "compose": self._compose,
            "measure": self._measure,
        }

    def run(self, order: Order, attempt: Attempt, *, beat: Beat, team: Team | None = None) -> Facts:
        """Run a task, alone or as a member of a team, store its results and mark it done.

        Returns the facts of its marker: of another attempt, where that was first.
        """
        started, task = time.perf_counter(), order.task
        with (
            store_errors(self._run.url),
            intra_op_threads(self._threads),
            heard() as lines,
            Beside() as beside,
        ):
            scene = replace(self._scene(order, attempt.name, beat, beside), parts=attempt.parts)
            if task.kind == "fit":
                facts = self._fit(scene, task.slots, team or Alone())
            else:
                facts = self._in_parts(scene, task, attempt.parts)
            beside.flush()
        facts |= {
            "attempt": attempt.name,
            "stored": scene.canvas.digests,
            "slots": len(task.slots),
            "bytes": scene.canvas.written,
            **({"flat": scene.flat} if scene.flat else {}),
            "seconds": round(time.perf_counter() - started, 3),
            "peak_mb": peak_memory_mb(),
            "models": self._models.describe(),
            "by": f"{os.getpid()} on {socket.gethostname()}",
            **({"log": lines} if lines else {}),
        }
        if team is not None and team.rank > 0:
            return facts
        return Ledger.mark(scene.work / "ledger", task.name, facts)

    def _in_parts(self, scene: Scene, task: Task, parts: int) -> Facts:
        """A task's slots in at least ``parts`` pieces, one after another; in more where memory
        runs out."""
        facts: Facts = {}
        size = max(1, -(-len(task.slots) // parts))
        if self._models.device.type == "cpu":
            size = 1  # a batch gains little there, and so bytes don't depend on the pieces
        pieces = deque(task.slots[i : i + size] for i in range(0, len(task.slots), size))
        while pieces:
            piece = pieces.popleft()
            try:
                facts |= self._soundly(scene, task.kind, piece)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(piece) == 1:
                    raise
                log.warning("%s: out of memory, done in smaller pieces", task.name)
                half = len(piece) // 2
                pieces.extendleft((piece[half:], piece[:half]))
        return facts

    def _soundly(self, scene: Scene, kind: str, slots: tuple[int, ...]) -> Facts:
        """Half precision can overflow: what comes out as NaN or all one colour is done again in
        full precision, once."""
        try:
            return self._kinds[kind](scene, slots)
        except NonFiniteError as error:
            if self._models.dtype == torch.float32:
                raise
            log.warning("%s; done again in float32", error)
        usual, self._models = self._models, self._models.in_float32
        try:
            return self._kinds[kind](scene, slots) | {"dtype": "float32"}
        finally:
            self._models = usual

    def _scene(self, order: Order, attempt: str, beat: Beat, beside: Beside) -> Scene:
        opened = self._opened.get(order.work, partial(_open, self._run / order.work))
        plan = opened.record.plan
        canvas = Canvas(
            opened.group,
            plan,
            np.dtype(opened.record.dtype),
            order.versions,
            attempt=attempt,
            picture=opened.picture,
        )
        stage = plan.stages[order.task.stage]
        given = ReadAhead(beside.reader, partial(_given, plan, stage, canvas), order.task.slots)
        return Scene(
            *(opened.record, stage, canvas, opened.work, attempt, order.versions, beat),
            *(beside, given),
        )

    # -- tasks -------------------------------------------------------------------------------------

    def _denoise(self, scene: Scene, slots: tuple[int, ...]) -> Facts:
        if scene.stage.kind == "base":
            return self._denoise_base(scene)
        return self._denoise_segments(scene, slots)

    def _denoise_base(self, scene: Scene) -> Facts:
        """Stage 1 (Fig. 1a): B samples, scored, the best one kept."""
        method, window = scene.plan.method, scene.stage.window(0)
        if method.rerank and method.samples > 1:
            _ = self._models.scorer  # a CLIP that is missing is an error before the work, not after
        z0 = self._encode(scene.source(window)[None]).expand(method.samples, -1, -1, -1)
        boxes = [self._latent_box(scene, window)] * method.samples
        mask, size = scene.mask(window)[None], -(-method.samples // scene.parts)
        pieces = [range(method.samples)[i : i + size] for i in range(0, method.samples, size)]
        z = torch.cat(
            [
                self._diffuse(scene, z0[: len(piece)], mask, boxes[: len(piece)], samples=piece)
                for piece in pieces
            ]
        )
        pixels = torch.cat([self._models.latent.decode(one[None]) for one in z])
        pictures = pixels.clamp(0, 1).cpu()
        for sample, picture in enumerate(pictures):
            scene.canvas.write_candidate(sample, picture.numpy())
        scores = self._scores(scene, pictures)
        chosen = int(np.argmax(scores)) if scores else 0
        scene.canvas.write_latent(scene.stage, 0, z[chosen].cpu().numpy())
        if not method.decoder_optimization:
            scene.canvas.write_segment(scene.stage, 0, pictures[chosen].numpy())
        return {"scores": scores, "chosen": chosen}

    def _scores(self, scene: Scene, pictures: torch.Tensor) -> list[float] | None:
        """CLIP scores, or colour agreement where there are no words; None if nothing to choose."""
        method, prompt = scene.plan.method, scene.record.spec.prompt
        if not method.rerank or method.samples == 1:
            return None
        if prompt.strip():
            scores = self._models.scorer(pictures, prompt)
        else:
            mask = scene.mask(scene.stage.window(0))
            scores = [100 * colour_agreement(picture.numpy(), mask) for picture in pictures]
        return [round(score, 4) for score in scores]

    def _denoise_segments(self, scene: Scene, slots: Sequence[int]) -> Facts:
        """Later stages (Figs. 1b and 1c): super-resolution, part-way noise, blended diffusion.

        Or the only stage, whose segments begin with noise alone.
        """
        stage = scene.stage
        given = [scene.given(slot) for slot in slots]
        start = np.stack(self._starts(scene, given))
        if not scene.plan.diffuses(stage):
            for slot, picture in zip(slots, start, strict=True):
                scene.canvas.write_segment(stage, slot, picture)
            return {}
        boxes = [self._latent_box(scene, stage.window(slot)) for slot in slots]
        z = self._diffuse(scene, self._encode(start), np.stack([g.mask for g in given]), boxes)
        for slot, latent in zip(slots, z, strict=True):
            stored = latent.cpu().numpy()
            scene.beside.later(partial(scene.canvas.write_latent, stage, slot, stored))
            if not scene.plan.method.decoder_optimization:
                self._decode_slot(scene, slot, latent[None], None)
        return {}

    def _fit(self, scene: Scene, slots: tuple[int, ...], team: Team) -> Facts:
        """Decoder optimization (eq. 1) over all planned segments of the stage, by a team.

        What is reached when the team breaks is kept here, for the next team; the first member of
        one also leaves it beside the result from time to time, for a team of newcomers.
        """
        place = f"{scene.work.url} {scene.stage.index}"
        fit = self._fits.get(place, partial(self._new_fit, scene, slots))
        left = Checkpoint.of(scene)
        fit.use(self._fitted_decode(scene))
        try:
            params = fit.run(team, on_turn=left.keep(fit, team.rank == 0))
        except ArithmeticError:
            raise NonFiniteError(
                f"the decoder's loss became NaN in stage "
                f"{scene.stage.index}; try a smaller decoder_lr than "
                f"{scene.plan.method.decoder_lr:g}"
            ) from None
        if team.rank == 0:
            name = tuned_name(scene.stage, scene.attempt)
            scene.work.write(name, save({k: v.cpu().contiguous() for k, v in params.items()}))
            left.remove()
        self._fits.forget()
        losses = [float(f"{loss:.6g}") for loss in fit.losses]
        return {"losses": losses, "ranks": team.size}

    def _new_fit(self, scene: Scene, slots: tuple[int, ...]) -> DecoderFit:
        method, latent = scene.plan.method, self._models.latent
        load = partial(self._fit_segment, scene)
        rounds = Rounds.of(method, len(slots))
        decode, weights = self._fitted_decode(scene), latent.decoder_weights()
        fit = DecoderFit(decode, weights, load, rounds, FitSettings.of(method))
        Checkpoint.of(scene).restore(fit)
        return fit

    def _fitted_decode(self, scene: Scene) -> Decode:
        """The decoder as it is tuned; where memory was short it keeps less for the gradient."""
        half = scene.plan.method.decoder_batch == "sample"
        half = half and self._models.products == torch.bfloat16
        return partial(self._models.latent.decode, half=half, frugal=scene.parts > 1)

    def _fit_segment(self, scene: Scene, slot: int) -> FitSegment:
        device, window = self._models.device, scene.stage.window(slot)
        z = torch.from_numpy(scene.canvas.latent(scene.stage, slot))[None].to(device)
        weights = scene.stage.grid.weights(scene.stage.segments[slot])

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))[None].to(device)

        return FitSegment(
            z=z,
            target=self._models.latent.decode(z).clone(),
            source=tensor(scene.source(window)),
            depth=tensor(scene.depth(window)[None]),
            weight=tensor(weights[None].copy()),
        )

    def _decode(self, scene: Scene, slots: tuple[int, ...]) -> Facts:
        """Latent slots -> pixel slots, with the weights that were tuned to the stage."""
        params = self._tuned_weights(scene)
        for slot in slots:
            z = torch.from_numpy(scene.canvas.latent(scene.stage, slot))[None]
            self._decode_slot(scene, slot, z.to(self._models.device), params)
        return {}

    def _decode_slot(self, scene: Scene, slot: int, z: torch.Tensor, params: Params | None) -> None:
        with torch.no_grad():
            decoded = self._models.latent.decode(z, params)
            if params is not None and scene.paints:
                depth = scene.depth(scene.stage.window(slot))
                plain = self._models.latent.decode(z) if depth.any() else decoded
                decoded = shown(decoded, plain, torch.from_numpy(depth).to(plain.device))
            pixels = decoded[0].clamp(0, 1).cpu().numpy()
        _require_finite(pixels, scene, "decoder", self._models.device.type)
        if float(np.ptp(pixels)) < FLAT:
            self._report_flat(scene, slot)
        scene.beside.later(partial(scene.canvas.write_segment, scene.stage, slot, pixels))

    def _report_flat(self, scene: Scene, slot: int) -> None:
        what = f"segment {slot} of stage {scene.stage.index} is all of one colour"
        if self._models.dtype != torch.float32:
            raise NonFiniteError(what)
        log.warning("%s: %s", scene.record.spec.id, what)
        scene.flat.append(slot)

    def _tuned_weights(self, scene: Scene) -> Params:
        """The stage's tuned decoder."""
        attempt = scene.versions[f"{scene.stage.index}-fit"].of(0)
        name = tuned_name(scene.stage, attempt)

        def read() -> Params:
            stored = load_tensors(scene.work.read(name))
            return {k: v.to(self._models.device) for k, v in stored.items()}

        return self._tuned.get(f"{scene.work.url}/{name}", read)

    def _compose(self, scene: Scene, numbers: tuple[int, ...]) -> Facts:
        """Segments -> chunks of the composed stage."""
        stage, canvas = scene.stage, scene.canvas
        slot_of = {index: slot for slot, index in enumerate(stage.segments)}
        for number in numbers:
            row, column, box = stage.grid.chunk(number)
            slots = [slot_of[index] for index in stage.grid.meeting(box) if index in slot_of]
            pixels = compose_chunk(
                stage.grid,
                ((stage.segments[slot], canvas.segment(stage, slot)) for slot in slots),
                partial(_beneath, scene.plan, stage, canvas, box),
                box,
                kind=scene.plan.method.compose,
            )
            canvas.write_composed(stage, row, column, pixels)
        return {}

    def _measure(self, scene: Scene, _: tuple[int, ...]) -> Facts:
        """How the finished edit looks, beside the picture before it: `batch.measures`."""
        canvas, plan, models = scene.canvas, scene.plan, self._models
        sides = Sides(
            bounds=plan.source_box,
            bbox=plan.bbox,
            before=canvas.source_integers,
            after=pasted(canvas.source_integers, _patch(scene), plan.bbox),
            mask=canvas.mask,
        )
        found = appearance(sides)
        found |= likeness(sides, sides.before, lpips=models.lpips, device=models.device)
        prompt = scene.record.spec.prompt
        if plan.candidates > 1 and plan.method.rerank and prompt.strip():
            picture = torch.from_numpy(framed(sides, plan))[None]
            (found["clip"],) = self._models.scorer(picture, prompt)
        return {"measures": rounded(found)}

    # -- parts of tasks ----------------------------------------------------------------------------

    def _encode(self, pictures: Floats) -> torch.Tensor:
        """E(x), one picture at a time, so that a latent does not depend on its batch."""
        device = self._models.device
        rows = [torch.from_numpy(np.ascontiguousarray(p))[None].to(device) for p in pictures]
        return torch.cat([self._models.latent.encode(row) for row in rows])

    def _diffuse(
        self,
        scene: Scene,
        z0: torch.Tensor,
        masks: np.ndarray,
        boxes: Sequence[Box],
        *,
        samples: Sequence[int] = (),
    ) -> torch.Tensor:
        """Blended diffusion of a batch; ``boxes`` are the latents' places on the stage's canvas,
        ``samples`` their numbers where they are samples of one place."""
        method, stage, latent = scene.plan.method, scene.stage, self._models.latent
        spec = scene.record.spec
        device = self._models.device
        fields = [
            NoiseField(scene.record.seed, stage.index, sample, z0.shape[1])
            for sample in samples or [0] * len(boxes)
        ]
        cells = np.stack([latent_mask(m, scene.plan.family.vae_factor) for m in masks])[:, None]
        denoise = latent.denoiser(
            latent.text(spec.prompt, spec.negative_prompt), guidance=self._guidance(scene)
        )

        def denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
            scene.beat()
            return denoise(z, level)

        z = blended_diffusion(
            denoiser,
            z0,
            torch.from_numpy(cells).to(device) if method.blend else None,
            latent.schedule(stage.steps, num_calls=stage.num_calls),
            _noise(fields, boxes, device),
            eta=method.eta,
            repaint=method.repaint if stage.index == 0 else 0,
        )
        _require_finite(z.cpu().numpy(), scene, "denoiser", self._models.device.type)
        return z

    def _guidance(self, scene: Scene) -> float:
        method = scene.plan.method
        later = scene.stage.index > 0
        if later and method.upscale_diffusion == "unconditional":
            return 0.0
        segmented = later and scene.stage.kind == "segmented"
        guidance = method.segment_guidance if segmented else method.guidance
        assert guidance is not None  # a plan's method is settled
        return guidance

    def _starts(self, scene: Scene, given: Sequence[Given]) -> list[Floats]:
        """x~ = m * SR(x_prev) + (1-m) * LP(x_in) of segments; the input where nothing is before."""
        small = [one.small for one in given if one.small is not None]
        if not small:
            return [one.background for one in given]
        upscaler = self._models.upscaler(scene.plan.method.upscaler)
        alike = len({picture.shape for picture in small}) == 1
        batches = [small] if alike else [[picture] for picture in small]
        large = [
            picture.cpu().numpy()
            for batch in batches
            for picture in upscaler(torch.from_numpy(np.stack(batch)).to(self._models.device))
        ]
        return [
            composed(one.mask, _fitted(scene, one, picture), one.background)
            for one, picture in zip(given, large, strict=True)
        ]

    def _latent_box(self, scene: Scene, window: Box) -> Box:
        """Where a window's noise comes from, in latent cells."""
        f = scene.plan.family.vae_factor
        if scene.plan.method.noise == "segment":
            window = Box.of(window.size)
        return Box(window.y0 // f, window.x0 // f, window.y1 // f, window.x1 // f)


class Checkpoint:
    """An unfinished fit, beside where its result will be; any attempt may go on from it."""

    def __init__(self, files: Files, stage: int, beat: Beat) -> None:
        self._files, self._name = files, f"tuned-{stage}.checkpoint"
        self._beat = beat

    @classmethod
    def of(cls, scene: Scene) -> Checkpoint:
        return cls(scene.work, scene.stage.index, scene.beat)

    def keep(self, fit: DecoderFit, saves: bool) -> Callable[[int], None]:
        """Called after each turn: saves the fit, if it is to, when it was last saved long ago."""

        def write() -> None:
            state = {k: v.cpu().contiguous() for k, v in fit.state().items()}
            self._files.write(self._name, save(state))

        keep = from_time_to_time(CHECKPOINT_SECONDS, write)

        def on_turn(turn: int) -> None:
            self._beat()
            if saves:
                keep(turn)

        return on_turn

    def restore(self, fit: DecoderFit) -> None:
        """Take up what is there; what can't be taken up is removed, and the fit begins anew."""
        with suppress(FileNotFoundError):
            stored = self._files.read(self._name)
            try:
                fit.restore(load_tensors(stored))
            except (SafetensorError, ValueError) as error:
                log.warning("%s: can't be taken up (%s); begun anew", self._name, error)
                self.remove()

    def remove(self) -> None:
        self._files.remove(self._name)


def _patch(scene: Scene) -> Callable[[Box], Samples]:
    """What the edit makes of the mask's box, as what is written will look."""
    patch = Patch(scene.canvas, np.dtype(scene.record.dtype))
    if scene.record.bands == 3:
        return patch

    def in_grey(box: Box) -> Samples:
        return np.repeat(grey(patch(box)), 3, axis=0)

    return in_grey


def _open(work: Files) -> _Opened:
    record = load_edit(work)
    picture = _source(record.spec.source) if record.direct else None
    return _Opened(record, work, canvas_group(work), picture)


def _source(place: str) -> Picture:
    try:
        return Picture.open(place)
    except ImageError as error:
        raise ImageError(
            f"{error}; this is what the worker on {socket.gethostname()} says: pictures that are "
            "not taken in must be where every worker finds them"
        ) from None


def _given(plan: Plan, stage: Stage, canvas: Canvas, slot: int) -> Given:
    """Read what a segment starts from: no work of models, and none of torch."""
    window = stage.window(slot)
    mask = stage_mask(canvas, stage, window)
    if stage.index == 0:
        whole = Rect(0, 0, *window.size.shape)
        return Given(mask, stage_view(canvas.source, stage, window), None, whole)
    small, rect = _previous(plan, stage, canvas, window)
    return Given(mask, _background(plan, stage, canvas, window), small, rect)


def _previous(plan: Plan, stage: Stage, canvas: Canvas, window: Box) -> tuple[Floats, Rect]:
    """The stage before around a window, with a halo, and where the window is in that."""
    previous = plan.stages[stage.index - 1]
    rect = between(window, stage, previous)
    box = rect.outer(SR_HALO)
    small = read_reflected(partial(canvas.composed, previous), box, Box.of(previous.size))
    return np.ascontiguousarray(small, np.float32), rect.relative_to(box)


def _beneath(plan: Plan, stage: Stage, canvas: Canvas, box: Box) -> Floats:
    """What a chunk's segments are laid on: the input; under `over`, where ramps let it through, the
    stage before in the mask, as in the authors' code."""
    source = stage_view(canvas.source, stage, box)
    if plan.method.compose == "sum" or stage.index == 0:
        return source
    small, rect = _previous(plan, stage, canvas, box)
    return composed(
        stage_mask(canvas, stage, box), resample(small, rect, box.size, "bicubic"), source
    )


def _background(plan: Plan, stage: Stage, canvas: Canvas, window: Box) -> Floats:
    """LP(x_in): the input no sharper than the previous stage, or half of this one, or as is."""
    kind = plan.method.lowpass
    if kind == "off":
        return stage_view(canvas.source, stage, window)
    coarse = plan.stages[stage.index - 1]
    if kind == "half":
        half = Size(-(-stage.size.height // 2), -(-stage.size.width // 2))
        coarse = replace(stage, grid=Grid.whole(half))
    return lowpass(canvas.source, stage, coarse, window)


def _fitted(scene: Scene, given: Given, large: Floats) -> Floats:
    """SR(x_prev) in a segment: what was enlarged without its halo, resized down."""
    factor, rect = scene.plan.family.sr_factor, given.rect
    zoomed = Rect(rect.y0 * factor, rect.x0 * factor, rect.y1 * factor, rect.x1 * factor)
    return resample(large, zoomed, Size(*given.mask.shape))


def stage_mask(canvas: Canvas, stage: Stage, window: Box) -> Bools:
    """The mask in a window of a stage, by maximum: (h, w) bool."""
    return scale_mask(canvas.mask, stage.image_rect(window), window.size)


def stage_depth(canvas: Canvas, plan: Plan, stage: Stage, window: Box) -> Floats:
    """How far inside the mask a stage's pixels are: (h, w) in [0, 1], as `core.decoder` has it.

    The picture's border, beyond which the mask is reflected, is no edge of it.
    """
    band, read = plan.family.vae_factor, partial(stage_mask, canvas, stage)
    return feather(read, band, window, bounds=window.grown(band))


def _noise(fields: Sequence[NoiseField], boxes: Sequence[Box], device: torch.device) -> Noise:
    def draw(name: Draw) -> torch.Tensor:
        noise = torch.stack(
            [field.box(name, box) for field, box in zip(fields, boxes, strict=True)]
        )
        if device.type == "cuda":  # what is pinned is copied without waiting for the device
            return noise.pin_memory().to(device, non_blocking=True)
        return noise

    return draw


def _require_finite(array: np.ndarray, scene: Scene, part: str, device: str) -> None:
    if not np.isfinite(array).all():
        elsewhere = "" if device == "cpu" else ", or device: cpu"
        raise NonFiniteError(
            f"the {part} produced NaN or infinity in stage {scene.stage.index}; "
            f"try another seed or a lower guidance{elsewhere}"
        )
