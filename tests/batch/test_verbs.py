"""A run from its directory alone: looked at, exported, replayed, tidied, cancelled, resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from quick import FAST, FASTEST, draw_inputs, manifest_of, pixels

from msbd_dist import cli
from msbd_dist.batch import steps
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import load_edit
from msbd_dist.batch.run import RunResult, Stop, begin_edit, failed, run_manifest, set_aside
from msbd_dist.batch.status import Status, as_json, load_status
from msbd_dist.batch.steps import Edit, Models, prepare
from msbd_dist.batch.worker import TaskWorker
from msbd_dist.canvas.files import open_files
from msbd_dist.core.spec import ModelSpec, Result
from msbd_dist.errors import ModelError, WorkerError
from msbd_dist.models.card import resolve
from msbd_dist.models.fingerprint import digests

Msbd = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four edits: one, one of its result, one without a picture, and one of that."""
    folder = tmp_path_factory.mktemp("verbs")
    draw_inputs(folder)
    result = chained(folder)
    assert [one.state for one in result.edits] == ["done", "done", "failed", "failed"]
    return folder


def chained(folder: Path) -> RunResult:
    manifest = manifest_of(folder, FAST, FAST, {"image": "none.png"}, FAST)
    one, two, three, four = manifest.edits
    edits = (
        one,
        replace(two, image=Result(edit="e0"), prompt="a blue ring"),
        three,
        replace(four, image=Result(edit="e2")),
    )
    return run_manifest(
        Manifest(path=manifest.path, models=manifest.models, edits=edits),
        folder / "run",
        executor="serial",
    )


