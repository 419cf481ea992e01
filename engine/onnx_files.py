"""ONNX files of networks. Apart from the other formats, as what writes them takes a second to load."""

from collections.abc import Callable, Set
from typing import Any

import onnx
import onnxruntime
import onnxscript.optimizer
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor, nn

from engine.agreement import reason
from engine.errors import ExportFailed

RUNTIME_ERRORS = (
    *(runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf),
    *(runtime.NotImplemented, runtime.RuntimeException, runtime.EPFail),
)


def exported(module: nn.Module, samples: Tensor) -> onnx.ModelProto:
    """A network as a model for any batch size, without what the exporter notes about its source."""
    program = torch.onnx.export(
        module,
        (samples,),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        optimize=False,  # the optimiser merges batch norm into weights and equal (all-zero) tensors into one
    )
    if program is None:
        raise ExportFailed("the ONNX exporter gave no program")
    folded: onnx.ModelProto = program.model_proto
    _fold(folded, {name for name, _ in module.named_parameters()})
    _strip(folded)
    return folded


def checked(model: onnx.ModelProto) -> bytes:
    """The model as a file.

    Raises
    ------
    ExportFailed
        If it is not valid.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportFailed(f"the ONNX file is not valid: {reason(error)}") from error


def runner(payload: bytes) -> Callable[[Tensor], Tensor]:
    """What answers batches by a file, in onnxruntime; what that refuses is a `RuntimeError`.

    Raises
    ------
    ExportFailed
        If onnxruntime cannot load the file.
    """
    try:
        session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ExportFailed(f"onnxruntime cannot load the ONNX file: {reason(error)}") from error

    def answer(samples: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {"input": samples.numpy()})[0])
        except RUNTIME_ERRORS as error:
            raise RuntimeError(reason(error)) from error

    return answer


def _fold(model: onnx.ModelProto, kept: Set[str]) -> None:
    """Compute in advance what does not depend on the input; these weights stay as they are, under their names."""

    def should_fold(node: Any) -> bool | None:
        return False if any(value is not None and value.name in kept for value in node.inputs) else None

    onnxscript.optimizer.fold_constants(model, should_fold=should_fold)
    onnxscript.optimizer.remove_unused_nodes(model)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they quote source code and paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
