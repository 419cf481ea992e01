"""Cleaning: not an answer changes, the penalty and the nonzeros only fall, and what is left is the least there is."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from engine.cleanup import Cleanup
from engine.front import Trail
from engine.layout import layout
from engine.networks import NETWORKS, mlp
from engine.penalties import L1, GroupL2
from engine.spec import JobSpec, Part, build
from engine.structure import Joint, joints, view
from engine.tracers import Budget
from engine.tracers.methods import refit

SEEDS = range(4)


def images(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Padding, both ways of pooling, a convolution after a convolution, and filters read at several places."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2),
        nn.AvgPool2d(2, stride=1, padding=1),
        activation(),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5)),
        activation(),
        nn.Dropout(),
        nn.Linear(5, 3),
    )


def half_smooth() -> nn.Module:
    layers = [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)]
    return nn.Sequential(*layers)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "one hidden layer": (lambda: mlp((6,), 3, hidden=(5,)), (6,)),
    "four hidden layers": (lambda: mlp((6,), 3, hidden=(5, 4, 6, 5)), (6,)),
    "no biases": (lambda: mlp((6,), 3, hidden=(5, 4), bias=False), (6,)),
    "leaky": (lambda: mlp((6,), 3, hidden=(5, 4), activation="leaky_relu"), (6,)),
    "tanh": (lambda: mlp((6,), 3, hidden=(5, 4), activation="tanh"), (6,)),
    "softplus": (lambda: mlp((6,), 3, hidden=(5, 4), activation="softplus"), (6,)),
    "half smooth": (half_smooth, (6,)),
    "images": (images, (2, 9, 9)),
    "images, leaky": (lambda: images(nn.LeakyReLU), (2, 9, 9)),
    "batch norm": (lambda: NETWORKS["resnet20"]((2, 9, 9), 3, width=2), (2, 9, 9)),
}
SCALABLE = ["one hidden layer", "four hidden layers", "no biases", "leaky", "images"]


class Net:
    """A random network with many zeros, among them units without incoming or without outgoing weights."""

    def __init__(self, name: str, seed: int, dtype: torch.dtype = torch.float64, **settings: str) -> None:
        torch.manual_seed(seed)
        make, shape = NETS[name]
        self.module = make().to(dtype).eval()
        self.blocks = layout(self.module)
        self.penalty = L1(self.blocks, **settings)
        self.joints = joints(self.module)
        self.X = torch.randn(7, *shape, dtype=dtype)
        self.theta = self._sparse(torch.randn(self.blocks[-1].stop, dtype=dtype))

    def _sparse(self, theta: Tensor) -> Tensor:
        theta = theta * (torch.rand_like(theta) < 0.7)
        for joint in self.joints:
            kinds = torch.randint(0, 4, (joint.n_units,))
            joint.incoming(theta)[kinds == 0] = 0
            joint.outgoing(theta)[:, kinds == 1] = 0
        return theta

    def answers(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            for block, parameter in zip(self.blocks, self.module.parameters(), strict=True):
                parameter.copy_(theta[block.start : block.stop].view(block.shape))
            return self.module(self.X)

    def cleaned(self, theta: Tensor) -> Tensor:
        return Cleanup(self.module, self.penalty)(theta)

    def scaled(self, theta: Tensor, scales: list[Tensor]) -> Tensor:
        theta = theta.clone()
        for joint, scale in zip(self.joints, scales, strict=True):
            joint.incoming(theta).mul_(scale[:, None])
            joint.outgoing(theta).div_(scale[:, None])
            if joint.bias:
                view(theta, joint.bias).mul_(scale)
        return theta

    def sizes(self, theta: Tensor, joint: Joint) -> tuple[Tensor, Tensor]:
        """Each unit's incoming norm, its bias included, and its outgoing norm; of penalised weights."""
        size = theta.abs() * self.penalty.penalised
        bias = view(size, joint.bias) if joint.bias else 0.0
        return joint.incoming(size).sum(dim=1) + bias, joint.outgoing(size).sum(dim=(0, 2))


