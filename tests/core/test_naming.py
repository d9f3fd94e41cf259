"""Names of stored work: by options that differ from their defaults, whatever the code learns."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any

from msbd_dist.core.geometry import Size
from msbd_dist.core.naming import differing, digest_of
from msbd_dist.core.spec import Family, Method

# where one of these changes, `batch.record.SCHEMA` has to go up: stored work is named without them
DEFAULTS: dict[type, dict[str, Any]] = {
    Method: {
        "margin": 1.3,
        "stages": "multi",
        "base_size": None,
        "samples": 5,
        "rerank": True,
        "steps": 50,
        "repaint": 5,
        "eta": 1.0,
        "guidance": None,
        "segment_guidance": None,
        "upscale_steps": 100,
        "middle_start": None,
        "segment_start": None,
        "upscaler": "realesrgan",
        "upscale_diffusion": "conditional",
        "blend": True,
        "lowpass": "matching",
        "decoder_optimization": True,
        "decoder_steps": None,
        "decoder_lr": None,
        "decoder_lambda": 100.0,
        "decoder_batch": "sample",
        "decoder_reduction": "exact",
        "overlap": None,
        "noise": "canvas",
        "compose": "sum",
        "feather": 0,
        "segment_batch": 2,
    },
    Family: {
        "unet_multiple": 64,
        "vae_factor": 8,
        "latent_channels": 4,
        "sr_factor": 4,
        "guidance": 7.5,
        "segment_guidance": None,
        "middle_start": 0.4,
        "segment_start": 0.25,
        "max_tokens": 77,
    },
}


def test_defaults_are_those_by_which_stored_work_is_named() -> None:
    for of, known in DEFAULTS.items():
        defaults = {f.name: f.default for f in fields(of) if f.default is not MISSING}
        assert defaults == known


@dataclass(frozen=True)
class Inner:
    size: Size
    strength: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    several: tuple[Inner, ...] = ()
    options: dict[str, int] = field(default_factory=dict)
    kind: str = "usual"


def test_what_is_as_its_default_is_left_out_at_every_depth() -> None:
    plain = Inner(Size(2, 3))
    assert differing(Outer("a", plain)) == {
        "name": "a",
        "inner": {"size": {"height": 2, "width": 3}},
    }
    every = Outer("a", Inner(Size(2, 3), 0.7), (plain,), {"b": 1}, "other")
    assert differing(every) == {
        "name": "a",
        "inner": {"size": {"height": 2, "width": 3}, "strength": 0.7},
        "several": [{"size": {"height": 2, "width": 3}}],
        "options": {"b": 1},
        "kind": "other",
    }


def test_a_new_option_changes_no_name_as_long_as_it_is_off() -> None:
    more = make_dataclass(
        "Method", [("glow", str, field(default="off", kw_only=True))], bases=(Method,), frozen=True
    )
    for options in ({}, {"steps": 20, "compose": "over"}):
        known = digest_of(Method(**options))  # type: ignore[arg-type]
        assert digest_of(more(**options)) == known
        assert digest_of(more(**options, glow="on")) != known


def test_every_option_that_is_not_as_its_default_changes_the_name() -> None:
    changed = {"steps": 20, "compose": "over", "blend": False, "guidance": 7.5, "feather": 1}
    names = {digest_of(Method(**{name: value})) for name, value in changed.items()}  # type: ignore[arg-type]
    assert len(names | {digest_of(Method())}) == len(changed) + 1
