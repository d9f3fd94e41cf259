"""A card's models on a device. Device and dtype are decided here and nowhere else."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from msbd_dist.core.spec import Upscaler as UpscalerKind
from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card
from msbd_dist.models.sources import nearest

if TYPE_CHECKING:
    from msbd_dist.models.latent import LatentModel
    from msbd_dist.models.likeness import Lpips
    from msbd_dist.models.rerank import Scorer
    from msbd_dist.models.upscale import Upscaler


_WORKSPACE, _FIXED = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # of cuBLAS, as it wants it


_NO_GPU = ("", "-1", "none", "NoDevFiles")  # what CUDA_VISIBLE_DEVICES says where there is none


class Choice(NamedTuple):
    """A device, why, and the dtypes there."""

    device: torch.device
    dtype: torch.dtype  # of UNet and text encoder
    products: torch.dtype  # in decoder optimization, whose weights and sums are float32
    reason: str


def choose_device(name: str = "auto") -> Choice:
    """The device for "auto", "cpu" or "cuda".

    `ModelError` where "cuda" is asked and absent, or where this process was given a GPU (by Ray, or
    by whoever set CUDA_VISIBLE_DEVICES) that torch does not see: it would be a CPU's work, unseen.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ModelError(f"device: got {name!r}: {nearest(name, ('auto', 'cpu', 'cuda'))}")
    present = torch.cuda.is_available()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not present and (name == "cuda" or (name == "auto" and given not in _NO_GPU)):
        what = "device: cuda was asked for" if name == "cuda" else f"GPU {given} was given to it"
        raise ModelError(
            f"{what} and torch sees no CUDA device on {socket.gethostname()} ({_driver()}): check "
            "nvidia-smi there and CUDA_VISIBLE_DEVICES, or set device: cpu"
        )
    if name == "cpu" or not present:
        reason = "asked for" if name == "cpu" else "no CUDA device"
        products = torch.bfloat16 if _multiplies_bfloat16() else torch.float32
        return Choice(torch.device("cpu"), torch.float32, products, reason)
    gpu = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice(torch.device("cuda"), torch.bfloat16, torch.bfloat16, gpu)
    return Choice(torch.device("cuda"), torch.float16, torch.float32, gpu)


def _driver(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """What runs the GPU and what torch wants, as people compare them."""
    wants = f"torch {torch.__version__} is for CUDA {torch.version.cuda or '-, which it lacks'}"
    try:
        found = re.search(r"\b\d{3}\.[\d.]+", file.read_text())
    except OSError:
        return f"no NVIDIA driver is loaded, {wants}"
    return f"driver {found[0] if found else 'of an unknown version'}, {wants}"


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them it is slower than float32.

    Older versions of torch can't tell: then it has none.
    """
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = ask()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def make_deterministic() -> None:
    """Let CUDA sum in a fixed order, in backward passes of attention too.

    Such kernels are taken wherever there are any, and what has none is an error: where it only
    warned, torch would go on with attention whose gradients differ from run to run. For this
    process, before its first product.
    """
    if os.environ.get(_WORKSPACE) not in _FIXED:  # with others no product would be allowed
        os.environ[_WORKSPACE] = _FIXED[0]
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=False)


def load(card: Card, *, device: str = "auto") -> Models:
    """The models of a card. Only the device is decided now; weights are read on first use."""
    return Models(card, choose_device(device))


class Models:
    """The models of one card on one device, each part read when first used and then kept."""

    def __init__(self, card: Card, choice: Choice, *, beside: Models | None = None) -> None:
        """``beside``: the same in another dtype, whose parts in float32 serve here too."""
        self.card = card
        self.device, self.dtype, self.products, self.reason = choice
        self._beside = beside
        self._upscalers: dict[UpscalerKind, Upscaler] = {}

    @cached_property
    def latent(self) -> LatentModel:
        """UNet, VAE and text encoder."""
        from msbd_dist.models.latent import LatentModel
        from msbd_dist.models.parts import Parts

        beside = None if self._beside is None else self._beside.latent.parts
        return LatentModel(Parts(self.card, device=self.device, dtype=self.dtype, beside=beside))

    @cached_property
    def scorer(self) -> Scorer:
        """CLIP, in float32."""
        if self._beside is not None:
            return self._beside.scorer
        from msbd_dist.models.rerank import load_scorer

        return load_scorer(self.card.clip, device=self.device)

    @cached_property
    def lpips(self) -> Lpips | None:
        """LPIPS, where its weights are on this machine."""
        if self._beside is not None:
            return self._beside.lpips
        from msbd_dist.models.likeness import load_lpips

        return load_lpips(device=self.device)

    def upscaler(self, kind: UpscalerKind) -> Upscaler:
        """The upscaler of this kind, by the family's factor."""
        from msbd_dist.models.upscale import load_upscaler

        if kind not in self._upscalers:
            self._upscalers[kind] = load_upscaler(
                kind,
                self.card.checkpoint(kind),
                factor=self.card.family.sr_factor,
                device=self.device,
                dtype=self.dtype,
            )
        return self._upscalers[kind]

    @cached_property
    def in_float32(self) -> Models:
        """The same in full precision: the weights of UNet, text encoder and upscaler are read again
        when they are first used, and kept; the rest is shared."""
        full = Choice(self.device, torch.float32, torch.float32, self.reason)
        return Models(self.card, full, beside=self)

    def describe(self) -> str:
        """What runs where, in one line."""
        sr = Path(self.card.sr).name if self.card.sr else "none"
        dtype, products = (str(d).removeprefix("torch.") for d in (self.dtype, self.products))
        tuned = "" if self.products == torch.float32 else f" (tuned with {products} products)"
        return (
            f"{self.card.name} on {self.device} ({self.reason}), {dtype}, VAE float32{tuned}, "
            f"native {self.card.family.native} px, upscaler {sr}, CLIP {self.card.clip}"
        )
