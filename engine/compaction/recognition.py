"""Which operation a call is; what is not known for certain is opaque."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from engine.compaction import operations
from engine.compaction.operations import Opaque, Operation, Units, Unitwise
from engine.compaction.parts import Select
from engine.compaction.recording import SUMS, once
from engine.networks import CausalSelfAttention
from engine.structure import ACTIVATION, INERT, POOLING, pads

F = nn.functional
Found = Mapping[fx.Node, Operation]
Shape = tuple[int, ...]

NOTHING = Units((), 0, torch.zeros(0, dtype=torch.float64))
ACTIVATIONS = {F.relu, F.gelu, F.silu, F.elu, F.leaky_relu, F.softplus, torch.relu, torch.tanh, torch.sigmoid}
METHODS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
POOLS = {F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}
FLATTENS = {torch.flatten, "flatten"}
ALL = slice(None)


@final
class Recognition:
    """Goes through the calls of a network, in their order.

    Parameters
    ----------
    network : fx.GraphModule
    values : mapping of fx.Node
        What each node computes for an example.
    """

    def __init__(self, network: fx.GraphModule, values: Mapping[fx.Node, Any]) -> None:
        self._network, self._values, self._once = network, values, once(network)

    def operations(self) -> dict[fx.Node, Operation]:
        """The operation of every node."""
        found: dict[fx.Node, Operation] = {}
        for node in self._network.graph.nodes:
            found[node] = self._known(node, found) or self._opaque(node, found)
        return found

    def _known(self, node: fx.Node, found: Found) -> Operation | None:
        value, sources = self._values[node], node.all_input_nodes
        if not isinstance(value, Tensor) or not sources or not all(found[s].units.shape for s in sources):
            return None
        shape, read = tuple(value.shape), found[sources[0]]
        if len(sources) == 2:
            return _sum(node, found, shape)
        if len(sources) > 2 or node.args[:1] != (sources[0],):
            return None
        if node.op == "call_module":
            return self._layer(node, read, shape)
        return _function(node, read, shape)

    def _opaque(self, node: fx.Node, found: Found) -> Operation:
        value = self._values[node]
        units = Units.varying(tuple(value.shape)) if isinstance(value, Tensor) and value.dim() else NOTHING
        return Opaque(node, [found[source].units for source in node.all_input_nodes], units)

    def _layer(self, node: fx.Node, read: Operation, shape: Shape) -> Operation | None:
        layer = self._network.get_submodule(str(node.target))
        if len(node.args) > 1 or node.kwargs or layer.training:
            return None
        alone = str(node.target) in self._once
        if type(layer) in ACTIVATION | INERT | POOLING:
            return _unitwise(node, read.units, shape, layer)
        recognise = LAYERS.get(type(layer)) if alone else None
        return recognise(node, layer, read, shape) if recognise else None


def _unitwise(node: fx.Node, read: Units, shape: Shape, layer: nn.Module) -> Operation | None:
    if type(layer) in POOLING:
        fits = len(shape) == 4 and read.axis == 1 and not getattr(layer, "return_indices", False)
        return Unitwise(node, read, shape, _same, not pads(layer)) if fits else None
    return Unitwise(node, read, shape, layer, True)


def _linear(node: fx.Node, layer: nn.Linear, read: Operation, shape: Shape) -> Operation | None:
    fits = read.units.axis == len(shape) - 1
    return operations.Affine(node, layer, read.units, shape) if fits else None


def _convolution(node: fx.Node, layer: nn.Conv2d, read: Operation, shape: Shape) -> Operation | None:
    fits = layer.groups == 1 and len(shape) == 4 and read.units.axis == 1
    return operations.Affine(node, layer, read.units, shape) if fits else None


def _batch_norm(node: fx.Node, layer: nn.BatchNorm2d, read: Operation, shape: Shape) -> Operation | None:
    known = layer.running_mean is not None and layer.running_var is not None
    fits = known and read.units.axis == 1 and read.units.shape == shape
    return operations.Normalised(node, layer, read.units) if fits else None


def _layer_norm(node: fx.Node, layer: nn.LayerNorm, read: Operation, shape: Shape) -> Operation | None:
    if layer.weight is None or layer.weight.dim() != 1:
        return None
    fixed = torch.zeros_like(layer.weight) if layer.bias is None else layer.bias.detach()
    constant = torch.where(layer.weight == 0, fixed.double(), torch.nan)
    return Opaque(node, [read.units], Units(shape, len(shape) - 1, constant))


def _attention(node: fx.Node, layer: CausalSelfAttention, read: Operation, shape: Shape) -> Operation | None:
    return operations.Attention(node, layer, Units.varying(shape)) if read.units.shape == shape else None


def _select(node: fx.Node, layer: Select, read: Operation, shape: Shape) -> Operation | None:
    return operations.Selected(node, layer, read.units, shape) if layer.axis == read.units.axis else None


def _flatten(node: fx.Node, layer: nn.Flatten, read: Operation, shape: Shape) -> Operation | None:
    return _flattened(node, read, shape) if (layer.start_dim, layer.end_dim) == (1, -1) else None


LAYERS: dict[type[nn.Module], Callable[[fx.Node, Any, Operation, Shape], Operation | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    CausalSelfAttention: _attention,
    Select: _select,
    nn.Flatten: _flatten,
}


def _function(node: fx.Node, read: Operation, shape: Shape) -> Operation | None:
    target: Any = node.target
    if target in ACTIVATIONS or target in METHODS:
        apply = METHODS.get(target, target)
        settings = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        return Unitwise(node, read.units, shape, lambda value: apply(value, *node.args[1:], **settings), True)
    if target in POOLS and len(shape) == 4 and read.units.axis == 1 and not node.kwargs.get("return_indices"):
        return Unitwise(node, read.units, shape, _same, True)
    if target in FLATTENS and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
        return _flattened(node, read, shape)
    if target is operator.getitem:
        return _strided(node, read.units, shape)
    return _padded(node, read.units, shape) if target is F.pad else None


def _flattened(node: fx.Node, read: Operation, shape: Shape) -> Operation | None:
    if isinstance(read, Opaque) and len(read.units.shape) > 2:
        return None
    if read.units.axis != 1 or len(shape) != 2:
        return None
    return operations.Flattened(node, read.units, shape)


def _strided(node: fx.Node, read: Units, shape: Shape) -> Operation | None:
    places = node.args[1]
    fits = isinstance(places, tuple) and places[:2] == (ALL, ALL) and all(isinstance(p, slice) for p in places)
    return Unitwise(node, read, shape, _same, True) if fits and read.axis == 1 else None


def _padded(node: fx.Node, read: Units, shape: Shape) -> Operation | None:
    zeros = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value")
    amounts: Any = node.args[1] if len(node.args) == 2 and zeros else None
    fits = isinstance(amounts, tuple) and len(amounts) == 6 and amounts[:4] == (0, 0, 0, 0) and len(shape) == 4
    if not fits or read.axis != 1 or min(amounts) < 0:
        return None
    return operations.Padded(node, read, shape, amounts[4])


def _sum(node: fx.Node, found: Found, shape: Shape) -> Operation | None:
    if node.target not in SUMS or len(node.args) != 2 or node.kwargs:
        return None
    first, later = sorted(node.all_input_nodes)
    left, right = found[first].units, found[later].units
    if (left.shape, right.shape, left.axis) != (shape, shape, right.axis):
        return None
    if not right.varies.any():
        return operations.Shifted(node, first, left, right)
    if not left.varies.any():
        return operations.Shifted(node, later, right, left)
    return operations.Added(node, (first, later), left, right)


def _same(value: Tensor) -> Tensor:
    return value
