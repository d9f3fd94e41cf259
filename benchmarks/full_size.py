"""Shapes, seconds and memory of a full-size model: Stable Diffusion 1.4 with random weights.

    python -m benchmarks.full_size [-o FILE] [--threads N]

Writes a folder with the published configurations, tensor names and tokenizer, its weights random
and in half precision (2.1 GB, deleted at the end), and loads it as any other model. Each step runs
in a process of its own that holds only what the step needs, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from msbd_dist.batch.record import package_versions, peak_memory_mb
from msbd_dist.core.decoder import DecoderFit, FitSegment, FitSettings
from msbd_dist.core.gang import Alone
from msbd_dist.core.levels import level_at
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.spec import Family, ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve

if TYPE_CHECKING:
    from msbd_dist.models.latent import LatentModel

FAMILY = Family(native=512, segment=768, overlap=128, unet_multiple=64, max_tokens=77)
PARAMETERS = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
PROMPT, PROMPT_TOKENS = "a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]
MB = 2**20

# -- the model's folder: what the published files say ----------------------------------------------

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.2.2",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "vocab_size": 49408,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.7.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
START, END = {"content": "<|startoftext|>"}, {"content": "<|endoftext|>"}
ADDED = {
    "__type": "AddedToken",
    "lstrip": False,
    "normalized": True,
    "rstrip": False,
    "single_word": False,
}
TOKENIZER = {
    "add_prefix_space": False,
    "bos_token": START | ADDED,
    "do_lower_case": True,
    "eos_token": END | ADDED,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": END | ADDED,
}
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def write_folder(folder: Path) -> None:
    """Write the model: published configurations and names, random weights in float16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    with torch.device("meta"):  # shapes only: no time goes into the usual initialisation
        unet = UNet2DConditionModel.from_config(UNET)
        vae = AutoencoderKL.from_config(VAE)
        text = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
    write_part(folder / "unet", UNET, random_weights(unet))
    vae_weights = {_older_vae_name(k): v for k, v in random_weights(vae).items()}
    write_part(folder / "vae", VAE, vae_weights)
    text_weights = {_older_text_name(k): v for k, v in random_weights(text).items()}
    text_weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    write_part(folder / "text_encoder", TEXT_ENCODER, text_weights, stem="model")
    write_tokenizer(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "model_index.json", MODEL_INDEX)


def random_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """A float16 tensor for each of the module's, which may be on the meta device.

    Norms do nothing, biases are zero, and matrices keep the variance of what they are given.
    """
    return {name: _random(name, tensor.shape) for name, tensor in module.state_dict().items()}


def _random(name: str, shape: torch.Size) -> Tensor:
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    fan_in = shape.numel() // shape[0]
    return torch.empty(shape).normal_(std=fan_in**-0.5).half()


def _older_vae_name(name: str) -> str:
    """The attention's names in the published file, from before diffusers renamed them."""
    if ".attentions." in name:
        for ours, older in OLD_ATTENTION.items():
            name = name.replace(f".{ours}.", f".{older}.")
    return name


def _older_text_name(name: str) -> str:
    """The text encoder's names in the published file, all below ``text_model``."""
    return f"text_model.{name.removeprefix('text_model.')}"


def write_part(
    folder: Path,
    config: object,
    weights: dict[str, Tensor],
    *,
    stem: str = "diffusion_pytorch_model",
) -> None:
    """Write one network's configuration and weights."""
    from safetensors.torch import save_file

    write_json(folder / "config.json", config)
    save_file(weights, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path) -> None:
    """CLIP's own tokenizer, from the merges that open_clip brings along."""
    from open_clip.tokenizer import SimpleTokenizer

    clip = SimpleTokenizer()
    words = [*list(clip.encoder)[:-2], START["content"], END["content"]]
    merges = [" ".join(pair) for pair in clip.bpe_ranks]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", TOKENIZER)


def write_json(file: Path, content: object) -> None:
    """Write a JSON file, and its folder where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


# -- the steps: each calls the library as a worker does --------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing to measure."""

    name: str
    call: Callable[[LatentModel, int], Tensor]  # what is measured, for pictures of so many pixels
    shape: Callable[[int], tuple[int, ...]]  # what it must return
    parts: tuple[str, ...] = ()  # what is loaded before the clock starts
    sized: bool = True  # run at both sizes, or once

    @property
    def sides(self) -> tuple[int, ...]:
        return (FAMILY.native, FAMILY.segment) if self.sized else (FAMILY.native,)

    def label(self, pixels: int) -> str:
        return f"{self.name}, {pixels} px" if self.sized else self.name


