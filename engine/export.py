"""A network as a file: one function per format, each checked against the module before it is handed out.

The format ``sparse`` is a plain ``.npz``. Every parameter is a CSR matrix of shape (first axis, all others); a vector
is one row; buffers are dense. Nothing but numpy is needed to read it::

    with np.load(path, allow_pickle=False) as file:
        for name in json.loads(file["metadata"].item())["parameters"].split():
            data, indices, indptr, shape = (file[f"{name}/{part}"] for part in ("data", "indices", "indptr", "shape"))
            rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
            dense = np.zeros((len(indptr) - 1, int(np.prod(shape)) // (len(indptr) - 1)), data.dtype)
            dense[rows, indices] = data
            weights = dense.reshape(shape)

With scipy: ``scipy.sparse.csr_array((data, indices, indptr), shape=dense.shape)``.
"""

import copy
import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import safetensors.torch
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor, nn

from engine.errors import ExportFailed
from engine.registry import lookup

Facts = dict[str, Any]

TOLERANCE = 1e-4
TRACED_BATCH = 2
BINARY = "application/octet-stream"
EXPORTER_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ArithmeticError)
RUNTIME_ERRORS = (
    *(runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf),
    *(runtime.NotImplemented, runtime.RuntimeException, runtime.EPFail),
)

_exporter = threading.Lock()


@final
@dataclass(frozen=True)
class Subject:
    """What a format writes.

    Parameters
    ----------
    module : nn.Module
        A private copy of the network in eval mode on the CPU.
    example : Tensor, shape (n, *input_shape)
        Samples, on the CPU.
    metadata : mapping of str to str
        To be carried in the file.
    """

    module: nn.Module
    example: Tensor
    metadata: Mapping[str, str]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, each with memory of its own."""
        return {name: tensor.detach().clone().contiguous() for name, tensor in self.module.state_dict().items()}


Write = Callable[[Subject], tuple[bytes, Facts]]


@final
@dataclass(frozen=True)
class Format:
    """A file format.

    Parameters
    ----------
    suffix, media_type, description : str
        For file names, HTTP and people.
    write : callable
        ``write(subject) -> (payload, facts)``.
    """

    suffix: str
    media_type: str
    write: Write
    description: str


@final
@dataclass(frozen=True)
class Exported:
    """A network as a file, with what is known about it.

    Parameters
    ----------
    payload : bytes
        The file.
    suffix, media_type : str
        Those of the format.
    facts : dict
        ``bytes``, ``n_nonzero`` (parameters that are not exactly zero) and, where the file holds a program,
        ``max_difference``: the largest absolute difference of its outputs to the module's.
    """

    payload: bytes
    suffix: str
    media_type: str
    facts: Facts


def export(name: str, module: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> Exported:
    """The network in the format `name`; the module is left as found.

    Parameters
    ----------
    name : str
        One of `EXPORTS`.
    module : nn.Module
        The network; it is exported in eval mode.
    example : Tensor, shape (n, *input_shape)
        At least one sample like those it was trained on.
    metadata : mapping of str to str
        Carried in the file where the format can (all but ``state_dict``).

    Raises
    ------
    UnknownName
        If there is no such format.
    ExportFailed
        If the network cannot be exported, or the file does not answer like the network.
    """
    chosen = lookup("export format", EXPORTS, name)
    if not len(example):
        raise ExportFailed(f"an example of shape {tuple(example.shape)} has no sample; one is needed to export")
    with torch.no_grad():
        payload, facts = chosen.write(Subject(_private(module), example.detach().cpu(), metadata))
    n_nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in module.parameters())
    return Exported(payload, chosen.suffix, chosen.media_type, {"bytes": len(payload), "n_nonzero": n_nonzero} | facts)


def write_safetensors(subject: Subject) -> tuple[bytes, Facts]:
    """Weights and buffers, dense, with exact zeros; metadata in the header."""
    return safetensors.torch.save(subject.tensors(), {"format": "pt", **subject.metadata}), {}


def write_state_dict(subject: Subject) -> tuple[bytes, Facts]:
    """PyTorch's own file; loads with ``torch.load(path, weights_only=True)``."""
    buffer = io.BytesIO()
    torch.save(subject.tensors(), buffer)
    return buffer.getvalue(), {}


def write_sparse(subject: Subject) -> tuple[bytes, Facts]:
    """Parameters as CSR matrices and buffers dense, in an ``.npz`` without pickles."""
    parameters = {
        name: parameter.numpy() for name, parameter in subject.module.named_parameters(remove_duplicate=False)
    }
    header = json.dumps({**subject.metadata, "parameters": " ".join(parameters)})
    arrays: dict[str, Any] = {"metadata": np.array(header)}
    for name, tensor in subject.tensors().items():
        arrays |= _csr(name, parameters[name]) if name in parameters else {name: tensor.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue(), {}


def write_torch_export(subject: Subject) -> tuple[bytes, Facts]:
    """A program of ``torch.export`` that runs without the network's Python code, for any batch size."""
    buffer = io.BytesIO()
    with _exporting("torch.export"):
        shapes = ({0: torch.export.Dim("batch")},)
        batch = _batch(subject.example, TRACED_BATCH)
        program = torch.export.export(subject.module, (batch,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        facts = _compared(subject, program.module())
        torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(subject.metadata))})
    return buffer.getvalue(), facts


