"""What a card says of a model, and what is refused before anything is loaded."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import SD1_FILE, edit_json, fill_hub_cache, model_index, write_header, write_json

from msbd_dist.core.spec import Family, ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.card import bundled_folder, pinned, resolve

CROSS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder of Stable Diffusion's shape that a test may damage."""
    return Path(shutil.copytree(made / "eps", tmp_path / "sd"))


def test_the_bundled_family_is_a_folder_like_any_other(tmp_path: Path) -> None:
    card = resolve(ModelSpec())
    assert card.family == Family(
        native=128,
        segment=192,
        overlap=32,
        unet_multiple=32,
        guidance=6.0,
        segment_guidance=0.0,
        middle_start=0.2,
        segment_start=0.05,
        max_tokens=24,
    )
    assert card.sr is not None
    assert Path(card.sr).is_file()
    assert (Path(card.clip) / "open_clip_config.json").is_file()
    copy = shutil.copytree(bundled_folder(), tmp_path / "elsewhere")
    elsewhere = resolve(ModelSpec(family=str(copy)))
    assert elsewhere.family == card.family
    assert elsewhere.sr == str(copy / "upscaler" / "esrgan_x4.safetensors")


@pytest.mark.parametrize(
    ("sample_size", "native", "segment", "overlap"),
    [(64, 512, 768, 128), (96, 768, 1152, 192), ([64, 64], 512, 768, 128), (8, 64, 128, 64)],
)
def test_without_msbd_json_sizes_follow_the_unet(
    folder: Path, sample_size: object, native: int, segment: int, overlap: int
) -> None:
    edit_json(folder / "unet" / "config.json", sample_size=sample_size)
    card = resolve(ModelSpec(family=str(folder)))
    assert card.family == Family(
        native=native, segment=segment, overlap=overlap, unet_multiple=64, max_tokens=24
    )
    assert (card.sr, card.clip) == (None, "ViT-L-14:openai")


def test_msbd_json_overrides_what_the_configuration_says(folder: Path) -> None:
    (folder / "up.pth").touch()
    own = {"native": 128, "segment": 256, "overlap": 32, "guidance": 5, "sr_factor": 2}
    write_json(folder / "msbd.json", own | {"sr": "up.pth", "clip": "ViT-B-32:w.safetensors"})
    card = resolve(ModelSpec(family=str(folder)))
    assert card.family == Family(
        native=128, segment=256, overlap=32, guidance=5, sr_factor=2, max_tokens=24
    )
    assert card.sr == str(folder / "up.pth")
    assert card.clip == f"ViT-B-32:{folder / 'w.safetensors'}"


