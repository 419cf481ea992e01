"""The sparse group lasso."""

from collections.abc import Sequence
from typing import Annotated, final

from annotated_types import Gt, Lt

from engine.layout import Block
from engine.penalties.groups import Grouping, Partition
from engine.penalties.searched import SearchedNorms


@final
class SparseGroup(SearchedNorms):
    """A share of the l1 norm, and the rest of the group lasso: whole units become zero, and weights within units.

    Parameters
    ----------
    blocks : sequence of Block
    groups : str
        What becomes zero together: "neuron" or "filter" (a unit's incoming weights, and its bias where penalised),
        "input" (what reads an input or channel of a layer), "feature" (what reads an input of the network; units in
        later layers), or "head" (an attention head; units elsewhere).
    share : float
        Share of the l1 norm, between 0 and 1.
    parameters : str
        Which parameters are penalised: "weights" (no biases, no norm layers), "all", or comma-separated name patterns.

    References
    ----------
    Simon, Friedman, Hastie, Tibshirani, "A sparse-group lasso", J. Comput. Graph. Stat. 22, 2013.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        groups: Grouping = "neuron",
        share: Annotated[float, Gt(0), Lt(1)] = 0.5,
        parameters: str = "weights",
    ) -> None:
        super().__init__(Partition(blocks, parameters, groups), single=share)
