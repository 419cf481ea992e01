"""Exports: what is written answers like the network, zeros stay zeros, and wrong files are never handed out."""

import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import scipy.sparse
import torch
from torch import nn

from engine.errors import ExportFailed, UnknownName
from engine.export import EXPORTS, export
from engine.networks import NETWORKS

METADATA = {"job": "7", "point": "3", "loss": "0.125"}
SHAPES = {"mlp": (8, 8), "resnet20": (3, 8, 8), "char_transformer": (8,)}
SETTINGS = {"resnet20": {"width": 4}, "char_transformer": {"width": 8, "heads": 2}}
WEIGHTS_ONLY = ["safetensors", "state_dict", "sparse"]


def sparse_network(name="mlp"):
    """A network with many exact zeros, one all-zero layer bias, and lived-in batch-norm statistics."""
    torch.manual_seed(1)
    network = made(name)
    network(samples(name, 32) if name == "char_transformer" else torch.randn(32, *SHAPES[name]) * 2 + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[torch.rand_like(parameter) < 0.7] = 0
        network.output.bias.zero_()
    return network


def made(name):
    return NETWORKS[name](SHAPES[name], 10, **SETTINGS.get(name, {}))


def samples(name="mlp", n=6):
    generator = torch.Generator().manual_seed(2)
    if name == "char_transformer":
        return torch.randint(10, (n, *SHAPES[name]), generator=generator)
    return torch.randn(n, *SHAPES[name], generator=generator)


def answers(network, batch):
    with torch.no_grad():
        return network.eval()(batch)


def read_sparse(payload):
    """The loader of the module's docstring."""
    weights = {}
    with np.load(io.BytesIO(payload), allow_pickle=False) as file:
        for name in json.loads(file["metadata"].item())["parameters"].split():
            data, indices, indptr, shape = (file[f"{name}/{part}"] for part in ("data", "indices", "indptr", "shape"))
            rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
            dense = np.zeros((len(indptr) - 1, int(np.prod(shape)) // (len(indptr) - 1)), data.dtype)
            dense[rows, indices] = data
            matrix = scipy.sparse.csr_array((data, indices, indptr), shape=dense.shape)
            assert (matrix.toarray() == dense).all()
            weights[name] = torch.from_numpy(dense.reshape(shape))
        buffers = {name: torch.from_numpy(file[name]) for name in file.files if "/" not in name and name != "metadata"}
    return weights | buffers


READ = {
    "safetensors": safetensors.torch.load,
    "state_dict": lambda payload: torch.load(io.BytesIO(payload), weights_only=True),
    "sparse": read_sparse,
}


def run_onnx(payload, batch):
    session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": batch.numpy()})[0])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", WEIGHTS_ONLY)
def test_weights_come_back_exactly(kind, name):
    network = sparse_network(name)
    exported = export(kind, network, samples(name), METADATA)
    state = READ[kind](exported.payload)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    other = made(name)
    other.load_state_dict(state)
    assert torch.equal(answers(other, samples(name)), answers(network, samples(name)))


@pytest.mark.parametrize("kind", WEIGHTS_ONLY)
def test_facts_and_names(kind):
    network = sparse_network()
    exported = export(kind, network, samples(), METADATA)
    n_nonzero = sum(int((p != 0).sum()) for p in network.parameters())
    assert exported.facts == {"bytes": len(exported.payload), "n_nonzero": n_nonzero}
    assert (exported.suffix, exported.media_type) == (EXPORTS[kind].suffix, EXPORTS[kind].media_type)


def test_metadata_is_in_the_headers():
    payload = export("safetensors", sparse_network(), samples(), METADATA).payload
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    assert header["__metadata__"] == {"format": "pt", **METADATA}
    with np.load(io.BytesIO(export("sparse", sparse_network(), samples(), METADATA).payload)) as file:
        assert METADATA.items() <= json.loads(file["metadata"].item()).items()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_onnx_answers_like_the_network_at_any_batch_size(name, capfd):
    network = sparse_network(name)
    exported = export("onnx", network, samples(name), METADATA)
    for n in (1, 2, 9):
        difference = run_onnx(exported.payload, samples(name, n)) - answers(network, samples(name, n))
        assert float(difference.abs().max()) <= 1e-5
    assert 0 <= exported.facts["max_difference"] <= 1e-5
    assert capfd.readouterr() == ("", "")
    check_onnx_file(onnx.load_from_string(exported.payload), network)


def check_onnx_file(model, network):
    """Weights and zeros by name, metadata, a free batch size, and nothing about the machine it was made on."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for key, parameter in network.named_parameters():
        assert np.array_equal(stored[key], parameter.detach().numpy())
    assert {prop.key: prop.value for prop in model.metadata_props} == METADATA
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert b".py" not in model.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_torch_export_runs_without_the_class(name, capfd):
    network = sparse_network(name)
    exported = export("torch_export", network, samples(name), METADATA)
    extra = {"metadata.json": ""}
    program = torch.export.load(io.BytesIO(exported.payload), extra_files=extra).module()
    assert json.loads(extra["metadata.json"]) == METADATA
    assert torch.equal(program(samples(name, 7)), answers(network, samples(name, 7)))
    assert exported.facts["max_difference"] == 0
    assert b".py" not in exported.payload
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_leaves_the_module_as_found(kind):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    network[2].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    export(kind, network, samples(), METADATA)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("kind", WEIGHTS_ONLY)
def test_parameters_that_share_memory_are_written_apart(kind):
    network = sparse_network()
    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    start = 0
    for parameter in network.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    state = READ[kind](export(kind, network, samples(), METADATA).payload)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_tied_weights_are_exported(kind):
    network = NETWORKS["char_transformer"]((8,), 10, blocks=1, width=4, heads=1, tied=True)
    exported = export(kind, network, samples("char_transformer"), METADATA)
    assert exported.facts["n_nonzero"] == sum(int((p != 0).sum()) for p in network.parameters())
    if kind in WEIGHTS_ONLY:
        state = READ[kind](exported.payload)
        assert torch.equal(state["output.weight"], state["embedding.weight"])


@pytest.mark.slow
def test_the_zero_network_can_be_exported():
    network = sparse_network()
    nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in network.parameters())), network.parameters())
    exports = {kind: export(kind, network, samples(n=1), {}) for kind in EXPORTS}
    assert {exported.facts["n_nonzero"] for exported in exports.values()} == {0}
    assert not run_onnx(exports["onnx"].payload, samples()).any()


class Broken(nn.Module):
    """A network that cannot be exported faithfully."""

    def __init__(self, fault):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.fault = fault

    def forward(self, x):
        return self.fault(self.layer(x))


FAULTS = {
    "by batch size": lambda y: y * 2 if y.shape[0] > 4 else y,
    "by data": lambda y: y * 2 if y.sum() > 0 else y,
    "random": lambda y: y + torch.rand(2),
    "not finite": lambda y: y / 0,
    "raises": lambda y: {}["weights"],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_broken_networks_are_not_handed_out(kind, fault):
    with pytest.raises(ExportFailed) as caught:
        export(kind, Broken(FAULTS[fault]), torch.randn(3, 3), {})
    assert "\n" not in str(caught.value)


def test_refuses_unknown_formats_and_no_example():
    with pytest.raises(UnknownName, match=r"unknown export format 'tflite'; known: onnx, .*state_dict"):
        export("tflite", sparse_network(), samples(), {})
    with pytest.raises(ExportFailed, match="no sample"):
        export("safetensors", sparse_network(), samples(n=0), {})
