"""(image size, mask, family, method) -> Plan: which stages at which sizes, in which segments.

Pure geometry: the same plan for any number of workers, hashable and printable. Section and step
names are those of the Multi-Stage Blended Diffusion paper. No torch, no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil
from typing import Literal

from msbd_dist.core.geometry import Box, Rect, Size, map_box, placed, round_up
from msbd_dist.core.naming import digest_of
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.spec import Family, Method
from msbd_dist.core.tiling import Grid, batches, planned
from msbd_dist.errors import ManifestError

StageKind = Literal["base", "whole", "segmented"]
TaskKind = Literal["denoise", "fit", "decode", "compose", "measure"]

SR_HALO = 16  # pixels of the previous stage that super-resolution reads around what it enlarges
CHUNKS_TOGETHER = 16  # that one task composes
DECODER_PASS_COST = 8.0  # one decoder forward and backward pass, in guided UNet calls
MEASURE_COST = 0.5  # of a latent cell under the mask's box, in guided UNet calls
LOWPASS_HALO = 2  # pixels of the low-passed grid read around a window: bilinear's reach


@dataclass(frozen=True)
class Stage:
    """One resolution. ``region`` is in image pixels and may reach beyond the image."""

    index: int
    kind: StageKind
    region: Box
    grid: Grid
    segments: tuple[int, ...]  # grid indices of the planned segments; slot s holds segments[s]
    steps: int  # steps of the uniform schedule
    start: float  # share of the schedule that is run: 1.0, 0.4, 0.25

    @property
    def size(self) -> Size:
        return self.grid.content

    @property
    def num_calls(self) -> int:
        """Steps of the schedule that are run on each segment."""
        return started(self.steps, self.start)

    def window(self, slot: int) -> Box:
        return self.grid.window(self.segments[slot])

    def image_rect(self, window: Box) -> Rect:
        """A window of this stage in image pixels (may reach beyond the image)."""
        pixel, one = Box(0, 0, 1, 1), Size(1, 1)
        return map_box(
            window, source=self.region, source_size=self.size, target=pixel, target_size=one
        )


@dataclass(frozen=True)
class Task:
    """One unit of work for one worker; the same task always writes the same bytes.

    ``slots`` are those of the stage's segments, or the numbers of the chunks to compose; to measure
    is one task of the final stage, of slot 0.
    """

    edit: str
    stage: int
    kind: TaskKind
    slots: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the task in its edit's ledger."""
        return f"{self.stage}-{self.kind}-{self.slots[0]}"


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a pixel is drawn."""

    image: Size
    bbox: Box
    family: Family  # with the overlap that the method asks for
    method: Method  # settled: as the family recommends where nothing was chosen
    stages: tuple[Stage, ...]

    def waves(self, edit: str, stage: Stage) -> Iterator[tuple[Task, ...]]:
        """The waves of one stage, each of tasks that may run together."""
        for kind in self.kinds(stage):
            yield tuple(Task(edit, stage.index, kind, group) for group in self._groups(stage, kind))
        if stage == self.final:
            yield (Task(edit, stage.index, "measure", (0,)),)

    def _groups(self, stage: Stage, kind: TaskKind) -> list[tuple[int, ...]]:
        if kind == "compose":
            numbers, together = self.written_chunks(stage), CHUNKS_TOGETHER
        else:
            numbers = tuple(range(len(stage.segments)))
            together = len(numbers) if kind == "fit" else self.method.segment_batch
        return [tuple(numbers[slot] for slot in group) for group in batches(len(numbers), together)]

    def slots(self, stage: Stage, kind: TaskKind) -> int:
        """How many the tasks of a wave have together."""
        if kind == "measure":
            return 1
        return len(self.written_chunks(stage) if kind == "compose" else stage.segments)

    def written_chunks(self, stage: Stage) -> tuple[int, ...]:
        """The chunks of the composed stage that a planned segment meets."""
        met = set(stage.segments)
        return tuple(
            number
            for number, chunk in enumerate(stage.grid.chunks())
            if any(index in met for index in stage.grid.meeting(chunk.box))
        )

    def tasks(self, edit: str) -> Iterator[Task]:
        """All tasks of the edit in order."""
        for stage in self.stages:
            for wave in self.waves(edit, stage):
                yield from wave

    def kinds(self, stage: Stage) -> tuple[TaskKind, ...]:
        """The waves of one stage; one without diffusion is neither fitted nor re-decoded."""
        if self.diffuses(stage) and self.method.decoder_optimization:
            return ("denoise", "fit", "decode", "compose")
        return ("denoise", "compose")

    def diffuses(self, stage: Stage) -> bool:
        return stage.index == 0 or self.method.upscale_diffusion != "off"

    @property
    def candidates(self) -> int:
        """Pictures that the first stage makes to choose among; 0 where it works in segments."""
        return self.method.samples if self.stages[0].kind == "base" else 0

    def denoiser_calls(self, stage: Stage) -> int:
        """Denoised latents of one stage (guidance doubles the UNet's batch, not this count)."""
        if stage.index == 0:
            return (
                (self.candidates or len(stage.segments))
                * stage.num_calls
                * (self.method.repaint + 1)
            )
        return stage.num_calls * len(stage.segments) if self.diffuses(stage) else 0

    def decoder_passes(self, stage: Stage) -> int:
        """Decoder forward-and-backward passes of one stage's decoder optimization."""
        if "fit" not in self.kinds(stage):
            return 0
        return Rounds.of(self.method, len(stage.segments)).passes

    def ranks(self, task: Task) -> int:
        """How many workers can share a task: a decoder is fitted to its segments by many."""
        if task.kind != "fit":
            return 1
        return Rounds.of(self.method, len(task.slots)).batch

    @property
    def source_box(self) -> Box:
        """The image pixels that any stage reads, clipped to the image."""
        boxes = [
            mirrored_extent(stage.image_rect(reach(stage)).outer(), self.image)
            for stage in self.stages
        ]
        return reduce(Box.union, boxes)

    @property
    def final(self) -> Stage:
        """The stage at full resolution."""
        return self.stages[-1]

    def cost(self, task: Task) -> float:
        """Work in a task, in denoised latent cells; for progress and estimates, not in seconds."""
        stage = self.stages[task.stage]
        if task.kind == "measure":
            return max(1.0, MEASURE_COST * self.bbox.size.area / self.family.vae_factor**2)
        cells = stage.grid.segment.area / self.family.vae_factor**2
        per_slot = {
            "denoise": self.denoiser_calls(stage) / len(stage.segments),
            "fit": self.decoder_passes(stage) / len(stage.segments) * DECODER_PASS_COST,
            "decode": DECODER_PASS_COST / 3,
            "compose": 0.1,
        }
        return max(1.0, cells * len(task.slots) * per_slot[task.kind])

    @property
    def stored_bytes(self) -> int:
        """An upper bound of what the canvas stores, before compression, beside the picture's own
        samples, which a picture that is read where it is does not need."""
        f = self.family
        total = self.source_box.size.area
        for stage in self.stages:
            slots = max(self.candidates if stage.index == 0 else 0, len(stage.segments))
            area = stage.grid.segment.area
            total += slots * area * (6 + 4 * f.latent_channels // f.vae_factor**2)
            total += stage.size.area * 6
        return total

    @property
    def digest(self) -> str:
        """A short name of this plan: equal plans have equal digests, in any process."""
        return digest_of(self)


def reach(stage: Stage) -> Box:
    """The stage pixels that any of its windows reads, resampling included."""
    return Box.of(stage.grid.canvas).grown(SR_HALO)


def mirrored_extent(box: Box, image: Size) -> Box:
    """The pixels inside the image that a reflected read of ``box`` touches (or a few more)."""

    def axis(low: int, high: int, limit: int) -> tuple[int, int]:
        first = min(low, 2 * limit - 1 - high) if high > limit else low
        last = max(high, 1 - low) if low < 0 else high
        return max(first, 0), min(last, limit)

    y0, y1 = axis(box.y0, box.y1, image.height)
    x0, x1 = axis(box.x0, box.x1, image.width)
    return Box(y0, x0, y1, x1)


def started(steps: int, start: float) -> int:
    """Steps that are run when a uniform schedule is entered at ``start`` (1.0: all), at least 1."""
    return max(1, round(steps * start))


def make_plan(
    image: Size,
    bbox: Box,
    any_mask: Callable[[Box], bool],
    *,
    family: Family,
    method: Method,
) -> Plan:
    """Plan one edit.

    ``bbox`` bounds the mask in image pixels; ``any_mask`` tells whether a box of image pixels
    (inside the image) holds a masked one.
    """
    method, family = method.settled(family), overlapping(family, method)
    region = edit_region(image, bbox, family=family, margin=method.margin)
    long_edge = region.size.long_edge
    base = base_edge(long_edge, family=family, method=method)
    edges = stage_edges(long_edge, family=family, base=base)
    if method.stages == "segments":
        edges = edges[-1:]
    stages = []
    for index, edge in enumerate(edges):
        if index == 0 and method.stages == "multi":
            stages.append(_base_stage(image, region, base, method=method))
        else:
            stages.append(
                _later_stage(index, edge, image, region, any_mask, family=family, method=method)
            )
    return Plan(image, bbox, family, method, tuple(stages))


def edit_region(image: Size, bbox: Box, *, family: Family, margin: float) -> Box:
    """The box about the mask that is edited, in image pixels.

    The mask's box grown by ``margin`` per axis, at least the native size, moved inside the image.
    Where the image is smaller than what the model needs, the box reaches beyond it. A region larger
    than the middle stage gets the aspect of that stage where the image has room, so that no stage
    squeezes the picture.
    """

    def side(length: int, limit: int) -> int:
        wanted = max(ceil(length * margin), family.native)
        return max(min(wanted, limit), length, family.native)

    height, width = side(bbox.height, image.height), side(bbox.width, image.width)
    long_edge = max(height, width)
    if long_edge <= family.segment:
        size = Size(round_up(height, family.unet_multiple), round_up(width, family.unet_multiple))
    else:
        size = Size(
            _with_room(height, long_edge, image.height, family),
            _with_room(width, long_edge, image.width, family),
        )
    center2 = (bbox.y0 + bbox.y1, bbox.x0 + bbox.x1)
    return placed(center2, size, image)


def _with_room(side: int, long_edge: int, limit: int, family: Family) -> int:
    """A side of a large region: grown to a whole number of UNet multiples at the middle stage."""
    scale = family.segment / long_edge
    wanted = round(round_up(side * scale, family.unet_multiple) / scale)
    return max(side, min(wanted, limit))


def overlapping(family: Family, method: Method) -> Family:
    """The family with the overlap of segments that the method asks for, if it asks."""
    if method.overlap is None:
        return family
    if method.overlap % family.vae_factor or method.overlap > family.segment // 2:
        raise ManifestError(
            f"overlap: got {method.overlap}, wanted a multiple of {family.vae_factor} and at most "
            f"{family.segment // 2}, half of this model's segments"
        )
    return replace(family, overlap=method.overlap)


def base_edge(long_edge: int, *, family: Family, method: Method) -> int:
    """The side of the first stage in pixels: the native size where no other is asked for.

    One that is asked for is taken down to the edited region, whose longer edge is ``long_edge``.
    """
    wanted, multiple = method.base_size or family.native, family.unet_multiple
    if wanted % multiple:
        raise ManifestError(
            f"base_size: got {wanted}, wanted a multiple of {multiple}, which this model needs"
        )
    return min(wanted, max(family.native, long_edge // multiple * multiple))


def stage_edges(long_edge: int, *, family: Family, base: int | None = None) -> tuple[int, ...]:
    """The longer edge of each stage in pixels, ending at full resolution.

    ``base`` (the native size), 1.5x native, then at most the super-resolution model's factor per
    stage. No stage appears twice.
    """
    edges = [base or family.native]
    if edges[0] < family.segment < long_edge:
        edges.append(family.segment)
    while long_edge > edges[-1] * family.sr_factor:
        edges.append(edges[-1] * family.sr_factor)
    if long_edge > edges[-1]:
        edges.append(long_edge)
    return tuple(edges)


def _base_stage(image: Size, region: Box, edge: int, *, method: Method) -> Stage:
    """Stage 1: the square about the region, ``edge`` pixels a side (Fig. 1a)."""
    side = region.size.long_edge
    center2 = (region.y0 + region.y1, region.x0 + region.x1)
    square = placed(center2, Size(side, side), image)
    if not square.contains(region):  # the region reaches beyond the image: so must the square
        square = _square_around(region)
    grid = Grid.whole(Size(edge, edge))
    return Stage(0, "base", square, grid, (0,), method.steps, 1.0)


def _square_around(region: Box) -> Box:
    side = region.size.long_edge
    y0 = region.y0 - (side - region.height) // 2
    x0 = region.x0 - (side - region.width) // 2
    return Box(y0, x0, y0 + side, x0 + side)


def _later_stage(
    index: int,
    edge: int,
    image: Size,
    region: Box,
    any_mask: Callable[[Box], bool],
    *,
    family: Family,
    method: Method,
) -> Stage:
    """A stage after the first (Fig. 1b), in segments where it is larger than one (Fig. 1c).

    Where it is the first one, it begins with noise alone and runs the first stage's schedule.
    """
    size, first = _stage_size(region.size, edge, family=family), index == 0
    steps = method.steps if first else method.upscale_steps
    if size.long_edge <= family.segment:
        grid = Grid.whole(size)
        start = 1.0 if first else method.middle_start or 1.0
        return Stage(index, "whole", region, grid, (0,), steps, start)
    grid = Grid(size, Size(family.segment, family.segment), family.overlap)
    start = 1.0 if first else method.segment_start or 1.0
    stage = Stage(index, "segmented", region, grid, (), steps, start)

    def meets_mask(window: Box) -> bool:
        box = stage.image_rect(window).outer().intersection(Box.of(image))
        return box is not None and any_mask(box)

    return replace(stage, segments=planned(grid, meets_mask))


def _stage_size(region: Size, edge: int, *, family: Family) -> Size:
    """The region at a stage whose longer edge is ``edge``."""
    long_edge = region.long_edge
    if edge == long_edge:
        return region
    multiple = family.unet_multiple if edge <= family.segment else 1

    def side(length: int) -> int:
        exact = length * edge / long_edge
        return round_up(exact - 0.5, multiple)  # half a pixel is rounding, not a reason to squeeze

    return Size(side(region.height), side(region.width))
