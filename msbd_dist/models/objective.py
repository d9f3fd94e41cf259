"""What the network of a single file predicts, as far as it can be known. No torch, no weights.

Three places say so: names in the file (``v_pred``, ``ztsnr``), a ``.yaml`` beside it in the form
of the original code, and the file's metadata. Most SD 1 files say nothing and predict the noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from msbd_dist.errors import ModelError
from msbd_dist.models.single_file import Header
from msbd_dist.models.sources import reason

_PREDICTIONS = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "x0": "sample",
    "sample": "sample",
}
_SCALINGS = {"EpsScaling": "eps", "VScaling": "v"}  # how the later code says it
_ZERO_SNR = ("ztsnr", "zsnr", "zero_snr", "zero_terminal_snr", "rescale_betas_zero_snr")
_NAMED_V = re.compile(r"v[-_ ]?(pred|param|objective)", re.IGNORECASE)
_BETAS = {"linear_start": "beta_start", "linear_end": "beta_end"}


@dataclass(frozen=True)
class Objective:
    """What a file says of itself; None and empty where it says nothing."""

    said: tuple[tuple[str, str], ...]  # where, and the prediction type
    zero_snr: bool = False
    betas: tuple[tuple[str, Any], ...] = ()  # keys of a scheduler's configuration
    schedule: str = "linear"  # of the betas, as the original code calls it

    @property
    def prediction(self) -> str | None:
        """The prediction type, where nothing says another one."""
        found = {prediction for _, prediction in self.said}
        return found.pop() if len(found) == 1 else None

    @property
    def disagrees(self) -> bool:
        return len({prediction for _, prediction in self.said}) > 1

    def __str__(self) -> str:
        return ", ".join(f"{where} says {prediction}" for where, prediction in self.said)

    def settings(self) -> tuple[tuple[str, Any], ...]:
        """The same as keys of a scheduler's configuration."""
        found: dict[str, Any] = dict(self.betas)
        if self.prediction is not None:
            found["prediction_type"] = self.prediction
        if self.zero_snr and self.prediction != "epsilon":
            found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return tuple(found.items())


def objective_of(file: Path, header: Header) -> Objective:
    """What is known of a file. `ModelError` where the .yaml beside it can't be understood."""
    beside = next((f for f in map(file.with_suffix, (".yaml", ".yml")) if f.is_file()), None)
    found = None if beside is None else _params(beside)
    params = found or {}
    said = [*_said_by_names(header), *_said_by_metadata(header.metadata)]
    if beside is not None and found is not None:
        said += [(beside.name, prediction) for prediction in _said_by_yaml(beside, params)]
    zero_snr = (
        any(name.rpartition(".")[2] == "ztsnr" for name in header.tensors)
        or any(params.get(key) is True for key in _ZERO_SNR)
        or header.metadata.get("ss_zero_terminal_snr", "").lower() == "true"
    )
    schedule = str(params.get("beta_schedule", Objective.schedule))
    return Objective(tuple(said), zero_snr, tuple(_betas(params)), schedule)


def named_v(file: Path) -> bool:
    """Whether the file's name alone says that it predicts v."""
    return _NAMED_V.search(file.stem) is not None


def _said_by_names(header: Header) -> Iterator[tuple[str, str]]:
    for name in header.tensors:
        if name.rpartition(".")[2] == "v_pred":
            yield f"its key {name}", "v_prediction"


def _said_by_metadata(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in ("modelspec.prediction_type", "prediction_type"):
        found = _PREDICTIONS.get(metadata.get(key, "").lower())
        if found is not None:
            yield f"its {key}", found
    if metadata.get("modelspec.architecture", "").lower().endswith("-768-v"):
        yield "its modelspec.architecture", "v_prediction"


def _params(file: Path) -> Mapping[str, Any] | None:
    """``model.params`` of the original code's configuration; None of any other YAML."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(
            f"{file}: can't be read as YAML ({reason(error)}), and says what the model beside it "
            f"predicts: restore it, or move it away and give config: a diffusers folder"
        ) from error
    model = content.get("model") if isinstance(content, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    return params if isinstance(params, dict) else None


def _said_by_yaml(file: Path, params: Mapping[str, Any]) -> Iterator[str]:
    """The original code predicts the noise where its configuration says nothing."""
    scaling = params.get("denoiser_config")
    for key in ("params", "scaling_config"):
        scaling = scaling.get(key) if isinstance(scaling, dict) else None
    target = str(scaling.get("target", "")) if isinstance(scaling, dict) else ""
    later = _SCALINGS.get(target.rpartition(".")[2])
    if "denoiser_config" in params and later is None:
        return
    given = str(params.get("parameterization", later or "eps"))
    if given.lower() not in _PREDICTIONS:
        raise ModelError(
            f"{file}: parameterization is {given!r}, wanted eps, v or x0: restore it, or move "
            f"it away and give config: a diffusers folder"
        )
    yield _PREDICTIONS[given.lower()]


def _betas(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, name in _BETAS.items():
        if isinstance(params.get(key), float):
            yield name, params[key]
