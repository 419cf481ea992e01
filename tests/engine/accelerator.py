"""A pretended GPU, for machines without one: the processor does the work, but where tensors are is kept apart.

A tensor of the pretended device does not mix with one of the processor's, and what the processor waits for to be
fetched is counted. What only a real device can show stays open: its kernels, its memory, its speed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("cuda", 0)
GENERATOR = torch.Generator
TO_NUMBERS = {Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.item, Tensor.tolist}
WAITING = {*TO_NUMBERS, Tensor.equal, torch.equal, Tensor.nonzero, torch.nonzero, torch.masked_select, Tensor.unique}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
AT_HOME = {Tensor.numpy, Tensor.__array__}
BETWEEN = {*INDEXING, Tensor.copy_}


class Mixed(RuntimeError):
    """Tensors of two devices in one operation, or one of the device where only the processor's will do."""


class Away(Tensor):
    """A tensor on the pretended device."""

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True


class AwayGenerator(GENERATOR):
    """Random numbers for the pretended device."""


class Generator(GENERATOR):
    """Stands for torch's."""

    def __new__(cls, device: object = "cpu") -> torch.Generator:
        return AwayGenerator() if _is_away(device) else GENERATOR()


class _Placing(TorchFunctionMode):
    """Whatever is asked of torch, with tensors of either device."""

    def __init__(self, fetched: Counter[str]) -> None:
        super().__init__()
        self._fetched = fetched

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not all(issubclass(kind, Tensor) for kind in types):
            return func(*args, **kwargs)
        if func in (Tensor.to, Tensor.cpu):
            return self._brought(*args, **kwargs) if func is Tensor.to else self._brought(args[0], "cpu")
        if func is Tensor.pin_memory:
            return args[0].clone()
        if func is torch._has_compatible_shallow_copy_type:
            return type(args[0]) is type(args[1])
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        begun_away = any(isinstance(tensor, Away) for tensor in tensors)
        target = kwargs.get("device")
        ends_away = begun_away if target is None else _is_away(target)
        if ends_away:
            kwargs.pop("device", None)
        if begun_away:
            self._watch(func, args, [tensor for tensor in tensors if not isinstance(tensor, Away)])
        if (generator := kwargs.get("generator")) and isinstance(generator, AwayGenerator) is not ends_away:
            raise Mixed(f"{func} draws from a generator of another device")
        with torch._C.DisableTorchFunctionSubclass():
            return _there(func(*args, **kwargs), ends_away)

    def _watch(self, func: Any, args: Sequence[Any], here: Sequence[Tensor]) -> None:
        """Refuse what a device refuses, and count what makes the processor wait."""
        if func in AT_HOME or (here and func not in BETWEEN and any(tensor.dim() for tensor in here)):
            raise Mixed(f"{func} of tensors here, {[tuple(t.shape) for t in here]}, and on the device")
        if func in WAITING or (func is Tensor.copy_ and not isinstance(args[0], Away)):
            self._fetched[func.__name__] += 1
        elif func in INDEXING:
            self._fetched[func.__name__] += any(_waits(index) for index in _tensors(args[1:2]))

    def _brought(self, tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        """`Tensor.to`: the same tensor where nothing changes."""
        like = args[0] if args and isinstance(args[0], Tensor) else None
        device, dtype = (like.device, like.dtype) if like is not None else torch._C._nn._parse_to(*args, **kwargs)[:2]
        away = isinstance(tensor, Away)
        ends_away = away if device is None else _is_away(device)
        if (device is None or device.type == tensor.device.type) and dtype in (None, tensor.dtype) and not copy:
            return tensor
        self._fetched["cpu"] += away and not ends_away
        with torch._C.DisableTorchFunctionSubclass():
            kept = None if ends_away else device
            return _there(tensor.as_subclass(Tensor).to(device=kept, dtype=dtype, copy=True), ends_away)


def _waits(index: Tensor) -> bool:
    """Whether looking it up makes the processor wait: for how many are chosen, or for its way to the device."""
    return index.dtype is torch.bool or (index.dim() > 0 and not isinstance(index, Away))


def _is_away(device: Any) -> bool:
    return torch.device(device).type == DEVICE.type


def _there(found: Any, away: bool) -> Any:
    """What an operation gives, on the device or not."""
    if isinstance(found, Tensor):
        return found if isinstance(found, Away) is away else found.as_subclass(Away if away else Tensor)
    if isinstance(found, list | tuple) and any(isinstance(part, Tensor | list | tuple) for part in found):
        return type(found)([_there(part, away) for part in found])
    return found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the values, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@contextmanager
def accelerator(free: float = 2**33) -> Iterator[Counter[str]]:
    """Within it there is a device ``cuda:0``; how often the processor waited for it, by what was asked.

    Parameters
    ----------
    free : float
        Bytes of memory that the device has left.
    """
    fetched = Counter[str]()
    pretended: Mapping[str, Any] = {"is_available": True, "device_count": 1, "mem_get_info": (free, 2**34)}
    with ExitStack() as stack:
        for name, value in pretended.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", return_value=value))
        stack.enter_context(mock.patch("torch.Generator", Generator))
        stack.enter_context(_Placing(fetched))
        yield fetched
