"""What the calls of a network do to units (neurons, filters, features): keep them apart, mix them, or nobody knows.

Every operation says which of its units are the same for every sample, and which units of what it reads are needed for
those that are wanted of it. Where nothing is known, nothing is constant and everything is needed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast, final

import torch
from torch import Tensor, fx, nn

from engine.compaction.parts import Select, Shift
from engine.networks import CausalSelfAttention
from engine.structure import pads

Masks = Sequence[Tensor]
Kept = Mapping[fx.Node, Tensor]
Apply = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The units of a value.

    Parameters
    ----------
    shape : tuple of int
        Of the value, for the example.
    axis : int
        Along which the units lie.
    constant : Tensor, shape (n_units,), float64
        The value of a unit that is the same everywhere for every sample; NaN for others.
    """

    shape: tuple[int, ...]
    axis: int
    constant: Tensor

    @classmethod
    def varying(cls, shape: tuple[int, ...]) -> "Units":
        """Units of which nothing is known: along axis 1 of images, else along the last."""
        axis = 1 if len(shape) == 4 else len(shape) - 1
        return cls(shape, axis, torch.full((shape[axis],), torch.nan, dtype=torch.float64))

    @property
    def varies(self) -> Tensor:
        return self.constant.isnan()


class Operation(ABC):
    """A call in the graph of a network.

    Parameters
    ----------
    node : fx.Node
    sources : sequence of fx.Node
        The nodes whose units it reads.
    units : Units
        What is known of its own.
    """

    aligned = False

    def __init__(self, node: fx.Node, sources: Sequence[fx.Node], units: Units) -> None:
        self.node, self.sources, self.units = node, tuple(sources), units

    @abstractmethod
    def reads(self, wanted: Tensor) -> Masks:
        """Which units of each source are needed for those `wanted`, shape (n_units,)."""

    def lifted(self, wanted: Masks) -> Tensor:
        """Which of its units stay, shape (n_units,), because those of an aligned operation's sources do."""
        return torch.zeros_like(self.units.varies)

    def delivered(self, kept: Kept) -> Tensor:
        """Which of its units it has, shape (n_units,), once it is smaller."""
        return kept[self.node]

    @abstractmethod
    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        """Make the call smaller, where its sources have only the units that are `kept`."""


@final
class Opaque(Operation):
    """Nobody knows: it reads and has all units."""

    def __init__(self, node: fx.Node, read: Sequence[Units], units: Units) -> None:
        super().__init__(node, node.all_input_nodes, units)
        self.everything = [torch.ones_like(source.varies) for source in read]

    def reads(self, wanted: Tensor) -> Masks:
        return self.everything

    def delivered(self, kept: Kept) -> Tensor:
        return torch.ones_like(kept[self.node])

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        """It stays as it is."""


@final
class Unitwise(Operation):
    """Activations, pooling, dropout: each unit by itself, all alike.

    Parameters
    ----------
    apply : callable
        What it does to values.
    uniform : bool
        Whether a constant stays one at the borders.
    """

    aligned = True

    def __init__(self, node: fx.Node, units: Units, shape: tuple[int, ...], apply: Apply, uniform: bool) -> None:
        constant = torch.where(units.varies, torch.nan, apply(units.constant.nan_to_num()))
        if not uniform:
            constant = torch.where(units.constant == 0, constant, torch.nan)
        super().__init__(node, node.all_input_nodes, Units(shape, units.axis, constant))

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted]

    def lifted(self, wanted: Masks) -> Tensor:
        return wanted[0]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        """It takes any number of units."""