def picture_shape(pixels: int) -> tuple[int, ...]:
    return (1, 3, pixels, pixels)


def latent_shape(pixels: int) -> tuple[int, ...]:
    side = pixels // FAMILY.vae_factor
    return (1, FAMILY.latent_channels, side, side)


def load_parts(model: LatentModel, pixels: int) -> Tensor:
    """Load everything; the noise schedule stands for it."""
    for part, wanted in PARAMETERS.items():
        weights = getattr(model.parts, part).parameters()
        expect(f"parameters of {part}", sum(w.numel() for w in weights), wanted)
    expect("tokens", model.parts.tokenizer(PROMPT).input_ids, PROMPT_TOKENS)
    return model.alphas_cumprod


def embed(model: LatentModel, pixels: int) -> Tensor:
    cond = model.text(PROMPT)
    return torch.cat([cond.negative, cond.prompt])


def encode(model: LatentModel, pixels: int) -> Tensor:
    return model.encode(torch.rand(picture_shape(pixels)))


def denoise(model: LatentModel, pixels: int) -> Tensor:
    from msbd_dist.models.latent import Conditioning

    text = torch.randn(2, 1, 77, 768).to(model.parts.device, model.parts.dtype)
    guided = model.denoiser(Conditioning(*text, text[0]), guidance=FAMILY.guidance)
    return guided(torch.randn(latent_shape(pixels)), level_at(model.alphas_cumprod, 500))


def decode(model: LatentModel, pixels: int) -> Tensor:
    return model.decode(torch.randn(latent_shape(pixels)))


