"""LassoNet's architecture: a linear layer from the inputs straight to the outputs, beside a dense network."""

from itertools import pairwise
from math import prod
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

SKIP, FIRST_LAYER = "skip.weight", "layers.0.weight"


class LassoNetwork(nn.Module):
    """The sum of a linear layer without a bias and a dense ReLU network, both on the flattened input.

    Parameters
    ----------
    widths : sequence of int
        Inputs, units of each hidden layer, outputs.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.skip = nn.Linear(widths[0], widths[-1], bias=False)
        dense = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*dense[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Scores, shape (n, n_outputs)."""
        flat = self.flatten(x)
        scores: Tensor = self.skip(flat) + self.layers(flat)
        return scores


def lassonet(
    input_shape: tuple[int, ...], n_outputs: int, *, hidden: tuple[Annotated[int, Ge(1)], ...] = (100,)
) -> nn.Module:
    """A dense ReLU network and beside it a linear layer from inputs to outputs: for the method of the same name.

    Parameters
    ----------
    hidden : tuple of int
        Units of each hidden layer; at least one layer.

    References
    ----------
    Lemhadri, Ruan, Abraham, Tibshirani, "LassoNet: a neural network with feature sparsity", JMLR 22, 2021.
    """
    return LassoNetwork((prod(input_shape), *hidden, n_outputs))