@final
class Affine(Operation):
    """A linear layer or a convolution.

    Parameters
    ----------
    layer : nn.Linear or nn.Conv2d
        Without groups.
    read : Units
        Those of its source.
    shape : tuple of int
        Of its answer.

    Attributes
    ----------
    needs : Tensor, shape (n_units, n_sources)
        Which units read which sources by a weight, and not as a constant that the bias can hold.
    """

    def __init__(self, node: fx.Node, layer: nn.Linear | nn.Conv2d, read: Units, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.weight = layer.weight.detach().reshape(*layer.weight.shape[:2], -1)
        fixed = ~read.varies & ((read.constant == 0) | (not pads(layer)))
        self.constants = torch.where(fixed, read.constant, 0.0)
        self.needs = (self.weight != 0).any(2) & ~fixed
        constant = torch.where(self.needs.any(1), torch.nan, self.bias(torch.ones_like(fixed)).double())
        super().__init__(node, node.all_input_nodes, Units(shape, read.axis, constant))

    def bias(self, dropped: Tensor) -> Tensor:
        """The biases that make up for constant sources, `dropped` of shape (n_sources,), shape (n_units,)."""
        own = 0.0 if self.layer.bias is None else self.layer.bias.detach().double()
        held = self.weight.double().sum(2) @ torch.where(dropped, self.constants, 0.0)
        return (own + held).to(self.weight.dtype)

    def silence(self, unread: Tensor) -> bool:
        """Drop the incoming weights of units that nothing reads; whether there were."""
        parameters = [parameter for parameter in (self.layer.weight, self.layer.bias) if parameter is not None]
        alive = any(bool(parameter[unread].any()) for parameter in parameters)
        for parameter in parameters:
            parameter.data[unread] = 0
        return alive

    def reads(self, wanted: Tensor) -> Masks:
        return [self.needs[wanted].any(0)]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        rows, columns = kept[self.node], kept[self.sources[0]]
        bias, weight = self.bias(~columns)[rows], self.layer.weight.detach()[rows][:, columns]
        held = self.layer.bias is not None or bool(bias.any())
        replace(network, self.node, self._sized(weight, bias if held else None))

    def _sized(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        n_units, n_sources = weight.shape[:2]
        if isinstance(self.layer, nn.Linear):
            return loaded(nn.Linear(n_sources, n_units, bias is not None), weight=weight, bias=bias)
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        settings = {name: getattr(self.layer, name) for name in names}
        return loaded(nn.Conv2d(n_sources, n_units, bias=bias is not None, **settings), weight=weight, bias=bias)


@final
class Normalised(Operation):
    """Batch norm with the statistics it has learned: each unit scaled and shifted by itself."""

    aligned = True

    def __init__(self, node: fx.Node, layer: nn.BatchNorm1d | nn.BatchNorm2d, read: Units) -> None:
        self.layer = layer
        with torch.no_grad():
            mean, variance, weight, bias = map(_double, self._tensors())
            answers = nn.functional.batch_norm(read.constant[None], mean, variance, weight, bias, eps=layer.eps)[0]
        still = torch.zeros_like(read.varies) if layer.weight is None else layer.weight == 0
        fixed = torch.zeros_like(answers) if layer.bias is None else layer.bias.detach().double()
        super().__init__(node, node.all_input_nodes, Units(read.shape, 1, torch.where(still, fixed, answers)))

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.layer.running_mean, self.layer.running_var, self.layer.weight, self.layer.bias

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted]

    def lifted(self, wanted: Masks) -> Tensor:
        return wanted[0]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        chosen = kept[self.node]
        tensors = {name: t[chosen] if t.dim() else t for name, t in self.layer.state_dict().items()}
        smaller = type(self.layer)(int(chosen.sum()), self.layer.eps, self.layer.momentum, self.layer.affine)
        replace(network, self.node, loaded(smaller, **tensors))


@final
class Flattened(Operation):
    """Every unit's values, one behind the other, as units of their own."""

    def __init__(self, node: fx.Node, read: Units, shape: tuple[int, ...]) -> None:
        self.places = prod(read.shape[2:])
        super().__init__(node, node.all_input_nodes, Units(shape, 1, read.constant.repeat_interleave(self.places)))

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted.view(-1, self.places).any(1)]

    def delivered(self, kept: Kept) -> Tensor:
        return kept[self.sources[0]].repeat_interleave(self.places)

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        """It takes any number of units."""


@final
class Added(Operation):
    """Two values with the same units."""

    aligned = True

    def __init__(self, node: fx.Node, sources: Sequence[fx.Node], left: Units, right: Units) -> None:
        super().__init__(node, sources, Units(left.shape, left.axis, left.constant + right.constant))

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted, wanted]

    def lifted(self, wanted: Masks) -> Tensor:
        return wanted[0] | wanted[1]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        """It takes any number of units."""


@final
class Shifted(Operation):
    """A sum of which one part is the same for every sample; that part is read no more.

    Parameters
    ----------
    source : fx.Node
        The other part.
    read, fixed : Units
        Those of the two parts.
    """

    aligned = True

    def __init__(self, node: fx.Node, source: fx.Node, read: Units, fixed: Units) -> None:
        self.fixed, self.place = fixed.constant, node.args.index(source)
        super().__init__(node, [source], Units(read.shape, read.axis, read.constant + fixed.constant))

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted]

    def lifted(self, wanted: Masks) -> Tensor:
        return wanted[0]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        source, values = (
            read_by(self.node, self.place),
            self.fixed[kept[self.node]].to(next(network.parameters()).dtype),
        )
        if values.any():
            places = len(self.units.shape) - 1 - self.units.axis
            part = loaded(Shift(len(values), places), value=values.view(-1, *[1] * places))
            source = inserted(network, self.node.prev, f"{self.node.name}_shift", part, source)
        self.node.replace_all_uses_with(source)


