"""CUDA where there is none: tensors of the CPU that say they lie on a card.

    with Twin(dtype=torch.bfloat16) as twin:
        ...  # torch.cuda.is_available() is True, and device "cuda" is the card

Each storage lies on the host or on the card. Moving copies it from one to the other, and an
operator that is given both is refused, as CUDA would refuse it, in a backward pass too. What makes
the host wait for the card is counted, with the line of the package that asks for it, and so are the
operators that ran there. Values, dtypes, shapes and gradients are real.

As on a card, `set_sync_debug_mode` makes such waits errors, and under deterministic algorithms the
operators that torch lists as having no fixed order raise. Memory is a crude stand-in: the largest
tensor that was made on the card is its peak, and a memory fraction is the most that one may have.

What it is not: kernels, streams, NCCL. Autocast uses the CPU's list of operators instead of CUDA's,
and fused attention is the CPU's. It holds for the thread that entered it, and for others while they
are in `here`.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = "/msbd_dist/"
MEMORY = 2**30  # bytes of the card
MODES = {"default": 0, "warn": 1, "error": 2}  # of `set_sync_debug_mode`
aten = torch.ops.aten

# They may be given tensors of both places: copies, and indices that CUDA fetches by itself.
_BOTH = {
    *(aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put.default),
    *(aten.index_put_.default, aten._index_put_impl_.default, aten.set_.source_Tensor),
    *(aten._unsafe_index.Tensor, aten.set_.source_Storage_storage_offset),
}
# Their results' sizes or values have to be known on the host.
_WAITS = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default),
    *(aten.masked_select.default, aten.unique_consecutive.default, aten._unique2.default),
    *(aten.repeat_interleave.Tensor,),
}


# Operators that CUDA can't do in a fixed order, by the words with which torch's documentation lists
# what raises under deterministic algorithms.
RAISING: dict[str, tuple[Any, ...]] = {
    "torch.nn.AvgPool3d": (aten.avg_pool3d_backward,),
    "torch.nn.AdaptiveAvgPool2d": (aten._adaptive_avg_pool2d_backward,),
    "torch.nn.AdaptiveAvgPool3d": (aten._adaptive_avg_pool3d_backward,),
    "torch.nn.MaxPool3d": (aten.max_pool3d_with_indices_backward,),
    "torch.nn.AdaptiveMaxPool2d": (aten.adaptive_max_pool2d_backward,),
    "torch.nn.FractionalMaxPool2d": (aten.fractional_max_pool2d_backward,),
    "torch.nn.FractionalMaxPool3d": (aten.fractional_max_pool3d_backward,),
    "torch.nn.MaxUnpool1d": (aten.max_unpool2d,),
    "torch.nn.MaxUnpool2d": (aten.max_unpool2d,),
    "torch.nn.MaxUnpool3d": (aten.max_unpool3d,),
    "torch.nn.functional.interpolate": (
        *(aten.upsample_linear1d_backward, aten.upsample_bilinear2d_backward),
        *(aten.upsample_bicubic2d_backward, aten.upsample_trilinear3d_backward),
        *(aten._upsample_bilinear2d_aa_backward, aten._upsample_bicubic2d_aa_backward),
    ),
    "torch.nn.ReflectionPad1d": (aten.reflection_pad1d_backward,),
    "torch.nn.ReflectionPad2d": (aten.reflection_pad2d_backward,),
    "torch.nn.ReflectionPad3d": (aten.reflection_pad3d_backward,),
    "torch.nn.NLLLoss": (aten.nll_loss2d_forward, aten.nll_loss2d_backward),
    "torch.nn.CTCLoss": (aten._ctc_loss_backward,),
    "torch.nn.EmbeddingBag": (aten._embedding_bag_backward,),
    "torch.Tensor.put_": (aten.put_, aten.put),
    "torch.histc": (aten.histc,),
    "torch.bincount": (aten.bincount,),
    "torch.median": (aten.median, aten.nanmedian),
    "torch.nn.functional.grid_sample": (
        *(aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward),
    ),
    "torch.cumsum": (aten.cumsum, aten.cumsum_),
    "torch.Tensor.scatter_reduce": (aten.scatter_reduce, aten.scatter_reduce_),
    "torch.Tensor.resize_": (),  # of quantized tensors only
    "torch.kthvalue": (aten.kthvalue,),  # raises, and is not in the list
}
_RAISING = {packet for packets in RAISING.values() for packet in packets}


class MixedDevices(RuntimeError):
    """An operator was given tensors of the host and of the card."""


@dataclass
class Twin:
    """See above. ``dtype``: what the card is made for, bfloat16 or (an older one) float16."""

    dtype: torch.dtype = torch.bfloat16
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)  # (what, where in the package)
    ops: Counter[Any] = field(default_factory=Counter)  # operators that ran on the card
    loose: set[Any] = field(default_factory=set)  # of these, while order was not strict
    largest: int = 0  # bytes of a tensor that was made there, since that was forgotten
    most: int = MEMORY  # that one may have
    sync_mode: int = 0
    _within: defaultdict[str, Counter[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    _lies: dict[int, tuple[StorageWeakRef, torch.device]] = field(default_factory=dict)
    _pinned: dict[int, StorageWeakRef] = field(default_factory=dict)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Twin:
        half = self.dtype == torch.bfloat16
        replaced = {
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.get_device_name": lambda *_: "twin of a card",
            "torch.cuda.is_bf16_supported": lambda including_emulation=True: half,
            "torch.cuda.empty_cache": lambda: None,
            "torch.cuda.synchronize": lambda *_: None,
            "torch.cuda.Event": _Event,
            "torch.cuda.mem_get_info": lambda *_: (MEMORY, MEMORY),
            "torch.cuda.max_memory_allocated": lambda *_: self.largest,
            "torch.cuda.max_memory_reserved": lambda *_: self.largest,
            "torch.cuda.reset_peak_memory_stats": self._forget,
            "torch.cuda.set_per_process_memory_fraction": self._limit,
            "torch.cuda.set_sync_debug_mode": self._set_sync_mode,
            "torch.cuda.get_sync_debug_mode": lambda: self.sync_mode,
            "torch.cuda.is_current_stream_capturing": lambda: False,
            "torch.autocast": _Autocast,
        }
        for name, value in replaced.items():
            self._stack.enter_context(mock.patch(name, value))
        strict = torch.are_deterministic_algorithms_enabled()
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self._stack.callback(torch.use_deterministic_algorithms, strict, warn_only=warns)
        self._stack.enter_context(self.here())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def here(self) -> Iterator[None]:
        """In this thread."""
        with _Operators(self), _Functions(self):
            yield

    def waits_within(self, function: str) -> dict[tuple[str, str], int]:
        """What made the host wait while a function of the package, of this name, was under way."""
        return dict(self._within[function])

    # -- where tensors lie -------------------------------------------------------------------------

    def place(self, tensor: Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            if tensor.device != HOST:  # meta, which has no values
                return tensor.device
        found = self._lies.get(_storage(tensor)._cdata)
        return found[1] if found else HOST

    def put(self, tensor: Tensor, place: torch.device) -> None:
        storage = _storage(tensor)
        with self._lock:
            self._lies[storage._cdata] = (StorageWeakRef(storage), place)  # keeps the address taken
            if len(self._lies) % 4096 == 0:
                self._lies = {key: v for key, v in self._lies.items() if not v[0].expired()}

    def pin(self, tensor: Tensor) -> Tensor:
        with self.making(HOST):
            pinned = tensor.clone()
        storage = _storage(pinned)
        self._pinned[storage._cdata] = StorageWeakRef(storage)
        return pinned

    @property
    def default(self) -> torch.device | None:
        return getattr(self._local, "making", None)

    @contextmanager
    def making(self, place: torch.device) -> Iterator[None]:
        """New tensors lie there."""
        before, self._local.making = self.default, place
        try:
            yield
        finally:
            self._local.making = before

    # -- what stands in for torch.cuda's -----------------------------------------------------------

    def _forget(self, *_: object) -> None:
        self.largest = 0

    def _limit(self, fraction: float, *_: object) -> None:
        self.most = int(fraction * MEMORY)

    def _set_sync_mode(self, mode: int | str) -> None:
        self.sync_mode = MODES[mode] if isinstance(mode, str) else mode

    # -- what is noted -----------------------------------------------------------------------------

    def made(self, tensor: Tensor) -> None:
        """A tensor has got memory on the card."""
        size = _storage(tensor).nbytes()
        if size > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.largest = max(self.largest, size)

    def wait(self, what: str) -> None:
        place, functions = _askers()
        if self.sync_mode == MODES["error"]:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        if self.sync_mode == MODES["warn"]:
            warnings.warn(f"called a synchronizing CUDA operation: {what}", stacklevel=2)
        self.waits[what, place] += 1
        for name in functions:
            self._within[name][what, place] += 1

    def copied(self, tensor: Tensor, to: torch.device, *, at_once: bool) -> None:
        """A copy between the places; ``at_once``: the host asked not to wait."""
        pinned = _storage(tensor)._cdata in self._pinned
        if to.type == "cpu":
            self.wait("to the host")
        elif not (pinned and at_once):
            self.wait("to the card, of memory that is not pinned" if not pinned else "to the card")


class _Operators(TorchDispatchMode):
    """Sees every operator of ATen, below autograd."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self._twin = twin

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        twin, kwargs = self._twin, kwargs or {}
        inputs = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        places = [twin.place(tensor) for tensor in inputs]
        on_card = CARD in places
        if on_card:
            _check(func, inputs, places)
            self._note(func)
        if func is aten.copy_.default and places[0] != places[1]:
            twin.copied(inputs[1], places[0], at_once=len(args) > 2 and bool(args[2]))
        out = func(*args, **kwargs)
        place = twin.default or (CARD if on_card else HOST)
        if func in (aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default):
            place = places[0]
        known = {_storage(tensor)._cdata for tensor in inputs}
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and _storage(made)._cdata not in known:
                twin.put(made, place)
                if place == CARD:
                    twin.made(made)
        return out

    def _note(self, func: Any) -> None:
        twin = self._twin
        twin.ops[func] += 1
        if func in _WAITS:
            twin.wait(func.overloadpacket.__name__.strip("_"))
        strict = torch.are_deterministic_algorithms_enabled()
        if not strict or torch.is_deterministic_algorithms_warn_only_enabled():
            twin.loose.add(func)
        elif func.overloadpacket in _RAISING:
            name = func.overloadpacket.__name__
            raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def _check(func: Any, inputs: list[Tensor], places: list[torch.device]) -> None:
    """CUDA takes tensors of the host only as scalars."""
    strange = any(p == HOST and tensor.dim() for p, tensor in zip(places, inputs, strict=True))
    if strange and func not in _BOTH:
        found = ", ".join(
            f"{place.type} {tuple(tensor.shape)}"
            for place, tensor in zip(places, inputs, strict=True)
        )
        raise MixedDevices(f"{func}: expected all tensors to be on the same device, got {found}")


