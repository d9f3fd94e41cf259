"""The benchmark of a GPU: all of it runs without one, it notices faults, and its page is honest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, right, sizes
from benchmarks.gpu.bench import Bench, Found, fits
from benchmarks.gpu.parts import PARTS, Runner, chosen
from benchmarks.gpu.twin import MEMORY, Twin
from msbd_dist.core.levels import Level
from msbd_dist.models.latent import LatentModel

ROOT = Path(__file__).parents[1]

# --- all of it runs ---


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m benchmarks.gpu --dry-run` leaves, where Ray is not installed."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "site").mkdir()
    (folder / "site" / "ray.py").write_text("raise ImportError('Ray is not installed')\n")
    paths = os.pathsep.join([str(folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = ["--dry-run", "-o", str(folder / "gpu.json"), "--page", str(folder / "gpu.md")]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_a_dry_run_does_every_part_and_all_checks_hold(dry: Path) -> None:
    found = json.loads((dry / "gpu.json").read_text())
    assert list(found["parts"]) == list(PARTS)
    assert not [name for name, part in found["parts"].items() if "error" in part]
    rows = page.checks(found["parts"])
    assert len(rows) > 30
    assert [row["what"] for row in rows if not row["ok"]] == []


def test_the_page_of_a_dry_run_has_every_section_and_judges_nothing(dry: Path) -> None:
    text = (dry / "gpu.md").read_text()
    assert page.NOTHING in text
    assert "**A dry run**" in text
    assert page.UNMEASURED not in text.lower()
    assert "holds |\n| the final stage" not in text
    for heading in ("Targets", "Is it right", "Is it fast", "How much fits", "Can it train"):
        assert f"## {heading}" in text


# --- it notices ---

Change = Callable[[LatentModel, Tensor], Tensor]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Change], None]]:
    """Changes what the UNet predicts."""
    predict = LatentModel._predict

    def planted(change: Change) -> None:
        def changed(self: LatentModel, z: Tensor, level: Level, text: Tensor) -> Tensor:
            return change(self, predict(self, z, level, text))

        monkeypatch.setattr(LatentModel, "_predict", changed)

    yield planted
    torch.use_deterministic_algorithms(False)


def failed(found: Found) -> dict[str, str]:
    return {row["what"]: str(row.get("found", "")) for row in found["checks"] if not row["ok"]}


def test_a_wait_in_the_loop_is_told_with_its_line(
    plant: Callable[[Change], None], tmp_path: Path
) -> None:
    plant(lambda _, raw: raw * float(raw.isfinite().all()))
    found = failed(right.waits(Bench(tmp_path, dry=True)))
    said = found["the host does not wait in the denoising loop"]
    assert "called a synchronizing CUDA operation" in said
    assert "(models/latent.py:" in said


def test_an_operator_without_a_fixed_order_is_told(
    plant: Callable[[Change], None], tmp_path: Path
) -> None:
    plant(lambda _, raw: raw + 0 * raw.flatten().cumsum(0)[-1])
    said = failed(right.edits(Bench(tmp_path, dry=True)))["a whole edit is made"]
    assert "cumsum_cuda does not have a deterministic implementation" in said


def test_a_tensor_on_the_host_is_told(plant: Callable[[Change], None], tmp_path: Path) -> None:
    plant(lambda _, raw: raw + torch.ones(raw.shape))
    said = failed(right.edits(Bench(tmp_path, dry=True)))["a whole edit is made"]
    assert "same device" in said


def test_bytes_that_differ_from_run_to_run_are_told(
    plant: Callable[[Change], None], tmp_path: Path
) -> None:
    plant(lambda _, raw: raw + 0.1 * torch.rand_like(raw))
    found = failed(right.edits(Bench(tmp_path, dry=True)))
    assert set(found) == {"two runs write the same bytes"}


def test_a_dtype_that_is_far_from_float32_is_told(
    plant: Callable[[Change], None], tmp_path: Path
) -> None:
    plant(lambda model, raw: raw + 0.5 * (model.parts.dtype == torch.float16))
    found = failed(right.dtypes(Bench(tmp_path, dry=True)))
    assert [what.split()[0] for what in found] == ["float16"]


def test_a_plant_that_is_not_noticed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(right.PLANTS, "nothing", lambda: None)
    found = failed(right.noticed(Bench(tmp_path, dry=True)))
    assert found == {"nothing is noticed": "nothing was raised"}


def test_what_fits_is_tried_up_to_the_first_size_that_does_not() -> None:
    def filled(quarters: int) -> Tensor:
        return torch.zeros(quarters * MEMORY // 4, dtype=torch.uint8, device="cuda")

    with Twin():
        found = fits((1, 2, 8, 1), filled)
    assert found.peaks == {1: 256.0, 2: 512.0}
    assert found.why.startswith("8: CUDA out of memory")


# --- parts that go wrong harm no other ---


def dies(_: Bench) -> Found:
    os._exit(7)


def hangs(_: Bench) -> Found:
    time.sleep(600)
    return {}


def raises(_: Bench) -> Found:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")


def tells(_: Bench) -> Found:
    return {"process": os.getpid(), "checks": []}


def test_a_part_that_dies_hangs_or_raises_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    parts = {"dies": dies, "hangs": hangs, "raises": raises, "tells": tells}
    with Runner(Bench(tmp_path, dry=True), parts) as runner:
        assert runner.run("dies")["error"] == "its process ended (exit code 7)"
        first = runner.run("tells")
        assert runner.run("raises")["error"].startswith("CUDA error: an illegal memory access")
        assert runner.run("tells")["process"] != first["process"]
        assert runner.run("hangs", 0.5)["error"] == "it took longer than 0.5 s and was ended"
        assert "error" not in runner.run("tells")


# --- the command ---


def test_parts_are_chosen_by_name_or_group() -> None:
    assert chosen("fast.final,trains") == ["fast.final", "trains.minute"]
    with pytest.raises(ValueError, match="'fsat' is none of right, fast"):
        chosen("fsat")


def ended(*options: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options])
    return command.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch sees no CUDA device" in line
    assert "--dry-run" in line


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"format": 1, "dry_run": False, "card": {"name": "a card"}, "parts": {}}, "a card"),
        ({"format": 0, "dry_run": True, "card": {"name": "no card"}, "parts": {}}, "another form"),
        ([], "none of its results"),
    ],
)
def test_numbers_that_do_not_belong_together_are_not_mixed(
    held: object,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(held))
    assert ended("--dry-run", "-o", str(file), monkeypatch=monkeypatch) == 2
    assert said in capsys.readouterr().err
    assert json.loads(file.read_text()) == held


# --- the page ---


def test_the_page_and_the_readme_say_what_was_run() -> None:
    """`python -m benchmarks.gpu.page` writes the page anew."""
    found = page.load()
    assert page.PAGE.read_text(encoding="utf-8") == page.text(found)
    first_screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    assert page.headline(found) in first_screen.replace("\n", " ")


def test_targets_that_were_not_measured_are_said_to_be() -> None:
    nothing = {"dry_run": False, "card": {}, "parts": {}}
    assert page.text(nothing).count(f"| {page.UNMEASURED} |") == len(page.TARGETS)


def test_targets_are_judged_by_their_numbers() -> None:
    decoder = {"seconds_to_paper": 6.5, "seconds": 1, "commit": "c", "versions": {}}
    found = {"dry_run": False, "card": {"name": "a card"}, "parts": {"fast.decoder": decoder}}
    row = next(line for line in page.targets(found).splitlines() if "3000 x 2000" in line)
    assert row.endswith("| at most 6 s | 6.5 s | does not hold |")
    failing = {"error": "it ended", "seconds": 1, "commit": "c", "versions": {}}
    found["parts"] = {"right.edits": failing}
    row = next(line for line in page.targets(found).splitlines() if "checks" in line)
    assert row.endswith("| all | 0.0 % | does not hold |")
    assert page.headline(found).startswith("Run on one a card")
    assert page.headline(found).endswith("0 of 1 checks hold.")


# --- full sizes ---


def test_full_size_networks_are_the_published_ones(tmp_path: Path) -> None:
    """Of the upscaler here; `benchmarks.full_size` counts Stable Diffusion's parameters."""
    from safetensors.torch import load_file

    sizes.write_upscaler(tmp_path / "x4.safetensors")
    weights = load_file(tmp_path / "x4.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == 16_697_987
