"""A model's card: what it is called, where its parts lie, and the numbers that geometry needs.

`resolve` reads small JSON files only, so that planning loads no torch. A model is a diffusers
folder of the Stable Diffusion 1.x / 2.x shape, a hub id of one, or one ``.safetensors`` file.
Beside model_index.json an optional ``msbd.json`` may say what the configuration can't:

    native, segment, overlap    pixels (default: UNet sample size, 1.5x that, a quarter of that)
    guidance, segment_guidance  recommended scales, the second in segmented stages (7.5, the first)
    middle_start, segment_start recommended strengths of later stages (0.4, 0.25)
    sr, clip, sr_factor         upscaler checkpoint, scorer, enlargement (none, ViT-L-14:openai, 4)

Relative paths in it are relative to the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from msbd_dist.core.spec import Family, ModelSpec, Upscaler
from msbd_dist.core.timesteps import STABLE_DIFFUSION, Spacing
from msbd_dist.errors import ModelError
from msbd_dist.models import single_file
from msbd_dist.models.activation import unknown_activation
from msbd_dist.models.agreement import check_agreement
from msbd_dist.models.objective import Objective, named_v, objective_of
from msbd_dist.models.schedulers import SCHEDULER, check_scheduler, spacing_of
from msbd_dist.models.sources import Folder, Hub, Source, locate, nearest, source

BUNDLED = "tiny"  # the name of the family that comes with the package
CLIP = "ViT-L-14:openai"

_PIPELINES = {
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
}
_PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
_EXTRA_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)
_OWN_KEYS: dict[str, tuple[type, ...]] = {
    "native": (int,),
    "segment": (int,),
    "overlap": (int,),
    "guidance": (float, int),
    "segment_guidance": (float, int),
    "middle_start": (float, int),
    "segment_start": (float, int),
    "sr": (str,),
    "clip": (str,),
    "sr_factor": (int,),
}
_RECOMMENDED = ("sr_factor", "guidance", "segment_guidance", "middle_start", "segment_start")
_WORDS = {int: "a whole number", float: "a number", str: "text"}
_SD1_CONFIG = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # what diffusers itself falls back to
_SD1 = Family(native=512, segment=768, overlap=128)
_SD1_STEPS = {"steps_offset": 1, "set_alpha_to_one": False}
_SD1_TEXT_WIDTH = 768
_SD2_TEXT_WIDTH = 1024


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where the parts of one model lie on this machine, and its geometry.

    Paths hold on the machine that resolved them; other machines resolve the `ModelSpec` anew.
    """

    name: str  # as the user gave it
    location: str  # diffusers folder or hub id@commit; for a single file that of its configuration
    file: str | None = None  # the single file with all weights
    family: Family
    sr: str | None = None  # checkpoint of the upscaler
    clip: str = CLIP  # what `rerank.load_scorer` takes
    scheduler: tuple[tuple[str, Any], ...] = ()  # what a single file says of it: key and value
    spacing: Spacing = STABLE_DIFFUSION  # of the steps of a schedule
    notes: tuple[str, ...] = ()  # what may be meant otherwise

    def checkpoint(self, upscaler: Upscaler) -> Path | None:
        """The file that this kind of upscaler needs, or None where it needs none.

        Raises `ModelError` where it needs one and the model names none.
        """
        return required_checkpoint(upscaler, None if self.sr is None else Path(self.sr))


def resolve(spec: ModelSpec) -> Card:
    """Find the model and check that it is one that this software can run.

    Raises `ModelError` that says what was found, what is wanted and what to do.
    """
    found = Folder(bundled_folder()) if spec.family == BUNDLED else locate(spec.family)
    if isinstance(found, Path):
        return _file_card(spec, found)
    if spec.config is not None:
        raise ModelError(
            f"config: {spec.config} given, but {spec.family} is not a single file and has its own "
            f"configuration: remove config"
        )
    found = found.pinned() if isinstance(found, Hub) else found
    own = _own_settings(found)
    family = _family(found, own)
    found.check_weights()
    if isinstance(found, Folder):
        check_agreement(found)
    card = _card(spec, found, family, own=own)
    return replace(card, spacing=spacing_of(found.read(SCHEDULER)))


