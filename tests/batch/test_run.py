"""Whole edits by real models, serial and on Ray (checks C1, C7, C9 and what a re-run does)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from quick import FAST, FASTEST, draw_inputs, manifest_of, pixels
from ray import cloudpickle
from safetensors.torch import load_file, save_file
from scipy.ndimage import distance_transform_edt

from msbd_dist.batch import record, steps
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import Order, load_edit, package_versions, versions_of
from msbd_dist.batch.run import RunResult, life, run_manifest
from msbd_dist.batch.worker import TaskWorker, stage_depth, stage_mask
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ClusterError, ModelError, MsbdError
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.card import bundled_folder, resolve

MODELS = steps.Models(ModelSpec(), resolve(ModelSpec()), {"unet": "the bundled one"})
MakeManifest = Callable[..., Manifest]

PLAIN = {**FAST, "seed": 3}  # of its two candidates CLIP takes the second


def serial(manifest: Manifest, out: Path) -> RunResult:
    return run_manifest(manifest, out, executor="serial")


def stored(out: Path | str) -> dict[str, bytes]:
    """Every picture of a run, and what its markers say is stored, as stored: to compare bytes."""
    files = open_files(out)
    found: dict[str, bytes] = {}
    for name in ("e0", "e1"):
        folder = files / name
        if "edit.json" not in folder.names():
            continue
        for place in ("", "previews/", "candidates/"):
            for picture in folder.names(place):
                if picture.endswith(".png"):
                    found[f"{name}/{place}{picture}"] = folder.read(place + picture)
        work = folder / load_edit(folder).key
        group = zarr.open_group(work.zarr("canvas.zarr"), mode="r")
        ledger = Ledger(work / "ledger")
        for marker in work.names("ledger"):
            facts, size = ledger[marker.removesuffix(".json")], 0
            for chunk in facts.get("stored", ()):
                array, where = chunk.rsplit(" ", 1)
                block = group[array].blocks[tuple(int(i) for i in where.split("."))]  # type: ignore[union-attr]
                plain = array.removesuffix(facts["attempt"])
                found[f"{name}/{plain}{where}"] = np.asarray(block).tobytes()
                size += len(found[f"{name}/{plain}{where}"])
            assert facts.get("bytes", 0) == size, marker
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, RunResult]:
    """Two edits run by the oracle."""
    folder = tmp_path_factory.mktemp("quiet")
    draw_inputs(folder, size=Size(430, 380))
    manifest = manifest_of(folder, {}, {"prompt": "a blue ring", "seed": 9})
    return manifest, serial(manifest, folder / "out")


def test_outside_the_mask_nothing_changes_and_inside_it_something_does(
    quiet: tuple[Manifest, RunResult],
) -> None:
    manifest, result = quiet
    assert result.exit_code == 0
    mask = pixels(manifest.edits[0].mask) >= 128
    before = pixels(manifest.edits[0].image)
    for edit in result.edits:
        after = pixels(str(edit.output))
        assert after.shape == before.shape
        assert np.count_nonzero(after[~mask] != before[~mask]) == 0
        assert np.mean((after[mask] != before[mask]).any(-1)) > 0.9


def test_every_kind_of_stage_and_task_was_there(quiet: tuple[Manifest, RunResult]) -> None:
    _, result = quiet
    plan = load_edit(open_files(result.out) / "e0").plan
    assert [stage.kind for stage in plan.stages] == ["base", "whole", "segmented"]
    assert len(plan.final.segments) > 2
    kinds = {(t.stage, t.kind) for t in plan.tasks("e0")}
    made = {(s, k) for s in range(3) for k in ("denoise", "fit", "decode", "compose")}
    assert kinds == made | {(2, "measure")}


def test_a_run_leaves_its_record_candidates_previews_and_a_contact_sheet(
    quiet: tuple[Manifest, RunResult],
) -> None:
    _, result = quiet
    out = Path(result.out)
    run = json.loads((out / "run.json").read_text())
    assert run["threads"] == 1
    assert [load_edit(open_files(out) / name).seed for name in ("e0", "e1")] == [5, 9]
    assert run["versions"]["torch"] == torch.__version__.split("+")[0]
    report = json.loads((out / "report.json").read_text())
    first = report["edits"][0]
    assert first["state"] == "done"
    assert first["seed"] == 5
    assert len(first["scores"]) == 2
    assert first["chosen"] == int(np.argmax(first["scores"]))
    candidates = sorted(p.name for p in (out / "e0/candidates").iterdir())
    assert len(candidates) == 2
    assert sum("chosen" in name for name in candidates) == 1
    assert sorted(p.stem for p in (out / "e0/previews").iterdir()) == [
        "edit", "stage-0", "stage-1", "stage-2", "thumb",
    ]  # fmt: skip
    assert result.contact_sheet is not None
    assert pixels(result.contact_sheet).shape[0] > 700
    assert not list(out.rglob("tuned-*"))


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PACKAGES", ("numpy", "no-such-package"))
    assert package_versions() == {"numpy": np.__version__}


def test_without_ray_a_run_says_what_to_do(
    make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "msbd_dist.fleet.ray_executor", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(ClusterError, match=r"Ray is not installed: .* --executor serial"):
        run_manifest(make_manifest(FASTEST), tmp_path / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, RunResult]:
    """One edit with the fastest settings, run by the oracle: what variations are compared with."""
    folder = tmp_path_factory.mktemp("plain")
    draw_inputs(folder)
    manifest = manifest_of(folder, PLAIN)
    return manifest, serial(manifest, folder / "out")


LONG = pytest.mark.long


@pytest.mark.parametrize("workers", [pytest.param(1, marks=LONG), pytest.param(2, marks=LONG), 3])
def test_any_number_of_ray_workers_writes_the_bytes_of_the_oracle(
    workers: int, quiet: tuple[Manifest, RunResult], ray_session: None, tmp_path: Path
) -> None:
    manifest, result = quiet
    found = run_manifest(manifest, tmp_path / "out", workers=workers)
    assert found.exit_code == 0
    assert stored(tmp_path / "out") == stored(result.out)


def test_a_killed_worker_changes_nothing(
    quiet: tuple[Manifest, RunResult], ray_session: None, tmp_path: Path
) -> None:
    manifest, result = quiet
    out, killed = tmp_path / "out", []

    def kill_the_busiest() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            time.sleep(0.1)
            if not list(out.glob("*/*/ledger/1-denoise-0.json")):
                continue
            for pid in ray_workers("_Actor.run"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    nemesis = threading.Thread(target=kill_the_busiest)
    nemesis.start()
    found = run_manifest(manifest, out, workers=2)
    nemesis.join()
    assert killed
    assert found.exit_code == 0
    assert stored(out) == stored(result.out)


def ray_workers(doing: str) -> list[int]:
    """Processes that Ray has named after the method they are running."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"ray::{doing}" in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
    return found


