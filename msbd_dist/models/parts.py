"""The diffusers parts of one model, each loaded on first use: nothing waits for what it won't use.

A worker that only fits decoders reads the VAE alone.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card
from msbd_dist.models.loading import frozen, hermetic
from msbd_dist.models.original import load_part, require_all_used
from msbd_dist.models.schedulers import SCHEDULER
from msbd_dist.models.sources import reason, source, weights_variant

_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError)  # of other libraries
_CLASSES = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
}


class Parts:
    """The parts of the model on ``card``: VAE in float32, UNet and text encoder in ``dtype``.

    ``beside``: the same model's in another dtype, whose VAE and tokenizer serve here too.
    """

    def __init__(
        self, card: Card, *, device: torch.device, dtype: torch.dtype, beside: Parts | None = None
    ) -> None:
        self.card = card
        self.device = device
        self.dtype = dtype
        self._beside = beside

    @cached_property
    def vae(self) -> Any:
        """`AutoencoderKL` in float32: decoder optimization needs the precision."""
        if self._beside is not None:
            return self._beside.vae
        return frozen(self._load("vae", torch.float32), self.device)

    @cached_property
    def unet(self) -> Any:
        """`UNet2DConditionModel`; on CUDA in the layout that convolutions want there."""
        network = self._load("unet", self.dtype)
        if self.device.type == "cuda":  # on a CPU it would be slower
            network = network.to(memory_format=torch.channels_last)
        return frozen(network, self.device)

    @cached_property
    def text_encoder(self) -> Any:
        """`CLIPTextModel`."""
        return frozen(self._load("text_encoder", self.dtype), self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """`CLIPTokenizer`."""
        if self._beside is not None:
            return self._beside.tokenizer
        return self._load("tokenizer")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's scheduler configuration, and what a single file says otherwise."""
        own = source(self.card.location).read(SCHEDULER)
        return own | dict(self.card.scheduler)

    @cached_property
    def scheduler(self) -> Any:
        """`DDIMScheduler` from the model's own configuration, whatever scheduler that names."""
        settings = self.settings
        try:
            with hermetic():
                return DDIMScheduler.from_config(settings)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise ModelError(
                f"{self.card.location}/scheduler: can't be used ({reason(error)}): restore "
                f"scheduler_config.json from where the model came"
            ) from error

    def _load(self, part: str, dtype: torch.dtype | None = None) -> Any:
        card = self.card
        if card.file is not None and dtype is not None:
            return _from_single_file(card.file, card.location, part, dtype)
        return _from_pretrained(source(card.location).fetch(part), part, dtype)


def _from_single_file(file: str, config: str, part: str, dtype: torch.dtype) -> Any:
    """One part of a single file; ``config``: the folder or hub id that describes it."""
    folder = _config_folder(file, config)
    try:
        with hermetic():
            return load_part(Path(file), folder, part, dtype)
    except (*_FAILURES, SafetensorError, AttributeError) as error:
        raise ModelError(
            f"{file}: {part} can't be loaded ({reason(error)}): give config: the diffusers "
            f"folder (or a reachable hub id) that describes this file"
        ) from error


def _config_folder(file: str, config: str) -> Path:
    """The folder with the configuration that a single file needs."""
    try:
        found = source(config)
        for part in ("unet", "vae", "text_encoder"):
            found.read(f"{part}/config.json")
        return found.fetch()
    except ModelError as error:
        raise ModelError(f"{file}: give config: a diffusers folder ({error})") from error


def _from_pretrained(folder: Path, part: str, dtype: torch.dtype | None) -> Any:
    """One part of a diffusers folder; never from a pickle, never partly random."""
    options: dict[str, Any] = {"subfolder": part, "local_files_only": True}
    if dtype is not None:
        options |= {
            "torch_dtype": dtype,
            "use_safetensors": True,
            "output_loading_info": True,
            "variant": weights_variant(folder, part),
        }
    where = f"{folder}/{part}"
    try:
        with hermetic():
            loaded = _CLASSES[part].from_pretrained(folder, **options)
    except _FAILURES as error:
        raise ModelError(
            f"{where}: can't be loaded ({reason(error)}): restore the files from where the "
            f"model came; weights must be safetensors"
        ) from error
    if dtype is None:
        return loaded
    module, info = loaded
    require_all_used(
        where,
        missing=[*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])],
        unused=list(info["unexpected_keys"]),
    )
    return module
