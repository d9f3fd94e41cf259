"""Single files as people have them: other names for the same weights, leftovers, gaps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import edit_json, loaded, model_index, write_json, write_sd_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import LatentModel

Weights = dict[str, Tensor]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


def saved(file: Path, weights: Weights, **metadata: str) -> Path:
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, file, metadata or None)
    return file


def renamed(weights: Weights, *changes: tuple[str, str]) -> Weights:
    """Names changed by regular expressions, in turn."""
    names = {name: name for name in weights}
    for pattern, new in changes:
        names = {given: re.sub(pattern, new, name) for given, name in names.items()}
    return {names[given]: weight for given, weight in weights.items()}


def later_attention(weights: Weights) -> Weights:
    """The VAE's attention as linear layers, under the names of later code."""
    flat = {k: v[..., 0, 0] if "attn_1" in k and v.ndim == 4 else v for k, v in weights.items()}
    new = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    return renamed(flat, *((rf"(attn_1\.){a}\.", rf"\g<1>{b}.") for a, b in new.items()))


def without_dots(weights: Weights) -> Weights:
    """The averaged weights, as the original code names them, of other values."""
    unet = {k: v for k, v in weights.items() if k.startswith(UNET)}
    return {"model_ema." + k[6:].replace(".", ""): v + 0.1 for k, v in unet.items()}