@pytest.fixture(params=NETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class TestLaws:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
    def test_not_an_answer_changes(self, name: str, dtype: torch.dtype, tolerance: float) -> None:
        for seed in SEEDS:
            net = Net(name, seed, dtype)
            before, after = net.answers(net.theta), net.answers(net.cleaned(net.theta))
            assert (after - before).abs().max() <= tolerance * before.abs().max()

    def test_neither_penalty_nor_nonzeros_rise_and_zeros_stay(self, name: str) -> None:
        for seed in SEEDS:
            net = Net(name, seed, torch.float32)
            before, after = net.theta, net.cleaned(net.theta)
            assert net.penalty.value(after) <= net.penalty.value(before)
            assert after.count_nonzero() <= before.count_nonzero()
            assert not after[before == 0].any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_once_is_enough(self, name: str, dtype: torch.dtype) -> None:
        for seed in SEEDS:
            net = Net(name, seed, dtype)
            once = net.cleaned(net.theta)
            assert torch.equal(net.cleaned(once), once)

    def test_the_weights_given_are_left_alone(self, name: str) -> None:
        net = Net(name, 0)
        before = net.theta.clone()
        net.cleaned(net.theta)
        assert torch.equal(net.theta, before)

    def test_no_unit_is_left_that_nothing_reads(self, name: str) -> None:
        for seed in SEEDS:
            net = Net(name, seed)
            theta = net.cleaned(net.theta)
            for joint in net.joints:
                unread = ~joint.outgoing(theta).any(dim=2).any(dim=0)
                assert not joint.incoming(theta)[unread].any()
                assert not joint.bias or not view(theta, joint.bias)[unread].any()


@pytest.mark.parametrize("name", SCALABLE)
class TestLeastNorm:
    @pytest.mark.parametrize("parameters", ["all", "weights"])
    def test_incoming_and_outgoing_norms_agree(self, name: str, parameters: str) -> None:
        for seed in SEEDS:
            net = Net(name, seed, parameters=parameters)
            theta = net.cleaned(net.theta)
            for made, read in (net.sizes(theta, joint) for joint in net.joints):
                scalable = (made > 0) & (read > 0)
                torch.testing.assert_close(made[scalable], read[scalable], rtol=1e-7, atol=0)

    def test_all_scalings_of_a_network_become_the_same(self, name: str) -> None:
        for seed in SEEDS:
            net = Net(name, seed)
            scales = [torch.randn(joint.n_units, dtype=torch.float64).exp() for joint in net.joints]
            one, other = net.cleaned(net.theta), net.cleaned(net.scaled(net.theta, scales))
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0)

    def test_a_general_optimiser_finds_no_less(self, name: str) -> None:
        net = Net(name, 0)
        theta = net.cleaned(net.theta)
        ends = np.cumsum([joint.n_units for joint in net.joints])[:-1]

        def norm(logs: np.ndarray) -> float:
            scales = [torch.from_numpy(part).exp() for part in np.split(logs, ends)]
            return float(net.scaled(theta, scales).abs().sum())

        start = np.random.default_rng(0).normal(size=sum(joint.n_units for joint in net.joints))
        assert float(theta.abs().sum()) <= minimize(norm, start, method="L-BFGS-B").fun * (1 + 1e-9)

    def test_the_order_of_hidden_units_does_not_matter(self, name: str) -> None:
        for seed in SEEDS:
            net = Net(name, seed)
            orders = [torch.randperm(joint.n_units) for joint in net.joints]
            one = permuted(net, net.cleaned(net.theta), orders)
            other = net.cleaned(permuted(net, net.theta, orders))
            torch.testing.assert_close(one, other, rtol=1e-9, atol=0)


def permuted(net: Net, theta: Tensor, orders: list[Tensor]) -> Tensor:
    theta = theta.clone()
    for joint, order in zip(net.joints, orders, strict=True):
        joint.incoming(theta).copy_(joint.incoming(theta)[order])
        joint.outgoing(theta).copy_(joint.outgoing(theta)[:, order])
        if joint.bias:
            view(theta, joint.bias).copy_(view(theta, joint.bias)[order])
    return theta


def one_unit(activation: nn.Module, made: float, bias: float, read: float, next_bias: float = 0.0) -> list[float]:
    """Cleaned weights of a network 1-1-1, in the order given."""
    module = nn.Sequential(nn.Linear(1, 1), activation, nn.Linear(1, 1))
    theta = torch.tensor([made, bias, read, next_bias], dtype=torch.float64)
    return Cleanup(module, L1(layout(module)))(theta).tolist()


