"""Devices, lazy loading, and loading that leaves the process as it was."""

from __future__ import annotations

import logging
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import SD1_FILE, edit_json, fill_hub_cache, loaded, write_rrdbnet
from safetensors.torch import load_file, save_file

from msbd_dist.core.levels import level_at
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import Choice, Models, _driver, choose_device, load
from msbd_dist.models.card import resolve


def test_the_device_is_never_chosen_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, reason in (("auto", "no CUDA device"), ("cpu", "asked for")):
        choice = choose_device(name)
        assert choice == (torch.device("cpu"), torch.float32, choice.products, reason)
    with pytest.raises(ModelError, match=r"no CUDA device.*nvidia-smi.*device: cpu"):
        choose_device("cuda")
    with pytest.raises(ModelError, match="'cudo': did you mean 'cuda'"):
        choose_device("cudo")


def test_a_gpu_that_was_given_and_is_not_seen_is_an_error_that_names_host_and_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    host = re.escape(socket.gethostname())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # as Ray does for a worker with a GPU
    with pytest.raises(ModelError, match=rf"GPU 1 was given.* on {host} \(.*driver.*CUDA"):
        choose_device("auto")
    assert choose_device("cpu").device.type == "cpu"
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert choose_device("auto").reason == "no CUDA device"
    with pytest.raises(ModelError, match=f"asked for and torch sees no CUDA device on {host}"):
        choose_device("cuda")
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27")
    assert "driver 470.82.01, torch" in _driver(version)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "avx512_f"])
def test_a_cpu_multiplies_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert choose_device("cpu").products == (torch.bfloat16 if "bf16" in name else torch.float32)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_device("cpu").products == torch.float32


