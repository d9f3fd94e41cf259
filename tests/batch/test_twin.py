"""The product as if on CUDA: nothing mixes devices, waits in a loop, or sums in another order."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from quick import draw_inputs, manifest_of
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from benchmarks.gpu.fits import small_fit
from benchmarks.gpu.twin import CARD, HOST, RAISING, MixedDevices, Twin
from msbd_dist.batch.run import RunResult, run_manifest
from msbd_dist.core.decoder import DecoderFit, Params
from msbd_dist.core.gang import Alone, Sum
from msbd_dist.core.geometry import Size
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import Models, load, make_deterministic
from msbd_dist.models.card import resolve

aten = torch.ops.aten

# --- the twin notices what CUDA would not do ---


def test_the_twin_refuses_operators_of_both_places_and_knows_where_results_lie() -> None:
    with Twin():
        card, host = torch.zeros(2, 3, device="cuda"), torch.ones(2, 3)
        assert (card.device, host.device) == (CARD, HOST)
        assert (card + host.to("cuda")).is_cuda
        assert (card + host.sum()).is_cuda  # a scalar of the host may come along
        assert torch.empty_like(card).is_cuda
        assert not card.cpu().is_cuda
        with pytest.raises(MixedDevices, match="same device"):
            card + host
        layer = torch.nn.Linear(3, 3).to("cuda")
        with pytest.raises(MixedDevices):
            layer(host)
        with pytest.raises(RuntimeError, match="dtype"):
            layer(card.half())
        with pytest.raises(TypeError, match="numpy"):
            card.numpy()
        layer(card + 1).sum().backward()
        assert layer.weight.grad.is_cuda
        with pytest.raises(MixedDevices):  # in a backward pass as well
            layer(card).backward(host)


def test_the_twin_counts_what_makes_the_host_wait() -> None:
    with Twin() as twin:
        values = torch.ones(3, device="cuda")
        float(values[0])
        values.tolist()
        values.cpu()
        values.nonzero()
        torch.ones(3).to("cuda")
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)  # this one does not
    found = {what: n for (what, _), n in twin.waits.items()}
    assert found == {
        "local_scalar_dense": 1,
        "to the host": 2,
        "nonzero": 1,
        "to the card, of memory that is not pinned": 1,
    }


def test_the_twin_leaves_torch_as_it_was() -> None:
    before = torch.cuda.is_available(), torch.are_deterministic_algorithms_enabled()
    with Twin():
        make_deterministic()
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available(), torch.are_deterministic_algorithms_enabled()) == before


def test_the_list_of_raising_operators_is_torchs_own() -> None:
    words = (torch.use_deterministic_algorithms.__doc__ or "").split("operations will throw a")[1]
    words = words.split("In addition, several operations fill")[0]
    listed = set(re.findall(r"^ {8}\* :(?:class|func):`([\w.]+)`", words, re.MULTILINE))
    assert len(listed) > 20
    assert listed <= RAISING.keys()


# --- whole edits ---

LEAST = {"steps": 1, "repaint": 1, "upscale_steps": 5, "decoder_steps": 1, "upscaler": "bicubic"}
EDITS = {
    torch.bfloat16: ({"decoder_batch": "sample"}, Size(277, 331)),  # one with segments
    torch.float16: ({"samples": 1}, Size(200, 210)),
}


@dataclass(frozen=True)
class Done:
    """An edit that was run in the twin, by one worker in this process."""

    twin: Twin
    result: RunResult
    said: str  # of what ran


@pytest.fixture(scope="module", params=EDITS, ids=str)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("twin")
    changed, size = EDITS[request.param]
    draw_inputs(folder, size=size)
    manifest = manifest_of(folder, {**LEAST, **changed}, models="tiny")
    with Twin(dtype=request.param) as twin:
        result = run_manifest(manifest, folder / "run", executor="serial")
    (fit,) = folder.glob("run/e0/*/ledger/0-fit-0.json")
    return Done(twin, result, fit.read_text())


def test_an_edit_runs_on_cuda_from_its_first_latent_to_its_file(done: Done) -> None:
    (edit,) = done.result.edits
    assert edit.state == "done", edit.error
    half = str(done.twin.dtype).removeprefix("torch.")
    assert f"tiny on cuda (twin of a card), {half}, VAE float32" in done.said
    assert aten.convolution_backward.default in done.twin.ops  # gradients were taken there


def test_the_host_never_waits_for_the_card_in_a_denoising_loop_or_a_pass(done: Done) -> None:
    def waits(function: str) -> list[tuple[str, str]]:
        """Without the loading of what is used for the first time."""
        found = done.twin.waits_within(function)
        return [wait for wait in found if not wait[1].startswith("models/loading.py")]

    assert waits("_diffuse")  # before and after the loop it does
    assert waits("blended_diffusion") == []
    assert waits("_accumulate") == []  # passes over segments that are held


def test_every_operator_on_cuda_has_a_fixed_order(done: Done) -> None:
    """Under deterministic algorithms the twin refuses those of torch's list."""
    assert len(done.twin.ops) > 50
    assert done.twin.loose == set()  # attention warns only where order is not strict


