"""From a network with zeros to a smaller one."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from engine.agreement import difference, private
from engine.compaction.operations import Affine, Operation, inserted, selection
from engine.compaction.recognition import Recognition
from engine.compaction.recording import record, values

Operations = Mapping[fx.Node, Operation]
Masks = dict[fx.Node, Tensor]


def compact(module: nn.Module, example: Tensor) -> nn.Module:
    """A smaller network with the same answers, in eval mode on the CPU; the module is left as found.

    Layers keep their names. Dropped are units without incoming or outgoing weights, again and again until there are
    none: what is constant moves into the biases of its readers, unless these pad it with zeros; branches that add a
    constant become that constant; attention heads go as wholes; unread features are left out by an index. Code between
    layers may be anything whose course does not depend on values; units that such code reads stay.

    Parameters
    ----------
    module : nn.Module
    example : Tensor, shape (n, *input_shape)
        At least one sample like those it was trained on. The answers are compared on it and on random samples.

    Raises
    ------
    NotCompactable
        If the module's code cannot be followed.
    ExportFailed
        If the smaller network does not answer like the original.
    """
    network = record(private(module))
    found = _silenced(network, example)
    kept = _wanted(found, full=True)
    for operation in found.values():
        _select(network, operation, kept)
    with torch.random.fork_rng(devices=[]):
        for operation in found.values():
            operation.shrink(network, kept)
    smaller = _swept(network)
    difference(private(module), smaller, example)
    return smaller


def _silenced(network: fx.GraphModule, example: Tensor) -> dict[fx.Node, Operation]:
    """The operations that matter for the answer, once no unread unit has a weight."""
    computed, noisy = values(network, example), True
    while noisy:
        found = _live(Recognition(network, computed).operations())
        wanted = _wanted(found, full=False)
        layers = [(operation, ~wanted[node]) for node, operation in found.items() if isinstance(operation, Affine)]
        noisy = sum(layer.silence(unread & layer.units.varies) for layer, unread in layers) > 0
    return found


def _live(found: Operations) -> dict[fx.Node, Operation]:
    """The operations that the output reads, directly or not, in their order."""
    needed: set[fx.Node] = set()
    for node, operation in reversed(list(found.items())):
        if node.op in ("output", "placeholder") or node in needed:
            needed |= {node, *operation.sources}
    return {node: operation for node, operation in found.items() if node in needed}


def _wanted(found: Operations, full: bool) -> Masks:
    """Which units of every node are needed; with `full` none is without any, for layers of no units cannot run."""
    wanted = {node: torch.zeros_like(operation.units.varies) for node, operation in found.items()}
    while _spread(found, wanted) or (full and _filled(wanted)):
        pass
    return wanted


def _spread(found: Operations, wanted: Masks) -> bool:
    """Want what is needed for what is wanted; whether that was news."""
    before = {node: int(mask.sum()) for node, mask in wanted.items()}
    for node, operation in reversed(list(found.items())):
        for source, mask in zip(operation.sources, operation.reads(wanted[node]), strict=True):
            wanted[source] = wanted[source] | mask
    for node, operation in found.items():
        if operation.aligned:
            wanted[node] = wanted[node] | operation.lifted([wanted[source] for source in operation.sources])
    return any(int(mask.sum()) != before[node] for node, mask in wanted.items())


def _filled(wanted: Masks) -> bool:
    """Want one unit where none is; whether there were such nodes."""
    empty = [mask for mask in wanted.values() if len(mask) and not mask.any()]
    for mask in empty:
        mask[0] = True
    return bool(empty)


def _select(network: fx.GraphModule, operation: Operation, kept: Masks) -> None:
    """Leave out units that an operation cannot help having."""
    node, there = operation.node, operation.delivered(kept)
    if torch.equal(there, kept[node]):
        return
    index = (there.cumsum(0) - 1)[kept[node]]
    chosen = inserted(network, node, f"{node.name}_chosen", selection(operation.units.axis, index), node)
    node.replace_all_uses_with(chosen, delete_user_cb=lambda user: user is not chosen)


def _swept(network: fx.GraphModule) -> nn.Module:
    """The network without calls whose answer nobody reads."""
    for node in reversed(network.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            network.graph.erase_node(node)
    network.graph.lint()
    return fx.GraphModule(network, network.graph, class_name=type(network).__name__).eval()