def fit(model: LatentModel, pixels: int) -> Tensor:
    """One iteration of decoder optimization on one segment: its loss."""
    device = model.parts.device
    target, source = torch.rand(2, *picture_shape(pixels)).to(device)
    depth = torch.zeros(1, 1, pixels, pixels, device=device)
    depth[..., : pixels // 2] = 0.5
    z = torch.randn(latent_shape(pixels)).to(device)
    segment = FitSegment(z, target, source, depth, weight=torch.ones_like(depth))
    settings, rounds = FitSettings(lr=1e-4, lam=100.0), Rounds(1, 1, 1)
    one = DecoderFit(model.decode, model.decoder_weights(), lambda _: segment, rounds, settings)
    params, losses = one.run(Alone()), one.losses
    finite = all(bool(weight.isfinite().all()) for weight in params.values())
    expect("tuned weights are finite", finite, True)
    return torch.tensor(losses)


STEPS = (
    Step("load all parts", load_parts, lambda _: (1000,), sized=False),
    Step(
        "embed two prompts",
        embed,
        lambda _: (2, 77, 768),
        parts=("tokenizer", "text_encoder"),
        sized=False,
    ),
    Step("encode", encode, latent_shape, parts=("vae",)),
    Step("guided denoiser call", denoise, latent_shape, parts=("unet", "scheduler")),
    Step("decode", decode, picture_shape, parts=("vae",)),
    Step("decoder fit, 1 iteration", fit, lambda _: (1,), parts=("vae",)),
)


def expect(what: str, got: object, wanted: object) -> None:
    """`AssertionError` unless both are equal."""
    if got != wanted:
        raise AssertionError(f"{what}: got {got}, wanted {wanted}")


# -- measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one step took. ``left_out`` says why there are no numbers."""

    step: str = ""
    device: str = ""
    dtype: str = ""  # of UNet and text encoder; the VAE is in float32
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads: tells how far other work was in the way
    peak_mb: int = 0  # highest resident memory of the process while the step ran
    device_peak_mb: int | None = None  # the same of what torch allocated on the CUDA device
    left_out: str | None = None

    @property
    def need_mb(self) -> int:
        """The peak of the memory that limits."""
        return self.peak_mb if self.device_peak_mb is None else self.device_peak_mb

    def __str__(self) -> str:
        name = f"{self.step:36}"
        if self.left_out:
            return f"{name}left out: {self.left_out}"
        shape = " x ".join(map(str, self.shape))
        seconds = f"{self.seconds:7.1f} s{self.cpu_seconds:7.1f} s CPU"
        line = f"{name}{shape:18}{seconds}{self.peak_mb:7} MB"
        return line if self.device_peak_mb is None else f"{line}{self.device_peak_mb:7} MB on CUDA"


def measure(folder: Path, number: int, pixels: int, need_mb: float, threads: int) -> Measured:
    """Run one step in this process, which must be fresh, unless it needs more than is free."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, models = STEPS[number], load(resolve(ModelSpec(family=str(folder))))
    free_mb = _free_mb(models.device)
    if need_mb > free_mb:
        why = f"needs about {need_mb:.0f} MB, {free_mb:.0f} MB are available"
        found = Measured(left_out=why)
    else:
        found = _measured(step, models, pixels)
    where = f"{models.device} ({models.reason})"
    return replace(found, step=step.label(pixels), device=where, dtype=str(models.dtype))


def _measured(step: Step, models: Models, pixels: int) -> Measured:
    _make_ready(step, models, pixels)
    started, cpu_started = time.perf_counter(), time.process_time()
    result = step.call(models.latent, pixels).cpu()  # waits for the device
    found = Measured(
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        peak_mb=peak_memory_mb(),
        device_peak_mb=torch.cuda.max_memory_allocated() // MB if _on_cuda(models) else None,
        shape=tuple(result.shape),
    )
    expect(f"{step.name}: shape", found.shape, step.shape(pixels))
    expect(f"{step.name}: finite", bool(result.isfinite().all()), True)
    return found


def _make_ready(step: Step, models: Models, pixels: int) -> None:
    """Load what the step needs, then forget peaks. On CUDA also run it once, to choose kernels."""
    for part in step.parts:
        getattr(models.latent.parts, part)
    if _on_cuda(models):
        if step.parts:
            step.call(type(models.latent)(models.latent.parts), pixels)  # has caches of its own
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # where the system can't, resident peaks include loading
        Path("/proc/self/clear_refs").write_text("5")


def _on_cuda(models: Models) -> bool:
    return models.device.type == "cuda"


def _free_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0] / MB
    return float(psutil.virtual_memory().available) / MB


def measure_all(folder: Path, pool: ProcessPoolExecutor, threads: int) -> Iterator[Measured]:
    """Every step at every size, each as it is measured, the smallest size first.

    A larger size is left out where the smaller one's peak, grown with the area, exceeds what is
    free.
    """
    for number, step in enumerate(STEPS):
        need_mb = 0.0
        for pixels in step.sides:
            found = pool.submit(measure, folder, number, pixels, need_mb, threads).result()
            need_mb = found.need_mb * (FAMILY.segment / pixels) ** 2
            yield found


def commit() -> str | None:
    """The commit of this checkout, "-dirty" where it was changed; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.check_output(
            command, cwd=Path(__file__).parent, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(threads: int) -> dict[str, object]:
    """What the numbers belong to."""
    return {
        "machine": describe_machine(),
        "threads": threads,
        "versions": package_versions(),
        "commit": commit(),
        "family": asdict(FAMILY),
        "parameters": PARAMETERS,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write numbers as JSON")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all CPUs"
    )
    return parser.parse_args()


def main() -> None:
    options, started = arguments(), time.perf_counter()
    facts = provenance(options.threads)
    print(f"{facts['machine']}, {options.threads} threads", flush=True)
    fresh = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory(prefix="msbd-full-size-") as name, fresh as pool:
        folder, steps = Path(name), []
        pool.submit(write_folder, folder).result()
        size_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) // MB
        print(f"{size_mb} MB written in {time.perf_counter() - started:.0f} s", flush=True)
        expect("family", resolve(ModelSpec(family=name)).family, FAMILY)
        for found in measure_all(folder, pool, options.threads):
            steps.append(found)
            print(found, flush=True)
    seconds = time.perf_counter() - started
    print(f"on {steps[0].device}, {steps[0].dtype}; shapes as expected; {seconds:.0f} s in all")
    if options.output:
        numbers = {"steps": [asdict(step) for step in steps], "seconds": seconds}
        write_json(options.output, numbers | facts)


if __name__ == "__main__":
    main()
