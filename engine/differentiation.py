"""How a network's gradient is found: from a record of its evaluation, or written out for dense layers in a row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from engine.criteria import Criterion
from engine.networks import ACTIVATIONS
from engine.pixels import Read

ELEMENTWISE = tuple(type(make()) for make in ACTIVATIONS.values())
FORTH: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
}
BACK: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda slope, values: slope.mul_(values.sign()),
    nn.Tanh: torch.ops.aten.tanh_backward.default,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward.default,
}


class Differentiation(ABC):
    """One network's loss, alone or with the gradient."""

    @property
    @abstractmethod
    def recording(self) -> bool:
        """Whether the gradient needs torch's record."""

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
    def gradient_(self, X: Tensor, y: Tensor, share: float = 1.0, added: bool = False) -> tuple[Tensor, Tensor]:
        """The same as `value`; the gradient is written over the parameters' ``grad``, or `added` to it."""


@final
class Recorded(Differentiation):
    """By torch's record of the evaluation: for any network.

    Parameters
    ----------
    network : nn.Module
    criterion : Criterion
    read : callable, optional
        What the network is evaluated by, if not by itself.
    """

    def __init__(self, network: nn.Module, criterion: Criterion, read: Read | None = None) -> None:
        self._read, self._criterion = read or network, criterion
        self._gradients = [_gradient(parameter) for parameter in network.parameters()]

    @property
    def recording(self) -> bool:
        return True

    def value(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        outputs = self._read(X)
        return self._criterion(outputs, y) * share, outputs

    def gradient_(self, X: Tensor, y: Tensor, share: float = 1.0, added: bool = False) -> tuple[Tensor, Tensor]:
        if not added:
            torch._foreach_zero_(self._gradients)
        value, outputs = self.value(X, y, share)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), outputs.detach()


class _Layer(ABC):
    """A layer of columns."""

    @abstractmethod
    def forth(self, values: Tensor) -> Tensor:
        """What it makes of its inputs, both of shape (n_features, n_samples)."""

    def learn_(self, inputs: Tensor, slope: Tensor, ones: Tensor, kept: float) -> None:  # noqa: B027 - activations have none
        """Write the parameters' gradients, from the derivative by the outputs, onto a share of them that is `kept`."""

    @abstractmethod
    def back_(self, outputs: Tensor, slope: Tensor) -> Tensor:
        """From the derivative by the outputs, which may be used up, to that by the inputs."""


@final
class _Affine(_Layer):
    """A dense layer; its parameters and their gradients are looked up once, since a look costs as much as a product."""

    def __init__(self, layer: nn.Linear) -> None:
        self._weight, self._grad = layer.weight.detach(), _gradient(layer.weight)
        self._transposed = self._weight.mT
        self._bias = None if layer.bias is None else layer.bias.detach().unsqueeze(1)
        self._bias_grad = None if layer.bias is None else _gradient(layer.bias)

    def forth(self, values: Tensor) -> Tensor:
        product = torch.mm(self._weight, values)
        return product if self._bias is None else product.add_(self._bias)

    def learn_(self, inputs: Tensor, slope: Tensor, ones: Tensor, kept: float) -> None:
        self._grad.addmm_(slope, inputs.mT, beta=kept)
        if self._bias_grad is not None:
            self._bias_grad.addmv_(slope, ones, beta=kept)

    def back_(self, outputs: Tensor, slope: Tensor) -> Tensor:
        return torch.mm(self._transposed, slope)


@final
class _Elementwise(_Layer):
    """An activation."""

    def __init__(self, layer: nn.Module) -> None:
        self._forth, self._back = FORTH[type(layer)], BACK[type(layer)]

    def forth(self, values: Tensor) -> Tensor:
        return self._forth(values)

    def back_(self, outputs: Tensor, slope: Tensor) -> Tensor:
        return self._back(slope, outputs)


@final
class DenseChain(Differentiation):
    """Dense layers in a row, forth and back without a record: a small network's record takes longer than its products.

    Samples are columns, so that activations of narrow layers are few long rows.

    Parameters
    ----------
    layers : sequence of nn.Module
        As `dense_layers` finds them, with the parameters and gradients that they keep.
    recorded : Recorded
        Of the same network, for while one of its layers has hooks.
    criterion : Criterion
    """

    def __init__(self, layers: Sequence[nn.Module], recorded: Recorded, criterion: Criterion) -> None:
        self._hooks = [hooks for layer in layers for hooks in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._layers = [_Affine(layer) if isinstance(layer, nn.Linear) else _Elementwise(layer) for layer in layers]
        self._recorded, self._criterion = recorded, criterion

    @property
    def recording(self) -> bool:
        return any(self._hooks)

    def value(self, X: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        if self.recording:
            return self._recorded.value(X, y, share)
        outputs = self._forth(X)[-1]
        return self._criterion.differentiate(outputs, y)[0] * share, outputs.mT

    def gradient_(self, X: Tensor, y: Tensor, share: float = 1.0, added: bool = False) -> tuple[Tensor, Tensor]:
        if self.recording:
            return self._recorded.gradient_(X, y, share, added)
        values = self._forth(X)
        value, slope = self._criterion.differentiate(values[-1], y)
        if share != 1.0:
            value, slope = value * share, slope.mul_(share)
        self._back_(values, slope, float(added))
        return value, values[-1].mT

    def _forth(self, X: Tensor) -> list[Tensor]:
        """The samples and every layer's values, each of shape (n_features, n_samples)."""
        values = [X.mT if X.dim() == 2 else X.flatten(1).mT]
        for layer in self._layers:
            values.append(layer.forth(values[-1]))
        return values

    def _back_(self, values: list[Tensor], slope: Tensor, kept: float) -> None:
        """From the loss's derivative by the outputs to the parameters' gradients."""
        ones = slope.new_ones(slope.shape[1])
        for depth in range(len(self._layers) - 1, -1, -1):
            self._layers[depth].learn_(values[depth], slope, ones, kept)
            if depth:
                slope = self._layers[depth].back_(values[depth + 1], slope)


def differentiation(network: nn.Module, criterion: Criterion, flat: bool, read: Read | None = None) -> Differentiation:
    """The fastest way that works for this network.

    Parameters
    ----------
    flat : bool
        Whether samples are vectors already.
    read : callable, optional
        What the network is evaluated by where its evaluation is recorded, if not by itself.
    """
    recorded, layers = Recorded(network, criterion, read), dense_layers(network, flat)
    known = all(type(layer) is nn.Linear or type(layer) in FORTH for layer in layers)
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


def _gradient(parameter: Tensor) -> Tensor:
    """Where a parameter's gradient is kept."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
