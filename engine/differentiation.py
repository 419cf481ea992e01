"""How a network's gradient is found: from a record of its evaluation, or written out for dense layers in a row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from engine.criteria import Criterion
from engine.networks import ACTIVATIONS

ELEMENTWISE = tuple(type(make()) for make in ACTIVATIONS.values())
BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda slope, values: torch.ops.aten.threshold_backward.default(slope, values, 0),
    nn.Tanh: torch.ops.aten.tanh_backward.default,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward.default,
}


class Differentiation(ABC):
    """One network's loss, alone or with the gradient."""

    @abstractmethod
    def value(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """The mean loss of these samples, for the caller to keep torch from recording.

        Returns
        -------
        value : Tensor, 0-d
            `share` times the mean loss.
        outputs : Tensor, shape (n_samples, ..., n_outputs)
        """

    @abstractmethod
    def add_(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """The same as `value`; the gradient is added to the parameters' ``grad``."""


@final
class Recorded(Differentiation):
    """By torch's record of the evaluation: for any network.

    Parameters
    ----------
    network : nn.Module
    criterion : Criterion
    """

    def __init__(self, network: nn.Module, criterion: Criterion) -> None:
        self._network, self._criterion = network, criterion

    def value(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        outputs = self._network(X)
        return self._criterion(outputs, y) * share, outputs

    def add_(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        value, outputs = self.value(X, y, share)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), outputs.detach()


@final
class DenseChain(Differentiation):
    """Dense layers in a row, forth and back without a record: a small network's record takes longer than its products.

    Samples are columns, so that activations of narrow layers are few long rows.

    Parameters
    ----------
    layers : sequence of nn.Module
        As `dense_layers` finds them.
    recorded : Recorded
        Of the same network, for while one of its layers has hooks.
    criterion : Criterion
    """

    def __init__(self, layers: Sequence[nn.Module], recorded: Recorded, criterion: Criterion) -> None:
        self._layers, self._recorded, self._criterion = layers, recorded, criterion

    def value(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        if self._hooked():
            return self._recorded.value(X, y, share)
        outputs = self._forth(X)[-1]
        return self._criterion.differentiate(outputs, y)[0] * share, outputs.mT

    def add_(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        if self._hooked():
            return self._recorded.add_(X, y, share)
        with torch.no_grad():
            values = self._forth(X)
            value, slope = self._criterion.differentiate(values[-1], y)
            self._back_(values, slope.mul_(share))
        return value * share, values[-1].mT

    def _forth(self, X: Tensor) -> list[Tensor]:
        """The samples and every layer's values, each of shape (n_features, n_samples)."""
        values = [X.flatten(1).mT]
        for layer in self._layers:
            values.append(_affine(layer, values[-1]) if isinstance(layer, nn.Linear) else layer(values[-1]))
        return values

    def _back_(self, values: Sequence[Tensor], slope: Tensor) -> None:
        """From the loss's derivative by the outputs to the parameters' gradients."""
        for depth, layer in reversed(list(enumerate(self._layers))):
            if isinstance(layer, nn.Linear):
                _accumulate_(layer, values[depth], slope)
                slope = layer.weight.mT @ slope if depth else slope
            else:
                slope = BACKWARD[type(layer)](slope, values[depth + 1])

    def _hooked(self) -> bool:
        return any(layer._forward_hooks or layer._forward_pre_hooks for layer in self._layers)


def differentiation(network: nn.Module, criterion: Criterion, flat: bool) -> Differentiation:
    """The fastest way that works for this network.

    Parameters
    ----------
    flat : bool
        Whether samples are vectors already.
    """
    recorded, layers = Recorded(network, criterion), dense_layers(network, flat)
    known = all(type(layer) is nn.Linear or type(layer) in BACKWARD for layer in layers)
    return DenseChain(layers, recorded, criterion) if layers and known else recorded


def dense_layers(network: nn.Module, flat: bool) -> list[nn.Module]:
    """The layers of a sequence of dense layers and elementwise activations, none used twice; empty for any other.

    Parameters
    ----------
    flat : bool
        Whether samples are vectors already; otherwise a layer has to flatten them first.
    """
    modules = list(network) if type(network) is nn.Sequential else []
    layers = modules[1:] if modules and _flattens(modules[0]) else modules
    used = [id(parameter) for layer in layers for parameter in layer.parameters()]
    plain = all(type(layer) is nn.Linear or type(layer) in ELEMENTWISE for layer in layers)
    once = bool(used) and len(used) == len(set(used))
    return layers if plain and once and (flat or layers is not modules) else []


def _flattens(module: nn.Module) -> bool:
    return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def _affine(layer: nn.Linear, values: Tensor) -> Tensor:
    if layer.bias is None:
        return layer.weight @ values
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, values)


def _accumulate_(layer: nn.Linear, values: Tensor, slope: Tensor) -> None:
    """Add what a layer's inputs and the derivative by its outputs make to its parameters' gradients."""
    if layer.weight.grad is not None:
        layer.weight.grad.addmm_(slope, values.mT)
    if layer.bias is not None and layer.bias.grad is not None:
        layer.bias.grad.add_(slope.sum(dim=1))
