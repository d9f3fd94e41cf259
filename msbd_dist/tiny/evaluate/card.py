"""The model card: what the family is, how to load it, and every number of its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msbd_dist.tiny.evaluate.rows import Row, shown, shown_bar
from msbd_dist.tiny.scenes import COLOURS, PATTERNS, PLAINS, SHAPES

_PARTS = {  # what each part is, where it lies, in which format
    "unet": ("UNet", "`unet/`", "diffusers `UNet2DConditionModel`"),
    "vae": ("autoencoder", "`vae/`", "diffusers `AutoencoderKL`"),
    "text_encoder": (
        "text encoder",
        "`text_encoder/`, `tokenizer/`",
        "transformers `CLIPTextModel`",
    ),
    "clip": ("CLIP", "`clip/`", "open_clip `local-dir`"),
    "upscaler": ("x4 upscaler", "`upscaler/esrgan_x4.safetensors`", "ESRGAN (old-arch names)"),
}

_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags:
- latent-diffusion
- inpainting
- synthetic
---
# Tiny painted shapes: a small latent diffusion family

Trained from scratch on scenes that are drawn by code: {shapes} shapes, {colours} colours, {grounds}
backgrounds. It exists for tests, demonstrations and machines without a GPU. It knows nothing
else: no people, no text, no photographs.
"""

_LOAD = """## Load
```python
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(
    "weights", safety_checker=None, torch_dtype=torch.float32  # say the dtype: the files are fp16
)
pipe("a red star on grass", num_inference_steps=25, guidance_scale={guidance:g}).images[0]

import open_clip                                     # works offline
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:weights/clip")
model.eval()                                         # batch norm: scores are meaningless without it
tokenizer = open_clip.get_tokenizer("local-dir:weights/clip")

import spandrel
up = spandrel.ModelLoader().load_from_file("weights/upscaler/esrgan_x4.safetensors")
up.model.float()                                     # before use on a CPU
```
"""

_MADE = """## How it was made
`python -m msbd_dist.tiny.train` draws the scenes by seed (`msbd_dist.tiny.scenes`; nothing is
downloaded) and trains every part from nothing, as `msbd_dist/tiny/train/settings.py` says.
`python -m msbd_dist.tiny.evaluate` measured what is below on scenes, prompts and
masks of seeds that training never draws.
"""

_NOTES = """- *real*: the same check on real scenes, which is as much as the check can see.
- Colour and shape are named by the family's own CLIP among 56 names ("a red star"). Its own
  accuracy on real scenes is in the table. The probe, a second judge, uses pixels and contours only
  and has learned nothing; it also counts the objects of a pair.
- Text to image: pure noise, 25 DDIM steps (eta 1), prompts like "a red star on grass" for all pairs
  of colour and shape, on plain backgrounds and on patterns.
- Two objects: captions of real scenes of two colours, such as "a red star left of a blue ring on
  sand", on plain backgrounds. The probe must find one area of each colour, of some shape and of
  proper size, and nothing else.
- Inpainting: rectangles of 5 to 10 latent cells a side, RePaint 5, 25 steps, the best of 5
  by CLIP, pasted by the mask. CLIP looks at the smallest square that holds the mask.
- Faint rectangle: how far mean colours change across the edges of a mask in which nothing was
  drawn, divided by the same in the untouched scenes; one sample, RePaint 5. Fine texture: how
  much neighbouring pixels inside the mask differ, again against the untouched scenes.
- Removal: the empty prompt, the best of 5 by colour agreement. Gone: CLIP prefers the
  name of a background, the probe finds nothing of the object's colour. Continued: mean colours
  inside the mask and around it differ no more than in real scenes.
- Segments: the size at which larger pictures are refined, {segment} px.
"""


