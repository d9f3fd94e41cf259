"""Plans (checks C2, C3's counts and C10's planning)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, Task, make_plan
from msbd_dist.core.spec import Family, Method
from msbd_dist.errors import ManifestError

SD = Family(native=512, segment=768, overlap=128)
TINY = Family(native=128, segment=192, overlap=32, unet_multiple=32, guidance=6)
PAPER_SIZES = [
    (1803, 2117), (4896, 3264), (3999, 3041), (3456, 4608), (3902, 5853), (2431, 1930),
    (2048, 2048),
]  # fmt: skip


def plan(image: Size, bbox: Box, family: Family = SD, **options: object) -> Plan:
    method = Method(**options)  # type: ignore[arg-type]

    def any_mask(box: Box) -> bool:
        return box.intersection(bbox) is not None

    return make_plan(image, bbox, any_mask, family=family, method=method)


def total_cost(plan: Plan) -> float:
    return sum(plan.cost(task) for task in plan.tasks("e"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Size, Box]:
    width, height = draw(st.sampled_from([*PAPER_SIZES, (300, 700), (90, 60), (513, 511)]))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1, x1 = draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))
    return Size(height, width), Box(y0, x0, y1, x1)


@given(cases(), st.sampled_from([1.0, 1.1, 1.2, 1.3, 1.4, 2.0]), st.sampled_from([SD, TINY]))
@settings(max_examples=400)
def test_every_mask_plans_and_every_stage_covers_it(
    case: tuple[Size, Box], margin: float, family: Family
) -> None:
    image, bbox = case
    found = plan(image, bbox, family, margin=margin)
    for stage in found.stages:
        assert stage.region.contains(bbox)
        segment = stage.grid.segment
        assert segment.height % family.unet_multiple == 0
        assert segment.width % family.unet_multiple == 0
        # the windows that are planned cover the mask
        inside = [stage.image_rect(stage.window(s)).outer() for s in range(len(stage.segments))]
        for corner in (
            Box(bbox.y0, bbox.x0, bbox.y0 + 1, bbox.x0 + 1),
            Box(bbox.y1 - 1, bbox.x1 - 1, bbox.y1, bbox.x1),
        ):
            assert any(window.contains(corner) for window in inside)
    assert found.final.size == found.final.region.size
    assert Box.of(image).contains(found.source_box)
    assert found.source_box.contains(bbox)


@given(cases(), st.sampled_from([SD, TINY]))
@settings(max_examples=300)
def test_no_stage_appears_twice_or_enlarges_beyond_the_sr_factor(
    case: tuple[Size, Box], family: Family
) -> None:
    found = plan(*case, family)
    edges = [stage.size.long_edge for stage in found.stages]
    assert edges == sorted(set(edges))
    for a, b in zip(found.stages, found.stages[1:], strict=False):
        # the base is a square about the region: compare image pixels per stage pixel
        before = a.region.height / a.size.height
        after = b.region.height / b.size.height
        assert before / after <= family.sr_factor * 1.02


@given(cases())
@settings(max_examples=200)
def test_a_region_inside_the_image_is_not_squeezed(case: tuple[Size, Box]) -> None:
    image, bbox = case
    found = plan(image, bbox)
    region = found.final.region
    if not Box.of(image).contains(region) or min(region.size.shape) in image.shape:
        return
    for stage in found.stages:
        y = stage.region.height / stage.size.height
        x = stage.region.width / stage.size.width
        assert y / x == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("side", "edges"),
    [
        (100, [512]),
        (512, [512]),
        (700, [512, 704]),
        (768, [512, 768]),
        (1024, [512, 768, 1024]),
        (3072, [512, 768, 3072]),
        (4096, [512, 768, 3072, 4096]),
    ],
)
def test_stage_edges_at_margin_one(side: int, edges: list[int]) -> None:
    bbox = Box(500, 500, 500 + side, 500 + side)
    found = plan(Size(6000, 6000), bbox, margin=1.0)
    assert [stage.size.long_edge for stage in found.stages] == edges


def test_call_counts_of_the_paper() -> None:
    found = plan(Size(2117, 1803), Box(200, 300, 1500, 1100), decoder_batch="full")
    base, middle, final = found.stages
    assert found.denoiser_calls(base) == 5 * 300
    assert found.denoiser_calls(middle) == 40
    assert found.denoiser_calls(final) == 25 * len(final.segments)
    assert found.decoder_passes(base) == 100


def test_the_papers_first_baseline_is_one_large_stage_enlarged() -> None:
    box = Box(500, 500, 2500, 2500)
    found = plan(Size(3000, 3000), box, base_size=960, margin=1.0, upscale_diffusion="off")
    base, final = found.stages
    assert (base.size, final.size) == (Size(960, 960), Size(2000, 2000))
    assert [found.denoiser_calls(stage) for stage in found.stages] == [5 * 300, 0]


def test_a_larger_first_stage_is_no_larger_than_what_is_edited() -> None:
    found = plan(Size(3000, 3000), Box(500, 500, 1500, 1500), base_size=2048, margin=1.0)
    assert [stage.size.long_edge for stage in found.stages] == [960, 1000]


def test_the_papers_second_baseline_paints_each_segment_from_noise() -> None:
    box = Box(500, 500, 2548, 2548)
    found = plan(Size(3000, 3000), box, stages="segments", margin=1.0)
    (only,) = found.stages
    assert (only.kind, only.size, len(only.segments)) == ("segmented", Size(2048, 2048), 9)
    assert found.denoiser_calls(only) == 9 * 300
    assert found.diffuses(only)


def test_an_overlap_of_its_own() -> None:
    box = Box(500, 500, 2036, 2036)
    found = plan(Size(3000, 3000), box, overlap=0, margin=1.0)
    assert (found.final.grid.overlap, len(found.final.segments)) == (0, 4)
    assert found.family.stride == 768


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"overlap": 100}, "overlap: got 100, wanted a multiple of 8 and at most 384"),
        ({"overlap": 512}, "overlap: got 512, wanted a multiple of 8 and at most 384"),
        ({"base_size": 1000}, "base_size: got 1000, wanted a multiple of 64"),
    ],
)
def test_sizes_that_the_model_can_not_have_are_refused(options: dict, wanted: str) -> None:
    with pytest.raises(ManifestError, match=wanted):
        plan(Size(3000, 3000), Box(500, 500, 2036, 2036), **options)


def test_height_goes_with_height() -> None:
    found = plan(Size(1000, 4000), Box(400, 1000, 500, 3000))
    region = found.final.region
    assert region.width >= 2000 * 1.3
    assert region.height < 1000
    assert found.stages[1].size.width > found.stages[1].size.height


def test_an_image_smaller_than_the_native_size_is_reflected_not_refused() -> None:
    found = plan(Size(200, 300), Box(10, 10, 20, 20))
    assert found.stages[0].region.contains(Box(0, 0, 200, 300))
    assert found.source_box == Box(0, 0, 200, 300)


def test_plans_are_values() -> None:
    a = plan(Size(2117, 1803), Box(200, 300, 1500, 1100))
    b = plan(Size(2117, 1803), Box(200, 300, 1500, 1100))
    assert a == b
    assert hash(a) == hash(b)
    assert a.digest == b.digest
    assert a.digest != plan(Size(2117, 1803), Box(200, 300, 1500, 1101)).digest


def test_tasks_cover_each_slot_once_per_kind() -> None:
    found = plan(Size(6000, 6000), Box(500, 500, 2500, 2900), segment_batch=4)
    final = found.final
    for wave in found.waves("edit", final):
        if wave[0].kind in ("compose", "measure"):
            continue
        assert sorted(s for task in wave for s in task.slots) == list(range(len(final.segments)))
    names = [task.name for task in found.tasks("edit")]
    assert len(names) == len(set(names))


def test_the_last_task_measures_the_edit() -> None:
    found = plan(Size(6000, 6000), Box(500, 500, 2500, 2900))
    *_, last = found.tasks("edit")
    assert [task for task in found.tasks("edit") if task.kind == "measure"] == [last]
    assert (last.stage, last.slots) == (found.final.index, (0,))
    assert found.slots(found.final, "measure") == found.ranks(last) == 1
    assert 1 <= found.cost(last) < total_cost(found) / 10


def test_without_diffusion_there_is_nothing_to_fit() -> None:
    found = plan(Size(2000, 2000), Box(0, 0, 900, 900), upscale_diffusion="off")
    kinds = [(t.stage, t.kind) for t in found.tasks("e")]
    assert (0, "fit") in kinds
    assert {kind for stage, kind in kinds if stage > 0} == {"denoise", "compose", "measure"}
    assert [found.denoiser_calls(stage) for stage in found.stages[1:]] == [0, 0]


def test_cost_grows_with_the_edited_area_not_with_the_image() -> None:
    bbox = Box(2000, 2000, 3000, 3000)
    small, large = plan(Size(6000, 6000), bbox), plan(Size(32768, 32768), bbox)
    assert total_cost(small) == total_cost(large)
    assert small.stored_bytes == large.stored_bytes


def test_a_canvas_of_32768_squared_plans() -> None:
    side = 32768
    found = plan(Size(side, side), Box(0, 0, side, side))
    assert len(found.final.segments) == len(found.final.grid) == 51 * 51
    edges = [stage.size.long_edge for stage in found.stages]
    assert edges == [512, 768, 3072, 12288, 32768]


def test_a_task_costs_its_denoised_cells() -> None:
    found = plan(Size(3000, 3000), Box(500, 500, 1500, 1500))
    assert found.cost(Task("e", 0, "denoise", (0,))) == 64 * 64 * 1500


def test_planning_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, msbd_dist.core.plan, msbd_dist.batch.steps, msbd_dist.models.card;"
        "print([m for m in ('torch', 'ray', 'diffusers') if m in sys.modules]);"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    code = (
        "import sys, msbd_dist.core.plan;"
        "print([m for m in ('torch', 'ray', 'zarr', 'diffusers') if m in sys.modules]);"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
