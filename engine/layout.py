"""Where a network's parameters stand in one flat vector."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from engine.errors import InvalidSpec

Kind = Literal["weight", "bias", "norm"]

PROJECTIONS = {f"{projection}.weight" for projection in ("query", "key", "value", "output")}


@dataclass(frozen=True, slots=True)
class Block:
    """One parameter tensor's place in the flat vector: ``theta[start:stop].view(shape)``.

    Parameters
    ----------
    heads : int
        Attention heads that share the tensor evenly, by rows, or by columns where it is the projection after them;
        0 where it is no part of an attention block.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: Kind = "weight"
    heads: int = 0

    @property
    def size(self) -> int:
        return int(torch.Size(self.shape).numel())

    @property
    def stop(self) -> int:
        return self.start + self.size


def layout(module: nn.Module) -> tuple[Block, ...]:
    """The parameter tensors of `module` as blocks of one flat vector, in the order of ``module.parameters()``.

    Attention is known by its names: linear layers ``attention.query``, ``.key``, ``.value`` and ``.output`` in a module
    that has the number of its heads as ``n_heads``.
    """
    blocks, start = [], 0
    kinds = {
        id(p): _kind(owner, name) for owner in module.modules() for name, p in owner.named_parameters(recurse=False)
    }
    for name, parameter in module.named_parameters():
        blocks.append(Block(name, tuple(parameter.shape), start, kinds[id(parameter)], _heads(module, name)))
        start = blocks[-1].stop
    if not blocks:
        raise InvalidSpec(f"network {type(module).__name__} has no parameters to trace")
    return tuple(blocks)


def _kind(owner: nn.Module, name: str) -> Kind:
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    if isinstance(owner, norms):
        return "norm"
    return "bias" if name.endswith("bias") else "weight"


def _heads(module: nn.Module, name: str) -> int:
    """The heads that share the parameter called `name`."""
    owner, attention, projection = name.rpartition("attention.")
    if not attention or projection not in PROJECTIONS:
        return 0
    found = getattr(module.get_submodule(f"{owner}attention"), "n_heads", 0)
    return found if isinstance(found, int) else 0