def write_onnx(subject: Subject) -> tuple[bytes, Facts]:
    """One self-contained ONNX file for any batch size, checked in onnxruntime."""
    with _exporting("ONNX"):
        model = _onnx_model(subject)
    _strip(model)
    onnx.helper.set_model_props(model, dict(subject.metadata))
    payload = _checked(model)
    return payload, _compared(subject, _onnx_runner(payload)) | {"opset": model.opset_import[0].version}


EXPORTS: dict[str, Format] = {
    "safetensors": Format(".safetensors", BINARY, write_safetensors, "Weights as safetensors, dense with exact zeros"),
    "state_dict": Format(".pt", BINARY, write_state_dict, "PyTorch state dict, loads with weights_only=True"),
    "onnx": Format(".onnx", BINARY, write_onnx, "ONNX, one file, any batch size, checked in onnxruntime"),
    "torch_export": Format(".pt2", BINARY, write_torch_export, "torch.export program, runs without the network's code"),
    "sparse": Format(".npz", "application/zip", write_sparse, "CSR matrices in an .npz, for scipy or plain numpy"),
}


def _private(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu().eval()
    except (RuntimeError, TypeError) as error:
        raise ExportFailed(f"the network {type(module).__name__} cannot be copied: {_reason(error)}") from error


def _csr(name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rows = values.reshape(len(values) if values.ndim > 1 else 1, -1)
    where = np.nonzero(rows)
    counts = np.count_nonzero(rows, axis=1)
    return {
        f"{name}/data": rows[where],
        f"{name}/indices": where[1].astype(np.int32),
        f"{name}/indptr": np.concatenate(([0], np.cumsum(counts))).astype(np.int32),
        f"{name}/shape": np.array(values.shape, np.int64),
    }


def _onnx_model(subject: Subject) -> onnx.ModelProto:
    program = torch.onnx.export(
        subject.module,
        (_batch(subject.example, TRACED_BATCH),),
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
    _fold(folded, {name for name, _ in subject.module.named_parameters()})
    return folded


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


def _checked(model: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportFailed(f"the ONNX file is not valid: {_reason(error)}") from error


def _onnx_runner(payload: bytes) -> Callable[[Tensor], Tensor]:
    try:
        session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise ExportFailed(f"onnxruntime cannot load the ONNX file: {_reason(error)}") from error
    return lambda batch: torch.from_numpy(session.run(None, {"input": batch.numpy()})[0])


def _compared(subject: Subject, run: Callable[[Tensor], Tensor]) -> Facts:
    """Largest difference over probes of three batch sizes: 1, the traced one, and more.

    Outputs within `TOLERANCE` of each other agree on the class wherever its margin exceeds twice that.
    """
    probes = [_batch(subject.example, 1), _batch(subject.example, TRACED_BATCH), _probe(subject.example)]
    answers = [(subject.module(probe), _ran(run, probe)) for probe in probes]
    for expected, found in answers:
        _check_answer(expected, found)
    difference = max(float((expected - found).abs().max()) for expected, found in answers)
    scale = max(float(expected.abs().max()) for expected, _ in answers)
    if difference > TOLERANCE * scale:
        allowed = f"{TOLERANCE:g} of the largest output, {scale:.3g}, is allowed"
        raise ExportFailed(f"the exported network's answers differ by {difference:.3g} from the original's; {allowed}")
    return {"max_difference": difference}


def _check_answer(expected: Tensor, found: Tensor) -> None:
    if expected.shape != found.shape:
        shapes = f"{tuple(found.shape)}, those of the original {tuple(expected.shape)}"
        raise ExportFailed(f"the exported network's answers have the shape {shapes}")
    if not torch.isfinite(expected).all() or not torch.isfinite(found).all():
        raise ExportFailed("the network's answers are NaN or infinite; only finite answers can be compared")


def _ran(run: Callable[[Tensor], Tensor], probe: Tensor) -> Tensor:
    try:
        return run(probe)
    except (*EXPORTER_ERRORS, *RUNTIME_ERRORS) as error:
        reason = _reason(error)
        raise ExportFailed(f"the exported network cannot answer a batch of {len(probe)}: {reason}") from error


def _batch(example: Tensor, size: int) -> Tensor:
    return example[torch.arange(size) % len(example)].contiguous()


def _probe(example: Tensor) -> Tensor:
    rows = _batch(example, max(5, len(example)))
    if not example.is_floating_point():
        return rows
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    return torch.cat([rows, rows + noise * rows.std()])


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """One export at a time (the exporters change global state), without their warnings and notices."""
    logger = logging.getLogger("torch")
    with _exporter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        except EXPORTER_ERRORS as error:
            raise ExportFailed(f"the network cannot be exported to {what}: {_reason(error)}") from error
        finally:
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """First line of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
