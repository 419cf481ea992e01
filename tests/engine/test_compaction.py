"""Compacted networks: the same answers, nothing dead left, and files that load without the network's code."""

import json
import threading
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from engine.agreement import difference
from engine.compaction import build, compact, describe
from engine.errors import ExportFailed, InvalidData, NotCompactable, UnknownName
from engine.export import export, load
from engine.networks import ACTIVATIONS, NETWORKS

CASES = {
    "linear": ((3, 4), {}),
    "mlp": ((3, 4), {"hidden": (8, 6)}),
    "lenet300": ((2, 4), {}),
    "lenet5": ((16, 16), {}),
    "cifar_cnn": ((3, 12, 12), {}),
    "resnet20": ((3, 8, 8), {"width": 4}),
    "char_transformer": ((6,), {"width": 8, "heads": 2}),
    "lassonet": ((3, 4), {"hidden": (8, 6)}),
}
CLASSES = 5
WEIGHT_FILES = ("safetensors", "state_dict", "sparse")


def samples(name: str, n: int = 7) -> Tensor:
    generator, shape = torch.Generator().manual_seed(3), CASES[name][0]
    if name == "char_transformer":
        return torch.randint(CLASSES, (n, *shape), generator=generator)
    return torch.randn(n, *shape, generator=generator)


def network(name: str, zeros: float, seed: int = 0, **more) -> nn.Module:
    """A network with that share of zeros in every tensor and lived-in statistics."""
    torch.manual_seed(seed)
    shape, given = CASES[name]
    found = NETWORKS[name](shape, CLASSES, **{**given, **more})
    for part in found.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_()
            parameter[torch.rand_like(parameter) < zeros] = 0
    return found.eval()


def shapes(found: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(parameter.shape) for key, parameter in found.named_parameters()}


def n_params(found: nn.Module) -> int:
    return sum(parameter.numel() for parameter in found.parameters())