def as_open_clip(weights: Weights, *, layers: int = 2) -> Weights:
    """The text encoder under the names of open_clip, as in SD 2, with a layer that SD 2 leaves."""
    text = {k.split("text_model.")[1]: v for k, v in weights.items() if k.startswith(TEXT)}
    found = {k: v for k, v in weights.items() if not k.startswith(TEXT)}
    start = "cond_stage_model.model."
    plain = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    found |= {start + new: text[old] for old, new in plain.items()}
    for number in range(layers + 1):
        ours = f"encoder.layers.{min(number, layers - 1)}."
        theirs = f"{start}transformer.resblocks.{number}."
        for end in ("weight", "bias"):
            three = [text[f"{ours}self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{theirs}attn.in_proj_{end}"] = torch.cat(three)
            for old, new in {
                "self_attn.out_proj": "attn.out_proj",
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
            }.items():
                found[f"{theirs}{new}.{end}"] = text[f"{ours}{old}.{end}"]
    width = text["final_layer_norm.weight"].numel()
    return found | {
        f"{start}text_projection": torch.ones(width, width),
        f"{start}logit_scale": torch.tensor(4.6),
    }


LAYOUTS: dict[str, Callable[[Weights], Weights]] = {
    "older CLIP": lambda w: renamed(w, (r"transformer\.text_model\.", "transformer.")),
    "no transformer": lambda w: renamed(
        w, (r"^cond_stage_model\.transformer\.", "cond_stage_model.")
    ),
    "ComfyUI": lambda w: renamed(w, (rf"^{TEXT}", "text_encoders.clip_l.transformer.")),
    "sgm": lambda w: renamed(as_open_clip(w), (r"^cond_stage_model\.", "conditioner.embedders.0.")),
    "open_clip": as_open_clip,
    "later VAE": later_attention,
    "state_dict": lambda w: {f"state_dict.{k}": v for k, v in w.items()},
    "twice model": lambda w: {f"model.{k}": v for k, v in w.items()},
    "UNet without model": lambda w: renamed(w, (r"^model\.diffusion_model\.", "diffusion_model.")),
    "bare UNet": lambda w: renamed(w, (r"^model\.diffusion_model\.", "")),
    "VAE of diffusers' name": lambda w: renamed(w, (r"^first_stage_model\.", "vae.")),
    "averages beside": lambda w: w | without_dots(w),
    "only averages": lambda w: renamed(w, (r"^model\.diffusion", "model_ema.diffusion")),
    "double precision": lambda w: {
        k: v.double() if v.is_floating_point() else v for k, v in w.items()
    },
    "leftovers": lambda w: (
        w
        | {
            "betas": torch.zeros(9),
            "sqrt_one_minus_alphas_cumprod": torch.zeros(9),
            "posterior_mean_coef1": torch.zeros(9),
            "model_ema.decay": torch.zeros(1),
            "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2, 2),
            "cond_stage_model.logit_scale": torch.zeros(1),
            f"{TEXT}text_projection.weight": torch.zeros(2, 2),
            f"{TEXT}vision_model.embeddings.class_embedding": torch.zeros(2),
            "safety_checker.concept_embeds": torch.zeros(2),
        }
    ),
}


@pytest.fixture(scope="module")
def weights(made: Path) -> Weights:
    return load_file(made / "single.safetensors")


@pytest.fixture(scope="module")
def wanted(made: Path) -> list[Tensor]:
    return numbers(loaded(made / "eps").latent)


def numbers(latent: LatentModel) -> list[Tensor]:
    """What each part makes of the same input."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 8, 8, generator=random)
    text, parts = latent.text("a red star"), latent.parts
    with torch.no_grad():
        raw = parts.unet(z, 500, text.prompt).sample
    picture = torch.rand(1, 3, 64, 64, generator=random)
    return [text.prompt, raw, latent.encode(picture), latent.decode(z)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_weights_under_other_names_give_the_same_numbers(
    made: Path, tmp_path: Path, weights: Weights, wanted: list[Tensor], layout: str
) -> None:
    file = saved(tmp_path / "model.safetensors", LAYOUTS[layout](weights))
    models = loaded(file, config=str(made / "eps"))
    assert models.card.notes == ()
    for got, want in zip(numbers(models.latent), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_pipeline_in_one_file_has_diffusers_names(made: Path, tmp_path: Path) -> None:
    parts = {
        part: load_file(next((made / "eps" / part).glob("*.safetensors")))
        for part in ("unet", "vae", "text_encoder")
    }
    whole = {f"{part}.{name}": w for part, named in parts.items() for name, w in named.items()}
    file = saved(tmp_path / "model.safetensors", whole)
    latent = loaded(file, config=str(made / "eps")).latent
    for got, want in zip(numbers(latent), numbers(loaded(made / "eps").latent), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preprocessor", ["CLIPFeatureExtractor", "CLIPImageProcessor"])
def test_a_config_may_name_parts_that_are_not_used(
    made: Path, tmp_path: Path, preprocessor: str
) -> None:
    config = write_sd_folder(tmp_path / "sd")
    write_json(
        config / "model_index.json",
        model_index(
            feature_extractor=["transformers", preprocessor],
            safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        ),
    )
    (config / "feature_extractor").mkdir()
    settings = {"feature_extractor_type": preprocessor, "size": 224, "crop_size": 224}
    write_json(config / "feature_extractor" / "preprocessor_config.json", settings)
    latent = loaded(made / "single.safetensors", config=str(config)).latent
    assert latent.text("a red star").prompt.shape == (1, 24, 32)


ADDED = {
    "kohya": "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
    "peft": f"{UNET}middle_block.1.proj_in.lora_A.default.weight",
    "older diffusers": f"{UNET}middle_block.1.attn1.processor.to_q_lora.down.weight",
    "text": f"{TEXT}text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
    "ControlNet": "control_model.input_blocks.0.0.weight",
    "adapter": f"{UNET}ip_adapter.to_k_ip.weight",
    "motion": f"{UNET}input_blocks.1.motion_modules.0.proj_in.weight",
}


@pytest.mark.parametrize("kind", ADDED)
def test_weights_beside_the_model_that_change_pictures_are_an_error_before_any_work(
    made: Path, tmp_path: Path, weights: Weights, kind: str
) -> None:
    more = {ADDED[kind]: torch.ones(2, 2), ADDED[kind] + "2": torch.ones(2, 2)}
    file = saved(tmp_path / "model.safetensors", weights | more)
    with pytest.raises(ModelError) as caught:
        resolve(ModelSpec(family=str(file), config=str(made / "eps")))
    assert str(caught.value).startswith(f"{file}: holds {ADDED[kind]} and 1 more weights beside")


def test_other_weights_that_nothing_uses_are_told(
    made: Path, tmp_path: Path, weights: Weights
) -> None:
    more = {"embedding_manager.cat": torch.ones(2, 2), "zz.top": torch.ones(2)}
    file = saved(tmp_path / "model.safetensors", weights | more)
    card = resolve(ModelSpec(family=str(file), config=str(made / "eps")))
    (note,) = card.notes
    assert note.startswith(f"{file}: weights that no part of the model uses: embedding_manager.cat")
    assert note.endswith("and 1 more")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", f"{UNET}input_blocks.1.0.extra.weight"),
        ("unet", f"{UNET}extra.weight"),
        ("vae", f"{VAE}decoder.extra.weight"),
        ("vae", f"{VAE}decoder.up.0.block.0.extra.weight"),
        ("text_encoder", f"{TEXT}text_model.encoder.layers.0.extra.weight"),
        ("text_encoder", f"{TEXT}text_model.encoder.layers.3.mlp.fc1.weight"),
    ],
)
def test_weights_that_a_part_has_no_place_for_are_an_error(
    made: Path, tmp_path: Path, weights: Weights, part: str, name: str
) -> None:
    file = saved(tmp_path / "model.safetensors", weights | {name: torch.ones(2)})
    latent = loaded(file, config=str(made / "eps")).latent
    with pytest.raises(
        ModelError, match=rf"{part}: weights that this part has no place for:.*merge"
    ):
        getattr(latent.parts, part)


def test_the_last_layer_of_the_text_encoder_may_be_left_out(
    made: Path, tmp_path: Path, weights: Weights
) -> None:
    config = write_sd_folder(tmp_path / "sd")
    edit_json(config / "text_encoder" / "config.json", num_hidden_layers=1)
    file = saved(tmp_path / "model.safetensors", weights)
    encoder = loaded(file, config=str(config)).latent.parts.text_encoder
    assert {k for k in encoder.state_dict() if "layers.1." in k} == set()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_folders_with_weights_that_nothing_uses_are_refused(tmp_path: Path, part: str) -> None:
    folder = write_sd_folder(tmp_path / "sd")
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(file) | {"up.lora_A.weight": torch.ones(2), "logit_scale": torch.ones(1)}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{part}: weights that.*up\.lora_A\.weight: they would"):
        getattr(loaded(folder).latent.parts, part)


def test_a_file_that_is_cut_off_is_known_before_any_work(made: Path, tmp_path: Path) -> None:
    whole = (made / "single.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"safetensors file \([\d,]+ bytes, wanted [\d,]+\)"):
        resolve(ModelSpec(family=str(tmp_path / "half.safetensors"), config=str(made / "eps")))


def test_averages_under_names_without_dots_are_refused_in_words(
    tmp_path: Path, weights: Weights
) -> None:
    rest = {k: v for k, v in weights.items() if not k.startswith(UNET)}
    file = saved(tmp_path / "model.safetensors", rest | without_dots(weights))
    with pytest.raises(ModelError, match="only the averaged weights of training"):
        resolve(ModelSpec(family=str(file)))
