"""How often a sample multiplies each weight of a network: once in a dense layer, at every place in a convolution."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from engine.front import ParetoPoint

FLOPS_PER_MULTIPLY_ADD = 2


def uses(module: nn.Module, samples: Tensor) -> dict[str, float]:
    """Multiplications of each weight per sample, on average over a parameter tensor, by the tensor's name.

    Counted are matrix products and convolutions, padding included. Biases, norms and embeddings that are looked up
    multiply nothing that counts.

    Parameters
    ----------
    module : nn.Module
        In eval mode; on the meta device nothing is computed.
    samples : Tensor, shape (n, *input_shape)
    """
    names = {_place(parameter): name for name, parameter in module.named_parameters()}
    with torch.no_grad(), _Multiplications(names) as counted:
        module(samples)
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    return {name: counted.found[name] / (size * len(samples)) for name, size in sizes.items()}


def reuse(module: nn.Module, samples: Tensor) -> float:
    """Multiplications of a weight per sample, on average over all of a network's weights; parameters as in `uses`.

    It is 1, as in dense layers, where torch has no count for what the network computes.
    """
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    try:
        often = uses(module, samples)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return 1.0
    return sum(sizes[name] * each for name, each in often.items()) / sum(sizes.values())


def multiply_adds(point: ParetoPoint, of_weights: Mapping[str, float]) -> float:
    """Multiply-adds per sample of a network's nonzero weights; NaN where nothing is known about its layers.

    Parameters
    ----------
    of_weights : mapping of str to float
        What `uses` says of the network.
    """
    if not point.layers or not of_weights.keys() >= {layer.name for layer in point.layers}:
        return math.nan
    return sum(layer.n_nonzero * of_weights[layer.name] for layer in point.layers)


@final
class _Multiplications(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of all operations in which a named tensor, or a view of it, is an operand."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not hidden from torch's compiler, which would be loaded to be told so, by jobs that never compile."""
        return False

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        flops: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if flops is not None:
            count = flops(*args, **(kwargs or {}), out_val=answer) // FLOPS_PER_MULTIPLY_ADD
            self.found.update(dict.fromkeys(self._named(args), count))
        return answer

    def _named(self, operands: Sequence[Any]) -> list[str]:
        """Names of the matrices among `operands`; what is added has one dimension."""
        matrices = (operand for operand in operands if isinstance(operand, Tensor) and operand.dim() > 1)
        return [self.names[_place(matrix)] for matrix in matrices if _place(matrix) in self.names]


def _place(tensor: Tensor) -> int:
    """What a tensor shares with its views and with no other tensor."""
    return int(tensor.untyped_storage()._cdata)