def chain(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


def widest(found: nn.Module, smaller: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((found(x) - smaller(x)).abs().max() / (1 + found(x).abs().max()))


# Laws of every network


def test_every_registered_network_is_tried() -> None:
    assert CASES.keys() == NETWORKS.keys()


@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", CASES)
def test_the_answers_stay_and_a_second_time_changes_nothing(name: str, zeros: float) -> None:
    found, x = network(name, zeros), samples(name)
    smaller = compact(found, x)
    assert widest(found, smaller, x) < 1e-5
    assert n_params(smaller) <= n_params(found)
    again = compact(smaller, x)
    assert shapes(again) == shapes(smaller)
    assert len(again.graph.nodes) == len(smaller.graph.nodes)
    assert build(describe(smaller), smaller.state_dict())(x).equal(smaller(x))


@pytest.mark.slow
@given(
    st.sampled_from(["mlp", "lassonet", "char_transformer"]),
    st.sampled_from([*ACTIVATIONS]),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_answers_stay_under_every_activation(name: str, activation: str, zeros: float, seed: int) -> None:
    more = {} if name == "lassonet" else {"activation": activation}
    found, x = network(name, zeros, seed, **more), samples(name)
    smaller = compact(found, x)
    assert widest(found, smaller, x) < 1e-5
    assert n_params(smaller) <= n_params(found)


@pytest.mark.parametrize("name", CASES)
def test_nothing_goes_where_nothing_is_dead(name: str) -> None:
    found = network(name, 0.0)
    assert shapes(compact(found, samples(name))) == shapes(found)


@pytest.mark.parametrize("name", CASES)
def test_a_network_of_zeros_keeps_next_to_nothing(name: str) -> None:
    found = network(name, 1.0)
    smaller = compact(found, samples(name))
    assert widest(found, smaller, samples(name)) == 0
    assert n_params(smaller) < 0.1 * n_params(found) + 30


@pytest.mark.parametrize("layer", ["layer1", "layer2", "output"])
def test_an_all_zero_layer_leaves_one_unit_before_it(layer: str) -> None:
    found = network("mlp", 0.0)
    found.get_submodule(layer).weight.data.zero_()
    smaller = compact(found, samples("mlp"))
    assert smaller.get_submodule("output").weight.shape == (CLASSES, 1)
    assert widest(found, smaller, samples("mlp")) < 1e-6


def test_the_module_and_the_random_state_are_left_as_found() -> None:
    found = network("resnet20", 0.9).train()
    before = {key: value.clone() for key, value in found.state_dict().items()}
    state = torch.random.get_rng_state()
    compact(found, samples("resnet20"))
    assert torch.random.get_rng_state().equal(state)
    assert found.training
    assert all(before[key].equal(value) for key, value in found.state_dict().items())
    assert all("forward" not in vars(part) for part in found.modules())


@pytest.mark.slow
def test_other_threads_use_networks_meanwhile() -> None:
    found, other, x = network("resnet20", 0.9), network("resnet20", 0.5), samples("resnet20")
    with torch.no_grad():
        expected, answers = other(x), list[Tensor]()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with torch.no_grad():
                answers.append(other(x))

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(2):
        compact(found, x)
    stop.set()
    thread.join()
    assert answers
    assert all(answer.equal(expected) for answer in answers)


# What goes


def test_dead_neurons_go_until_there_are_none() -> None:
    found = network("mlp", 0.0)
    with torch.no_grad():
        found.layer2.weight[:, 0] = 0  # nothing reads unit 0 of the first layer
        found.layer1.weight[1] = 0  # unit 1 of the first layer is constant
        found.output.weight[:, 2] = 0  # nothing reads unit 2 of the second layer
        found.layer2.weight[3] = 0
        found.layer2.weight[3, 1] = 1  # unit 3 of the second layer reads a constant only
        found.layer2.weight[:2, 4] = found.layer2.weight[3:, 4] = 0  # unit 4 is read by a dead unit only
    smaller = compact(found, samples("mlp"))
    assert shapes(smaller)["layer1.weight"] == (5, 12)
    assert shapes(smaller)["layer2.weight"] == (4, 5)
    assert shapes(smaller)["output.weight"] == (CLASSES, 4)


def test_a_bias_appears_where_a_constant_needs_one() -> None:
    found = chain(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False))
    found[0].weight.data[1] = 0
    smaller = compact(found, torch.randn(5, 3))
    assert shapes(smaller) == {"0.weight": (3, 3), "0.bias": (3,), "2.weight": (2, 3), "2.bias": (2,)}


@pytest.mark.parametrize("name", ["linear", "mlp", "lassonet"])
def test_unread_features_go_and_the_input_stays_as_it_was(name: str) -> None:
    found, x = network(name, 0.0), samples(name)
    for parameter in found.parameters():
        if parameter.shape[1:] == (12,):
            parameter.data[:, [0, 5, 6, 11]] = 0
    smaller = compact(found, x)
    assert all(shape[1] == 8 for shape in shapes(smaller).values() if len(shape) == 2 and shape[1] in (8, 12))
    assert smaller.flatten_chosen.index.tolist() == [1, 2, 3, 4, 7, 8, 9, 10]
    assert smaller(x).shape == (7, CLASSES)


def test_filters_go_with_what_reads_them() -> None:
    found, x = network("lenet5", 0.0), samples("lenet5")
    with torch.no_grad():
        found.conv2.weight[:, :3] = 0
        found.conv1.weight[4] = 0
        found.dense.weight[:, 6:7] = 0  # one place each of filter 6: 1 x 1 places at this size
    smaller = shapes(compact(found, x))
    assert smaller["conv1.weight"] == (16, 1, 5, 5)
    assert smaller["conv2.weight"] == (49, 16, 5, 5)
    assert smaller["dense.weight"] == (500, 49)


@pytest.mark.parametrize(("bias", "left"), [(0.5, 4), (0.0, 3), (-0.5, 3)])
def test_a_constant_channel_that_is_padded_goes_only_if_it_is_zero(bias: float, left: int) -> None:
    found = chain(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))
    found[0].weight.data[1] = 0
    found[0].bias.data[1] = bias
    smaller = compact(found, torch.randn(5, 1, 6, 6))
    assert shapes(smaller)["0.weight"][0] == left
    assert shapes(smaller)["2.weight"][1] == left


@pytest.mark.parametrize(("padding", "left"), [(0, 3), (1, 4)])
def test_means_over_padding_are_not_constant(padding: int, left: int) -> None:
    pool = nn.AvgPool2d(2, padding=padding)
    found = chain(nn.Conv2d(1, 4, 3), nn.Sigmoid(), pool, nn.Conv2d(4, 2, 2), nn.Flatten(), nn.LazyLinear(3))
    found(torch.randn(5, 1, 8, 8))
    found[0].weight.data[1] = 0
    smaller = compact(found.eval(), torch.randn(5, 1, 8, 8))
    assert shapes(smaller)["0.weight"][0] == left


def test_batch_norm_keeps_the_statistics_of_the_units_that_stay() -> None:
    found = chain(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    found[1].running_mean.normal_()
    found[1].weight.data[2] = 0
    smaller = compact(found, torch.randn(5, 1, 6, 6))
    kept = [0, 1, 3]
    assert smaller.get_submodule("1").running_mean.equal(found[1].running_mean[kept])
    assert shapes(smaller)["0.weight"][0] == shapes(smaller)["1.weight"][0] == 3


def test_inner_channels_and_dead_blocks_of_a_residual_network_go() -> None:
    found, x = network("resnet20", 0.0), samples("resnet20")
    found.stage1[0].conv2.weight.data[:, :3] = 0
    found.stage1[1].conv2.weight.data.zero_()
    found.stage1[2].norm2.weight.data.zero_()
    found.stage1[2].norm2.bias.data.zero_()
    smaller = compact(found, x)
    assert shapes(smaller)["stage1.0.conv1.weight"][0] == 1
    assert not any(key.startswith(("stage1.1.", "stage1.2.")) for key in shapes(smaller))
    assert shapes(smaller)["stage1.0.conv2.weight"][0] == 4
    assert widest(found, smaller, x) < 1e-5


@pytest.mark.slow
def test_a_residual_channel_goes_where_all_writers_are_dead() -> None:
    found = network("resnet20", 0.0)
    writers = [(block.conv2, block.norm2) for block in found.stage3]
    for place, (convolution, norm) in enumerate(writers):
        assert shapes(compact(found, samples("resnet20")))["output.weight"] == (CLASSES, 16), place
        convolution.weight.data[0] = norm.bias.data[0] = norm.running_mean[0] = 0
    smaller = shapes(compact(found, samples("resnet20")))
    assert smaller["output.weight"] == (CLASSES, 15)
    assert smaller["stage3.0.conv1.weight"] == (16, 8, 3, 3)
    assert smaller["stage3.1.conv1.weight"] == (16, 15, 3, 3)
    assert smaller["stage3.2.conv2.weight"] == (15, 16, 3, 3)


@pytest.mark.parametrize("dead", ["output", "value"])
def test_heads_go_and_with_the_last_the_layer(dead: str) -> None:
    found, x = network("char_transformer", 0.0), samples("char_transformer")
    first, second = found.blocks[0].attention, found.blocks[1].attention
    for attention, width in ((first, 4), (second, 8)):
        weight = attention.get_submodule(dead).weight.data
        (weight.T if dead == "output" else weight)[:width] = 0
    found.blocks[0].feed_forward.output.weight.data[:, :20] = 0
    smaller = compact(found, x)
    assert shapes(smaller)["blocks.0.attention.query.weight"] == (4, 8)
    assert shapes(smaller)["blocks.0.attention.output.weight"] == (8, 4)
    assert not any(key.startswith("blocks.1.attention") for key in shapes(smaller))
    assert shapes(smaller)["blocks.0.feed_forward.hidden.weight"] == (12, 8)
    assert widest(found, smaller, x[:, :3]) < 1e-5


def test_tied_weights_stay_whole() -> None:
    found = network("char_transformer", 0.9, tied=True)
    smaller = compact(found, samples("char_transformer"))
    assert smaller.get_submodule("output").weight is smaller.get_submodule("embedding").weight


# Networks of other people


class Residual(nn.Module):
    """Code between layers: sums in place, functions, a layer used twice, a view that nobody can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.hidden, self.again = nn.Linear(54, 7), nn.Linear(7, 7)
        self.output = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        inner = self.norm(self.conv2(x))
        inner += x
        x = max_pool2d(self.act(inner), 2)
        x = relu(self.hidden(x.view(x.shape[0], -1)))
        return self.output(self.again(torch.tanh(self.again(x))))


@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
def test_code_between_layers_is_followed(zeros: float) -> None:
    torch.manual_seed(1)
    found, x = Residual().eval(), torch.randn(4, 1, 6, 6)
    for parameter in found.parameters():
        parameter.data[torch.rand_like(parameter) < zeros] = 0
    smaller = compact(found, x)
    assert widest(found, smaller, x) < 1e-5
    assert shapes(smaller)["again.weight"] == (7, 7)
    if zeros == 1:
        assert n_params(smaller) < n_params(found) / 2
    with pytest.raises(NotCompactable, match=r"how to call .*onnx and torch_export"):
        export("safetensors", found, x, {}, compact=True)


@pytest.mark.slow
def test_code_between_layers_is_exported() -> None:
    found, x = Residual().eval(), torch.randn(4, 1, 6, 6)
    assert export("torch_export", found, x, {}, compact=True).facts["max_difference"] < 1e-4


class Odd(nn.Module):
    """A network that does what `how` does to its layer's answer."""

    def __init__(self, how) -> None:
        super().__init__()
        self.layer, self.output, self.how = nn.Linear(3, 4), nn.Linear(4, 2), how

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.how(self.layer(x)))


def shared_write(y: Tensor) -> Tensor:
    z = y + 1
    relu(y, inplace=True)
    return y + z


BEYOND = {
    "branch": lambda y: y * 2 if y.sum() > 0 else y,
    "batch": lambda y: y * 2 if len(y) > 4 else y,
    "loop": lambda y: torch.stack([row * 2 for row in y]),
    "write": lambda y: y.relu_(),
    "shared write": shared_write,
}


@pytest.mark.parametrize("how", BEYOND)
def test_what_cannot_be_followed_is_refused_in_a_sentence(how: str) -> None:
    with pytest.raises(NotCompactable, match=r"network Odd .*known to work: the registered networks") as caught:
        compact(Odd(BEYOND[how]), torch.randn(5, 3))
    assert "\n" not in str(caught.value)


def test_hooks_are_refused() -> None:
    found = network("mlp", 0.5)
    found.layer1.register_forward_hook(lambda *_: None)
    with pytest.raises(NotCompactable, match="hooks"):
        compact(found, samples("mlp"))


def test_a_network_that_answers_at_random_is_not_handed_out() -> None:
    with pytest.raises(ExportFailed, match="differ"):
        compact(Odd(lambda y: y + torch.rand(y.shape[-1])), torch.randn(5, 3))


def test_a_single_layer_and_double_precision_work() -> None:
    found = nn.Linear(5, 3).double()
    found.weight.data[:, 2] = 0
    x = torch.randn(4, 5, dtype=torch.float64)
    smaller = compact(found, x)
    assert n_params(smaller) == 15
    assert (smaller(x) - found(x)).abs().max() < 1e-12


def test_a_difference_is_seen() -> None:
    found, x = network("mlp", 0.0), samples("mlp")
    assert difference(found, found, x) == 0
    with pytest.raises(ExportFailed, match="differ"):
        difference(found, lambda probe: found(probe) * 1.01, x)


# Files


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", WEIGHT_FILES)
def test_files_of_weights_load_without_the_networks_code(form: str, name: str, tmp_path) -> None:
    found, x = network(name, 0.9), samples(name)
    done = export(form, found, x, {"job": "1"}, compact=True)
    file = tmp_path / f"network{done.suffix}"
    file.write_bytes(done.payload)
    smaller, again = compact(found, x), load(file)
    assert again(x).equal(smaller(x))
    assert shapes(again) == shapes(smaller)
    assert not again.training
    assert done.facts["n_params"] == n_params(smaller) <= done.facts["n_params_before"] == n_params(found)
    assert done.facts["bytes_before"] == len(export(form, found, x, {"job": "1"}).payload)
    assert done.facts["multiply_adds"] <= done.facts["multiply_adds_before"]
    assert done.facts["max_difference"] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet20", "char_transformer"])
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_programs_hold_the_smaller_network(form: str, name: str) -> None:
    found, x = network(name, 0.95), samples(name)
    done = export(form, found, x, {}, compact=True)
    smaller = compact(found, x)
    assert done.facts["n_params"] == n_params(smaller)
    assert done.facts["n_nonzero"] == sum(int((p != 0).sum()) for p in smaller.parameters())
    if name != "mlp":
        assert done.facts["bytes"] < done.facts["bytes_before"]


@pytest.mark.parametrize("form", WEIGHT_FILES)
def test_the_multiply_adds_are_those_of_the_shapes(form: str) -> None:
    found = chain(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    found[0].weight.data[3] = found[0].bias.data[3] = 0
    facts = export(form, found, torch.randn(4, 6), {}, compact=True).facts
    assert (facts["multiply_adds_before"], facts["multiply_adds"]) == (40, 32)
    assert (facts["n_params_before"], facts["n_params"]) == (47, 38)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(UnknownName, match="word"):
        export("word", network("mlp", 0.5), samples("mlp"), {}, compact=True)


@pytest.mark.parametrize("file", ["net.safetensors", "net.pt", "net.npz", "net.txt"])
@pytest.mark.parametrize("content", [None, b"", b"no network"])
def test_files_that_hold_none_are_refused(file: str, content: bytes | None, tmp_path) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InvalidData, match="holds no compacted network"):
        load(tmp_path / file)


@pytest.mark.parametrize("form", WEIGHT_FILES)
def test_whole_networks_have_no_architecture_to_load(form: str, tmp_path) -> None:
    done = export(form, network("mlp", 0.5), samples("mlp"), {})
    (tmp_path / f"net{done.suffix}").write_bytes(done.payload)
    with pytest.raises(InvalidData, match="architecture"):
        load(tmp_path / f"net{done.suffix}")


EVIL = "x=print('run')"
CHANGES = {
    "placeholder": lambda d: d["calls"][0].update(target=EVIL),
    "node": lambda d: d["calls"][0].update(name=EVIL),
    "class": lambda d: d.update(name=EVIL),
    "keyword": lambda d: d["calls"][1].update(kwargs={EVIL: 1}),
    "function": lambda d: d["calls"][1].update(op="call_function", target="os.system"),
    "method": lambda d: d["calls"][1].update(op="call_method", target="numpy"),
    "layer": lambda d: d["layers"].update(flatten=["Module", {}]),
    "settings": lambda d: d["layers"]["output"][1].update(colour="red"),
    "width": lambda d: d["layers"]["output"][1].update(in_features=99),
    "none": lambda d: d.clear(),
    "order": lambda d: d["calls"].reverse(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_architecture_is_refused_and_runs_no_code(change: str, capsys) -> None:
    smaller = compact(network("mlp", 0.9), samples("mlp"))
    document = json.loads(describe(smaller))
    CHANGES[change](document)
    with pytest.raises(InvalidData, match="architecture"):
        build(json.dumps(document), smaller.state_dict())
    assert capsys.readouterr().out == ""


def test_only_compacted_networks_have_an_architecture() -> None:
    with pytest.raises(NotCompactable, match="Sequential"):
        describe(nn.Sequential(OrderedDict(output=nn.Linear(2, 2))))
