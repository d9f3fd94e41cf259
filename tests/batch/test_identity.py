"""What decides bytes beside an edit: compared by workers, and told where an edit is made anew."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from quick import FASTEST

from msbd_dist.batch import run as module
from msbd_dist.batch.changes import since
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.identity import Identity, different_files
from msbd_dist.batch.journal import read_log
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import SCHEMA, load_edit
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas.files import open_files
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ClusterError
from msbd_dist.fleet.retry import Unfit
from msbd_dist.models.card import Card, bundled_folder
from msbd_dist.models.fingerprint import digests

MakeManifest = Callable[..., Manifest]
HERE = Identity.here(ModelSpec(), SCHEMA)


def refusal(**there: object) -> str:
    """What a worker of this machine says to a driver of another identity."""
    spec = WorkerSpec("memory://", ModelSpec(), 1, replace(HERE, **there))  # type: ignore[arg-type]
    with pytest.raises(Unfit) as refused:
        spec()
    return str(refused.value)


def test_a_worker_refuses_other_files_packages_and_code_by_name() -> None:
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert f"{unet} differs;" in refusal(files={**HERE.files, unet: "other"})
    assert "vae/b is missing" in refusal(files={**HERE.files, "vae/b": "other"})
    words = refusal(packages={**HERE.packages, "torch": "1.0", "spandrel": "9"}, schema=1)
    assert f"torch is {HERE.packages['torch']}, there 1.0" in words
    assert f"spandrel is {HERE.packages['spandrel']}, there 9" in words
    assert f"the code's format is {SCHEMA}, there 1" in words
    assert "the same models and packages" in words
    assert "\n" not in words


def test_a_refusal_needs_no_torch() -> None:
    code = (
        "import sys; from msbd_dist.batch.hire import WorkerSpec; "
        "from msbd_dist.core.spec import ModelSpec; "
        "from msbd_dist.batch.identity import Identity; "
        "from msbd_dist.fleet.retry import Unfit\n"
        "other = Identity(files={}, packages={}, schema=1)\n"
        "try: WorkerSpec('memory://', ModelSpec(), 1, other)()\n"
        "except Unfit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_differs_between_two_models_is_said_in_words() -> None:
    assert different_files({"a": "1", "b": "1", "d": "1"}, {"a": "1", "b": "2", "c": "1"}) == [
        "b differs",
        "c is missing",
        "d is new",
    ]


def test_a_run_whose_workers_all_have_another_model_ends_and_names_them(
    make_manifest: MakeManifest,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(card: Card) -> dict[str, str]:
        return {**digests(card), "unet/config.json": "of another model"}

    monkeypatch.setattr(module, "digests", other)  # workers are other processes
    with pytest.raises(ClusterError, match=r"unet/config\.json differs") as ended:
        run_manifest(make_manifest(FASTEST, FASTEST), tmp_path / "out", workers=2)
    assert socket.gethostname() in str(ended.value)
    assert not list((tmp_path / "out").glob("*/*/ledger/*-denoise-*"))


def test_a_model_of_which_a_byte_has_changed_is_another_one(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    family = Path(shutil.copytree(bundled_folder(), tmp_path / "family"))
    file = family / "text_encoder" / "model.safetensors"
    manifest, out = make_manifest(FASTEST, models=str(family)), tmp_path / "out"

    def state() -> str:
        return run_manifest(manifest, out, executor="serial").edits[0].state

    assert state() == "done"
    assert state() == "kept"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # of a weight's last bits
    file.write_bytes(data)
    record = load_edit(open_files(out) / "e0")
    assert list(since(record)) == [
        "the model's text_encoder/model.safetensors differs since the edit was made"
    ]
    mask = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(mask + b"0")
    (tmp_path / "image.png").rename(tmp_path / "elsewhere.png")
    changed = list(since(replace(record, schema=SCHEMA - 1)))
    assert changed[0] == (f"the image is gone since the edit was made ({tmp_path / 'image.png'})")
    assert changed[1] == f"the mask has changed since the edit was made ({tmp_path / 'mask.png'})"
    assert changed[3] == f"the code's format was {SCHEMA - 1} and is {SCHEMA}"
    (tmp_path / "mask.png").write_bytes(mask)
    (tmp_path / "elsewhere.png").rename(tmp_path / "image.png")
    assert state() == "done"
    log = read_log(open_files(out), "e0")
    assert log is not None
    assert "is made anew: the model's text_encoder/model.safetensors differs" in log
    (out / "e0/output.png").write_bytes(b"")
    assert state() == "done"
    assert "output.png is not what was written" in str(read_log(open_files(out), "e0"))


def test_stored_pixels_that_are_gone_are_made_again(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    manifest, out = make_manifest(FASTEST), tmp_path / "out"
    run_manifest(manifest, out, executor="serial")
    output = out / "e0/output.png"
    wanted = output.read_bytes()
    output.unlink()
    for name in ("mask/*/c/0/0", "2/segments/*/c/1/0/0/0", "2/canvas/*/c/0/*/*"):
        next(out.glob(f"e0/*/canvas.zarr/{name}")).unlink()
    run_manifest(manifest, out, executor="serial")
    assert output.read_bytes() == wanted
    log = str(read_log(open_files(out), "e0"))
    assert "done again, for what it stored is gone: ingest, 2-" in log


def test_the_log_says_which_inputs_an_edit_is_made_anew_for(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    edit = {**FASTEST, "samples": 1, "prompt": "a red star"}
    run_manifest(make_manifest(edit), tmp_path / "out", executor="serial")
    (tmp_path / "image.png").write_bytes((tmp_path / "image.png").read_bytes() + b"0")
    again = make_manifest({**edit, "prompt": "a blue ring", "seed": 6, "steps": 4})
    run_manifest(again, tmp_path / "out", executor="serial")
    words = "the image differs, the prompt differs, seed was 5, steps was 3"
    assert f"is made anew: {words}" in str(read_log(open_files(tmp_path / "out"), "e0"))