def test_one_unit_gets_the_closed_form() -> None:
    assert one_unit(nn.ReLU(), 3.0, -1.0, 9.0) == pytest.approx([4.5, -1.5, 6.0, 0.0], rel=1e-9)


def test_a_unit_that_nothing_reads_goes() -> None:
    assert one_unit(nn.Tanh(), 3.0, -1.0, 0.0, 2.0) == [0, 0, 0, 2]


def test_a_unit_that_is_always_zero_goes() -> None:
    assert one_unit(nn.ReLU(), 0.0, -1.0, 3.0, 2.0) == [0, 0, 0, 2]
    assert one_unit(nn.Tanh(), 0.0, 0.0, 3.0, 2.0) == [0, 0, 0, 2]


def test_a_constant_unit_joins_the_next_bias_where_that_is_no_zero() -> None:
    assert one_unit(nn.ReLU(), 0.0, 0.5, 3.0, 2.0) == pytest.approx([0, 0, 0, 3.5])
    assert one_unit(nn.Sigmoid(), 0.0, 0.0, 3.0, -2.0) == [0, 0, 0, -0.5]
    assert one_unit(nn.Sigmoid(), 0.0, 0.0, 3.0, 0.0) == [0, 0, 3, 0]


def test_a_constant_unit_stays_where_it_is_cheaper_than_a_bias() -> None:
    module = mlp((1,), 1, hidden=(2,))
    theta = torch.tensor([0.0, 100.0, 3.0, 0.0, 3.0, 0.01, 2.0])
    found = Cleanup(module, L1(layout(module)))(theta)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 3.0, 0.0, 3.0, 1.0, 2.0]))


@pytest.mark.parametrize(
    ("between", "padding", "kept"),
    [
        (nn.Identity(), 0, False),
        (nn.Identity(), 1, True),
        (nn.AvgPool2d(2), 0, False),
        (nn.AvgPool2d(2, padding=1), 0, True),
        (nn.AvgPool2d(2, divisor_override=1), 0, True),
        (nn.MaxPool2d(2, padding=1), 0, False),
    ],
)
def test_a_constant_filter_stays_where_its_readers_see_more_than_its_value(
    between: nn.Module, padding: int, kept: bool
) -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), between, nn.Conv2d(1, 1, 2, padding=padding))
    theta = torch.tensor([0.0, 0.2, 0.1, 0.1, 0.1, 0.1, 5.0])
    assert bool(Cleanup(module, L1(layout(module)))(theta)[1]) == kept


def test_weights_that_are_not_penalised_do_not_count() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    theta = torch.tensor([4.0, 100.0, 1.0, 7.0])
    found = Cleanup(module, L1(layout(module), parameters="weights"))(theta)
    torch.testing.assert_close(found, torch.tensor([2.0, 50.0, 2.0, 7.0]))
    only = L1(layout(module), parameters="2.weight")
    assert torch.equal(Cleanup(module, only)(theta), theta)


@pytest.mark.parametrize("groups", ["neuron", "input"])
def test_other_penalties_lose_what_has_no_effect_and_keep_their_scale(groups: str) -> None:
    for seed in SEEDS:
        net = Net("four hidden layers", seed)
        penalty = GroupL2(net.blocks, groups=groups)
        theta = Cleanup(net.module, penalty)(net.theta)
        assert penalty.value(theta) <= penalty.value(net.theta)
        assert theta.count_nonzero() < net.theta.count_nonzero()
        assert torch.equal(theta[theta != 0], net.theta[theta != 0])
        torch.testing.assert_close(net.answers(theta), net.answers(net.theta), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_come_back_as_they_are(bad: float) -> None:
    net = Net("four hidden layers", 0)
    theta = torch.where(torch.arange(len(net.theta)) == 3, bad, net.theta)
    torch.testing.assert_close(net.cleaned(theta), theta, rtol=0, atol=0, equal_nan=True)


# The structure that is relied on


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("linear", (4,), []),
        ("mlp", (28, 28), [20, 20]),
        ("lenet300", (28, 28), [300, 100]),
        ("lenet5", (28, 28), [20, 50, 500]),
        ("cifar_cnn", (3, 32, 32), [32, 32, 512]),
        ("resnet20", (3, 32, 32), []),
    ],
)
def test_the_hidden_units_of_the_networks_are_found(name: str, shape: tuple[int, ...], sizes: list[int]) -> None:
    assert [joint.n_units for joint in joints(NETWORKS[name](shape, 10))] == sizes


