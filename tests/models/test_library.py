"""What is at hand, and what the hub's own client fetches, from a hub on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub import serving

from msbd_dist.errors import ModelError
from msbd_dist.models.audit import SUMS
from msbd_dist.models.card import bundled_folder
from msbd_dist.models.library import at_hand

PLAIN = {  # what is fetched of a diffusers model
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"text_encoder/{name}" for name in ("config.json", "model.safetensors")),
    *(
        f"tokenizer/{name}"
        for name in ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")
    ),
    *(f"{part}/config.json" for part in ("unet", "vae")),
    *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
    "README.md",
}


def msbd(endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the client reads where its hub is at import."""
    code = "from msbd_dist.cli import main; main()"
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0" if endpoint else "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, "models", *arguments],
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A model with what nobody needs beside it, and an upscaler that is a pickle."""
    model = tmp_path / "hub" / "org" / "model"
    shutil.copytree(bundled_folder(), model, ignore=shutil.ignore_patterns("clip", "upscaler"))
    (model / "msbd.json").unlink()
    for extra in ("unet/diffusion_pytorch_model.fp16.safetensors", "all.safetensors", "all.ckpt"):
        (model / extra).write_bytes(b"never fetched")
    upscaler = tmp_path / "hub" / "org" / "upscaler"
    upscaler.mkdir()
    torch.save({"params": torch.ones(2)}, upscaler / "x4.pth")
    return tmp_path / "hub"


def test_a_model_is_fetched_without_what_it_does_not_need(hub: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    with serving(hub, asked) as endpoint:
        done = msbd(endpoint, "pull", "org/model", "--to", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert set(asked) == PLAIN
    files = (file for file in (tmp_path / "model").rglob("*") if file.is_file())
    assert {str(file.relative_to(tmp_path / "model")) for file in files} == {*PLAIN, SUMS}
    assert "native 128 px" in done.stderr
    again = msbd("", "check", str(tmp_path / "model"), "-o", "json")
    assert again.returncode == 0, again.stderr
    assert '"listed": true' in again.stdout


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub: Path, tmp_path: Path) -> None:
    lie = "diffusion_pytorch_model.safetensors"
    with serving(hub, [], lie=lie) as endpoint:
        done = msbd(endpoint, "pull", "org/model", "--to", str(tmp_path / "model"))
    assert done.returncode == 2
    assert "is not the file that the hub has" in done.stderr


def test_pickles_are_fetched_only_if_asked_for(hub: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    with serving(hub, asked) as endpoint:
        refused = msbd(endpoint, "pull", "org/upscaler", "--to", str(tmp_path / "a"))
        done = msbd(endpoint, "pull", "org/upscaler", "--to", str(tmp_path / "b"), "--allow-pickle")
        unknown = msbd(endpoint, "pull", "org/none", "--to", str(tmp_path / "c"))
    assert (refused.returncode, done.returncode, unknown.returncode) == (2, 0, 2), done.stderr
    assert "--allow-pickle" in refused.stderr
    assert asked == ["x4.pth"]
    assert unknown.stderr.startswith("msbd: org/none: it could not be had from the model hub")
    assert "none of this name" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1


def test_a_folder_that_holds_other_things_is_left_alone(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with serving(hub, []) as endpoint:
        done = msbd(endpoint, "pull", "org/model", "--to", str(tmp_path / "mine"))
    assert done.returncode == 2
    assert "holds other files" in done.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    done = msbd("", "pull", "org/model", "--to", str(tmp_path / "model"))
    assert done.returncode == 2
    assert "could not be had from the model hub" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_at_hand(tmp_path: Path) -> None:
    shutil.copytree(bundled_folder(), tmp_path / "whole")
    shutil.copytree(bundled_folder() / "clip", tmp_path / "clip")
    shutil.copytree(bundled_folder(), tmp_path / "broken")
    (tmp_path / "broken" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(print, tmp_path / "x4.pth")
    (tmp_path / "notes.txt").write_text("no model")
    found = {Path(e.name).name: (e.kind, e.why is None) for e in at_hand(tmp_path)}
    assert found.pop("tiny") == ("model", True)
    assert found == {
        "whole": ("model", True),
        "clip": ("part", True),
        "broken": ("model", False),
        "x4.pth": ("file", False),
    }


def test_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        at_hand(Path("/nowhere"))
