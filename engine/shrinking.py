"""Networks without the units that zeros have cut off on both sides: no gradient reaches these, so they stay cut off."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import final

import torch
from torch import Tensor, nn

from engine.layout import Block, layout
from engine.stretches import STRETCH
from engine.structure import AFFINE, Joint, joints, view

WORTH = 0.6

Units = tuple[Tensor, ...]


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """Which part of every parameter tensor stays.

    Parameters
    ----------
    blocks : sequence of Block
        The whole network's.
    rows, columns : mapping of int to Tensor of int64
        What stays of a block's first two axes, by the place where it starts; all of it where nothing is said.
    """

    blocks: Sequence[Block]
    rows: Mapping[int, Tensor]
    columns: Mapping[int, Tensor]

    def __len__(self) -> int:
        """Weights that stay."""
        return sum(torch.Size(self._shape(block)).numel() for block in self.blocks)

    @property
    def layout(self) -> tuple[Block, ...]:
        """The blocks of what stays."""
        shapes = [self._shape(block) for block in self.blocks]
        starts = accumulate((torch.Size(shape).numel() for shape in shapes), initial=0)
        return tuple(
            replace(b, shape=shape, start=start) for b, shape, start in zip(self.blocks, shapes, starts, strict=False)
        )

    def of(self, values: Tensor) -> Tensor:
        """What stays of `values`, shape (n_params,); shape (n_staying,)."""
        return torch.cat([self._of(view(values, block), block).reshape(-1) for block in self.blocks])

    def whole(self, values: Tensor) -> Tensor:
        """`values`, shape (n_staying,), in their places; zero elsewhere, shape (n_params,)."""
        total = values.new_zeros(self.blocks[-1].stop)
        sizes = [torch.Size(self._shape(block)).numel() for block in self.blocks]
        for block, part in zip(self.blocks, torch.split(values, sizes), strict=True):
            self._place_(view(total, block), block, part.view(self._shape(block)))
        return total

    def shrink(self, block: Block, parameter: nn.Parameter) -> nn.Parameter:
        """A new parameter of what stays of one."""
        return nn.Parameter(self._of(parameter.detach(), block).clone())

    def _of(self, values: Tensor, block: Block) -> Tensor:
        for axis, index in self._indices(block):
            values = values.index_select(axis, index.to(values.device))
        return values

    def _place_(self, values: Tensor, block: Block, part: Tensor) -> None:
        indices = dict(self._indices(block))
        if len(indices) == 2:
            values[indices[0].to(values.device)[:, None], indices[1].to(values.device)] = part
        elif indices:
            ((axis, index),) = indices.items()
            values.index_copy_(axis, index.to(values.device), part)
        else:
            values.copy_(part)

    def _shape(self, block: Block) -> tuple[int, ...]:
        shape = list(block.shape)
        for axis, index in self._indices(block):
            shape[axis] = len(index)
        return tuple(shape)

    def _indices(self, block: Block) -> list[tuple[int, Tensor]]:
        found = enumerate((self.rows.get(block.start), self.columns.get(block.start)))
        return [(axis, index) for axis, index in found if index is not None]


@final
class Shrinking:
    """Finds a network's units that are cut off, and makes the network without them.

    A unit is cut off where all its incoming and outgoing weights and its bias are zero, and so is its value then:
    neither side gets a gradient.

    Parameters
    ----------
    module : nn.Module
        Its units are those of `engine.structure.joints`; there may be none.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._blocks = module, layout(module)
        self._joints = [joint for joint in joints(module) if _silent_at_zero(joint) and _separable(module, joint)]

    def units(self, theta: Tensor) -> Units:
        """Masks of the units that stay, one at least of each layer, for `theta` of shape (n_params,)."""
        return tuple(_kept(theta, joint) for joint in self._joints)

    def parts(self, units: Units) -> Parts | None:
        """What stays of the weights; None where that is most of them."""
        if all(bool(mask.all()) for mask in units):
            return None
        rows, columns = dict[int, Tensor](), dict[int, Tensor]()
        for joint, mask in zip(self._joints, units, strict=True):
            for made in (joint.made_by, joint.bias):
                if made:
                    rows[made.start] = mask.nonzero()[:, 0]
            each = joint.read_by.shape[1] // joint.n_units
            columns[joint.read_by.start] = mask.repeat_interleave(each).nonzero()[:, 0]
        parts = Parts(self._blocks, rows, columns)
        return parts if len(parts) <= WORTH * self._blocks[-1].stop else None

    def without(self, parts: Parts) -> nn.Module:
        """A copy of the network that has what stays and nothing else; the two share their buffers."""
        pairs = zip(self._blocks, self._module.parameters(), strict=True)
        weights = {id(parameter): parts.shrink(block, parameter) for block, parameter in pairs}
        shared = {id(buffer): buffer for buffer in self._module.buffers()}
        smaller = copy.deepcopy(self._module, {**weights, **shared})
        for layer in smaller.modules():
            _resize(layer)
        return smaller


def _kept(theta: Tensor, joint: Joint) -> Tensor:
    """By the sums of the weights' sizes, which take half the time of asking whether there are any."""
    used = torch.cat([part.abs().sum(dim=1) for part in _pieces(joint.incoming(theta))])
    for part in _pieces(joint.outgoing(theta)):
        used += part.abs().sum(dim=(0, 2))
    if joint.bias:
        used += view(theta, joint.bias).abs()
    kept = used != 0
    if not bool(kept.any()):
        kept[0] = True
    return kept


def _pieces(values: Tensor) -> Sequence[Tensor]:
    """Along the first axis, so small that sizes of all weights are never held at once."""
    return torch.split(values, max(1, STRETCH // values[0].numel()))


def _silent_at_zero(joint: Joint) -> bool:
    return not bool(joint.activated(torch.zeros(1)).any())


def _separable(module: nn.Module, joint: Joint) -> bool:
    """Whether each unit is made by itself, not in a group of filters."""
    return getattr(module.get_submodule(joint.made_by.name.rpartition(".")[0]), "groups", 1) == 1


def _resize(layer: nn.Module) -> None:
    """Have a layer say the sizes that its weights have."""
    if type(layer) not in AFFINE:
        return
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