def pinned(spec: ModelSpec, card: Card) -> ModelSpec:
    """The spec of a card with the commit of its hub id, if it has one: it gives this very card on
    any machine, now and later."""
    if isinstance(source(card.location), Folder):
        return spec
    if card.file is None:
        return replace(spec, family=card.location)
    return spec if spec.config is None else replace(spec, config=card.location)


def bundled_folder() -> Path:
    """The folder of the family that comes with the package."""
    return Path(str(files("msbd_dist"))) / "tiny" / "weights"


def required_checkpoint(upscaler: Upscaler, path: Path | None) -> Path | None:
    """``path`` for an upscaler that loads a checkpoint (`ModelError` if None), None for others."""
    if upscaler in ("bilinear", "bicubic"):
        return None
    if path is None:
        raise ModelError(
            f"upscaler: {upscaler} needs a checkpoint and this model names none: "
            f"give sr: PATH/RealESRGAN_x4plus.pth, or choose upscaler: bicubic"
        )
    return path


def _file_card(spec: ModelSpec, file: Path) -> Card:
    shape, header, unused = single_file.inspect(file)
    _check_channels(str(file), shape.in_channels, shape.latent_channels)
    said, notes = objective_of(file, header), tuple(_unused(file, unused))
    if spec.config is None:
        family = _known_family(file, shape, said)
        card = _card(spec, Hub(_SD1_CONFIG), family, own={}, file=str(file))
        settings = said.settings()
        spacing = spacing_of(_SD1_STEPS | dict(settings))
        notes = (*card.notes, *notes)
        return replace(card, scheduler=settings, spacing=spacing, notes=notes)
    found = locate(spec.config)
    if isinstance(found, Path):
        raise ModelError(f"config: {found} is a file: give a diffusers folder or a hub id")
    found = found.pinned() if isinstance(found, Hub) else found
    own = _own_settings(found)
    family = _family(found, own)
    _check_fits(file, shape, found)
    settings, more = _agreed(file, said, found)
    scheduler = found.read(SCHEDULER) | dict(settings)
    check_scheduler(str(file), scheduler)
    card = _card(spec, found, family, own=own, file=str(file))
    spacing, notes = spacing_of(scheduler), (*card.notes, *notes, *more)
    return replace(card, scheduler=settings, spacing=spacing, notes=notes)


def _card(
    spec: ModelSpec,
    source: Source,
    family: Family,
    *,
    own: dict[str, Any],
    file: str | None = None,
) -> Card:
    sr = spec.sr or _own_path(source, own.get("sr"))
    if sr is not None and not Path(sr).expanduser().is_file():
        raise ModelError(f"sr: {sr}: no such file: give the upscaler's .pth or .safetensors file")
    clip = spec.clip or _own_clip(source, own.get("clip")) or CLIP
    return Card(
        name=spec.family,
        location=str(source),
        file=file,
        family=family,
        sr=None if sr is None else str(Path(sr).expanduser()),
        clip=clip,
        notes=tuple(filter(None, [unknown_activation(clip)])),
    )