# --- decoder optimization that changes hands ---


def tiny() -> Models:
    return load(resolve(ModelSpec(family="tiny")), device="cuda")


class Parted(Exception):
    """A gang was told to part."""


def begun(models: Models) -> DecoderFit:
    """A fit of which two turns are done."""
    fit = small_fit(models)

    def part(turn: int) -> None:
        if turn == 2:
            raise Parted

    with pytest.raises(Parted):
        fit.run(Alone(), on_turn=part)
    return fit


def on_card(fit: DecoderFit) -> bool:
    kept = fit._optimizer.state[fit._weights[0]]
    return all(values.is_cuda for values in (fit._weights[0], kept["exp_avg"], kept["exp_avg_sq"]))


def equal(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fit_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    with Twin():
        models = tiny()
        wanted = small_fit(models).run(Alone())
        state = begun(models).state()
        stored = save({name: values.cpu().contiguous() for name, values in state.items()})
        resumed = small_fit(models)
        resumed.restore(load_tensors(stored))
        assert on_card(resumed)
        assert equal(resumed.run(Alone()), wanted)


class Threads:
    """A gang of threads. As with gloo, what is sent goes by way of the host."""

    def __init__(self, rank: int, slots: list[Tensor | None], met: threading.Barrier) -> None:
        self.rank, self.size, self._slots, self._met = rank, len(slots), slots, met

    def start_sum(self, values: Tensor) -> Sum:
        return self._share(values, lambda all_: torch.stack(all_).sum(0))

    def max(self, values: Tensor) -> None:
        self._share(values, lambda all_: torch.stack(all_).amax(0))

    def send(self, values: Tensor, root: int) -> None:
        self._share(values, lambda all_: all_[root])

    def wait(self) -> None:
        """All is done when it is begun."""

    def _share(self, values: Tensor, of: Callable[[list[Tensor]], Tensor]) -> Sum:
        self._slots[self.rank] = values.to("cpu").clone()
        self._met.wait(60)
        values.copy_(of([slot for slot in self._slots if slot is not None]))
        self._met.wait(60)
        return self


def test_a_newcomer_on_cuda_takes_up_what_the_others_have() -> None:
    with Twin() as twin:
        fits = [small_fit(tiny()), begun(tiny())]
        wanted = small_fit(tiny()).run(Alone())
        slots, met = [None] * 2, threading.Barrier(2)

        def member(rank: int) -> Params:
            with twin.here():
                return fits[rank].run(Threads(rank, slots, met))

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(member, range(2)))
        assert all(on_card(fit) for fit in fits)
        assert all(equal(params, wanted) for params in found)
