"""What a single file's network predicts: from its keys, the .yaml beside it, its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from folders import SD1_FILE, edit_json, loaded, write_header, write_sd_folder, write_single_file
from safetensors.torch import load_file, save_file

from msbd_dist.core.levels import level_at
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card, resolve

CROSS = next(name for name in SD1_FILE if name.endswith("attn2.to_k.weight"))
V: dict[str, Any] = {"prediction_type": "v_prediction"}
ZERO: dict[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
EPSILON: dict[str, Any] = {"prediction_type": "epsilon"}


def ldm(**params: Any) -> dict[str, Any]:
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}


def sgm(scaling: str) -> dict[str, Any]:
    target = f"sgm.modules.diffusionmodules.denoiser_scaling.{scaling}"
    return ldm(denoiser_config={"params": {"scaling_config": {"target": target}}})


SAID: dict[str, tuple[dict[str, list[int]], Any, dict[str, str], dict[str, Any]]] = {
    "nothing": ({}, None, {}, {}),
    "yaml v": ({}, ldm(parameterization="v"), {}, V),
    "yaml eps": ({}, ldm(parameterization="eps"), {}, EPSILON),
    "yaml x0": ({}, ldm(parameterization="x0"), {}, {"prediction_type": "sample"}),
    "yaml of the original default": ({}, ldm(linear_start=0.00085), {}, EPSILON),
    "yaml with betas": (
        {},
        ldm(parameterization="v", linear_start=0.001, linear_end=0.02),
        {},
        V | {"beta_start": 0.001, "beta_end": 0.02},
    ),
    "yaml with zero snr": ({}, ldm(parameterization="v", zero_terminal_snr=True), {}, V | ZERO),
    "later yaml v": ({}, sgm("VScaling"), {}, V),
    "later yaml eps": ({}, sgm("EpsScaling"), {}, EPSILON),
    "another yaml": ({}, {"name": "a model"}, {}, {}),
    "a list": ({}, ["a", "b"], {}, {}),
    "key": ({"v_pred": [0]}, None, {}, V),
    "keys": ({"v_pred": [0], "ztsnr": [0]}, None, {}, V | ZERO),
    "keys below a prefix": (
        {"state_dict.v_pred": [0], "state_dict.ztsnr": [1]},
        None,
        {},
        V | ZERO,
    ),
    "metadata v": ({}, None, {"modelspec.prediction_type": "v"}, V),
    "metadata epsilon": ({}, None, {"modelspec.prediction_type": "epsilon"}, EPSILON),
    "architecture": ({}, None, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, V),
    "trained at zero snr": (
        {"v_pred": [0]},
        None,
        {"ss_zero_terminal_snr": "True"},
        V | ZERO,
    ),
    "all agree": (
        {"v_pred": [0]},
        ldm(parameterization="v"),
        {"modelspec.prediction_type": "v"},
        V,
    ),
}


def made(folder: Path, case: str) -> Path:
    keys, beside, metadata, _ = SAID[case]
    if beside is not None:
        (folder / "model.yaml").write_text(yaml.safe_dump(beside))
    return write_header(folder / "model.safetensors", SD1_FILE | keys, **metadata)


def card_of(file: Path) -> Card:
    return resolve(ModelSpec(family=str(file)))


@pytest.mark.parametrize("case", SAID)
def test_what_a_file_predicts_is_read_where_it_says_so(tmp_path: Path, case: str) -> None:
    card = card_of(made(tmp_path, case))
    assert {k: v for k, v in card.scheduler if v != 0.00085} == SAID[case][3]
    assert card.notes == ()


@pytest.mark.parametrize(
    ("name", "beside", "metadata", "keys", "words"),
    [
        ("furry-v_pred-e40", None, {}, {}, ["its name says v prediction", "config"]),
        ("VPred", None, {}, {}, ["its name says v prediction"]),
        ("m", ldm(), {}, {"v_pred": [0]}, ["its key v_pred says v_prediction", "m.yaml says eps"]),
        (
            "m",
            ldm(parameterization="v"),
            {"modelspec.prediction_type": "epsilon"},
            {},
            ["modelspec.prediction_type says epsilon, m.yaml says v_prediction"],
        ),
        ("m", ldm(parameterization="w"), {}, {}, ["m.yaml: parameterization is 'w'", "eps, v or"]),
        ("m", ldm(beta_schedule="cosine"), {}, {}, ["beta_schedule cosine", "config"]),
        ("m", ldm(), {}, {"ztsnr": [0]}, ["m.yaml says epsilon", "nothing at zero signal"]),
        ("m", None, {"modelspec.prediction_type": "v"}, {CROSS: [320, 1024]}, ["SD 2", "says v_"]),
    ],
)
def test_where_it_cant_be_known_a_config_is_asked_for(
    tmp_path: Path,
    name: str,
    beside: Any,
    metadata: dict[str, str],
    keys: dict[str, list[int]],
    words: list[str],
) -> None:
    if beside is not None:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(beside))
    file = write_header(tmp_path / f"{name}.safetensors", SD1_FILE | keys, **metadata)
    with pytest.raises(ModelError) as caught:
        card_of(file)
    message = str(caught.value)
    assert "give config: a diffusers folder" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_yaml_that_cant_be_read_is_refused_by_name(tmp_path: Path) -> None:
    file = made(tmp_path, "nothing")
    (tmp_path / "model.yaml").write_text("model: {params: [")
    with pytest.raises(ModelError, match=r"model\.yaml: can't be read as YAML.*move it away"):
        card_of(file)


@pytest.mark.parametrize("keys", [("v_pred",), ("v_pred", "ztsnr")])
def test_a_file_that_says_v_is_run_so_under_a_config_that_says_epsilon(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    config = write_sd_folder(tmp_path / "eps")
    zero = "ztsnr" in keys
    right = write_sd_folder(tmp_path / "v", prediction="v_prediction", zero_snr=zero)
    file = write_single_file(config, tmp_path / "m.safetensors")
    save_file(load_file(file) | {key: torch.zeros(0) for key in keys}, file)
    models = loaded(file, config=str(config))
    (note,) = models.card.notes
    assert note.startswith(
        f"{file}: its key v_pred says v_prediction, {config} says epsilon: v_pre"
    )
    wanted, latent = loaded(right).latent, models.latent
    spacing = "trailing" if zero else "leading"
    assert (latent.prediction, latent.spacing.kind) == ("v_prediction", spacing)
    assert torch.equal(latent.alphas_cumprod, wanted.alphas_cumprod)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    level = level_at(wanted.alphas_cumprod, 981)
    got, want = (m.denoiser(m.text("a red star"), guidance=3)(z, level) for m in (latent, wanted))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_config_decides_where_a_file_contradicts_itself(tmp_path: Path) -> None:
    config = write_sd_folder(tmp_path / "eps")
    file = write_single_file(config, tmp_path / "m.safetensors")
    save_file(load_file(file) | {"v_pred": torch.zeros(0)}, file)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(ldm()))
    card = resolve(ModelSpec(family=str(file), config=str(config)))
    assert card.scheduler == ()
    assert card.notes[0].endswith(f"epsilon of {config} is used")


def test_zero_signal_and_epsilon_exclude_one_another(tmp_path: Path) -> None:
    config = write_sd_folder(tmp_path / "eps")
    file = write_single_file(config, tmp_path / "m.safetensors")
    save_file(load_file(file) | {"ztsnr": torch.zeros(0)}, file)
    with pytest.raises(ModelError, match="marked for zero signal"):
        resolve(ModelSpec(family=str(file), config=str(config)))
    edit_json(config / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    card = resolve(ModelSpec(family=str(file), config=str(config)))
    assert dict(card.scheduler) == ZERO
    edit_json(config / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    weights = {k: v for k, v in load_file(file).items() if k != "ztsnr"}
    save_file(weights, file, metadata={"modelspec.prediction_type": "epsilon"})
    with pytest.raises(
        ModelError, match=r"m\.safetensors: epsilon prediction says nothing at zero"
    ):
        resolve(ModelSpec(family=str(file), config=str(config)))