class _Functions(TorchFunctionMode):
    """Answers where a tensor lies, and moves it; all else goes on to the operators."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self._twin = twin
        self._own = {
            Tensor.device.__get__: twin.place,  # type: ignore[attr-defined]
            Tensor.is_cuda.__get__: lambda t: twin.place(t) == CARD,  # type: ignore[attr-defined]
            Tensor.is_cpu.__get__: lambda t: twin.place(t) == HOST,  # type: ignore[attr-defined]
            Tensor.cuda: lambda t, *_, **options: self._moved(t, CARD, options),
            Tensor.cpu: lambda t, **options: self._moved(t, HOST, options),
            Tensor.to: self._to,
            Tensor.pin_memory: self._pin,
            Tensor.numpy: self._numpy,
            Tensor.__array__: self._numpy,
            Tensor.tolist: self._tolist,
            Tensor.__deepcopy__: self._deepcopied,
            torch.nn.functional.one_hot: self._beside(torch.nn.functional.one_hot),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        own = self._own.get(func)
        if own is not None:
            return own(*args, **kwargs)
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        place = torch.device(device)
        if place.type == "meta":
            return func(*args, **kwargs)
        with self._twin.making(CARD if place.type == "cuda" else HOST):
            return func(*args, **{**kwargs, "device": HOST})

    def _deepcopied(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = tensor.__deepcopy__(memo)
        self._twin.put(copied, self._twin.place(tensor))
        return copied

    def _beside(self, func: Any) -> Any:
        """A function that makes tensors of its own, below Python, where its input lies."""

        def made(tensor: Tensor, *args: Any, **options: Any) -> Any:
            with self._twin.making(self._twin.place(tensor)):
                return func(tensor, *args, **options)

        return made

    def _to(self, tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        """All forms of `Tensor.to`."""
        place = options.pop("device", None)
        for value in args:
            if isinstance(value, Tensor):
                place = self._twin.place(value)
                options.setdefault("dtype", value.dtype)
            elif isinstance(value, torch.dtype):
                options["dtype"] = value
            elif isinstance(value, bool):
                options.setdefault("non_blocking", value)
            elif value is not None:
                place = value
        here = self._twin.place(tensor)
        return self._moved(tensor, here if place is None else torch.device(place), options)

    def _moved(self, tensor: Tensor, to: torch.device, options: dict[str, Any]) -> Tensor:
        at_once = bool(options.pop("non_blocking", False))
        options = {name: value for name, value in options.items() if value is not None}
        if self._twin.place(tensor).type == to.type:
            return tensor.to(**options) if options else tensor
        if to.type == "meta":
            return tensor.to(to, **options)
        self._twin.copied(tensor, to, at_once=at_once)
        with self._twin.making(CARD if to.type == "cuda" else HOST):
            return tensor.to(**{**options, "copy": True})

    def _pin(self, tensor: Tensor) -> Tensor:
        if self._twin.place(tensor) == CARD:
            raise RuntimeError("cannot pin a tensor of the card")
        return self._twin.pin(tensor)

    def _numpy(self, tensor: Tensor, *args: Any, **options: Any) -> Any:
        if self._twin.place(tensor) == CARD:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        return tensor.numpy()

    def _tolist(self, tensor: Tensor) -> Any:
        if self._twin.place(tensor) == CARD:
            self._twin.wait("to the host")
        return tensor.tolist()


class _Event:
    """A point in time, which is the host's."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, *_: object) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        """All is done when it is called."""

    def elapsed_time(self, other: _Event) -> float:
        """Milliseconds."""
        return 1000 * (other._at - self._at)


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **options)


def _storage(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()


def _askers() -> tuple[str, set[str]]:
    """The line of the package that is at work, ``core/reduction.py:110``, and the functions of the
    package that wait for it."""
    frame: Any = sys._getframe(1)
    where, names = "elsewhere", set[str]()
    while frame is not None:
        _, found, place = frame.f_code.co_filename.rpartition(PACKAGE)
        if found:
            where = f"{place}:{frame.f_lineno}" if not names else where
            names.add(frame.f_code.co_name)
        frame = frame.f_back
    return where, names
