"""What a scheduler's configuration means for DDIM, whichever class it names. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msbd_dist.core.timesteps import Spacing
from msbd_dist.errors import ModelError

SCHEDULER = "scheduler/scheduler_config.json"

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_SPACINGS = ("leading", "linspace", "trailing")
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_CONTINUOUS = (  # beginnings of classes whose noise levels are no betas of training steps
    "FlowMatch",
    "EDM",
    "CMStochastic",
    "Consistency",
    "CosineDPM",
    "KarrasVe",
    "ScoreSde",
    "VQDiffusion",
)
_DISTILLED = ("LCMScheduler", "TCDScheduler")  # whose steps are some of those they learned


def check_scheduler(where: str, settings: Mapping[str, Any]) -> None:
    """`ModelError` unless it describes a diffusion model of discrete training steps."""
    name = str(settings.get("_class_name"))
    prediction = settings.get("prediction_type", "epsilon")
    continuous = settings.get("timestep_type", "discrete") != "discrete"
    if prediction not in _PREDICTIONS or continuous or name.startswith(_CONTINUOUS):
        raise ModelError(
            f"{where}: its scheduler is {name} with {prediction}, wanted discrete steps and "
            f"prediction_type {', '.join(_PREDICTIONS)}: give a diffusion model, not a flow model"
        )
    if prediction == "epsilon" and settings.get("rescale_betas_zero_snr"):
        raise ModelError(
            f"{where}: epsilon prediction says nothing at zero signal: set rescale_betas_zero_snr "
            f"to false in scheduler_config.json, or prediction_type to what the model learned"
        )
    schedule = settings.get("beta_schedule", "linear")
    if settings.get("trained_betas") is None and schedule not in _BETAS:
        raise ModelError(
            f"{where}: {SCHEDULER} has beta_schedule {schedule!r}, wanted {', '.join(_BETAS)}: "
            f"give the betas themselves, as trained_betas"
        )
    _check_spacing(where, settings)


def spacing_of(settings: Mapping[str, Any]) -> Spacing:
    """Where the steps of a schedule lie; what is not said is as in diffusers' DDIM."""
    return Spacing(
        "distilled" if settings.get("_class_name") in _DISTILLED else _kind(settings),
        settings.get("steps_offset", 0),
        bool(settings.get("set_alpha_to_one", True)),
        int(settings.get("original_inference_steps") or Spacing.original),
    )


def _kind(settings: Mapping[str, Any]) -> Any:
    return settings.get("timestep_spacing", "leading")


def _check_spacing(where: str, settings: Mapping[str, Any]) -> None:
    spacing, offset = _kind(settings), settings.get("steps_offset", 0)
    if spacing not in _SPACINGS or type(offset) is not int or offset < 0:
        raise ModelError(
            f"{where}: {SCHEDULER} has timestep_spacing {spacing!r} and steps_offset {offset!r}, "
            f"wanted {', '.join(_SPACINGS)} and a whole number: restore it"
        )
