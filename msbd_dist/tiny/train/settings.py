"""The settings of the training, in one place.

The seeds of the parts lie far apart: no picture of one is drawn for another, and none of them for
the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NATIVE = 128  # pixels of a training picture, and the size at which the UNet samples
SEGMENT = 192  # pixels of a segment of the final stage

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a part is trained. ``batch`` pictures a step, in ``shards`` of equal size.

    The shards are what processes share: their gradients are averaged, whoever computes them.
    """

    steps: int
    batch: int
    shards: int = 2
    learning_rate: float
    last_rate: float = 0.02  # of the learning rate, where the cosine ends
    warmup: int = 60
    restart: int | None = None  # the step at which the learning rate rises again ...
    restart_rate: float = 0.5  # ... to this share of the first
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema: float = 0.99  # of the average of the weights that is written; 0: the weights themselves
    seed: int


@dataclass(frozen=True, kw_only=True)
class Vae:
    recipe: Recipe = Recipe(
        steps=5600, restart=3200, batch=16, learning_rate=8e-4, last_rate=0.03, seed=10**9
    )
    channels: tuple[int, ...] = (32, 64, 96, 112)
    groups: int = 8
    crop: int = 64
    details: float = 0.25  # of the pictures: windows of larger scenes
    kl: float = 1e-3
    gradient: float = 0.5  # weights of the loss, beside 1 for L1
    pooled: float = 1.0
    squared: float = 4.0
    whitening: int = 256  # pictures that the mean and spread of the latents are measured on
    scaling_factor: float = 0.18215  # Stable Diffusion's


@dataclass(frozen=True, kw_only=True)
class Unet:
    recipe: Recipe = Recipe(
        steps=11_000,
        restart=9000,
        batch=40,
        learning_rate=8e-4,
        warmup=200,
        weight_decay=1e-3,
        ema=0.9985,
        seed=2 * 10**9,
    )
    prediction: Prediction = "epsilon"  # the better one by benchmarks/prediction.py
    channels: tuple[int, ...] = (64, 128, 192)
    heads_of: int = 32  # channels of an attention head
    groups: int = 16
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    pictures: int = 40_000  # of the native size, each encoded once
    segments: int = 4_000  # of the size of a segment
    chunk: int = 500  # pictures encoded at a time
    segment_share: float = 1 / 8  # of the steps
    dropped: float = 0.04  # captions replaced by the empty one, beside those that are empty
    snr: float = 5.0  # levels cleaner than this count no more than it (min-SNR)
    guidance: float = 6.0
    middle_start: float = 0.2  # more redraws what the first stage has drawn better
    segment_start: float = 0.05
    segment_guidance: float = 0.0
    overlap: int = 32


@dataclass(frozen=True, kw_only=True)
class Clip:
    recipe: Recipe = Recipe(
        steps=4500,
        restart=3000,
        batch=64,
        learning_rate=1.5e-3,
        last_rate=0.0,
        warmup=100,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        ema=0.995,
        seed=3 * 10**9,
    )
    layers: tuple[int, ...] = (1, 1, 1, 1)
    width: int = 16
    head_width: int = 64
    embedding: int = 128
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    pictures: int = 24_000
    chunk: int = 1000
    captions: float = 0.5  # weight of the captions' loss, beside 1 for the names of single objects
    brightness: float = 0.06  # changes to the pictures
    grain: float = 0.02
    zoomed: float = 0.35  # of the pictures
    shrunk: float = 0.15
    largest_scale: float = 60.0  # of the logits


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    recipe: Recipe = Recipe(
        steps=2500,
        batch=16,
        learning_rate=1e-3,
        last_rate=0.001,
        warmup=100,
        weight_decay=0.0,
        clip_norm=0.5,
        seed=4 * 10**9,
    )
    filters: int = 24
    blocks: int = 2
    pictures: int = 240
    side: int = 512  # of the pictures
    crop: int = 96
    chunk: int = 20
    details: float = 0.4  # of the pictures
    area: float = 0.6  # of the crops are shrunk by area averages, the others by cubic ones
    blurred: float = 0.25
    grain: float = 0.012


@dataclass(frozen=True, kw_only=True)
class Settings:
    vae: Vae = field(default_factory=Vae)
    unet: Unet = field(default_factory=Unet)
    clip: Clip = field(default_factory=Clip)
    upscaler: Upscaler = field(default_factory=Upscaler)
    checkpoint_seconds: float = 60.0
    report_seconds: float = 20.0


SETTINGS = Settings()
