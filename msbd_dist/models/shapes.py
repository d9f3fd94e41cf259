"""Names and shapes of the tensors in a file of weights, without the weights and without torch.

Of a pickle the instructions are followed with stand-ins for what tensors are made of: nothing of
torch or of the file's own is called.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import IO, Any

from msbd_dist.errors import ModelError
from msbd_dist.models.sources import reason

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_MAX_HEADER = 100_000_000  # bytes; the limit of the format's own reader
_ZIP = b"PK\x03\x04"
_PROTOCOL = 3  # the newest that torch reads without running anything
_BEFORE = 3  # pickles before that of the content, in torch's older format
_POINTER = b"version https://git-lfs"
_WRAPPINGS = (
    "model_state_dict",
    "state_dict",
    "params_ema",
    "params-ema",
    "params",
    "model",
    "net",
)


def shapes_of(file: Path) -> dict[str, Shape]:
    """The tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file, taken out of what wraps them.

    `ModelError` where the file is not whole, or holds anything but tensors.
    """
    try:
        with file.open("rb") as stream:
            pointer = stream.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise ModelError(
            f"{file}: can't be read ({error.strerror}): give a file that can"
        ) from error
    if pointer:
        raise ModelError(f"{file}: is a pointer of git-lfs, not the file: run `git lfs pull` there")
    suffix = file.suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise ModelError(f"{file}: unknown kind of checkpoint: give a .safetensors or .pth file")
    if suffix == ".safetensors":
        return _of_safetensors(file)
    try:
        return unwrapped(_content(file))
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ModelError(
            f"{file}: is no checkpoint that can be read ({reason(error)}): download it again"
        ) from error


def unwrapped(content: Any) -> dict[str, Shape]:
    """The tensors of a checkpoint by name, as spandrel finds them in it."""
    found = content if isinstance(content, dict) else {}
    inner = (found[key] for key in _WRAPPINGS if isinstance(found.get(key), dict))
    found = next(inner, found)
    if len(found) == 1 and isinstance(only := next(iter(found.values())), dict):
        found = only
    for prefix in ("module.", "netG."):
        if all(str(name).startswith(prefix) for name in found):
            found = {str(name).removeprefix(prefix): value for name, value in found.items()}
    return {str(name): tuple(it) for name, it in found.items() if isinstance(it, _Tensor)}


def _of_safetensors(file: Path) -> dict[str, Shape]:
    """From the header: 8 bytes of length, little-endian, then that much JSON; then the tensors."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            rest = file.stat().st_size - 8 - length
            if not 2 <= length <= _MAX_HEADER or rest < 0:
                raise ValueError("no header")
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        end = max((one["data_offsets"][1] for one in entries.values()), default=0)
        if end != rest:
            raise ValueError(f"holds {rest:,} bytes of tensors, its header says {end:,}")
        return unwrapped({name: _Tensor(one["shape"]) for name, one in entries.items()})
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{file}: is not a whole safetensors file ({reason(error)}): download it again"
        ) from error


class _Tensor(tuple[int, ...]):
    """The shape of a tensor, in its place."""


def _content(file: Path) -> Any:
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return _Reader(BytesIO(archive.read(name)), file).load()
        stream.seek(0)
        for _ in range(_BEFORE):
            _Reader(stream, file).load()
        return _Reader(stream, file).load()


class _Reader(pickle.Unpickler):
    """Reads what a checkpoint is made of, with shapes for its tensors."""

    def __init__(self, stream: IO[bytes], file: Path) -> None:
        start = stream.read(2)
        if start[:1] == b"\x80" and start[1] > _PROTOCOL:
            raise ModelError(
                f"{file}: is a pickle of protocol {start[1]}, which torch does not read as weights "
                f"alone: save it with torch.save as it is by default, or as safetensors"
            )
        stream.seek(-len(start), SEEK_CUR)
        super().__init__(stream)
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and not name.startswith("_"):
            return tuple if name == "Size" else partial(_named, name)
        raise ModelError(
            f"{self._file}: is a pickle that calls {module}.{name}, which is never loaded: get the "
            f"weights as safetensors, or save them alone (torch.save(model.state_dict(), ...))"
        )

    def persistent_load(self, pid: Any) -> Any:
        return None


def _tensor(storage: Any, offset: int, size: Any, *_: Any) -> _Tensor:
    return _Tensor(size)


def _first(value: Any, *_: Any) -> Any:
    return value


def _named(name: str, *_: Any) -> str:
    return name
