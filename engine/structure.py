"""Which weights make a hidden unit's value and which read it, in networks that are plain chains of layers.

In an ``nn.Sequential`` a layer's outputs reach the next layer and nothing else. The code of other modules promises no
such thing, so their units are not found.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from engine.layout import Block, layout
from engine.networks import ACTIVATIONS

Affine = nn.Linear | nn.Conv2d

AFFINE = {nn.Linear, nn.Conv2d}
ACTIVATION = {type(make()) for make in ACTIVATIONS.values()}
HOMOGENEOUS = {nn.ReLU, nn.LeakyReLU}
INERT = {nn.Identity, nn.Dropout, nn.Dropout2d}
POOLING = {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d}


@final
@dataclass(frozen=True, slots=True)
class Joint:
    """The hidden units (neurons or filters) between two layers.

    Parameters
    ----------
    made_by, read_by : Block
        Weights of the layer that makes the units' values and of the one that reads them.
    bias, next_bias : Block or None
        The biases of these layers.
    activations : tuple of nn.Module
        What happens to the values on their way, each by itself.
    uniform : bool
        Whether a unit of one value everywhere is read as one value everywhere: nothing pads it with zeros.
    """

    made_by: Block
    bias: Block | None
    read_by: Block
    next_bias: Block | None
    activations: tuple[nn.Module, ...]
    uniform: bool

    @property
    def n_units(self) -> int:
        return self.made_by.shape[0]

    @property
    def homogeneous(self) -> bool:
        """Whether a unit whose value is scaled by c > 0 is read as c times what it was."""
        return all(type(activation) in HOMOGENEOUS for activation in self.activations)

    def incoming(self, theta: Tensor) -> Tensor:
        """The units' incoming weights, a view of `theta` of shape (n_units, fan_in)."""
        return view(theta, self.made_by).view(self.n_units, -1)

    def outgoing(self, theta: Tensor) -> Tensor:
        """The units' outgoing weights, a view of `theta` of shape (n_next, n_units, weights per connection)."""
        return view(theta, self.read_by).view(self.read_by.shape[0], self.n_units, -1)

    def activated(self, value: Tensor) -> Tensor:
        """What is read of units whose value is `value`, shape (n_units,), everywhere."""
        value = value.clone()
        for activation in self.activations:
            value = activation(value)
        return value


def view(theta: Tensor, block: Block) -> Tensor:
    """The block's part of the flat `theta`, in its shape."""
    return theta[block.start : block.stop].view(block.shape)


def joints(module: nn.Module) -> tuple[Joint, ...]:
    """The hidden units whose incoming and outgoing weights are certain, from the input to the output.

    They lie between two ``nn.Linear`` or ``nn.Conv2d`` with nothing but activations of `ACTIVATIONS`, dropout, pooling
    and flattening between. Layers that share or compute their weights are left out; so are networks with hooks.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return ()
    blocks, chain = _owned(module), list(_chain(module))
    layers = [(place, part) for place, part in enumerate(chain) if isinstance(part, Affine) and type(part) in AFFINE]
    found = (_joint(blocks, first, chain[a + 1 : b], last) for (a, first), (b, last) in pairwise(layers))
    return tuple(joint for joint in found if joint is not None)


def _owned(module: nn.Module) -> Mapping[int, Block]:
    """Blocks of the parameters that are used in one place, by the parameter's identity."""
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    found = zip(layout(module), module.parameters(), strict=True)
    return {id(parameter): block for block, parameter in found if uses[id(parameter)] == 1}


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential:
        for part in module:
            yield from _chain(part)
    else:
        yield module


def _joint(blocks: Mapping[int, Block], first: Affine, between: Sequence[nn.Module], last: Affine) -> Joint | None:
    parameters = [p for p in (first.weight, first.bias, last.weight, last.bias) if p is not None]
    if not all(id(parameter) in blocks for parameter in parameters) or not _fits(first, between, last):
        return None
    return Joint(
        made_by=blocks[id(first.weight)],
        bias=blocks.get(id(first.bias)),
        read_by=blocks[id(last.weight)],
        next_bias=blocks.get(id(last.bias)),
        activations=tuple(part for part in between if type(part) in ACTIVATION),
        uniform=not any(pads(part) for part in (*between, last)),
    )


def _fits(first: Affine, between: Sequence[nn.Module], last: Affine) -> bool:
    """Whether each weight of the last layer reads one unit of the first."""
    kinds = {type(part) for part in between}
    flat = any(isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (1, -1) for part in between)
    others = kinds - ACTIVATION - INERT - ({nn.Flatten} if flat else set())
    if isinstance(first, nn.Linear):
        return isinstance(last, nn.Linear) and first.out_features == last.in_features and not others
    if isinstance(last, nn.Linear):
        return flat and last.in_features % first.out_channels == 0 and others <= POOLING
    return not flat and last.groups == 1 and others <= POOLING


def pads(part: nn.Module) -> bool:
    """Whether zeros may be read at the borders, or a mean be divided by another count than that of its values."""
    if isinstance(part, nn.AvgPool2d):
        return part.padding not in (0, (0, 0)) or part.divisor_override is not None
    return isinstance(part, nn.Conv2d) and part.padding not in ((0, 0), "valid")
