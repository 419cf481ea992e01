"""A compacted network's architecture as JSON, and back: layers with their settings, and the calls in their order."""

import inspect
import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.agreement import reason
from engine.compaction.parts import Select, Shift
from engine.errors import InvalidData, NotCompactable
from engine.networks import CausalSelfAttention, Places
from engine.structure import ACTIVATION, AFFINE, INERT, POOLING

F = nn.functional

NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm}
OTHERS = {nn.Flatten, nn.Unflatten, nn.Embedding, Places, CausalSelfAttention, Select, Shift}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    layer.__name__: layer for layer in AFFINE | ACTIVATION | INERT | POOLING | NORMS | OTHERS
}
ARITHMETIC = (operator.add, operator.iadd, operator.sub, operator.mul, operator.truediv, operator.getitem)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{function.__name__}": function for function in ARITHMETIC},
    **{f"torch.{name}": getattr(torch, name) for name in ("add", "cat", "flatten", "relu", "sigmoid", "tanh")},
    **{f"functional.{name}": getattr(F, name) for name in ("pad", "relu", "gelu", "silu", "elu", "softplus")},
}
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
METHODS = {"flatten", "mean", "permute", "relu", "reshape", "sigmoid", "sum", "tanh", "transpose", "view"}
READ_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def describe(network: nn.Module) -> str:
    """The architecture of a network that `compact` made, as JSON; `build` reads it.

    Raises
    ------
    NotCompactable
        If it has layers or code that the text cannot hold; networks of `engine.networks` have none.
    """
    if not isinstance(network, fx.GraphModule):
        raise NotCompactable(
            f"the architecture of {type(network).__name__} is code; that of a compacted network is not"
        )
    nodes = list(network.graph.nodes)
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    layers = {path: _described(network.get_submodule(path)) for path in called}
    document = {"name": type(network).__name__, "layers": layers, "calls": [_call(node) for node in nodes]}
    return json.dumps(document, separators=(",", ":"))


def build(architecture: str, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of that architecture with weights and buffers `state`, in eval mode.

    Raises
    ------
    InvalidData
        If the text is no architecture, or the weights are not its own.
    """
    try:
        document = json.loads(architecture)
        with torch.device("meta"):
            layers = {path: LAYERS[kind](**settings) for path, (kind, settings) in document["layers"].items()}
            network = fx.GraphModule(layers, _graph(document["calls"]), class_name=_named(document["name"]))
        network.load_state_dict(dict(state), assign=True)
    except READ_ERRORS as error:
        raise InvalidData(f"this is not the architecture of a compacted network: {reason(error)}") from error
    return network.eval()


def _described(layer: nn.Module) -> tuple[str, dict[str, Any]]:
    kind = type(layer).__name__
    if LAYERS.get(kind) is not type(layer):
        raise _beyond(f"a layer {kind}")
    names = [name for name in inspect.signature(type(layer)).parameters if hasattr(layer, name)]
    settings = {name: getattr(layer, name) for name in names}
    return kind, settings | ({"bias": settings["bias"] is not None} if "bias" in settings else {})


def _call(node: fx.Node) -> dict[str, Any]:
    args, kwargs = _encoded(node.args), {name: _encoded(value) for name, value in node.kwargs.items()}
    return {"name": node.name, "op": node.op, "target": _target(node), "args": args, "kwargs": kwargs}


def _target(node: fx.Node) -> str:
    if node.op in ("placeholder", "output", "call_module") or (node.op == "call_method" and node.target in METHODS):
        return str(node.target)
    for name, function in FUNCTIONS.items():
        if node.target is function:
            return name
    raise _beyond(f"{node.op} {getattr(node.target, '__name__', node.target)}")


def _beyond(what: str) -> NotCompactable:
    works = "onnx and torch_export hold the code of any network"
    return NotCompactable(f"a file of weights cannot say how to call {what}; {works}")


def _encoded(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [_encoded(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, list | tuple):
        return {"tuple": [_encoded(part) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _beyond(f"with {value!r}")


def _decoded(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "node":
        return nodes[content]
    parts = [_decoded(part, nodes) for part in content]
    return slice(*parts) if kind == "slice" else tuple(parts)


def _graph(calls: list[dict[str, Any]]) -> fx.Graph:
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for call in calls:
        args = _decoded(call["args"], nodes)
        kwargs = {_named(name): _decoded(value, nodes) for name, value in call["kwargs"].items()}
        nodes[call["name"]] = graph.create_node(call["op"], _resolved(call), args, kwargs, _named(call["name"]))
    graph.lint()
    return graph


def _resolved(call: Mapping[str, Any]) -> Any:
    if call["op"] == "call_function":
        return FUNCTIONS[call["target"]]
    if call["op"] == "call_method" and call["target"] not in METHODS:
        raise LookupError(f"unknown method {call['target']!r}")
    return _named(call["target"])


def _named(name: str) -> str:
    """The name; refuses what is none, for the graph is turned into code."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name")
    return name