@final
class Padded(Operation):
    """Units that are zero, before and behind those of the source."""

    aligned = True

    def __init__(self, node: fx.Node, read: Units, shape: tuple[int, ...], before: int) -> None:
        self.span = slice(before, before + read.shape[1])
        constant = torch.zeros(shape[1], dtype=torch.float64)
        constant[self.span] = read.constant
        super().__init__(node, node.all_input_nodes, Units(shape, 1, constant))

    def reads(self, wanted: Tensor) -> Masks:
        return [wanted[self.span]]

    def lifted(self, wanted: Masks) -> Tensor:
        found = torch.zeros_like(self.units.varies)
        found[self.span] = wanted[0]
        return found

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        chosen = kept[self.node]
        before, behind = (int(chosen[part].sum()) for part in (slice(self.span.start), slice(self.span.stop, None)))
        self.node.update_arg(1, (0, 0, 0, 0, before, behind))
        if not before + behind:
            self.node.replace_all_uses_with(read_by(self.node))


@final
class Selected(Operation):
    """Some of the source's units."""

    def __init__(self, node: fx.Node, layer: Select, read: Units, shape: tuple[int, ...]) -> None:
        self.layer, self.size = layer, read.shape[read.axis]
        self.index = layer.index.long()
        super().__init__(node, node.all_input_nodes, Units(shape, read.axis, read.constant[self.index]))

    def reads(self, wanted: Tensor) -> Masks:
        found = torch.zeros(self.size, dtype=torch.bool)
        found[self.index[wanted]] = True
        return [found]

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        chosen = self.index[kept[self.node]]
        there = kept[self.sources[0]]
        places = (there.cumsum(0) - 1)[chosen]
        if torch.equal(places, torch.arange(int(there.sum()))):
            self.node.replace_all_uses_with(read_by(self.node))
        else:
            replace(network, self.node, selection(self.layer.axis, places))


@final
class Attention(Operation):
    """Heads that read nothing, or that nothing reads, go; the width stays."""

    def __init__(self, node: fx.Node, layer: CausalSelfAttention, units: Units) -> None:
        self.layer = layer
        by_head = (layer.n_heads, layer.head_width)
        values = (layer.value.weight != 0).any(1).view(by_head).any(1)
        read = (layer.output.weight != 0).any(0).view(by_head).any(1)
        self.live = values & read
        self.columns = self.live.repeat_interleave(layer.head_width)
        varies = (layer.output.weight[:, self.columns] != 0).any(1)
        constant = torch.where(varies, torch.nan, self.bias().double())
        super().__init__(node, node.all_input_nodes, Units(units.shape, units.axis, constant))

    def bias(self) -> Tensor:
        """Biases that hold what the dead heads answer: attention's shares sum to one, so it is their values' bias."""
        output, dead = self.layer.output, ~self.columns
        held = output.weight.detach().double()[:, dead] @ self.layer.value.bias.detach().double()[dead]
        return (output.bias.detach().double() + held).to(output.weight.dtype)

    def reads(self, wanted: Tensor) -> Masks:
        return [torch.ones_like(wanted)]

    def delivered(self, kept: Kept) -> Tensor:
        return torch.ones_like(kept[self.node])

    def shrink(self, network: fx.GraphModule, kept: Kept) -> None:
        columns, layer = self.columns.clone(), self.layer
        if not columns.any():
            columns[: layer.head_width] = True
        smaller = CausalSelfAttention(layer.width, int(columns.sum()) // layer.head_width, layer.head_width)
        tensors = {f"{name}.{kind}": t[columns] for name in ("query", "key", "value") for kind, t in _pair(layer, name)}
        weight = torch.where(self.columns, layer.output.weight.detach(), 0.0)[:, columns]
        tensors |= {"output.weight": weight, "output.bias": self.bias()}
        replace(network, self.node, loaded(smaller, **tensors))


def loaded(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The layer with these parameters and buffers, in eval mode."""
    layer.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, assign=True)
    return layer.eval()


def selection(axis: int, index: Tensor) -> nn.Module:
    """The part that takes units `index` along `axis`."""
    return loaded(Select(axis, len(index)), index=index.to(torch.int32))


def read_by(node: fx.Node, place: int = 0) -> fx.Node:
    """What a node reads now, which may be the units chosen of what it read before."""
    return cast(fx.Node, node.args[place])


def replace(network: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Let the node call another layer under the same name."""
    network.set_submodule(str(node.target), layer)


def inserted(network: fx.GraphModule, place: fx.Node, name: str, layer: nn.Module, source: fx.Node) -> fx.Node:
    """The call of a new layer on `source`, just behind `place`."""
    network.add_submodule(name, layer)
    with network.graph.inserting_after(place):
        return network.graph.call_module(name, (source,))


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()


def _pair(layer: CausalSelfAttention, name: str) -> list[tuple[str, Tensor]]:
    return list(layer.get_submodule(name).state_dict().items())
