"""The command: what it prints, what it exits with, and the table of wrong inputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quick import QUICK, draw_inputs, pixels
from safetensors.numpy import save_file

from msbd_dist import cli
from msbd_dist.models.card import bundled_folder

SET = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
Msbd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msbd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inputs: Path) -> Msbd:
    """Run the command in this process, in the folder of the inputs: (code, stdout, stderr)."""
    monkeypatch.chdir(inputs)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msbd", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def edit(image: str = "image.png", mask: str = "mask.png", prompt: str = "a red star") -> list[str]:
    return ["edit", image, mask, prompt, "-o", "out.png", "--executor", "serial", "--seed", "3"]


def test_an_edit_from_start_to_end(msbd: Msbd, inputs: Path) -> None:
    draw_inputs(inputs, kind="jpg")
    code, out, err = msbd(*edit("image.jpg"), *SET)
    assert code == 0, err
    assert out.strip() == str(inputs / "out.png")
    before, after = pixels("image.jpg"), pixels("out.png")
    mask = pixels("mask.png") >= 128
    assert np.count_nonzero(before[~mask] != after[~mask]) == 0
    assert (before[mask] != after[mask]).any()
    assert "peak memory" in err

    code, _, err = msbd(*edit("image.jpg"), *SET)
    assert code == 0
    assert "nothing to do" in err


BAD_EDITS: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "missing image": (lambda d: None, edit("none.png"), ["none.png", "not found|no such|exist"]),
    "missing mask": (lambda d: None, edit(mask="none.png"), ["none.png"]),
    "image is a folder": (lambda d: (d / "folder").mkdir(), edit("folder"), ["folder"]),
    "not an image": (lambda d: (d / "x.png").write_text("hi"), edit("x.png"), ["x.png"]),
    "truncated": (
        lambda d: (d / "cut.png").write_bytes((d / "image.png").read_bytes()[:-4000]),
        edit("cut.png"),
        ["cut.png"],
    ),
    "truncated JPEG": (
        lambda d: (
            draw_inputs(d, kind="jpg"),
            (d / "cut.jpg").write_bytes((d / "image.jpg").read_bytes()[:-3000]),
        ),
        edit("cut.jpg"),
        ["cut.jpg"],
    ),
    "CMYK": (
        lambda d: Image.open(d / "image.png").convert("CMYK").save(d / "cmyk.jpg"),
        edit("cmyk.jpg"),
        ["cmyk.jpg", "CMYK|cmyk"],
    ),
    "mask of another aspect": (
        lambda d: Image.new("L", (100, 300), 255).save(d / "tall.png"),
        edit(mask="tall.png"),
        ["tall.png", "100x300"],
    ),
    "empty mask": (
        lambda d: Image.new("L", (331, 277), 9).save(d / "black.png"),
        edit(mask="black.png"),
        ["black.png", "9"],
    ),
    "lossy output": (
        lambda d: None,
        [*edit()[:4], "-o", "out.jpg", "--executor", "serial"],
        ["out.jpg", r"\.png"],
    ),
    "output at a URL": (
        lambda d: None,
        [*edit()[:4], "-o", "memory://bucket/out.png", "--executor", "serial"],
        ["memory://bucket/out.png is a URL", "manifest"],
    ),
    "output over input": (
        lambda d: None,
        [*edit()[:4], "-o", "image.png", "--executor", "serial"],
        ["image.png", "another name"],
    ),
    "output over the mask": (
        lambda d: None,
        [*edit()[:4], "-o", "mask.png", "--executor", "serial"],
        ["mask.png", "is an input", "another name"],
    ),
    "output is a folder": (
        lambda d: (d / "dir.png").mkdir(),
        [*edit()[:4], "-o", "dir.png", "--executor", "serial"],
        ["dir.png", "is a folder"],
    ),
    "something in the way of the workspace": (
        lambda d: (d / "out.png.msbd").write_text("mine"),
        edit(),
        ["out.png.msbd", "in the way"],
    ),
    "prompt too long": (lambda d: None, edit(prompt="star " * 40), ["tokens", "24"]),
    "unknown model folder": (
        lambda d: None,
        [*edit(), "--models", "/no/such/folder"],
        ["/no/such/folder"],
    ),
    "folder without a model": (
        lambda d: (d / "empty").mkdir(),
        [*edit(), "--models", "empty"],
        ["empty", "model_index.json"],
    ),
    "pickled model": (
        lambda d: torch.save({}, d / "model.ckpt"),
        [*edit(), "--models", "model.ckpt"],
        ["model.ckpt", "safetensors"],
    ),
    "wrong kind of model": (
        lambda d: save_file({"weight": np.zeros(3, np.float32)}, d / "lora.safetensors"),
        [*edit(), "--models", "lora.safetensors"],
        ["lora.safetensors"],
    ),
    "wrong upscaler": (
        lambda d: None,
        [*edit(), *SET, "--sr", str(bundled_folder() / "vae/diffusion_pytorch_model.safetensors")],
        ["diffusion_pytorch_model"],
    ),
    "no GPU": (lambda d: None, [*edit(), "--device", "cuda"], ["cuda", "CUDA"]),
    "unknown device": (lambda d: None, [*edit(), "--device", "tpu"], ["tpu"]),
    "unknown option": (lambda d: None, [*edit(), "--set", "stepz=3"], ["stepz", "steps"]),
    "option without a value": (lambda d: None, [*edit(), "--set", "steps"], ["KEY=VALUE"]),
    "option of the wrong type": (lambda d: None, [*edit(), "--set", "steps=x"], ["steps", "'x'"]),
    "margin below one": (lambda d: None, [*edit(), "--margin", "0.2"], ["margin", "0.2"]),
    "unknown executor": (lambda d: None, [*edit()[:6], "--executor", "dask"], ["dask", "serial"]),
    "unknown flag": (lambda d: None, [*edit(), "--sead", "4"], ["--sead", "--seed"]),
    "no output": (lambda d: None, edit()[:4], ["--output"]),
    "workers of zero": (lambda d: None, [*edit(), "--workers", "0"], ["workers"]),
}


@pytest.mark.parametrize("case", BAD_EDITS)
def test_wrong_input_ends_in_one_line_with_exit_code_2(case: str, msbd: Msbd, inputs: Path) -> None:
    import re

    spoil, arguments, wanted = BAD_EDITS[case]
    spoil(inputs)
    before = {p: p.stat().st_mtime_ns for p in inputs.iterdir()}
    if "no GPU" in case and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, out, err = msbd(*arguments)
    told = [line for line in err.splitlines() if line.startswith("msbd: ")]
    assert code == 2, err
    assert len(told) == 1, err
    assert "Traceback" not in err
    assert out == ""
    for words in wanted:
        assert re.search(words, told[0]), told[0]
    assert not (inputs / "out.png").exists()
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_to(msbd: Msbd, inputs: Path) -> None:
    (inputs / "locked").mkdir(mode=0o500)
    code, _, err = msbd(*edit()[:4], "-o", "locked/out.png", "--executor", "serial")
    assert code == 2
    assert "locked" in err


def test_a_folder_below_a_file_can_not_be_written_to(msbd: Msbd, inputs: Path) -> None:
    code, _, err = msbd(*edit()[:4], "-o", "mask.png/out.png", "--executor", "serial")
    assert code == 2
    assert "mask.png" in err


STRANGE = {
    "grey": lambda image: image.convert("L"),
    "grey and alpha": lambda image: image.convert("LA"),
    "alpha": lambda image: image.convert("RGBA"),
    "palette": lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE),
    "one bit": lambda image: image.convert("1"),
    "16-bit grey": lambda image: Image.fromarray(
        np.asarray(image.convert("L")).astype(np.uint16) * 257
    ),
    "smaller than native": lambda image: image.resize((90, 70)),
    "a few pixels": lambda image: image.resize((3, 2)),
}


def assert_measured(folder: Path) -> None:
    """A measure that fails costs no edit, so that it is easily missed."""
    (entry,) = json.loads((folder / "out.png.msbd/report.json").read_text())["edits"]
    assert entry["measures"]["changed_outside"] == 0
    assert "ssim" in entry["measures"]
    assert "not measured" not in (folder / "out.png.msbd/edit/log.txt").read_text()


@pytest.mark.parametrize("case", STRANGE)
def test_strange_but_good_pictures_are_edited_exactly(case: str, msbd: Msbd, inputs: Path) -> None:
    image = STRANGE[case](Image.open(inputs / "image.png"))
    image.save(inputs / "strange.png")
    mask = np.zeros((image.height, image.width), np.uint8)
    mask[image.height // 4 : -1, image.width // 3 : -1] = 255
    Image.fromarray(mask).save(inputs / "part.png")
    options = ["--set", "upscaler=bicubic", "--set", "decoder_optimization=off"]
    code, _, err = msbd(*edit("strange.png", "part.png"), *SET, *options)
    assert code == 0, err
    before, after = Image.open(inputs / "strange.png"), Image.open(inputs / "out.png")
    if before.mode in ("P", "1"):
        before = before.convert("RGB" if before.mode == "P" else "L")
    assert before.mode == after.mode
    a, b = np.asarray(before), np.asarray(after)
    assert np.array_equal(a[mask == 0], b[mask == 0])
    assert not np.array_equal(a, b)
    assert_measured(inputs)


@pytest.mark.parametrize("where", ["one pixel", "everything", "a corner"])
def test_masks_of_any_extent(where: str, msbd: Msbd, inputs: Path) -> None:
    mask = np.zeros((277, 331), np.uint8)
    box = {"one pixel": np.s_[100, 200], "everything": np.s_[:, :], "a corner": np.s_[-9:, :5]}
    mask[box[where]] = 255
    Image.fromarray(mask).save(inputs / "mask.png")
    options = ["--set", "upscaler=bicubic", "--set", "decoder_optimization=off"]
    code, _, err = msbd(*edit(), *SET, *options)
    assert code == 0, err
    a, b = pixels("image.png"), pixels("out.png")
    assert np.array_equal(a[mask == 0], b[mask == 0])
    assert (a != b).any()


def test_a_manifest_with_bad_edits_runs_the_others_and_exits_with_1(
    msbd: Msbd, inputs: Path
) -> None:
    settings = "\n".join(f"  {k}: {v}" for k, v in QUICK.items())
    (inputs / "jobs.yaml").write_text(
        f"defaults:\n  mask: mask.png\n  seed: 1\n  prompt: a red star\n{settings}\n"
        "  upscaler: bicubic\n  decoder_optimization: off\nedits:\n"
        "  - {id: good, image: image.png}\n  - {id: bad, image: none.png}\n"
    )
    code, out, err = msbd("run", "jobs.yaml", "--out", "run", "--executor", "serial")
    assert code == 1, err
    assert "failed bad: " in err
    assert (inputs / "run/good/output.png").exists()
    assert "contact sheet" in out
    assert not (inputs / "run/bad").exists()

    damaged = inputs / "run/good/edit.json"
    damaged.write_text(damaged.read_text()[:50])
    code, out, err = msbd("run", "jobs.yaml", "--out", "run", "--executor", "serial")
    assert code == 1
    assert "kept good" in err

    jobs = inputs / "jobs.yaml"
    jobs.write_text(jobs.read_text().replace("id: good", "id: better"))
    code, out, err = msbd("run", "jobs.yaml", "--out", "run", "--models", str(bundled_folder()))
    assert code == 2
    assert "another --out" in err


def test_a_run_directory_that_holds_other_files_is_refused(msbd: Msbd, inputs: Path) -> None:
    (inputs / "jobs.yaml").write_text(
        "edits: [{id: a, image: image.png, mask: mask.png, prompt: x}]\n"
    )
    code, _, err = msbd("run", "jobs.yaml", "--out", ".", "--executor", "serial")
    assert code == 2
    assert "not of a run" in err


def test_no_ray_at_an_address_exits_with_3(inputs: Path) -> None:
    """In a process of its own, where no Ray is running yet."""
    call = ["-c", "from msbd_dist.cli import main; main()", *edit()[:6], "--address", "127.0.0.1:1"]
    run = subprocess.run([sys.executable, *call], capture_output=True, text=True, cwd=inputs)
    assert run.returncode == 3, run.stderr
    assert "no Ray at 127.0.0.1:1" in run.stderr
    assert "ray start --head" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_store_that_cannot_be_reached_is_one_line(inputs: Path) -> None:
    """In a process of its own: stores are remembered."""
    (inputs / "jobs.yaml").write_text(
        "edits: [{id: a, image: image.png, mask: mask.png, prompt: x}]\n"
    )
    call = ["-c", "from msbd_dist.cli import main; main()", "run", "jobs.yaml", "--out", "s3://a/b"]
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    run = subprocess.run(
        [sys.executable, *call],
        capture_output=True,
        text=True,
        cwd=inputs,
        env={**os.environ, **nobody, **keys},
    )
    assert run.returncode == 1
    assert run.stderr.startswith("msbd: s3://a/b: Could not connect")
    assert len(run.stderr.strip().splitlines()) <= 2  # wrapped


def test_plan_says_what_would_be_done_and_loads_no_torch(inputs: Path) -> None:
    (inputs / "jobs.yaml").write_text(
        "edits: [{id: a, image: image.png, mask: mask.png, prompt: x},"
        " {id: b, image: none.png, mask: mask.png, prompt: x}]\n"
    )
    code = (
        "import sys; from msbd_dist import cli; sys.argv = ['msbd', 'plan', 'jobs.yaml']\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('torch', 'ray', 'diffusers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=inputs)
    assert run.returncode == 1
    assert run.stdout.strip().endswith("[]")
    for words in ("0 base", "128x128", "2 segmented", "1,500", "MB stored"):
        assert words in run.stdout
    assert "none.png" in run.stderr


def test_the_doctor_finds_everything_and_says_what_is_wrong(msbd: Msbd) -> None:
    folder = shutil.copytree(bundled_folder(), Path("mine"))
    (folder / "msbd.json").write_text('{"native": 96, "segment": 128, "overlap": 32}')
    upscaler, scorer = folder / "upscaler" / "esrgan_x4.safetensors", folder / "clip"
    given = ("--models", str(folder), "--sr", str(upscaler), "--clip", str(scorer))
    code, out, err = msbd("doctor", *given, "-o", "json")
    assert code == 0, out + err
    found = json.loads(out)
    assert (found["version"], found["kind"], found["ok"]) == (1, "doctor", True)
    said = {check["name"]: check["found"] for check in found["checks"]}
    assert "mine: native 96 px" in said["models"]
    assert "enlarges by 4" in said["upscaler"]
    assert said["scorer"].endswith("clip")
    assert "a 120x120 edit by" in said["self-test"]
    assert "mine from start to end" in said["self-test"]
    code, out, err = msbd("doctor", "--models", "/no/such/folder")
    assert code == 1
    assert out.count("/no/such/folder") == 1
    assert "a 160x160 edit by tiny from start to end" in out


@pytest.mark.parametrize("verb", [[], ["edit"], ["run"], ["plan"], ["measure"], ["doctor"]])
def test_help_reads_well_and_has_an_example(verb: list[str], msbd: Msbd) -> None:
    code, out, _ = msbd(*verb, "--help")
    assert code == 0
    assert "Usage" in out
    assert not verb or "Example" in out


def test_a_typo_never_costs_what_was_finished(msbd: Msbd, inputs: Path) -> None:
    options = ["--set", "upscaler=bicubic", "--set", "decoder_optimization=off"]
    assert msbd(*edit(), *SET, *options)[0] == 0
    before = sorted((inputs / "out.png.msbd").rglob("*"))
    for typo in (["--sr", "nope.pth"], ["--device", "gpu"], ["--models", "nomodel"]):
        code, _, err = msbd(*edit(), *SET, *typo)
        assert code == 2, err
        assert sorted((inputs / "out.png.msbd").rglob("*")) == before
    assert "kept edit" in msbd(*edit(), *SET, *options, "--device", "cpu")[2]


def test_an_interruption_says_how_to_continue(inputs: Path) -> None:
    import signal
    import time

    call = [sys.executable, "-c", "from msbd_dist.cli import main; main()", *edit(), *SET]
    run = subprocess.Popen(call, cwd=inputs, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((inputs / "out.png.msbd/edit").glob("*/ledger/ingest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.strip().endswith("the same command continues")
    assert "Traceback" not in err


def test_the_api_of_three_lines(inputs: Path) -> None:
    import msbd_dist

    image, mask = inputs / "image.png", inputs / "mask.png"
    options = {**QUICK, "upscaler": "bicubic", "decoder_optimization": False}
    path = msbd_dist.edit(
        image, mask, "a red star", output=inputs / "o.tif", executor="serial", seed=1, **options
    )
    assert path == inputs / "o.tif"
    assert pixels(path).shape == (277, 331, 3)
    for wrong in ({"seed": "a"}, {"steps": "many"}, {"executor": "dask"}, {"stepz": 1}):
        with pytest.raises(msbd_dist.InputError, match=next(iter(wrong))):
            msbd_dist.edit(image, mask, "x", output=inputs / "q.png", **wrong)  # type: ignore
    with pytest.raises(msbd_dist.InputError, match=r"none\.png"):
        msbd_dist.edit("none.png", mask, "x", output=inputs / "p.png", executor="serial")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("run a.yaml --allow-loss", "run a.yaml --allow-loss=on"),
        ("run --allow-loss a.yaml", "run --allow-loss=on a.yaml"),
        ("run --allow-loss --out r", "run --allow-loss=on --out r"),
        ("run --allow-loss iptc,comment a.yaml", "run --allow-loss iptc,comment a.yaml"),
        ("run --allow-loss=samples a.yaml", "run --allow-loss=samples a.yaml"),
    ],
)
def test_allow_loss_stands_alone_or_before_names(words: str, wanted: str) -> None:
    assert cli.spelled_out(words.split()) == wanted.split()


def test_a_loss_that_is_not_named_is_not_allowed(msbd: Msbd) -> None:
    code, _, err = msbd(*edit()[:5], "out.jpg", *edit()[6:], "--allow-loss", "iptc,comment")
    assert code == 2
    assert "--allow-loss samples (in a manifest: allow_loss: [samples])" in err
    code, _, err = msbd(*edit(), "--allow-loss", "iptc,commment")
    assert code == 2
    assert "'commment' is perhaps comment" in err
