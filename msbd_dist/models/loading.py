"""Third-party loaders without their side effects, and their failures as `ModelError`."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.sources import reason

_PROGRESS_BARS = ("diffusers.utils.logging", "transformers.utils.logging")


@contextmanager
def hermetic() -> Iterator[None]:
    """Load weights without touching what the process shares.

    Restored afterwards: torch's random state (layers are initialised before their weights are
    read), the root logger (open_clip would add a handler), progress bars and log levels. Weights
    loaded here are normal tensors even inside a caller's `torch.inference_mode`.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(_silent_root())
        for name in _PROGRESS_BARS:
            if name in sys.modules:
                stack.enter_context(_silent(sys.modules[name]))
        yield


@contextmanager
def _silent_root() -> Iterator[None]:
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _silent(library: Any) -> Iterator[None]:
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def read_weights(file: Path) -> dict[str, Any]:
    """The tensors of a ``.safetensors`` file, or of a ``.pth`` / ``.pt`` that holds only tensors.

    A pickle is read by torch's restricted reader, which builds tensors and plain containers and
    refuses everything else. Raises `ModelError` that names the file.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file: give a .safetensors or .pth checkpoint")
    suffix = file.suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise ModelError(f"{file}: unknown kind of checkpoint: give a .safetensors or .pth file")
    try:
        if suffix == ".safetensors":
            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: holds pickled objects, which are never loaded, or is damaged: save its "
            f"weights alone (torch.save(model.state_dict(), ...) or safetensors)"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{file}: can't be read ({reason(error)}): it may be incomplete, download it again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{file}: holds {type(content).__name__}, wanted weights by name: "
            f"save the network's state_dict"
        )
    return content


def frozen(module: Any, device: torch.device) -> Any:
    """The module on its device, in evaluation mode, its weights never to be trained."""
    return module.to(device).eval().requires_grad_(False)


def normal(tensor: Tensor) -> Tensor:
    """The values as a tensor that autograd accepts, also where inference mode made it."""
    return tensor.clone() if tensor.is_inference() else tensor