def _family(source: Source, own: dict[str, Any]) -> Family:
    """The geometry that the configuration files dictate, as far as msbd.json does not say it."""
    _check_pipeline(source)
    unet = source.read("unet/config.json")
    vae = source.read("vae/config.json")
    text = source.read("text_encoder/config.json")
    tokenizer = source.read("tokenizer/tokenizer_config.json")
    latent = int(vae.get("latent_channels", 4))
    _check_channels(str(source), int(unet.get("in_channels", 4)), latent)
    _check_unet(source, unet, text)
    check_scheduler(str(source), source.read(SCHEDULER))
    vae_factor = 2 ** (len(_blocks(source, "vae", vae)) - 1)
    multiple = vae_factor * 2 ** (len(_blocks(source, "unet", unet)) - 1)
    native = own["native"] if "native" in own else _sample_size(source, unet) * vae_factor
    tokens = (text.get("max_position_embeddings", 77), tokenizer.get("model_max_length", 77))
    try:
        return Family(
            native=native,
            segment=own.get("segment", _rounded(1.5 * native, multiple)),
            overlap=own.get("overlap", _rounded(native / 4, multiple)),
            unet_multiple=multiple,
            vae_factor=vae_factor,
            latent_channels=latent,
            max_tokens=int(min(tokens)),
            **{key: own[key] for key in _RECOMMENDED if key in own},
        )
    except ModelError as error:
        raise ModelError(f"{source}: {error}: set native, segment, overlap in msbd.json") from None


def _known_family(file: Path, shape: single_file.Shape, said: Objective) -> Family:
    """The family of a single file that comes without a configuration: SD 1.x only."""
    why = None
    if said.disagrees:
        why = f"what it predicts can't be known: {said}"
    elif said.prediction is None and named_v(file):
        why = "its name says v prediction, and neither its keys nor a .yaml beside it do"
    elif said.prediction == "epsilon" and said.zero_snr:
        why = f"{said}, which says nothing at zero signal, and it is marked for that (ztsnr)"
    elif said.schedule != Objective.schedule:
        why = f"the .yaml beside it has beta_schedule {said.schedule}, which is not SD's"
    elif shape.text_width == _SD2_TEXT_WIDTH:
        why = (
            "SD 2 files come with epsilon prediction at 512 px and v_prediction at 768 px, and "
            + (f"here {said}" if said.said else "the file doesn't say which")
        )
    elif shape.text_width != _SD1_TEXT_WIDTH:
        why = f"its text width {shape.text_width} is that of no known model"
    if why is None:
        return _SD1
    raise ModelError(f"{file}: {why}: give config: a diffusers folder (or hub id) of its kind")


def _agreed(
    file: Path, said: Objective, source: Source
) -> tuple[tuple[tuple[str, Any], ...], list[str]]:
    """What a single file changes of the configuration that was given for it, and what to tell.

    A file that says what it predicts is believed, because configurations are often of the
    family's first model; one that contradicts itself is not.
    """
    config = source.read(SCHEDULER).get("prediction_type", "epsilon")
    said = replace(said, betas=())  # they are the configuration's to say
    if said.disagrees:
        return (), [f"{file}: {said}: {config} of {source} is used"]
    if said.prediction in (None, config) and not said.zero_snr:
        return (), []
    if (said.prediction or config) == "epsilon" and said.zero_snr:
        raise ModelError(
            f"{file}: is marked for zero signal (ztsnr), where epsilon prediction says nothing: "
            f"give config: a folder whose scheduler_config.json has the prediction_type it learned"
        )
    if said.prediction in (None, config):
        return said.settings(), []
    return said.settings(), [
        f"{file}: {said}, {source} says {config}: {said.prediction} is used; if that is wrong, "
        f"remove what says so"
    ]


def _unused(file: Path, names: tuple[str, ...]) -> Iterator[str]:
    if names:
        count = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{file}: weights that no part of the model uses: {names[0]}{count}"


def _check_pipeline(source: Source) -> None:
    index = source.read("model_index.json")
    name = index.get("_class_name")
    if name not in _PIPELINES:
        raise ModelError(
            f"{source}: is a {name}, wanted a StableDiffusionPipeline: give a text-to-image model "
            f"of the Stable Diffusion 1.x or 2.x kind"
        )
    for part, classes in _PARTS.items():
        entry = index.get(part)
        got = entry[-1] if isinstance(entry, list) and entry else None
        if got not in classes:
            raise ModelError(
                f"{source}: its {part} is {got}, wanted {classes[0]}: give a text-to-image model "
                f"of the Stable Diffusion 1.x or 2.x kind"
            )


