"""Which weights become zero together.

Groups follow the axes of the parameter tensors, so sums over all of them are sums over axes: a few operations per
tensor, none per group, and the same bits every time on every device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from engine.errors import InvalidSpec
from engine.layout import Block
from engine.penalties.base import selection
from engine.shrinking import Parts

Grouping = Literal["neuron", "filter", "input", "feature", "head"]


@final
@dataclass(frozen=True, slots=True)
class Panel:
    """A parameter tensor seen so that its middle axis counts groups.

    Parameters
    ----------
    start : int
        Place of its first weight.
    shape : tuple of int
        Weights before the axis, groups along it, weights after it.
    first : int
        Number of the first of these groups.
    """

    start: int
    shape: tuple[int, int, int]
    first: int

    @property
    def groups(self) -> slice:
        """The groups' numbers."""
        return slice(self.first, self.first + self.shape[1])

    def of(self, values: Tensor) -> Tensor:
        """This part of the flat `values`, a view of shape `shape`."""
        before, along, after = self.shape
        return values[self.start : self.start + before * along * after].view(self.shape)

    def across(self, per_group: Tensor) -> Tensor:
        """What its groups have of `per_group`, a view that broadcasts to `shape`."""
        return per_group[self.groups].view(1, -1, 1)

    def add_(self, total: Tensor, part: Tensor) -> None:
        """Add the sums of `part`, of shape `shape`, over its groups to theirs in `total`."""
        total[self.groups].add_(part.sum(dim=(0, 2)))


@final
class Partition:
    """Groups of the penalised weights of matrices, each weight in one.

    Parameters
    ----------
    blocks : sequence of Block
    parameters : str
        Which parameters are grouped, as in `selection`; vectors only where they are the bias of a grouped unit.
    grouping : str
        "neuron" or "filter": a hidden unit's incoming weights, and its bias; in the last of several layers the weights
        that read one unit, since its own are the network's answers. "input": the weights that read one input or channel
        of a layer. "feature": the same in the first layer, neurons in the others. "head": all that an attention head
        computes with (its rows of the projections to queries, keys and values, its columns of the one after them),
        neurons elsewhere.

    Attributes
    ----------
    member : Tensor of bool, shape (n_params,)
        The weights that are in a group.
    panels : tuple of Panel
        Where the groups' weights are.
    sizes : Tensor of float64, shape (n_groups,)
    layers : list of int
        Groups in each layer, in their order.

    Raises
    ------
    InvalidSpec
        If there is nothing to group so.
    """

    def __init__(self, blocks: Sequence[Block], parameters: str, grouping: Grouping) -> None:
        mask = selection(blocks, parameters)
        chosen = [block for block in blocks if bool(mask[block.start])]
        matrices = [block for block in chosen if len(block.shape) >= 2]
        if not matrices or (grouping == "head" and not any(block.heads for block in matrices)):
            what = "attention head" if matrices else "weight matrix"
            raise InvalidSpec(f"no {what} among parameters {parameters!r} to group by {grouping!r}")
        self._parameters, self._grouping = parameters, grouping
        self.panels = tuple(_panels(blocks, chosen, grouping))
        self.layers = list({panel.first: panel.shape[1] for panel in self.panels}.values())
        self.member = torch.zeros(blocks[-1].stop, dtype=torch.bool)
        for panel in self.panels:
            panel.of(self.member).fill_(True)
        self.sizes = self.sums(self.member.double())

    def __len__(self) -> int:
        return sum(self.layers)

    def among(self, parts: Parts) -> "Partition":
        """The groups of some of the weights, which count as of the sizes that they have with all."""
        among = Partition(parts.layout, self._parameters, self._grouping)
        number = self.spread(torch.arange(1.0, len(self) + 1, dtype=torch.float64), 0.0)
        among.sizes = self.sizes[among.largest(parts.of(number)).long() - 1]
        return among

    def parts(self, *vectors: Tensor) -> list[tuple[Panel, tuple[Tensor, ...]]]:
        """Every panel with its parts of `vectors`, each of shape (n_params,)."""
        return [(panel, tuple(map(panel.of, vectors))) for panel in self.panels]

    def sums(self, values: Tensor) -> Tensor:
        """The sum of `values`, shape (n_params,), over each group."""
        total = values.new_zeros(len(self))
        for panel in self.panels:
            panel.add_(total, panel.of(values))
        return total

    def largest(self, values: Tensor) -> Tensor:
        """The largest of `values`, shape (n_params,), in each group, at least 0."""
        most = values.new_zeros(len(self))
        for panel in self.panels:
            most[panel.groups] = torch.maximum(most[panel.groups].clone(), panel.of(values).amax(dim=(0, 2)))
        return most

    def spread(self, per_group: Tensor, rest: float) -> Tensor:
        """Each weight's group's value, shape (n_params,); `rest` for weights in no group."""
        return self.spread_(per_group.new_full((len(self.member),), rest), per_group)

    def scale_(self, values: Tensor, per_group: Tensor) -> Tensor:
        """`values`, shape (n_params,), times each weight's group's value, in place; others stay as they are."""
        for panel in self.panels:
            panel.of(values).mul_(panel.across(per_group))
        return values

    def spread_(self, values: Tensor, per_group: Tensor) -> Tensor:
        """`values`, shape (n_params,), with each weight's group's value written over; others stay as they are."""
        for panel in self.panels:
            panel.of(values).copy_(panel.across(per_group))
        return values


def _panels(blocks: Sequence[Block], chosen: Sequence[Block], grouping: Grouping) -> Iterator[Panel]:
    """Panels of the chosen matrices and of the biases that belong to them."""
    columns, first_of, count = _by_columns(blocks, grouping), dict[str, int](), 0
    for block in (block for block in chosen if len(block.shape) >= 2):
        heads = block.heads if grouping == "head" else 0
        dim = int(block.name.endswith("output.weight") if heads else block in columns)
        groups, owner = heads or block.shape[dim], block.name.removesuffix(".weight").rpartition(".")[0]
        first = first_of.setdefault(owner if heads else block.name, count)
        count = max(count, first + groups)
        yield Panel(block.start, _shape(block, dim, groups), first)
        for bias in chosen:
            if dim == 0 and bias.name == block.name.removesuffix("weight") + "bias":
                yield Panel(bias.start, (1, groups, bias.size // groups), first)


def _by_columns(blocks: Sequence[Block], grouping: Grouping) -> Sequence[Block]:
    """The matrices whose groups are columns: what reads a unit. The last one's rows are the network's answers."""
    matrices = [block for block in blocks if len(block.shape) >= 2]
    if grouping == "input":
        return matrices
    return [*(matrices[:1] if grouping == "feature" else ()), *matrices[1:][-1:]]


def _shape(block: Block, dim: int, groups: int) -> tuple[int, int, int]:
    before = block.shape[0] if dim else 1
    return before, groups, block.size // (before * groups)
