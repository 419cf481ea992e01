"""A module's computation as a graph of calls.

`torch.fx` notes what happens to a stand-in for the input. Its own tracer patches ``nn.Module`` for the whole process
while it does so; here only a private copy's layers are stood in for, so that other threads may use networks meanwhile.
"""

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from engine.agreement import reason
from engine.compaction.parts import Select, Shift
from engine.errors import NotCompactable
from engine.networks import CausalSelfAttention, Places

OURS = {CausalSelfAttention, Places, Select, Shift}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MAKES_ITS_ANSWER = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.MaxPool2d, nn.AvgPool2d)
SUMS = {operator.add, operator.iadd, torch.add}
WRITES = {"isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "setitem"}
CODE_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NameError, fx.proxy.TraceError)


def record(module: nn.Module) -> fx.GraphModule:
    """The module as a graph of calls to its layers and to functions; the layers are the module's own.

    Parameters
    ----------
    module : nn.Module
        In eval mode on the CPU, and nobody else's.

    Raises
    ------
    NotCompactable
        If the module's code does not do the same for every sample, or changes values that others may read.
    """
    name = type(module).__name__
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        raise NotCompactable(f"network {name} has hooks, which a smaller network cannot keep; {_known()}")
    root = nn.Sequential(module) if _is_layer(module) else module
    try:
        graph = _Recorder(root).recorded()
    except CODE_ERRORS as error:
        raise NotCompactable(f"the code of network {name} cannot be followed ({reason(error)}); {_known()}") from error
    for node in graph.nodes:
        _unwrite(name, root, node)
    return fx.GraphModule(root, graph, class_name=name)


def once(network: fx.GraphModule) -> set[str]:
    """The layers that are called once and share no parameter with another layer or with a function."""
    calls = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    named = list(network.named_parameters(remove_duplicate=False))
    uses = Counter(id(parameter) for _, parameter in named)
    direct = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    shared = {name.rpartition(".")[0] for name, parameter in named if uses[id(parameter)] > 1 or name in direct}
    return {name for name, count in calls.items() if count == 1 and name not in shared}


@final
class _Recorder(fx.Tracer):
    """Calls the module with a stand-in; layers answer with stand-ins of their own."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root, self.graph, self.tensor_attrs = root, fx.Graph(), {}

    def recorded(self) -> fx.Graph:
        layers = {path: layer for path, layer in self.root.named_modules() if _is_layer(layer)}
        for path, layer in layers.items():
            layer.forward = self._stand_in(path)
        try:
            answer = self.root(self.create_proxy("placeholder", "input", (), {}))
        finally:
            for layer in layers.values():
                del layer.__dict__["forward"]
        self.create_node("output", "output", (self.create_arg(answer),), {})
        return self.graph

    def _stand_in(self, path: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.create_proxy("call_module", path, args, kwargs)


def _is_layer(module: nn.Module) -> bool:
    builtin = type(module).__module__.startswith("torch.nn") and not isinstance(module, CONTAINERS)
    return builtin or type(module) in OURS


def _unwrite(name: str, root: nn.Module, node: fx.Node) -> None:
    """Let the node make a new value where it changes one in place that nobody else reads."""
    layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    written = node.target is operator.iadd or node.kwargs.get("inplace") or getattr(layer, "inplace", False)
    if _is_written_for_good(node) or (written and not _is_fresh(root, node.args[0])):
        raise NotCompactable(f"network {name} changes values in place in {node.name!r}; {_known()}")
    if node.target is operator.iadd:
        node.target = operator.add
    if "inplace" in node.kwargs:
        node.update_kwarg("inplace", False)
    if layer is not None and getattr(layer, "inplace", False):
        layer.__dict__["inplace"] = False


def _is_written_for_good(node: fx.Node) -> bool:
    called = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = called in WRITES or (called.endswith("_") and not called.endswith("__"))
    return node.op in ("call_function", "call_method") and (in_place or "out" in node.kwargs)


def _is_fresh(root: nn.Module, source: Any) -> bool:
    """Whether a value has memory of its own and one reader."""
    if not isinstance(source, fx.Node) or len(source.users) > 1:
        return False
    if source.op == "call_module":
        return isinstance(root.get_submodule(str(source.target)), MAKES_ITS_ANSWER)
    return source.op == "call_function" and source.target in SUMS


def _known() -> str:
    return "known to work: the registered networks, and modules without branches on values, loops over them, or hooks"


def values(network: fx.GraphModule, example: Tensor) -> dict[fx.Node, Any]:
    """What every node of the network computes for `example`."""
    interpreter = _Remembering(network)
    with torch.no_grad():
        interpreter.run(example)
    return interpreter.found


@final
class _Remembering(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.found[n] = super().run_node(n)
        return self.found[n]
