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

Of a compacted network, files of weights carry the architecture too, and `load` makes a network of them: ``safetensors``
and ``sparse`` in their metadata, ``state_dict`` as one of two entries, ``architecture`` and ``state_dict``.
"""

import io
import json
import logging
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.agreement import batch, difference, private, reason
from engine.compaction import build, describe
from engine.compaction import compact as compacted
from engine.errors import ExportFailed, InvalidData
from engine.multiply_adds import uses
from engine.registry import lookup

Facts = dict[str, Any]

TRACED_BATCH = 2
ARCHITECTURE = "architecture"
BINARY = "application/octet-stream"
EXPORTER_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ArithmeticError)
FILE_ERRORS = (safetensors.SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile)

_exporter = threading.Lock()


@final
@dataclass(frozen=True)
class Subject:
    """What a format writes.

    Parameters
    ----------
    module : nn.Module
        The network to be written, nobody else's, in eval mode on the CPU.
    original : nn.Module
        The network it must answer like.
    example : Tensor, shape (n, *input_shape)
        Samples, on the CPU.
    metadata : mapping of str to str
        To be carried in the file; the architecture of a compacted network is in it.
    """

    module: nn.Module
    original: nn.Module
    example: Tensor
    metadata: Mapping[str, str]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, each with memory of its own."""
        return {name: tensor.detach().clone().contiguous() for name, tensor in self.module.state_dict().items()}

    def difference(self, run: Callable[[Tensor], Tensor]) -> Facts:
        """Largest difference of the answers of what was written to those of the original."""
        return {"max_difference": difference(self.original, _answering(run), self.example, TRACED_BATCH)}


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
        ``bytes``, ``n_nonzero`` (parameters that are not exactly zero) and, where the file holds a program or a
        compacted network, ``max_difference``: the largest absolute difference of its outputs to the module's. Of
        compacted ones also ``n_params`` and ``multiply_adds`` (per sample, zeros included), and ``bytes_before``,
        ``n_params_before``, ``multiply_adds_before`` of the whole network in the same format.
    """

    payload: bytes
    suffix: str
    media_type: str
    facts: Facts


def export(
    name: str, module: nn.Module, example: Tensor, metadata: Mapping[str, str], compact: bool = False
) -> Exported:
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
    compact : bool
        Whether the file holds what `engine.compaction.compact` makes of the network.

    Raises
    ------
    UnknownName
        If there is no such format.
    NotCompactable
        If the network's code cannot be followed, or a file of weights cannot hold it.
    ExportFailed
        If the network cannot be exported, or the file does not answer like the network.
    """
    chosen = lookup("export format", EXPORTS, name)
    if not len(example):
        raise ExportFailed(f"an example of shape {tuple(example.shape)} has no sample; one is needed to export")
    whole = private(module)
    full = _written(chosen, Subject(whole, whole, example.detach().cpu(), metadata))
    return _compacted(chosen, full, whole, example.detach().cpu(), metadata) if compact else full


def load(path: Path) -> nn.Module:
    """The compacted network in a file of weights, in eval mode; no code of its own is needed.

    Parameters
    ----------
    path : Path
        A ``.safetensors``, ``.pt`` or ``.npz`` that `export` wrote with `compact`.

    Raises
    ------
    InvalidData
        If the file holds no compacted network.
    """
    try:
        architecture, state = READERS[path.suffix](path)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, *FILE_ERRORS) as error:
        known = f"a compacted network in {', '.join(READERS)} works"
        raise InvalidData(f"{str(path)!r} holds no compacted network ({reason(error)}); {known}") from error
    return build(architecture, state)


def write_safetensors(subject: Subject) -> tuple[bytes, Facts]:
    """Weights and buffers, dense, with exact zeros; metadata in the header."""
    return safetensors.torch.save(subject.tensors(), {"format": "pt", **subject.metadata}), {}


def write_state_dict(subject: Subject) -> tuple[bytes, Facts]:
    """PyTorch's own file; loads with ``torch.load(path, weights_only=True)``."""
    buffer, tensors = io.BytesIO(), subject.tensors()
    architecture = subject.metadata.get(ARCHITECTURE)
    torch.save({ARCHITECTURE: architecture, "state_dict": tensors} if architecture else tensors, buffer)
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
        samples = batch(subject.example, TRACED_BATCH)
        program = torch.export.export(subject.module, (samples,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        facts = subject.difference(program.module())
        torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(subject.metadata))})
    return buffer.getvalue(), facts


