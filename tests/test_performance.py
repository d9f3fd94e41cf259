"""Measuring speed: fair turns, the same work for both, and a page that says what was found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.speed import decoder, denoiser, page, timing
from benchmarks.speed.edit import Prepared
from benchmarks.speed.plain import PIPELINES, plain
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.canvas.files import open_files
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import make_plan
from msbd_dist.core.spec import Method, ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve


@pytest.fixture(scope="module")
def bundled() -> Iterator[Models]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(resolve(ModelSpec()), device="cpu")
    torch.set_num_threads(threads)


def test_the_page_and_its_charts_are_what_was_measured() -> None:
    """`python -m benchmarks.speed.page` writes them anew."""
    made = page.files(page.load())
    for name, text in made.items():
        assert (page.PAGE.parent / name).read_text(encoding="utf-8") == text, name
    charts = {path.name for path in (page.PAGE.parent / page.CHARTS).iterdir()}
    assert charts == {name.rpartition("/")[2] for name in made if name.endswith(".svg")}


def test_ways_take_turns() -> None:
    done: list[str] = []

    def way(name: str) -> float:
        done.append(name)
        return len(done)

    found = timing.in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert done == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert timing.ratio([2, 9, 4], [1, 3, 4]) == {"median": 2, "min": 1, "max": 3}


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_plain_loop_does_the_same_work(bundled: Models, kind: str) -> None:
    """As many calls of the UNet as the plan has, of the same size."""
    family = bundled.card.family
    size = Size(300, 300)
    method = Method(upscale_steps=60)
    plan = make_plan(size, Box.of(size), lambda _: True, family=family, method=method)
    prepared = Prepared(open_files("memory://"), "", plan, WorkerSpec("memory://", ModelSpec(), 1))
    loop = plain(kind, bundled.latent, prepared, torch.float32)
    shapes: list[torch.Size] = []
    picture, mask = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    with watched(shapes):
        (edited,) = loop([(picture, mask)])
    assert shapes == [torch.Size((1, family.latent_channels, 8, 8))] * plan.final.num_calls
    assert edited.shape == picture.shape


@contextmanager
def watched(shapes: list[torch.Size]) -> Iterator[None]:
    """Notes what any UNet is called with."""

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, UNet2DConditionModel):
            shapes.append(given[0].shape)

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    yield
    handle.remove()


def test_the_flops_of_a_call_are_counted(bundled: Models) -> None:
    """Twice the products of weights and positions, and attention besides."""
    shapes = {name: p.shape for name, p in bundled.latent.parts.unet.named_parameters()}
    side = bundled.card.family.segment // bundled.card.family.vae_factor
    first = 2 * shapes["conv_in.weight"].numel() * side * side
    assert denoiser.call_flops(bundled) > 100 * first
    assert denoiser.product_rate(torch.device("cpu"), torch.float32, side=64) > 0


def test_a_cpu_tries_layouts(bundled: Models) -> None:
    ways = dict(denoiser.variants(bundled))
    assert list(ways) == ["float32", "float32, channels last"]
    z, step, text = denoiser._inputs(bundled, ways["float32"], 1)
    plain_call, last = (denoiser._call(unet, z, step, text) for unet in ways.values())
    assert torch.allclose(plain_call, last, atol=1e-3)
    slow = denoiser.without_sdpa(ways["float32"])
    assert torch.allclose(denoiser._call(slow, z, step, text), plain_call, atol=1e-3)


def test_ways_down_begin_at_the_same_loss_and_are_looked_at_on_the_way(
    bundled: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "COLUMNS", 2)
    monkeypatch.setattr(decoder, "ROWS", 1)
    monkeypatch.setattr(decoder, "EVERY", 2)
    problem = decoder.drawn(bundled)
    ways = decoder.ways(bundled, len(problem.segments))
    assert {way.rounds.batch for way in ways.values()} == {1, 2}
    tail = ways["only the last block, its inputs held"].problem(problem)
    assert tail.loss(tail.pretrained) == pytest.approx(problem.loss(problem.pretrained), rel=1e-4)
    assert ways["sample, one learning rate"].rounds.rate(7) == 0.5
    short = replace(ways["sample"], rounds=replace(ways["sample"].rounds, steps=4))
    points = decoder.descended(short, problem)
    assert [(point["steps"], point["passes"]) for point in points] == [(2, 2), (4, 4)]
    assert points[-1]["loss"] < problem.loss(problem.pretrained)
    assert points[0]["seconds"] < points[1]["seconds"]
    assert decoder.reached(points, wanted=points[-1]["loss"] / 2) is None
    assert decoder.reached(points, wanted=points[-1]["loss"]) == points[-1]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.parametrize("mode", denoiser.COMPILED.values())
def test_what_is_compiled_computes_the_same(mode: str) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.allclose(denoiser.compiled(network, mode)(x), network(x), atol=1e-5)