def test_a_finished_run_does_nothing_when_run_again(quiet: tuple[Manifest, RunResult]) -> None:
    manifest, result = quiet
    before = {p: p.stat().st_mtime_ns for p in Path(result.out, "e0").rglob("*") if p.is_file()}
    again = serial(manifest, result.out)
    assert [e.state for e in again.edits] == ["kept", "kept"]
    assert again.exit_code == 0
    after = {p: p.stat().st_mtime_ns for p in Path(result.out, "e0").rglob("*") if p.is_file()}
    assert before == after


class Stop(BaseException):
    """Stands for an interruption between two tasks."""


@pytest.mark.parametrize("tasks", [1, 4, 8])
def test_an_interrupted_run_continues_without_repeating_finished_tasks(
    tasks: int, plain: tuple[Manifest, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, result = plain
    out = tmp_path / "out"
    ran: list[str] = []
    real = TaskWorker.run

    def counting(self: TaskWorker, order: Order, *rest: Any, **options: Any) -> dict[str, Any]:
        if interrupt and len(ran) == tasks:
            raise Stop
        facts = real(self, order, *rest, **options)
        ran.append(f"{order.task.edit}/{order.task.name}")
        return facts

    monkeypatch.setattr(TaskWorker, "run", counting)
    interrupt = True
    with pytest.raises(Stop):
        serial(manifest, out)
    interrupt = False
    assert serial(manifest, out).exit_code == 0
    assert len(ran) == len(set(ran))
    assert stored(out) == stored(result.out)


def test_a_changed_edit_is_run_again_and_only_it(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    serial(make_manifest(FASTEST, FASTEST), out)
    result = serial(make_manifest(FASTEST, {**FASTEST, "prompt": "a green heart"}), out)
    assert [e.state for e in result.edits] == ["kept", "done"]
    lines = (out / "edits.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["e0", "e1"]


def test_a_drawn_seed_is_recorded_and_kept_by_a_resume(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    (spec,) = make_manifest({"seed": None}).edits
    files = open_files(tmp_path / "out/e0")

    def begun() -> steps.Edit:
        edit = steps.prepare(spec, files, MODELS)
        steps.Chore(edit, "ingest", partial(steps.ingest, edit, lambda *_: None))(1)
        return edit

    drawn = begun().record.seed
    assert load_edit(files).seed == drawn
    assert begun().record.seed == drawn


def test_one_bad_edit_never_harms_the_others(make_manifest: MakeManifest, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    manifest = make_manifest(
        {"image": "broken.png"},
        {"image": "nowhere.png"},
        FAST,
        {"prompt": "star " * 30},
    )
    result = serial(manifest, tmp_path / "out")
    assert [e.state for e in result.edits] == ["failed", "failed", "done", "failed"]
    assert result.exit_code == 1
    for name, edit in zip(["broken.png", "nowhere.png", "", "tokens"], result.edits, strict=True):
        if edit.error is not None:
            assert name in str(edit.error)
            assert "\n" not in str(edit.error)


class Mortal(TaskWorker):
    """A worker that dies of the prompt ``poison``."""

    def run(self, order: Order, attempt: Attempt, **more: Any) -> dict[str, Any]:
        if order.task.edit == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(order, attempt, **more)


class MortalSpec(WorkerSpec):
    def __call__(self) -> Mortal:  # type: ignore[override]
        return Mortal(self.run, self.models, self.threads)


def test_of_ten_edits_one_corrupt_and_one_that_kills_its_worker_eight_are_finished(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("msbd_dist.batch.run.WorkerSpec", MortalSpec)
    draw_inputs(tmp_path, size=Size(64, 64))
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "image.png").read_bytes()[:900])
    edits = [{"id": f"good{i}", "seed": i, "steps": 2, "samples": 1} for i in range(8)]
    edits[3:3] = [{"id": "poison", "prompt": "poison"}]
    edits[6:6] = [{"id": "corrupt", "image": "corrupt.png"}]
    result = run_manifest(manifest_of(tmp_path, *edits), tmp_path / "out", workers=2)
    assert result.exit_code == 1
    assert {e.id for e in result.edits if e.state == "done"} == {f"good{i}" for i in range(8)}
    report = json.loads((tmp_path / "out/report.json").read_text())
    reasons = {e["id"]: e["error"] for e in report["edits"] if e.get("error")}
    assert set(reasons) == {"corrupt", "poison"}
    assert "corrupt.png" in reasons["corrupt"]
    assert "killed its worker 3 times" in reasons["poison"]
    assert not any("\n" in reason for reason in reasons.values())


def test_nan_from_the_model_is_one_line_and_leaves_no_output(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    family = copy_of_the_family(tmp_path / "family")
    file = family / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    result = serial(make_manifest({}, models=str(family)), tmp_path / "out")
    (edit,) = result.edits
    assert edit.state == "failed"
    assert "NaN" in str(edit.error)
    assert "stage 0" in str(edit.error)
    assert not (tmp_path / "out/e0/output.png").exists()


def copy_of_the_family(target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(bundled_folder(), target))


def test_the_real_decoder_is_bit_identical_after_a_fit_that_lowers_the_loss(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    manifest = make_manifest({"decoder_steps": 8, "decoder_lr": 0.0003})
    out = open_files(tmp_path / "out")
    edit = steps.prepare(manifest.edits[0], out / "e0", MODELS)
    worker = TaskWorker(out.url, ModelSpec(), 1)
    decoder = worker._models.latent.decoder
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    stage, losses = edit.record.plan.stages[0], []
    for wave in life(edit, lambda: None):
        for work in wave:
            if isinstance(work, steps.Chore):
                work("1.0")
                continue
            versions = versions_of(edit.ledger, edit.record.plan, stage)
            order = Order(work, f"e0/{edit.record.key}", versions)
            facts = edit.ledger.learn(
                work.name, worker.run(order, Attempt("1.0"), beat=lambda: None)
            )
            losses = facts.get("losses", [])
        if losses:
            break
    assert losses[-1] < losses[0]
    for key, value in decoder.state_dict().items():
        assert torch.equal(before[key], value), key


def test_what_is_painted_stays_but_for_a_band_along_the_masks_edge(tmp_path: Path) -> None:
    """However hard the decoder is tuned: here with steps a hundred times too long."""
    draw_inputs(tmp_path, size=Size(128, 128))
    off = {**PLAIN, "decoder_optimization": False}
    hard = {**PLAIN, "decoder_optimization": True, "decoder_lr": 0.01, "decoder_steps": 4}
    result = serial(manifest_of(tmp_path, off, hard), tmp_path / "out")
    plain, tuned = (pixels(str(edit.output)).astype(int) for edit in result.edits)
    depth = distance_transform_edt(pixels(tmp_path / "mask.png") > 127)
    changed = abs(tuned - plain).max(axis=-1)
    assert changed[depth >= 8].max() <= 1
    assert changed[depth >= 8].size
    assert changed[(depth > 0) & (depth <= 4)].mean() > 10


def test_with_an_empty_prompt_the_tuned_decoder_shows_all_over_the_mask(tmp_path: Path) -> None:
    draw_inputs(tmp_path, size=Size(128, 128))
    off = {**PLAIN, "prompt": "", "decoder_optimization": False}
    hard = {**off, "decoder_optimization": True, "decoder_lr": 0.01, "decoder_steps": 4}
    result = serial(manifest_of(tmp_path, off, hard), tmp_path / "out")
    plain, tuned = (pixels(str(edit.output)).astype(int) for edit in result.edits)
    deep = distance_transform_edt(pixels(tmp_path / "mask.png") > 127) >= 8
    assert abs(tuned - plain)[deep].mean() > 5


def test_how_deep_a_pixel_is_does_not_depend_on_the_window(tmp_path: Path) -> None:
    """Nor is the picture's border an edge of the mask."""
    draw_inputs(tmp_path, size=Size(160, 400))
    manifest = manifest_of(tmp_path, {**PLAIN, "mask": [0, 40, 260, 120]})
    edit = steps.prepare(manifest.edits[0], open_files(tmp_path / "out") / "e0", MODELS)
    (ingest,) = next(life(edit, lambda: None))
    assert isinstance(ingest, steps.Chore)
    ingest("1.0")
    plan = edit.record.plan
    for stage in plan.stages:
        canvas, whole = edit.canvas(stage), Box.of(stage.size)
        depth = stage_depth(canvas, plan, stage, whole)
        mask = stage_mask(canvas, stage, whole)
        assert ((depth > 0) == mask).all()
        assert depth[mask].min() == pytest.approx(1 / 8)
        assert depth.max() == 1
        for slot in range(len(stage.segments)):
            window = stage.window(slot)
            seen = window.intersection(whole)
            assert seen is not None
            part = stage_depth(canvas, plan, stage, window)[seen.relative_to(window).slices]
            assert (part == depth[seen.slices]).all()
    at = plan.final.region  # at full resolution; the mask meets the picture's lower border
    assert depth[159 - at.y0, 130 - at.x0] == 1


OPTIONS: list[dict[str, Any]] = [
    {"upscaler": "realesrgan"},
    {"upscaler": "bilinear"},
    {"upscale_diffusion": "off"},
    {"upscale_diffusion": "unconditional"},
    {"blend": False},
    {"lowpass": "half"},
    {"lowpass": "off"},
    {"rerank": False},
    {"compose": "over"},
    {"overlap": 0},
    {"noise": "segment"},
    {"stages": "segments"},
    {"base_size": 256, "upscaler": "bilinear", "upscale_diffusion": "off"},
    {"repaint": 0},
    {"eta": 0.0},
    {"guidance": 3, "segment_guidance": 3},
    {"negative_prompt": "a green heart"},
    {"middle_start": 0.1},
    {"samples": 1},
    {"prompt": ""},
    {"decoder_optimization": True},
]
TUNED: list[dict[str, Any]] = [
    {"decoder_batch": "minibatch"},
    {"decoder_batch": "sample"},
    {"decoder_lambda": 1.0, "decoder_lr": 0.01},
]
TUNE = {"decoder_optimization": True, "overlap": 96}  # three segments, where others have two
CHANGES = [({}, o) for o in OPTIONS] + [(TUNE, o) for o in TUNED]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], np.ndarray]:
    """The picture of an edit with some settings, all of them by one run."""
    folder = tmp_path_factory.mktemp("made")
    draw_inputs(folder, size=Size(160, 400))
    plain = {**PLAIN, "decoder_optimization": False}
    wanted = [{}, TUNE, *(base | option for base, option in CHANGES)]
    result = serial(manifest_of(folder, *(plain | one for one in wanted)), folder / "out")

    def picture(settings: dict[str, Any]) -> np.ndarray:
        edit = result.edits[wanted.index(settings)]
        assert edit.state == "done", edit.error
        return pixels(str(edit.output))

    return picture


@pytest.mark.parametrize(("base", "option"), CHANGES, ids=str)
def test_every_option_of_the_method_makes_a_difference(
    base: dict[str, Any], option: dict[str, Any], made: Callable[[dict[str, Any]], np.ndarray]
) -> None:
    assert (made(base | option) != made(base)).any()


def test_under_segments_that_are_laid_over_there_is_the_stage_before(tmp_path: Path) -> None:
    """Where nothing but enlargement is done, `over` and the sum show the same: not the input."""
    draw_inputs(tmp_path)
    same = {**PLAIN, "samples": 1, "upscale_diffusion": "off", "decoder_optimization": False}
    manifest = manifest_of(tmp_path, same, {**same, "compose": "over"})
    one, other = (pixels(str(edit.output)) for edit in serial(manifest, tmp_path / "out").edits)
    assert (one != other).any()
    assert abs(one.astype(int) - other).max() <= 8


def tmp_path_with(folder: Path, target: Path) -> Path:
    for name in ("image.png", "mask.png"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def test_a_feather_fades_the_edit_in_from_the_edge(
    plain: tuple[Manifest, RunResult], tmp_path: Path
) -> None:
    manifest, result = plain
    folder = tmp_path_with(Path(manifest.edits[0].image).parent, tmp_path)
    (edit,) = serial(manifest_of(folder, {**PLAIN, "feather": 20}), tmp_path / "out").edits
    before = pixels(manifest.edits[0].image).astype(int)
    sharp, soft = (pixels(str(e.output)).astype(int) for e in (result.edits[0], edit))
    mask = pixels(manifest.edits[0].mask) >= 128
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(mask)
    edge, core = (depth > 0) & (depth < 4), depth > 22
    assert np.abs(soft - before)[edge].mean() < 0.5 * np.abs(sharp - before)[edge].mean()
    np.testing.assert_array_equal(soft[core], sharp[core])
    assert (soft[~mask] == before[~mask]).all()


def test_tasks_run_on_the_recorded_number_of_threads_and_give_them_back(
    make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msbd_dist.batch import worker

    seen = set()
    real = worker.stage_view

    def watched(*arguments: Any) -> Any:
        seen.add(torch.get_num_threads())
        return real(*arguments)

    monkeypatch.setattr(worker, "stage_view", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        serial(make_manifest({**FAST, "samples": 1}), tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


@pytest.mark.parametrize(
    ("own", "options", "words"),
    [
        ({"clip": "clip"}, {}, "realesrgan needs a checkpoint"),
        ({"sr": "upscaler/esrgan_x4.safetensors"}, {}, "ViT-L-14:openai"),
    ],
    ids=["no upscaler", "no CLIP"],
)
def test_a_missing_part_of_the_model_is_noticed_before_any_work(
    own: dict[str, str], options: dict[str, Any], words: str, inputs: Path, tmp_path: Path
) -> None:
    """A folder without the bundled msbd.json, as any Stable Diffusion folder is."""
    family = copy_of_the_family(tmp_path / "family")
    (family / "msbd.json").write_text(json.dumps({"segment": 192, "overlap": 32, **own}))
    manifest = manifest_of(inputs, options, models=str(family))
    try:
        (edit,) = serial(manifest, tmp_path / "out").edits
        error: Exception | None = edit.error
    except MsbdError as raised:
        error = raised
    assert words in str(error)
    assert not list(tmp_path.glob("out/*/*/ledger/0-denoise*"))


def test_measures_that_can_not_be_taken_do_not_cost_the_edit(
    make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msbd_dist.batch import worker
    from msbd_dist.batch.measures import MEASURES

    def refuse(*_: Any) -> Any:
        raise ModelError("no judge today")

    monkeypatch.setattr(worker, "appearance", refuse)
    options = {**FAST, "samples": 1, "decoder_optimization": False, "steps": 1}
    result = serial(make_manifest(options), tmp_path / "out")
    (only,) = result.edits
    assert (only.state, result.exit_code) == ("done", 0)
    (entry,) = json.loads((tmp_path / "out/report.json").read_text())["edits"]
    values = entry["measures"]
    assert set(values) == {one.key for one in MEASURES}
    assert [key for key in values if values[key] is not None] == ["changed_outside", "seam_ratio"]
    assert "not measured: no judge today" in (tmp_path / "out/e0/log.txt").read_text()
    profile = json.loads((tmp_path / "out/profile.json").read_text())
    assert "measure" not in profile["seconds"]
    again = serial(make_manifest(options), tmp_path / "out")
    assert [edit.state for edit in again.edits] == ["kept"]