def write_onnx(subject: Subject) -> tuple[bytes, Facts]:
    """One self-contained ONNX file for any batch size, checked in onnxruntime."""
    from engine import onnx_files

    with _exporting("ONNX"):
        model = onnx_files.exported(subject.module, batch(subject.example, TRACED_BATCH))
    for name, value in subject.metadata.items():
        model.metadata_props.add(key=name, value=value)
    payload = onnx_files.checked(model)
    return payload, subject.difference(onnx_files.runner(payload)) | {"opset": model.opset_import[0].version}


WEIGHTS_ONLY = (write_safetensors, write_state_dict, write_sparse)
EXPORTS: dict[str, Format] = {
    "safetensors": Format(".safetensors", BINARY, write_safetensors, "Weights as safetensors, dense with exact zeros"),
    "state_dict": Format(".pt", BINARY, write_state_dict, "PyTorch state dict, loads with weights_only=True"),
    "onnx": Format(".onnx", BINARY, write_onnx, "ONNX, one file, any batch size, checked in onnxruntime"),
    "torch_export": Format(".pt2", BINARY, write_torch_export, "torch.export program, runs without the network's code"),
    "sparse": Format(".npz", "application/zip", write_sparse, "CSR matrices in an .npz, for scipy or plain numpy"),
}


def _written(chosen: Format, subject: Subject) -> Exported:
    with torch.no_grad():
        payload, facts = chosen.write(subject)
    n_nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in subject.module.parameters())
    return Exported(payload, chosen.suffix, chosen.media_type, {"bytes": len(payload), "n_nonzero": n_nonzero} | facts)


def _compacted(
    chosen: Format, full: Exported, original: nn.Module, example: Tensor, metadata: Mapping[str, str]
) -> Exported:
    """The smaller network as a file, with what it is smaller than."""
    smaller = compacted(original, example)
    held = {**metadata, ARCHITECTURE: describe(smaller)} if chosen.write in WEIGHTS_ONLY else metadata
    done = _written(chosen, Subject(smaller, original, example, held))
    sizes = {"bytes_before": len(full.payload)}
    for what, network in (("", smaller), ("_before", original)):
        sizes[f"n_params{what}"] = sum(parameter.numel() for parameter in network.parameters())
        sizes[f"multiply_adds{what}"] = _multiply_adds(network, example)
    checked = {"max_difference": difference(original, smaller, example)}
    return replace(done, facts=checked | done.facts | sizes)


def _multiply_adds(network: nn.Module, example: Tensor) -> int:
    """Per sample, zeros included: what a program without sparse kernels computes."""
    of_weights = uses(network, batch(example, 1))
    return round(sum(of_weights[name] * parameter.numel() for name, parameter in network.named_parameters()))


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


def _answering(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same, but what goes wrong in it is an `ExportFailed`."""

    def answer(probe: Tensor) -> Tensor:
        try:
            return run(probe)
        except EXPORTER_ERRORS as error:
            told = f"the exported network cannot answer a batch of {len(probe)}: {reason(error)}"
            raise ExportFailed(told) from error

    return answer


def _read_safetensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()[ARCHITECTURE], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_state_dict(path: Path) -> tuple[str, dict[str, Tensor]]:
    found = torch.load(path, weights_only=True)
    return found[ARCHITECTURE], found["state_dict"]


def _read_sparse(path: Path) -> tuple[str, dict[str, Tensor]]:
    with np.load(path, allow_pickle=False) as file:
        header = json.loads(file["metadata"].item())
        dense = {name: _dense(file, name) for name in header["parameters"].split()}
        buffers = {name: file[name] for name in file.files if "/" not in name and name != "metadata"}
    return header[ARCHITECTURE], {name: torch.from_numpy(values) for name, values in {**dense, **buffers}.items()}


def _dense(file: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    data, indices, indptr, shape = (file[f"{name}/{part}"] for part in ("data", "indices", "indptr", "shape"))
    values = np.zeros((len(indptr) - 1, int(np.prod(shape)) // (len(indptr) - 1)), data.dtype)
    values[np.repeat(np.arange(len(values)), np.diff(indptr)), indices] = data
    return values.reshape(shape)


READERS: dict[str, Callable[[Path], tuple[str, dict[str, Tensor]]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_state_dict,
    ".npz": _read_sparse,
}


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
            raise ExportFailed(f"the network cannot be exported to {what}: {reason(error)}") from error
        finally:
            logger.setLevel(level)