@pytest.fixture
def msbd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Msbd:
    """Run the command in this process, beside the run: (code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msbd", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_an_edit_goes_on_from_another_one_s_result(folder: Path) -> None:
    record = load_edit(open_files(folder / "run/e1"))
    assert record.spec.image == str(folder / "run/e0/output.png")
    mask = pixels(folder / "mask.png") >= 128
    first, second = pixels(folder / "run/e0/output.png"), pixels(folder / "run/e1/output.png")
    assert np.count_nonzero(second[~mask] != first[~mask]) == 0
    assert (second[mask] != first[mask]).any()


def test_a_run_that_is_stopped_tells_of_what_was_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_inputs(tmp_path)
    slow = {**FASTEST, "overlap": 64, "upscale_steps": 20}  # not done when the other is written
    manifest, stop = manifest_of(tmp_path, FASTEST, slow), Stop()
    whole = steps.export

    def export(*arguments: Any) -> Any:
        stop.ask("interrupted", 130)
        return whole(*arguments)

    monkeypatch.setattr(steps, "export", export)
    result = run_manifest(manifest, tmp_path / "run", executor="serial", stop=stop)
    assert sorted(one.state for one in result.edits) == ["done", "stopped"]
    status = load_status(open_files(tmp_path / "run"))
    assert status.counts["done"] == status.counts["stopped"] == 1
    assert 0 < status.share < 1


def test_what_is_made_anew_leaves_nothing_of_what_it_was(tmp_path: Path) -> None:
    draw_inputs(tmp_path)
    for prompt in ("a red star", "a blue ring"):
        manifest = manifest_of(tmp_path, {**FASTEST, "samples": 2, "prompt": prompt})
        run_manifest(manifest, tmp_path / "run", executor="serial")
    assert len(list((tmp_path / "run/e0/candidates").iterdir())) == 2
    assert len([p for p in (tmp_path / "run/e0").iterdir() if (p / "ledger").is_dir()]) == 1


def test_an_out_that_is_a_file_is_refused_at_once(msbd: Msbd) -> None:
    code, _, err = msbd("run", "manifest.yaml", "--out", "image.png")
    assert code == 2
    assert "image.png: is a file; give --out a folder's name" in err


def test_status_says_what_has_become_of_each_edit(msbd: Msbd) -> None:
    code, out, _ = msbd("status", "run")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()[-4:]] == [
        ["e0", "done"], ["e1", "done"], ["e2", "failed"], ["e3", "failed"],
    ]  # fmt: skip
    assert "none.png: no such file" in out
    assert "edit e2, whose result it uses, has failed" in out
    code, out, _ = msbd("status", "run", "--failed", "-o", "json")
    found = json.loads(out)
    assert (found["version"], found["kind"], found["state"]) == (1, "status", "ended")
    assert found["counts"] == {"done": 2, "failed": 2}
    assert [row["id"] for row in found["edits"]] == ["e2", "e3"]


def test_a_run_whose_driver_is_gone_is_said_to_be_interrupted(msbd: Msbd, tmp_path: Path) -> None:
    status = Status(state="running", began=1.0, now=time.time(), total=3, counts={"waiting": 3})
    (tmp_path / "status.json").write_text(as_json(status))
    (tmp_path / "lease").mkdir()
    gone = {"host": "elsewhere", "pid": 1, "born": 1.0, "released": True}
    (tmp_path / "lease/00000001.json").write_text(json.dumps(gone))
    code, out, err = msbd("status", str(tmp_path))
    assert code == 1
    assert "interrupted" in out
    assert f"msbd resume {tmp_path}" in err
    assert msbd("cancel", str(tmp_path))[0] == 2
    alive = {**gone, "released": False}
    (tmp_path / "lease/00000001.json").write_text(json.dumps(alive))
    assert json.loads(msbd("status", str(tmp_path), "-o", "json")[1])["state"] == "running"
    late = replace(status, now=time.time() - 1000)
    (tmp_path / "status.json").write_text(as_json(late))
    assert json.loads(msbd("status", str(tmp_path), "-o", "json")[1])["state"] == "interrupted"


def test_logs_name_tasks_and_hold_tracebacks(msbd: Msbd, folder: Path) -> None:
    code, out, _ = msbd("logs", "run", "e0", "--follow")
    assert code == 0
    assert "0-denoise-0" in out
    assert out.splitlines()[-1].endswith("done: " + str(folder / "run/e0/output.png"))
    code, _, err = msbd("logs", "run", "nobody")
    assert code == 2
    assert "has no log of 'nobody'" in err


def test_describe_says_what_decided_an_edit_and_what_it_took(msbd: Msbd) -> None:
    code, out, _ = msbd("describe", "run", "e1", "-o", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["version"], found["kind"], found["state"]) == (1, "edit", "done")
    assert found["prompt"] == "a blue ring"
    assert found["size"] == [331, 277]
    assert [stage["kind"] for stage in found["stages"]] == ["base", "whole", "segmented"]
    for stage in found["stages"]:
        assert all(tasks["done"] == tasks["of"] for tasks in stage["tasks"].values())
        assert stage["tasks"]["denoise"]["seconds"] > 0
    assert "a blue ring" in msbd("describe", "run", "e1")[1]
    assert json.loads(msbd("describe", "run", "e2", "-o", "json")[1])["state"] == "failed"
    code, _, err = msbd("describe", "run", "nobody")
    assert code == 2
    assert "'nobody'" in err


def test_a_finished_edit_is_written_as_another_kind_of_file(msbd: Msbd, folder: Path) -> None:
    code, out, err = msbd("export", "run", "e0", "other/e0.tif", "--tiff", "pyramid")
    assert code == 0, err
    assert out.startswith("other/e0.tif (")
    np.testing.assert_array_equal(pixels("other/e0.tif"), pixels("run/e0/output.png"))
    for arguments, words in (
        (("e0", "e0.jpg"), "--allow-loss"),
        (("e0", "e0.gif"), ".png"),
        (("e2", "e2.png"), "has no edit 'e2' that has begun"),
        (("e0", "a.tif", "--tiff", "best"), "wanted auto, copy"),
        (("e0", "image.png", "--force"), "is an input of edit e0"),
        (("e1", "run/e0/output.png"), "is there already"),
        (("e0", "mask.png"), "is an input of edit"),
    ):
        code, _, err = msbd("export", "run", *arguments)
        assert code == 2
        assert words in err
        assert len(err.strip().splitlines()) == 1


def test_a_replay_equals_what_was_stored_unless_that_was_changed(msbd: Msbd, folder: Path) -> None:
    arguments = ("verify", "run", "e0", "--executor", "serial", "-o", "json")
    code, out, err = msbd(*arguments)
    found = json.loads(out)
    assert code == 0, err
    assert found["equal"]
    assert found["again"]
    assert found["compared"] > 10
    files = open_files(folder / "run/e0")
    marker = files / load_edit(files).key / "ledger"
    kept = marker.read("1-denoise-0.json")
    facts = json.loads(kept)
    (name, digest), *_ = facts["stored"].items()
    facts["stored"][name] = digest[::-1]
    marker.write("1-denoise-0.json", json.dumps(facts).encode())
    code, out, _ = msbd(*arguments)
    marker.write("1-denoise-0.json", kept)
    assert code == 1
    found = json.loads(out)
    ((what, how),) = found["how"].items()
    assert found["differing"] == [what]
    assert what.split()[1] == name.split()[1]
    assert how == "is not what was stored, and comes out otherwise when it is made again"


def test_what_is_there_is_hashed(msbd: Msbd, folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    canvas, output = next(run.glob("e0/*/canvas.zarr")), run / "e0/output.png"

    def verify(*edits: str) -> tuple[int, str]:
        return msbd("verify", str(run), *edits, "--stored")[:2]

    def put_back() -> None:
        shutil.rmtree(run)
        shutil.copytree(folder / "run", run)

    code, out = verify("e0", "e1")
    assert code == 0
    assert out.count("the output and its") == 2
    black = pixels(output).copy()
    black[:50] = 0
    Image.fromarray(black).save(output)
    code, out = verify("e0", "e1")
    assert code == 1
    assert f"e0: output is not what was written ({output})" in out
    assert "e1: the output and its" in out
    output.unlink()
    assert "e0: output is gone" in verify("--all")[1]
    put_back()
    chunk, other, *_ = sorted(canvas.glob("2/segments/*/c/*/0/0/0"))
    chunk.unlink()
    data = bytearray(other.read_bytes())
    data[len(data) // 2] ^= 1
    other.write_bytes(data)
    next(canvas.glob("mask/*/c/0/0")).unlink()
    code, out = verify("e0")
    assert code == 1
    assert "2/segments 0.0.0.0 is missing on the disk" in out
    assert "2/segments 1.0.0.0 is damaged on the disk" in out
    assert "mask lacks 1 of" in out
    shutil.rmtree(canvas)
    code, out = verify("e0")
    assert code == 1
    assert "canvas is gone, and gc has not removed it" in out
    put_back()
    assert msbd("gc", str(run), "--finished")[0] == 0
    code, out = verify("--all")
    assert code == 0
    assert out.count("the output is what was written; its stored pixels were removed by gc (") == 2
    output.unlink()
    assert verify("e0")[0] == 1


def test_verify_says_which_edits_it_is_of(msbd: Msbd) -> None:
    assert "say which" in msbd("verify", "run")[2]
    assert "say which" in msbd("verify", "run", "e0", "--all")[2]
    code, _, err = msbd("verify", "run", "e0", "e2")
    assert code == 2
    assert "'e2'" in err
    code, out, _ = msbd("verify", "run", "--all", "--stored", "-o", "json")
    found = json.loads(out)
    assert (code, found["equal"], found["not_finished"]) == (0, True, ["e2", "e3"])
    assert [one["edit"] for one in found["edits"]] == ["e0", "e1"]


def test_an_image_that_has_changed_is_not_replayed(msbd: Msbd, folder: Path) -> None:
    image = folder / "image.png"
    kept = image.read_bytes()
    draw_inputs(folder)
    image.write_bytes(kept + b"0")
    code, out, _ = msbd("verify", "run", "e0")
    image.write_bytes(kept)
    assert code == 1
    assert f"the image has changed since the edit was made ({image})" in out
    assert "it was not made again" in out


def test_the_report_is_written_anew(msbd: Msbd, folder: Path) -> None:
    (folder / "run/report.json").unlink()
    code, out, _ = msbd("report", "run")
    assert code == 0
    assert [Path(line).name for line in out.split()] == ["report.html", "contact-sheet.png"]
    assert all(Path(line).is_file() for line in out.split())
    entries = json.loads((folder / "run/report.json").read_text())["edits"]
    assert [entry["state"] for entry in entries] == ["kept", "kept", "failed", "failed"]


def test_a_plan_has_time_and_cost_with_the_profile_of_a_run(msbd: Msbd) -> None:
    code, out, _ = msbd("plan", "manifest.yaml", "-o", "json")
    assert code == 1
    plain = json.loads(out)
    assert "hours" not in plain["total"]
    assert [p["id"] for p in plain["problems"]] == ["e2"]
    code, out, _ = msbd(
        *("plan", "manifest.yaml", "--profile", "run", "--gpus", "4", "--price", "3600"),
        *("-o", "json"),
    )
    total = json.loads(out)["total"]
    assert total["hours"] < total["worker_hours"]
    total_seconds = pytest.approx(3600 * total["worker_hours"], abs=0.5)  # hours are rounded
    assert total["cost"] == total_seconds
    seconds = [edit["worker_seconds"] for edit in json.loads(out)["edits"]]
    assert sum(seconds) == total_seconds
    text = msbd("plan", "manifest.yaml", "--profile", "run/profile.json", "--price", "3600")[1]
    assert "costs" in text.splitlines()[-1]
    code, _, err = msbd("plan", "manifest.yaml", "--profile", "nowhere")
    assert code == 2
    assert "give the --out of a run" in err


def test_what_has_failed_is_tried_again_and_nothing_else(msbd: Msbd, folder: Path) -> None:
    assert msbd("retry", "run")[0] == 2
    assert "has no edit 'nobody'" in msbd("retry", "run", "nobody")[2]
    code, out, _ = msbd("retry", "run", "e3")  # and with it the one whose result it uses
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["e2", "e3"]
    assert "nothing to do" in msbd("retry", "run", "--quarantined")[2]
    entries = json.loads((folder / "run/report.json").read_text())["edits"]
    assert len(entries) == 4


def test_an_edit_that_kills_workers_is_set_aside_until_it_is_retried(
    msbd: Msbd, folder: Path, tmp_path: Path
) -> None:
    draw_inputs(tmp_path)
    manifest = manifest_of(tmp_path, {})
    run_directory = open_files(tmp_path / "run")
    (spec,) = manifest.edits
    models = Models(ModelSpec(), resolve(ModelSpec()), digests(resolve(ModelSpec())))
    edit = prepare(spec, run_directory / spec.id, models)
    set_aside(edit, failed(spec.id, WorkerError("it killed its worker 3 times")))
    (result,) = run_manifest(manifest, tmp_path / "run", executor="serial").edits
    assert result.state == "quarantined"
    assert "`msbd retry` tries it again" in str(result.error)
    other = replace(spec, prompt="something else")
    assert isinstance(begin_edit(other, run_directory, models), Edit)  # it may be harmless


def test_gc_removes_what_does_not_count_and_says_so(msbd: Msbd, folder: Path) -> None:
    run = folder / "run"
    key = load_edit(open_files(run / "e0")).key
    former, lost = run / "e0/0123456789abcdef", run / f"e0/{key}/canvas.zarr/2/segments/9.9"
    for place in (former, lost):
        place.mkdir()
        (place / "data").write_bytes(b"0" * 1000)
    before = stored(run)
    code, out, _ = msbd("gc", "run", "--dry-run", "-o", "json")
    found = json.loads(out)
    assert code == 0
    assert not found["removed"]
    assert [one["size"] for one in found["what"]] == [1000, 1000]
    assert stored(run) == before
    code, out, _ = msbd("gc", "run")
    assert "0.0 MB freed" in out
    assert not former.exists()
    assert not lost.exists()
    code, out, _ = msbd("gc", "run", "--finished")
    assert not list(run.rglob("canvas.zarr"))
    assert "its canvas has been removed" in msbd("export", "run", "e0", "again.png")[2]
    result = chained(folder)
    assert [one.state for one in result.edits[:2]] == ["kept", "kept"]
    (run / "e1/output.png").unlink()  # nothing is left to write it from
    assert [one.state for one in chained(folder).edits[:2]] == ["kept", "done"]
    assert "its stored pixels are gone" in msbd("logs", "run", "e1")[1]


def stored(run: Path) -> set[Path]:
    return {path for path in run.rglob("*") if path.is_file()}


def test_a_run_is_cancelled_from_elsewhere_and_resumed(tmp_path: Path, msbd: Msbd) -> None:
    draw_inputs(tmp_path)
    manifest_of(tmp_path, FAST, {**FAST, "prompt": "a blue ring"})
    call = [sys.executable, "-c", "from msbd_dist.cli import main; main()", "run"]
    call += ["manifest.yaml", "--out", "run", "--executor", "serial"]
    process = subprocess.Popen(
        call, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out = tmp_path / "run"
    while not list(out.glob("e0/*/ledger/0-denoise-0.json")):
        assert process.poll() is None
        time.sleep(0.1)
    code, said, _ = msbd("cancel", str(out), "--grace", "60")
    assert code == 0
    assert "2 not finished" in said
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert "cancelled: 2 edits are not finished" in told
    done = {path.name for path in out.glob("e0/*/ledger/*")}
    assert "0-denoise-0.json" in done
    before = (next(out.glob("e0/*/ledger")) / "0-denoise-0.json").stat().st_mtime_ns
    (tmp_path / "manifest.yaml").unlink()  # all that is needed is in the run
    code, said, err = msbd("resume", str(out))
    assert code == 0, err
    assert (next(out.glob("e0/*/ledger")) / "0-denoise-0.json").stat().st_mtime_ns == before
    assert [line.split()[:2] for line in said.splitlines()[:2]] == [["e0", "done"], ["e1", "done"]]


def test_what_ended_a_run_is_in_its_status_its_logs_and_its_report(
    tmp_path: Path, msbd: Msbd, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_inputs(tmp_path)
    manifest_of(tmp_path, FASTEST, FASTEST)
    out, cause = str(tmp_path / "run"), "x4.pth: is damaged: download it again"

    def broken(*_: Any) -> None:
        raise ModelError(cause)

    with monkeypatch.context() as patch:
        patch.setattr(TaskWorker, "_compose", broken)  # after another task was done
        manifest = str(tmp_path / "manifest.yaml")
        code, _, err = msbd("run", manifest, "--out", out, "--executor", "serial")
    assert code == 1  # not 2: something was done
    assert err.strip().splitlines()[-1] == f"msbd: {cause}"
    code, said, err = msbd("status", out)
    assert code == 1
    assert "running" not in said
    assert f"an error ended it: {cause}" in err
    found = json.loads((tmp_path / "run/status.json").read_text())
    assert (found["state"], found["error"]) == ("ended", cause)
    assert [row["state"] for row in found["edits"]] == ["stopped", "stopped"]
    assert f"stopped: an error ended the run: {cause}" in msbd("logs", out, "e0")[1]
    log = msbd("logs", out)[1]
    assert "Traceback" in log
    assert cause in log
    assert json.loads((tmp_path / "run/report.json").read_text())["error"] == cause
    assert msbd("report", out)[0] == 0
    assert json.loads((tmp_path / "run/report.json").read_text())["error"] == cause
    assert msbd("resume", out)[0] == 0
    assert json.loads(msbd("status", out, "-o", "json")[1])["error"] is None
    assert "ended: 2 done" in msbd("logs", out)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "run"),
        ("logs", "run", "e0"),
        ("describe", "run", "e0"),
        ("gc", "run", "--nonsense"),
        ("version",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_who_only_looks_waits_for_nothing(arguments: tuple[str, ...], folder: Path) -> None:
    script = (
        f"import sys; sys.argv = {['msbd', *arguments]!r}\n"
        "from msbd_dist import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'diffusers', 'zarr', 'pyvips'} & set(sys.modules)))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[-1] == "[]", said.stderr


def test_a_directory_without_a_run_is_said_to_be_one(msbd: Msbd, tmp_path: Path) -> None:
    for verb in ("status", "resume", "report", "gc", "cancel"):
        code, _, err = msbd(verb, str(tmp_path))
        assert code == 2, verb
        assert "holds no run" in err
        assert len(err.strip().splitlines()) == 1