def card(results: Mapping[str, Any]) -> str:
    """The card in Markdown for what `Evaluation.written` gave."""
    rows = [Row.read(row) for row in results["rows"].values()]
    head = _HEAD.format(
        shapes=len(SHAPES), colours=len(COLOURS), grounds=len(PLAINS) + len(PATTERNS)
    )
    sections = (
        head,
        _parts(results),
        _words(results),
        _MADE,
        _measured(results, rows),
        _short(rows),
        _LOAD.format(guidance=results["guidance"]),
    )
    return "\n".join(sections)


def _parts(results: Mapping[str, Any]) -> str:
    lines = ["| part | where | format | size | parameters |", "|---|---|---|---|---|"]
    for part, (name, where, form) in _PARTS.items():
        size, count = results["parts"][part] / 1e6, results["parameters"][part] / 1e6
        lines.append(f"| {name} | {where} | {form} | {size:.1f} MB | {count:.2f} M |")
    total = sum(results["parameters"].values()) / 1e6
    lines.append(f"| all | | | {results['bytes'] / 1e6:.1f} MB | {total:.2f} M |")
    native, cells = results["native"], results["native"] // 8
    kind = {"epsilon": "Epsilon prediction", "v_prediction": "V-prediction"}
    snr = "zero terminal SNR" if results["zero_terminal_snr"] else "Stable Diffusion's betas"
    about = (
        f"Native size {native} x {native} (latents 4 x {cells} x {cells}, scaling factor "
        f"{results['scaling_factor']:g}); {results['segment']} x {results['segment']} for segments "
        f"of larger pictures.\n{kind.get(results['prediction'], results['prediction'])}, {snr}. "
        f"Text of up to {results['tokens']} tokens."
    )
    return "\n".join([*lines, "", about, ""])


def _words(results: Mapping[str, Any]) -> str:
    patterns = ", ".join(f"*colour* {kind}" for kind in PATTERNS if kind != "wall")
    return f"""## Words it knows
- Shapes: {", ".join(SHAPES)}.
- Colours: {", ".join(COLOURS)}.
- Backgrounds: {", ".join(PLAINS)}; {patterns}; a *colour* wall.
- Sizes: small, big ("a small red star"). Two objects: "and", "left of", "right of", "above",
  "below" ("a red star left of a blue ring on sand").
- The empty prompt continues the background, which removes what is masked.

Recommended: guidance {results["guidance"]:g}, 25 to 50 steps. Any other word means nothing to it.
"""


def _measured(results: Mapping[str, Any], rows: list[Row]) -> str:
    lines = ["| measure | value | wanted | real | cases | |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        value, real = shown(row.value, row.unit), shown(row.real, row.unit)
        missed = "missed" if row.met is False else ""
        lines.append(
            f"| {row.label} | {value} | {shown_bar(row)} | {real} | {row.cases} | {missed} |"
        )
    speed = results["speed"]
    threads = f"{speed['threads']} thread" + ("s" if speed["threads"] > 1 else "")
    pace = (
        f"{speed['pictures']} pictures of {speed['steps']} steps with guidance took "
        f"{speed['seconds']:.1f} s ({speed['device']}, {threads})."
    )
    part = "" if results["scale"] == 1 else f"\nWith {results['scale']:g} of the cases only.\n"
    notes = _NOTES.format(segment=results["segment"])
    return "\n".join(["## Measured", part, *lines, "", notes, pace, ""])


def _short(rows: list[Row]) -> str:
    missed = [row for row in rows if row.met is False]
    lines = [
        f"- {row.label}: {shown(row.value, row.unit)}, wanted {shown_bar(row)}{_kinds(row)}"
        for row in missed
    ] or ["Nothing: every bar is reached."]
    return "\n".join(["## What falls short", *lines, ""])


def _kinds(row: Row) -> str:
    """What the value is made of, where it was measured by kind."""
    parts = ", ".join(f"{kind} {shown(value, row.unit)}" for kind, value in row.details.items())
    return f" ({parts})" if parts else ""