def test_the_spec_overrides_upscaler_and_scorer(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.touch()
    card = resolve(ModelSpec(family=str(folder), sr=str(other), clip="RN50:openai"))
    assert (card.sr, card.clip) == (str(other), "RN50:openai")
    assert card.checkpoint("realesrgan") == other
    assert card.checkpoint("bicubic") is None


def test_a_card_is_a_value() -> None:
    card = resolve(ModelSpec())
    assert pickle.loads(pickle.dumps(card)) == card == resolve(ModelSpec())
    assert hash(card) == hash(resolve(ModelSpec()))


def test_a_single_file_takes_its_numbers_from_config_or_from_being_sd1(
    made: Path, tmp_path: Path
) -> None:
    single, config = str(made / "single.safetensors"), str(made / "eps")
    card = resolve(ModelSpec(family=single, config=config))
    assert card.family == resolve(ModelSpec(family=config)).family
    assert (card.file, card.location) == (single, config)
    sd1 = resolve(ModelSpec(family=str(write_header(tmp_path / "sd1.safetensors", SD1_FILE))))
    assert sd1.family == Family(native=512, segment=768, overlap=128)


def test_a_hub_id_is_read_from_the_hubs_cache(folder: Path, hub_cache: Path) -> None:
    fill_hub_cache(hub_cache, "org/name", folder)
    card = resolve(ModelSpec(family="org/name"))
    assert card.location == f"org/name@{'0' * 40}"
    assert card.family == resolve(ModelSpec(family=str(folder))).family
    assert pinned(ModelSpec(family="org/name"), card) == ModelSpec(family=card.location)


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from msbd_dist.core.spec import ModelSpec\n"
        "from msbd_dist.models.card import resolve; resolve(ModelSpec())\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _edit(file: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, **changes)


def _delete(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def _rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def _msbd(**own: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "msbd.json", own) and None


UNET = "unet/diffusion_pytorch_model"
FOLDERS = {
    "no model_index": (_delete("model_index.json"), ["model_index.json", "save_pretrained"]),
    "broken JSON": (lambda f: (f / "vae/config.json").write_text("{"), ["vae/config.json", "JSON"]),
    "JSON list": (lambda f: write_json(f / "vae/config.json", []), ["vae/config.json", "list"]),
    "no scheduler": (_delete("scheduler/scheduler_config.json"), ["scheduler_config.json"]),
    "no weights": (_delete(UNET + ".safetensors"), ["unet", "diffusion_pytorch_model", "restore"]),
    "only pickles": (
        _rename(UNET + ".safetensors", UNET + ".bin"),
        ["unet", "pickled", "safe_serialization=True"],
    ),
    "no tokenizer": (_delete("tokenizer/tokenizer_config.json"), ["tokenizer_config.json"]),
    "SDXL": (
        _edit("model_index.json", _class_name="StableDiffusionXLPipeline"),
        ["StableDiffusionXLPipeline", "wanted a StableDiffusionPipeline"],
    ),
    "Flux": (_edit("model_index.json", _class_name="FluxPipeline"), ["FluxPipeline", "give"]),
    "another text encoder": (
        _edit("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        ["text_encoder is T5EncoderModel", "CLIPTextModel"],
    ),
    "a part is missing": (_edit("model_index.json", vae=[None, None]), ["vae is None"]),
    "inpainting": (_edit("unet/config.json", in_channels=9), ["9 channels", "inpainting"]),
    "extra inputs": (
        _edit("unet/config.json", addition_embed_type="text_time"),
        ["addition_embed_type", "text-to-image"],
    ),
    "parts of two models": (_edit("unet/config.json", cross_attention_dim=1024), ["1024", "32"]),
    "flow": (
        _edit("scheduler/scheduler_config.json", prediction_type="flow_prediction"),
        ["flow_prediction", "v_prediction"],
    ),
    "epsilon at zero signal": (
        _edit("scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        ["rescale_betas_zero_snr", "false"],
    ),
    "noise levels without betas": (
        _edit("scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"),
        ["EDMEulerScheduler", "discrete steps"],
    ),
    "continuous steps": (
        _edit("scheduler/scheduler_config.json", timestep_type="continuous"),
        ["discrete steps"],
    ),
    "unknown betas": (
        _edit("scheduler/scheduler_config.json", beta_schedule="sigmoid"),
        ["beta_schedule 'sigmoid'", "trained_betas"],
    ),
    "IP adapter": (
        _edit("unet/config.json", encoder_hid_dim_type="ip_image_proj"),
        ["encoder_hid_dim_type", "text-to-image"],
    ),
    "unknown spacing": (
        _edit("scheduler/scheduler_config.json", timestep_spacing="karras"),
        ["timestep_spacing 'karras'", "leading, linspace, trailing"],
    ),
    "no offset": (
        _edit("scheduler/scheduler_config.json", steps_offset="1"),
        ["steps_offset '1'", "whole number"],
    ),
    "no sample size": (_edit("unet/config.json", sample_size=None), ["sample_size", "native"]),
    "no blocks": (_edit("vae/config.json", block_out_channels=None), ["block_out_channels"]),
    "unknown key": (_msbd(natve=64), ["msbd.json", "natve", "did you mean 'native'"]),
    "wrong type": (_msbd(native="64"), ["msbd.json", "native", "'64'", "a whole number"]),
    "bool is no number": (_msbd(native=True), ["msbd.json", "native", "True", "a whole number"]),
    "impossible size": (_msbd(native=100), ["100", "multiple of 64", "msbd.json"]),
    "missing upscaler": (_msbd(sr="up.pth"), ["up.pth", "no such file"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cant_be_used_are_refused(folder: Path, case: str) -> None:
    damage, words = FOLDERS[case]
    damage(folder)
    _refused(ModelSpec(family=str(folder)), [str(folder), *words])


FILES = {
    "inpainting": ({CONV_IN: [320, 9, 3, 3]}, ["9 channels", "inpainting"]),
    "SD 2": ({CROSS: [320, 1024]}, ["SD 2", "v_prediction", "config"]),
    "unknown width": ({CROSS: [320, 640]}, ["640", "config"]),
    "SDXL": ({"conditioner.embedders.0.x": [1], **dict.fromkeys(SD1_FILE)}, ["SDXL"]),
    "LoRA": ({"lora_unet_x": [1], **dict.fromkeys(SD1_FILE)}, ["LoRA", "UNet, VAE"]),
    "no VAE": ({"first_stage_model.post_quant_conv.weight": None}, ["no VAE"]),
}


@pytest.mark.parametrize("case", FILES)
def test_single_files_of_other_kinds_are_refused(tmp_path: Path, case: str) -> None:
    changes, words = FILES[case]
    shapes = {k: v for k, v in (SD1_FILE | changes).items() if v is not None}
    file = write_header(tmp_path / "model.safetensors", shapes)
    _refused(ModelSpec(family=str(file)), [str(file), *words])


def test_a_config_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    file = write_header(tmp_path / "sd1.safetensors", SD1_FILE)
    _refused(ModelSpec(family=str(file), config=str(made / "eps")), ["320", "768", "16", "32"])
    _refused(ModelSpec(family=str(file), config=str(file)), ["config", "diffusers folder"])
    _refused(ModelSpec(config=str(made / "eps")), ["config", "remove config"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.ckpt", ["pickle", ".safetensors"]),
        ("model.bin", ["pickle", ".safetensors"]),
        ("model.pt", ["pickle"]),
        ("model.pth", ["pickle"]),
        ("model.safetensors", ["not a readable safetensors", "download"]),
        ("model.onnx", ["not a model"]),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, words: list[str]) -> None:
    file = tmp_path / name
    file.write_bytes(b"PK\x03\x04" * 10)
    _refused(ModelSpec(family=str(file)), [name, *words])


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("/no/such/folder", ["no such file or folder", "hub id"]),
        ("nothing", ["no such file or folder", "'tiny'"]),
        ("org/name.safetensors", ["no such file or folder"]),
        ("org/unheard-of", ["hub", "HF_HUB_OFFLINE", "diffusers folder"]),
    ],
)
def test_names_that_lead_nowhere_are_refused(family: str, words: list[str]) -> None:
    _refused(ModelSpec(family=family), [family, *words])


def test_an_upscaler_without_checkpoint_is_refused(folder: Path) -> None:
    _refused(ModelSpec(family=str(folder), sr="no.pth"), ["sr: no.pth", "no such file"])
    card = resolve(ModelSpec(family=str(folder)))
    with pytest.raises(ModelError, match=r"sr: PATH/RealESRGAN_x4plus\.pth.*upscaler: bicubic"):
        card.checkpoint("realesrgan")


def test_image_to_image_folders_are_the_same_models(folder: Path) -> None:
    write_json(
        folder / "model_index.json", model_index(_class_name="StableDiffusionImg2ImgPipeline")
    )
    assert resolve(ModelSpec(family=str(folder))).family.native == 64


def _refused(spec: ModelSpec, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(spec)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