def _check_channels(where: str, unet: int, latent: int) -> None:
    if unet != latent:
        kind = {9: "an inpainting model", 8: "an image-conditioned model"}.get(unet, "another kind")
        raise ModelError(
            f"{where}: its UNet takes {unet} channels and the latents have {latent}, which is "
            f"{kind}: give the text-to-image model instead"
        )


def _check_unet(source: Source, unet: dict[str, Any], text: dict[str, Any]) -> None:
    extra = [key for key in _EXTRA_INPUTS if unet.get(key) is not None]
    if extra:
        raise ModelError(
            f"{source}: its UNet needs more than text and time ({extra[0]}): give a text-to-image "
            f"model of the Stable Diffusion 1.x or 2.x kind"
        )
    width, wanted = text.get("hidden_size"), unet.get("cross_attention_dim")
    if isinstance(wanted, int) and width != wanted:
        raise ModelError(
            f"{source}: its text encoder is {width} wide and its UNet takes {wanted}: "
            f"these parts are of different models, restore the folder"
        )


def _check_fits(file: Path, shape: single_file.Shape, source: Source) -> None:
    unet = source.read("unet/config.json")
    wanted = (_blocks(source, "unet", unet)[0], unet.get("cross_attention_dim"))
    if (shape.width, shape.text_width) != wanted:
        raise ModelError(
            f"{file}: its UNet has width {shape.width} and text width {shape.text_width}, "
            f"{source} describes {wanted[0]} and {wanted[1]}: give the config of this kind of model"
        )


def _blocks(source: Source, part: str, config: dict[str, Any]) -> list[int]:
    blocks = config.get("block_out_channels")
    if not isinstance(blocks, list) or not blocks:
        raise ModelError(
            f"{source}: {part}/config.json has block_out_channels {blocks!r}, wanted a list of "
            f"widths: restore the file"
        )
    return blocks


def _sample_size(source: Source, unet: dict[str, Any]) -> int:
    size = unet.get("sample_size")
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int) or size < 1:
        raise ModelError(
            f"{source}: unet/config.json has sample_size {size!r}, wanted one number: "
            f"say native (pixels) in msbd.json"
        )
    return size


def _own_settings(source: Source) -> dict[str, Any]:
    """The content of msbd.json, its keys and types checked; {} where there is none."""
    own = source.find("msbd.json") or {}
    for key, value in own.items():
        where = f"{source}/msbd.json: {key}"
        if key not in _OWN_KEYS:
            raise ModelError(f"{where}: no such key: {nearest(key, _OWN_KEYS)}")
        if isinstance(value, bool) or not isinstance(value, _OWN_KEYS[key]):
            raise ModelError(f"{where}: got {value!r}, wanted {_WORDS[_OWN_KEYS[key][0]]}")
    return own


def _own_path(source: Source, text: str | None) -> str | None:
    """A path of msbd.json, which is relative to the folder that holds it."""
    if text is None:
        return None
    if isinstance(source, Hub) and not Path(text).is_absolute():
        raise ModelError(
            f"{source}: its msbd.json names the file {text}, which is not fetched from the hub: "
            f"download the repository and give its folder"
        )
    return str(Path(str(source)) / Path(text).expanduser())


def _own_clip(source: Source, text: str | None) -> str | None:
    """The scorer of msbd.json: "NAME:TAG" as it is; a folder or "NAME:file" made absolute."""
    if text is None:
        return None
    name, colon, tag = text.partition(":")
    if not colon:
        return _own_path(source, text)
    if tag.lower().endswith(".safetensors"):
        return f"{name}:{_own_path(source, tag)}"
    return text


def _rounded(pixels: float, multiple: int) -> int:
    """The nearest multiple, at least one."""
    return max(1, round(pixels / multiple)) * multiple
