"""What a user may choose and what a model family dictates: frozen values, checked when made.

`Family` holds the numbers that geometry needs of a model; `ModelSpec` says where the models are;
`Method` holds every option of the method; `EditSpec` is one edit. Errors are `ManifestError`s that
name the key, what was given and what is wanted. No torch, no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal

from msbd_dist.errors import ManifestError, ModelError

Upscaler = Literal["realesrgan", "realesrganer", "bilinear", "bicubic"]
UpscaleDiffusion = Literal["off", "unconditional", "conditional"]
Lowpass = Literal["matching", "half", "off"]
DecoderBatch = Literal["full", "minibatch"]
Reduction = Literal["exact", "fast", "bf16"]
Compose = Literal["sum", "over"]
TiffWay = Literal["auto", "copy", "plain", "pyramid"]
OmeVersion = Literal["0.4", "0.5"]
Verify = Literal["sample", "full", "off"]  # how much of what was written is compared


@dataclass(frozen=True, kw_only=True)
class Family:
    """The geometry of a model family, in pixels unless a name says otherwise."""

    native: int
    segment: int
    overlap: int
    unet_multiple: int = 64  # image sides the UNet accepts: VAE factor x its own downsampling
    vae_factor: int = 8  # pixels per latent cell and axis
    latent_channels: int = 4
    sr_factor: int = 4  # enlargement of the super-resolution model
    guidance: float = 7.5  # recommended guidance scale
    segment_guidance: float | None = None  # the same in segmented stages; None: no other
    middle_start: float = 0.4  # recommended SDEdit strength of later stages, unsegmented
    segment_start: float = 0.25  # and segmented
    max_tokens: int = 77

    def __post_init__(self) -> None:
        if min(self.native, self.segment, self.unet_multiple, self.vae_factor) < 1:
            raise ModelError(f"model sizes must be positive, got {self}")
        for name in ("native", "segment"):
            if getattr(self, name) % self.unet_multiple:
                raise ModelError(
                    f"{name} size {getattr(self, name)} is not a multiple of "
                    f"{self.unet_multiple}, which this UNet needs"
                )
        if self.overlap % self.vae_factor or not 0 <= self.overlap <= self.segment // 2:
            raise ModelError(
                f"overlap {self.overlap} must be a multiple of {self.vae_factor} "
                f"and at most half of the segment size {self.segment}"
            )

    @property
    def stride(self) -> int:
        return self.segment - self.overlap


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Where the parts come from. None: what the family's own `msbd.json` names, or the default."""

    family: str = "tiny"  # "tiny", a diffusers folder, a hub id, or one .safetensors file
    config: str | None = None  # diffusers folder with the configuration of a single file
    sr: str | None = None  # Real-ESRGAN checkpoint, or any that spandrel loads
    clip: str | None = None  # open_clip "NAME:TAG", "NAME:/file", or a folder
    device: str = "auto"  # auto | cpu | cuda

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ModelError(f"device: got {self.device!r}, wanted auto, cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class Method:
    """Options of the method. The defaults are the paper's; None stands for the family's own."""

    margin: float = 1.3  # edit region = bounding box of the mask times this, per axis
    samples: int = 5  # B: candidates of the first stage
    rerank: bool = True  # choose the candidate by CLIP (else the first)
    steps: int = 50  # T: DDIM steps of the first stage
    repaint: int = 5  # R: extra passes per step of the first stage
    eta: float = 1.0  # DDIM's eta: 0 deterministic, 1 ancestral
    guidance: float | None = None  # classifier-free guidance scale
    segment_guidance: float | None = None  # the same in segmented stages
    upscale_steps: int = 100  # steps of the schedule that later stages enter part-way
    middle_start: float | None = None  # where unsegmented later stages enter it (SDEdit strength)
    segment_start: float | None = None  # where segmented stages enter it
    upscaler: Upscaler = "realesrgan"
    upscale_diffusion: UpscaleDiffusion = "conditional"
    blend: bool = True  # hold the background during diffusion
    lowpass: Lowpass = "matching"  # background of later stages: as sharp as the edit, or not
    decoder_optimization: bool = True
    decoder_steps: int = 100
    decoder_lr: float = 1e-4
    decoder_lambda: float = 100.0
    decoder_batch: DecoderBatch = "full"
    decoder_reduction: Reduction = "exact"  # how workers add up gradients (core/reduction.py)
    compose: Compose = "sum"
    feather: int = 0  # pixels inside the mask over which the edit fades in
    segment_batch: int = 2  # segments per model call; part of the plan, so bytes depend on it

    def __post_init__(self) -> None:
        _between(self, "margin", 1.0, 8.0)
        _between(self, "samples", 1, 64)
        _between(self, "steps", 1, 1000)
        _between(self, "repaint", 0, 100)
        _between(self, "eta", 0.0, 1.0)
        _between(self, "upscale_steps", 1, 1000)
        for key in ("middle_start", "segment_start"):
            if getattr(self, key) is not None:
                _between(self, key, 0.0, 1.0, open_low=True)
        _between(self, "decoder_steps", 1, 100_000)
        _between(self, "decoder_lr", 0.0, 1.0, open_low=True)
        _between(self, "decoder_lambda", 0.0, 1e9)
        _between(self, "feather", 0, 4096)
        _between(self, "segment_batch", 1, 256)
        for key in ("guidance", "segment_guidance"):
            if getattr(self, key) is not None:
                _between(self, key, 0.0, 100.0)

    @property
    def minibatch(self) -> int | None:
        """Segments of one step of decoder optimization; None: all."""
        return 2 if self.decoder_batch == "minibatch" else None

    def settled(self, family: Family) -> Method:
        """The same with the family's recommendation wherever nothing was chosen."""

        def chosen(value: float | None, recommended: float) -> float:
            return recommended if value is None else value

        guidance = chosen(self.guidance, family.guidance)
        otherwise = guidance if family.segment_guidance is None else family.segment_guidance
        return replace(
            self,
            guidance=guidance,
            segment_guidance=chosen(self.segment_guidance, otherwise),
            middle_start=chosen(self.middle_start, family.middle_start),
            segment_start=chosen(self.segment_start, family.segment_start),
        )


def _between(spec: object, key: str, low: float, high: float, *, open_low: bool = False) -> None:
    value = getattr(spec, key)
    ok = isfinite(value) and (low < value if open_low else low <= value) and value <= high
    if not ok:
        least = f"above {low:g}" if open_low else f"at least {low:g}"
        raise ManifestError(f"{key}: got {value!r}, wanted {least} and at most {high:g}")


Vertex = tuple[float, float]  # x and y, in pixels of the upright image


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A mask without a file: what lies in any of its shapes."""

    boxes: tuple[tuple[float, float, float, float], ...] = ()  # x, y, width, height
    polygons: tuple[tuple[tuple[Vertex, ...], ...], ...] = ()  # each a ring and its holes


@dataclass(frozen=True, kw_only=True)
class Result:
    """An image that another edit makes."""

    edit: str


@dataclass(frozen=True, kw_only=True)
class EditSpec:
    """One edit: paths as given, resolved by the manifest's reader."""

    id: str
    image: str | Result
    mask: str | Drawn
    prompt: str
    negative_prompt: str = ""
    seed: int | None = None  # None: drawn once, recorded in the run
    output: str | None = None  # None: <run>/<id>/output with the suffix of what the image is
    tiff: TiffWay = "auto"  # a .tif: copy on write, anew, anew with a pyramid
    ome_zarr: OmeVersion | None = None  # of a .zarr; None: the image's, or 0.5
    allow_loss: bool = False  # write formats that can't hold all that the image has
    in_place: bool = False  # change the image itself, an OME-Zarr
    method: Method = field(default_factory=Method)

    @property
    def source(self) -> str:
        """The image's path or URL. ValueError as long as another edit has to make it."""
        if isinstance(self.image, Result):
            raise ValueError(f"{self.id}: the result of {self.image.edit} is not there yet")
        return self.image