@pytest.mark.parametrize(
    ("bf16", "dtype", "products"),
    [(True, torch.bfloat16, torch.bfloat16), (False, torch.float16, torch.float32)],
)
def test_a_gpu_runs_in_bfloat16_where_it_can(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, dtype: torch.dtype, products: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    for name in ("auto", "cuda"):
        assert choose_device(name) == (torch.device("cuda"), dtype, products, "a GPU")
    assert choose_device("cpu").device.type == "cpu"


def test_each_part_loads_when_first_used(tmp_path: Path, made: Path) -> None:
    models = load(resolve(ModelSpec(family=str(made / "eps"))), device="cpu")
    assert not {"latent", "scorer"} & set(vars(models))
    models.latent.decode(torch.zeros(1, 4, 8, 8))
    assert {"vae"} == {"vae", "unet", "text_encoder"} & set(vars(models.latent.parts))
    assert "scorer" not in vars(models)
    assert models.upscaler("bicubic") is models.upscaler("bicubic")


def test_a_worker_for_segments_imports_no_open_clip() -> None:
    code = (
        "import sys; from msbd_dist.core.spec import ModelSpec\n"
        "from msbd_dist.models.card import resolve; from msbd_dist.models.bundle import load\n"
        "load(resolve(ModelSpec()), device='cpu').latent.text('a red star')\n"
        "print([m for m in ('open_clip', 'spandrel', 'realesrgan') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_loading_leaves_random_state_logging_and_stderr_alone(
    capfd: pytest.CaptureFixture[str], made: Path
) -> None:
    handlers = list(logging.getLogger().handlers)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    for models in (
        load(resolve(ModelSpec()), device="cpu"),
        loaded(made / "single.safetensors", config=str(made / "eps"), sr=str(made / "x4.pth")),
    ):
        models.latent.text("a red star")
        models.latent.decode(torch.zeros(1, 4, 8, 8))
        level = level_at(models.latent.alphas_cumprod, 1)
        models.latent.denoiser(models.latent.text(""), guidance=1)(torch.zeros(1, 4, 8, 8), level)
        models.upscaler("realesrgan")
    assert load(resolve(ModelSpec()), device="cpu").scorer
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


def test_loading_inside_inference_mode_gives_weights_that_can_be_tuned() -> None:
    with torch.inference_mode():
        latent = load(resolve(ModelSpec()), device="cpu").latent
        z = latent.encode(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    weights = latent.decoder_weights()
    latent.decode(z, weights).mean().backward()
    assert all(weight.grad is not None for weight in weights.values())


def test_full_precision_is_read_once_and_shares_what_is_in_it_already() -> None:
    half = Choice(torch.device("cpu"), torch.bfloat16, torch.bfloat16, "a test")
    models = Models(resolve(ModelSpec()), half)
    full = models.in_float32
    assert models.in_float32 is full
    assert (full.dtype, full.latent.parts.unet.dtype) == (torch.float32, torch.float32)
    assert models.latent.parts.unet.dtype == torch.bfloat16
    assert full.latent.parts.vae is models.latent.parts.vae
    assert full.latent.parts.tokenizer is models.latent.parts.tokenizer
    assert full.scorer is models.scorer


def test_describe_is_one_line(bundled: Models) -> None:
    line = bundled.describe()
    tuned = " (tuned with bfloat16 products)" if bundled.products == torch.bfloat16 else ""
    assert line.startswith(f"tiny on cpu (asked for), float32, VAE float32{tuned}, native 128 px")
    assert "esrgan_x4.safetensors" in line
    assert "\n" not in line


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_dont_fill_a_part_are_refused(tmp_path: Path, made: Path, part: str) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(file)
    gone = next(name for name in sorted(weights) if name.endswith("bias"))
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part}: weights missing.*{gone[-20:]}.*restore"):
        getattr(loaded(folder).latent.parts, part)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_single_files_that_dont_fill_a_part_are_refused(
    tmp_path: Path, made: Path, part: str
) -> None:
    weights = load_file(made / "single.safetensors")
    starts = {"unet": "model.diffusion_model.out.2", "vae": "first_stage_model.decoder.conv_in"}
    start = starts.get(part, "cond_stage_model.transformer.text_model.final_layer_norm")
    file = tmp_path / "part.safetensors"
    save_file({k: v for k, v in weights.items() if not k.startswith(start)}, file)
    models = loaded(file, config=str(made / "eps"))
    with pytest.raises(ModelError, match=rf"part\.safetensors: {part}.*") as caught:
        getattr(models.latent.parts, part)
    assert "\n" not in str(caught.value)


def test_a_damaged_part_is_refused(tmp_path: Path, made: Path) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(
        ModelError, match=r"vae.*not a whole safetensors file.*download it again"
    ) as caught:
        loaded(folder).latent.decode(torch.zeros(1, 4, 8, 8))
    assert "\n" not in str(caught.value)


def test_sd1_files_without_config_need_the_hub_once(tmp_path: Path) -> None:
    file = tmp_path / "sd1.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in SD1_FILE.items()}, file)
    models = loaded(file)
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        start = "sd1.safetensors: give config.*" if part in ("unet", "text_encoder") else ""
        match = start + "stable-diffusion-v1-5: .*hub.*give"
        with pytest.raises(ModelError, match=match) as caught:
            getattr(models.latent.parts, part)
        assert "\n" not in str(caught.value)


def test_folders_with_half_precision_files_only_load(tmp_path: Path, made: Path) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    for part in ("unet", "vae", "text_encoder"):
        file = next((folder / part).glob("*.safetensors"))
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        file.unlink()
        halves = file.with_name(f"{file.stem}.fp16.safetensors")
        save_file(weights, halves, metadata={"format": "pt"})
    parts = loaded(folder).latent.parts
    assert {parts.unet.dtype, parts.vae.dtype, parts.text_encoder.dtype} == {torch.float32}


def test_the_upscalers_factor_is_the_familys(tmp_path: Path, made: Path) -> None:
    folder = Path(shutil.copytree(made / "eps", tmp_path / "sd"))
    write_rrdbnet(folder / "x2.pth", scale=2)
    (folder / "msbd.json").write_text("{}")
    edit_json(folder / "msbd.json", sr="x2.pth", sr_factor=2)
    small = torch.zeros(1, 3, 8, 8)
    models = loaded(folder)
    assert models.upscaler("realesrgan")(small).shape == (1, 3, 16, 16)
    assert models.upscaler("bilinear")(small).shape == (1, 3, 16, 16)


def test_a_hub_id_loads_from_the_hubs_cache(hub_cache: Path, made: Path) -> None:
    snapshot = fill_hub_cache(hub_cache, "org/name", made / "eps")
    z = torch.zeros(1, 4, 8, 8)
    hub, folder = loaded("org/name").latent, loaded(made / "eps").latent
    level = level_at(folder.alphas_cumprod, 500)
    for latent in (hub, folder):
        x0 = latent.denoiser(latent.text("a red star"), guidance=3)(z, level)
        assert torch.equal(x0, folder.denoiser(folder.text("a red star"), guidance=3)(z, level))
        assert torch.equal(latent.decode(z), folder.decode(z))
    assert torch.equal(hub.alphas_cumprod, folder.alphas_cumprod)
    for file in snapshot.glob("*/*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=r"its weights could not be had.*HF_HUB_OFFLINE"):
        assert loaded("org/name").latent.parts.unet


def test_a_single_file_may_take_its_config_from_the_hub(hub_cache: Path, made: Path) -> None:
    fill_hub_cache(hub_cache, "org/name", made / "eps", weights=False)
    single = loaded(made / "single.safetensors", config="org/name").latent
    folder = loaded(made / "eps").latent
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (getattr(latent.parts, part).state_dict() for latent in (single, folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