def tied() -> nn.Module:
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)]
    layers[2].weight = layers[0].weight
    return nn.Sequential(*layers)


def twice() -> nn.Module:
    layer, activation = nn.Linear(4, 4), nn.ReLU()
    return nn.Sequential(layer, activation, layer, activation, nn.Linear(4, 3))


def hooked() -> nn.Module:
    module = mlp((4,), 3, hidden=(4,))
    module[2].register_forward_hook(lambda part, inputs, answer: answer + 1)
    return module


class Own(nn.Sequential):
    """Its first layer is read by more than the next."""

    def forward(self, x: Tensor) -> Tensor:
        first = self[0](x)
        return self[2](self[1](first)) + first


UNSURE: dict[str, Callable[[], nn.Module]] = {
    "shared weights": tied,
    "a layer used twice": twice,
    "a hook": hooked,
    "a forward of its own": lambda: Own(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
    "an unknown activation": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 3)),
    "a norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)),
    "computed weights": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 3)),
    "positions mixed by flattening": lambda: nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(8, 3)),
    "pooled neurons": lambda: nn.Sequential(nn.Linear(4, 4), nn.MaxPool2d(1), nn.Linear(4, 3)),
    "grouped filters": lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2)),
    "columns, not filters": lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.Linear(4, 3)),
}


@pytest.mark.parametrize("make", UNSURE.values(), ids=UNSURE.keys())
def test_units_whose_readers_are_not_certain_are_left_out(make: Callable[[], nn.Module]) -> None:
    assert joints(make()) == ()


# In a job

SETTINGS = {"epochs": 1, "anchor_epochs": 2}


def spec(**settings: bool) -> JobSpec:
    method = Part("continuation", {**SETTINGS, **settings})
    return JobSpec(Part("mlp", {"hidden": [6]}), Part("digits", {"limit": 200}), method=method, points=4)


@pytest.mark.slow
def test_a_jobs_networks_are_clean_and_say_what_it_saved() -> None:
    job = build(spec(), {})
    waypoints = list(job.tracer.trace(job.problem))
    assert job.problem.cleanup is not None
    assert all(np.array_equal(job.problem.cleanup(torch.from_numpy(w.theta)), w.theta) for w in waypoints)
    assert all(w.point.metrics["penalty_saved"] >= 0 for w in waypoints)
    assert all(w.point.metrics["penalty_saved"] > 1e-4 * w.point.penalty for w in waypoints[:2])
    assert all(a.point.effort < b.point.effort for a, b in pairwise(waypoints))


@pytest.mark.slow
def test_a_refit_is_cleaned_too() -> None:
    job, source = build(spec(cleanup=False), {}), build(spec(), {})
    traced = list(job.tracer.trace(job.problem))
    tracer = refit(10, 0, Budget(), job=1, epochs=5)
    tracer.follow(Trail(tuple(w.point for w in traced), lambda index: traced[index]))
    refitted = list(tracer.trace(source.problem))
    clean = source.problem.cleanup
    assert clean is not None
    assert any(w.point.metrics["penalty_saved"] > 0 for w in refitted)
    for waypoint in refitted:
        if waypoint.point.metrics["penalty_saved"] > 0:
            assert np.array_equal(clean(torch.from_numpy(waypoint.theta)), waypoint.theta)


def test_networks_without_known_units_are_not_cleaned() -> None:
    job = build(JobSpec(Part("linear"), Part("digits", {"limit": 200}), points=4), {})
    assert job.tracer.cleanup
    assert job.problem.cleanup is None


@pytest.mark.slow
def test_a_job_leaves_networks_as_found_when_asked() -> None:
    job = build(spec(cleanup=False), {})
    waypoints = list(job.tracer.trace(job.problem))
    clean = Cleanup(job.problem.loss.module, job.problem.penalty)
    assert job.problem.cleanup is None
    assert all("penalty_saved" not in w.point.metrics for w in waypoints)
    assert not np.array_equal(clean(torch.from_numpy(waypoints[0].theta)), waypoints[0].theta)
