"""What a user may choose and what a model family dictates: frozen values, checked when made.

`Family` holds the numbers that geometry needs of a model; `ModelSpec` says where the models are;
`Method` holds every option of the method; `EditSpec` is one edit. What a field means and the range
it is held to stand beside it, as ``metadata``: manifests are described from there. Errors are
`ManifestError`s that name the key, what was given and what is wanted. No torch, no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from msbd_dist.errors import ManifestError, ModelError

Upscaler = Literal["realesrgan", "realesrganer", "bilinear", "bicubic"]
UpscaleDiffusion = Literal["off", "unconditional", "conditional"]
Lowpass = Literal["matching", "half", "off"]
DecoderBatch = Literal["sample", "full", "minibatch"]
Reduction = Literal["exact", "fast", "bf16"]
Compose = Literal["sum", "over"]
Stages = Literal["multi", "segments"]
NoiseOf = Literal["canvas", "segment"]
TiffWay = Literal["auto", "copy", "plain", "pyramid"]
OmeVersion = Literal["0.4", "0.5"]
LossName = Literal[
    "samples",
    "16-bit",
    "alpha",
    "colours",
    "icc",
    "exif",
    "xmp",
    "iptc",
    "photoshop",
    "comment",
    "description",
    "text",
    "thumbnail",
    "second-picture",
    "gain-map",
    "video",
    "c2pa",
    "thermal",
    "geo",
    "tags",
    "extra-channel",
    "labels",
    "other",
]  # what a picture may have and a written file may lack
Verify = Literal["sample", "full", "off"]  # how much of what was written is compared
Device = Literal["auto", "cpu", "cuda"]
MaskFrom = Literal["luma", "alpha", "values", "pixels"]


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


def _about(
    what: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    """What a field means, and the range that `_check_ranges` holds it to."""
    limits = {"low": low, "above": above, "high": high}
    return {"what": what, **{name: at for name, at in limits.items() if at is not None}}


def _check_ranges(spec: Any) -> None:
    """ManifestError for the first value of a dataclass that is out of its field's range."""
    for each in fields(spec):
        value, limits = getattr(spec, each.name), each.metadata
        if value is None or "high" not in limits:
            continue
        low, above, high = limits.get("low"), limits.get("above"), limits["high"]
        enough = value > above if low is None else value >= low  # no NaN is
        if not (enough and value <= high):
            least = f"above {above:g}" if low is None else f"at least {low:g}"
            raise ManifestError(
                f"{each.name}: got {value!r:.40}, wanted {least} and at most {high:g}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Where the parts come from. None: what the family's own `msbd.json` names, or the default."""

    family: str = field(
        default="tiny",
        metadata=_about(
            "`tiny` (bundled), a diffusers folder, a hub id, or one `.safetensors` file"
        ),
    )
    config: str | None = field(
        default=None, metadata=_about("a diffusers folder with the configuration of a single file")
    )
    sr: str | None = field(
        default=None, metadata=_about("a Real-ESRGAN checkpoint, or any that spandrel loads")
    )
    clip: str | None = field(
        default=None, metadata=_about("an open_clip model: `NAME:TAG`, `NAME:/FILE` or a folder")
    )
    device: str = field(default="auto", metadata=_about("where models run"))

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise ModelError(f"device: got {self.device!r}, wanted auto, cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class Method:
    """Options of the method. The defaults are the paper's; None stands for the family's own."""

    margin: float = field(
        default=1.3,
        metadata=_about("edited region relative to the mask's box, per axis", low=1, high=8),
    )
    stages: Stages = field(
        default="multi",
        metadata=_about("all, or only full resolution: each segment painted by itself, to compare"),
    )
    base_size: int | None = field(
        default=None,
        metadata=_about("side of the first stage; without, the model's own", low=8, high=8192),
    )
    samples: int = field(
        default=5, metadata=_about("candidates of the first stage", low=1, high=64)
    )
    rerank: bool = field(
        default=True, metadata=_about("choose the candidate by CLIP, else the first")
    )
    steps: int = field(
        default=50, metadata=_about("DDIM steps of the first stage", low=1, high=1000)
    )
    repaint: int = field(
        default=5, metadata=_about("extra passes per step of the first stage", low=0, high=100)
    )
    eta: float = field(
        default=1.0, metadata=_about("noise of DDIM: 0 deterministic, 1 ancestral", low=0, high=1)
    )
    guidance: float | None = field(
        default=None,
        metadata=_about("classifier-free guidance; without, the model's", low=0, high=100),
    )
    segment_guidance: float | None = field(
        default=None, metadata=_about("the same in segmented stages", low=0, high=100)
    )
    upscale_steps: int = field(
        default=100,
        metadata=_about("steps of the schedule that later stages enter part-way", low=1, high=1000),
    )
    middle_start: float | None = field(
        default=None,
        metadata=_about(
            "where later stages of one segment enter it (SDEdit strength)", above=0, high=1
        ),
    )
    segment_start: float | None = field(
        default=None,
        metadata=_about(
            "where segmented stages enter it; more is more repainting", above=0, high=1
        ),
    )
    upscaler: Upscaler = field(
        default="realesrgan", metadata=_about("what enlarges between stages")
    )
    upscale_diffusion: UpscaleDiffusion = field(
        default="conditional",
        metadata=_about("diffusion of later stages, with the prompt or without"),
    )
    blend: bool = field(default=True, metadata=_about("hold the background during diffusion"))
    lowpass: Lowpass = field(
        default="matching",
        metadata=_about("background of later stages: as sharp as the edit, half, or as it is"),
    )
    decoder_optimization: bool = field(
        default=True, metadata=_about("tune the decoder to each edit")
    )
    decoder_steps: int | None = field(
        default=None,
        metadata=_about(
            "steps of decoder optimization; without, 300 of samples, 60 of one segment, else 100",
            low=1,
            high=100_000,
        ),
    )
    decoder_lr: float | None = field(
        default=None,
        metadata=_about(
            "learning rate of decoder optimization; without, 2.5e-4 of samples, else 1e-4",
            above=0,
            high=1,
        ),
    )
    decoder_lambda: float = field(
        default=100.0,
        metadata=_about("weight of the background in decoder optimization", low=0, high=1e9),
    )
    decoder_batch: DecoderBatch = field(
        default="sample",
        metadata=_about(
            "segments of a step of decoder optimization: a few, by what is outside; all; or pairs"
        ),
    )
    decoder_reduction: Reduction = field(
        default="exact",
        metadata=_about(
            "how workers add up gradients: the same bits for any number of them, or less sent"
        ),
    )
    overlap: int | None = field(
        default=None,
        metadata=_about("pixels by which segments overlap; without, the model's", low=0, high=4096),
    )
    noise: NoiseOf = field(
        default="canvas",
        metadata=_about("noise belongs to its place, or is the same in every segment, to compare"),
    )
    compose: Compose = field(
        default="sum", metadata=_about("how segments overlap: weighted sum, or alpha compositing")
    )
    feather: int = field(
        default=0,
        metadata=_about("pixels inside the mask over which the edit fades in", low=0, high=4096),
    )
    segment_batch: int = field(
        default=2, metadata=_about("segments of a task, on a GPU one model call", low=1, high=256)
    )

    def __post_init__(self) -> None:
        _check_ranges(self)

    def settled(self, family: Family) -> Method:
        """The same with what is recommended, mostly by the family, wherever nothing was chosen."""

        def chosen(value: float | None, recommended: float) -> float:
            return recommended if value is None else value

        guidance = chosen(self.guidance, family.guidance)
        rate = 2.5e-4 if self.decoder_batch == "sample" else 1e-4
        otherwise = guidance if family.segment_guidance is None else family.segment_guidance
        return replace(
            self,
            guidance=guidance,
            segment_guidance=chosen(self.segment_guidance, otherwise),
            middle_start=chosen(self.middle_start, family.middle_start),
            segment_start=chosen(self.segment_start, family.segment_start),
            decoder_lr=chosen(self.decoder_lr, rate),
        )


Vertex = tuple[float, float]  # x and y, in pixels of the upright image


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A mask without a file: what lies in any of its shapes."""

    boxes: tuple[tuple[float, float, float, float], ...] = ()  # x, y, width, height
    polygons: tuple[tuple[tuple[Vertex, ...], ...], ...] = ()  # each a ring and its holes


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A file as a mask, with what is meant by it; None and empty where the file says enough."""

    file: str
    from_: MaskFrom | None = field(
        default=None,
        metadata=_about(
            "what of the file is the mask: brightness; alpha, where opaque is edited; or `values`, "
            "of labels; of outlines: `pixels`, where coordinates look like a map's"
        ),
    )
    values: tuple[int, ...] = field(
        default=(), metadata=_about("labels that are edited; without, all but 0")
    )
    image_id: int | str | None = field(
        default=None, metadata=_about("of a COCO file: the image whose annotations are meant")
    )
    category: tuple[str, ...] = field(
        default=(), metadata=_about("of outlines: categories, labels or classes that are meant")
    )

    def __post_init__(self) -> None:
        if self.values and self.from_ != "values":
            raise ManifestError("values: are of label masks; write `from: values` beside them")


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Several masks as one: what any of them holds, then turned inside out, then grown."""

    any: tuple[MaskSpec, ...]
    invert: bool = field(default=False, metadata=_about("edit what the masks leave out"))
    grow: int = field(
        default=0, metadata=_about("pixels by which the result reaches further", low=0, high=1024)
    )

    def __post_init__(self) -> None:
        _check_ranges(self)


MaskSpec = str | MaskFile | Drawn | Combined
"""A file of pixels or outlines, by path or URL, as it is or with what is meant by it; shapes; or
several of these."""


def mask_files(mask: MaskSpec) -> Iterator[str]:
    """Every file that a mask is made from."""
    if isinstance(mask, str):
        yield mask
    elif isinstance(mask, MaskFile):
        yield mask.file
    elif isinstance(mask, Combined):
        for part in mask.any:
            yield from mask_files(part)


def with_files(mask: MaskSpec, change: Callable[[str], str]) -> MaskSpec:
    """The same mask of other files."""
    if isinstance(mask, str):
        return change(mask)
    if isinstance(mask, MaskFile):
        return replace(mask, file=change(mask.file))
    if isinstance(mask, Combined):
        return replace(mask, any=tuple(with_files(part, change) for part in mask.any))
    return mask


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finished picture of another edit of the same manifest."""

    edit: str


@dataclass(frozen=True, kw_only=True)
class EditSpec:
    """One edit: paths as given, resolved by the manifest's reader."""

    id: str = field(
        metadata=_about(
            "names the edit and its folder in the run directory; letters, digits, `._-`"
        )
    )
    image: str | Result = field(
        metadata=_about("the picture: a path, a URL, or `{edit: ID}`, another's result")
    )
    mask: MaskSpec = field(
        metadata=_about("what to edit: a file, a box or shapes, or several of them")
    )
    prompt: str = field(metadata=_about("what to paint; empty: remove what is there"))
    negative_prompt: str = field(default="", metadata=_about("what to steer away from"))
    seed: int | None = field(
        default=None, metadata=_about("of all noise; without, drawn once and kept in the run")
    )
    output: str | None = field(
        default=None,
        metadata=_about("where the finished picture goes; without, beside the edit's record"),
    )
    tiff: TiffWay = field(
        default="auto",
        metadata=_about("of a `.tif`: copy on write, a new file, or one with smaller versions"),
    )
    ome_zarr: OmeVersion | None = field(
        default=None, metadata=_about("of a new `.ome.zarr`; without, the image's")
    )
    allow_loss: bool | tuple[LossName, ...] = field(
        default=False,
        metadata=_about(
            "write formats that can't hold all that the image has; or a list of what may be lost"
        ),
    )
    in_place: bool = field(default=False, metadata=_about("change the image itself, an OME-Zarr"))
    method: Method = field(default_factory=Method)

    @property
    def source(self) -> str:
        """The image's path or URL. ValueError as long as another edit has to make it."""
        if isinstance(self.image, Result):
            raise ValueError(f"{self.id}: the result of {self.image.edit} is not there yet")
        return self.image
