"""What is computed without units that zeros have cut off is what is computed with them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engine import losses
from engine.cleanup import Cleanup
from engine.correctors import AdaptiveProximal, Corrector, Pace
from engine.criteria import CrossEntropy
from engine.data import load
from engine.layout import Block, layout
from engine.losses import NetworkLoss
from engine.penalties import L1, PENALTIES, GroupL2, Penalty
from engine.problem import Problem, State
from engine.shrinking import Shrinking
from engine.structure import joints, view
from engine.tracers import Budget
from engine.tracers.methods import continuation
from engine.tracers.refit import Support
from tests.engine import problems
from tests.engine.test_correctors import CORRECTORS

EXACTLY = {"rtol": 0.0, "atol": 1e-12}
ON_THE_WAY = {"rtol": 1e-6, "atol": 1e-7}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 10)
    ),
    "without biases": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 10, bias=False)
    ),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(45, 9),
        nn.ReLU(),
        nn.Linear(9, 10),
    ),
    "batch norm before": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(108, 12),
        nn.ReLU(),
        nn.Linear(12, 10),
    ),
}


@pytest.fixture(params=NETWORKS)
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Problem:
    monkeypatch.setattr(losses, "MUCH", 0)
    return made(NETWORKS[request.param]())


def made(module: nn.Module) -> Problem:
    """On digits, float64."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    digits = load("digits", {"limit": 200}, {})
    images = {name: getattr(digits, name).astype(float) for name in ("X_train", "X_validation", "X_test")}
    loss = NetworkLoss(module.double(), replace(digits, **images), CrossEntropy())
    penalty = L1(loss.layout)
    return Problem(loss, penalty, Cleanup(module, penalty))


def cut(problem: Problem, left: int = 3) -> Tensor:
    """The start weights, with a few units of each layer and no more."""
    theta = problem.loss.initial()
    for joint in joints(problem.loss.module):
        joint.incoming(theta)[left:] = 0
        joint.outgoing(theta)[:, left:] = 0
        if joint.bias:
            view(theta, joint.bias)[left:] = 0
    return theta


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on nothing is shrunk."""
    return lambda: monkeypatch.setattr(losses, "MUCH", math.inf)


def test_the_loss_its_gradient_and_the_metrics_are_those_of_the_whole(problem, whole) -> None:
    theta, batch = cut(problem), torch.arange(40)
    assert problem.shrunk(theta) is not None
    small = [*problem.loss.value_and_grad(theta), problem.loss.value(theta), problem.loss.value(theta, batch)]
    qualities = {**problem.loss.metrics(theta), **problem.loss.validation(theta)}
    whole()
    assert problem.shrunk(theta) is None
    large = [*problem.loss.value_and_grad(theta), problem.loss.value(theta), problem.loss.value(theta, batch)]
    for found, expected in zip(small, large, strict=True):
        torch.testing.assert_close(found, expected, **EXACTLY)
    assert qualities == pytest.approx({**problem.loss.metrics(theta), **problem.loss.validation(theta)})


def test_what_is_left_out_gets_no_gradient(problem, whole) -> None:
    theta = cut(problem)
    parts = problem.shrunk(theta).parts
    whole()
    left_out = parts.whole(torch.ones(len(parts))) == 0
    assert int(left_out.sum()) == len(theta) - len(parts) > 0
    assert not theta[left_out].any()
    assert not problem.loss.value_and_grad(theta)[1][left_out].any()
    assert not problem.loss.value_and_grad(theta, torch.arange(30))[1][left_out].any()


def test_parts_are_the_smaller_networks_weights_in_their_places(problem) -> None:
    theta = cut(problem)
    smaller = problem.shrunk(theta)
    assert torch.equal(smaller.parts.whole(smaller.parts.of(theta)), theta)
    assert smaller.parts.layout == layout(smaller.problem.loss.module) == smaller.problem.loss.layout
    assert torch.equal(smaller.problem.loss.initial(), smaller.parts.of(problem.loss.initial()))


@pytest.mark.parametrize("groups", [False, True])
def test_cleaning_is_that_of_the_whole(groups: bool, problem: Problem, whole: Callable[[], None]) -> None:
    if groups:
        penalty = GroupL2(problem.loss.layout)
        problem = replace(problem, penalty=penalty, cleanup=Cleanup(problem.loss.module, penalty))
    theta = cut(problem)
    for joint in joints(problem.loss.module):
        joint.incoming(theta)[1], joint.outgoing(theta)[:, 2] = 0, 0
    at = State(theta, lam=0.1, level=1.0)
    assert problem.shrunk(theta) is not None
    small = problem.cleaned(at)
    whole()
    large = problem.cleaned(at)
    torch.testing.assert_close(small.theta, large.theta, rtol=1e-7, atol=1e-10)
    assert small.saved == pytest.approx(large.saved)
    assert small.saved > 0
    assert small.theta.count_nonzero() == large.theta.count_nonzero() < theta.count_nonzero()


def test_what_is_hung_on_the_whole_is_not_on_the_smaller(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, seen = problem.loss.metrics, []
    monkeypatch.setattr(problem.loss, "metrics", lambda theta: seen.append(len(theta)) or measure(theta))
    theta = cut(problem)
    assert problem.loss.metrics(theta)["train_accuracy"] > 0
    assert seen == [len(theta)]


def test_effort_counts_as_that_of_the_whole(problem) -> None:
    theta = cut(problem)
    problem.loss.value_and_grad(theta)
    problem.loss.value(theta)
    assert problem.loss.effort == pytest.approx(4 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["dense", "convolutions"], indirect=True)
@pytest.mark.parametrize("name", CORRECTORS)
def test_a_correction_is_that_of_the_whole(name: str, problem: Problem, whole) -> None:
    corrector, _ = CORRECTORS[name]
    theta = cut(problem)
    guess = State(theta, 0.01, 0.7 * float(problem.penalty.value(theta)), problem.loss.buffers)
    problem.loss.effort = 0.0
    small, effort = corrector.correct(problem, guess, 0), problem.loss.effort
    whole()
    problem.loss.effort = 0.0
    large = corrector.correct(problem, guess, 0)
    torch.testing.assert_close(small.state.theta, large.state.theta, **ON_THE_WAY)
    assert effort == pytest.approx(problem.loss.effort)
    assert (small.converged, small.fell) == (large.converged, large.fell)


@pytest.mark.slow
def test_units_that_are_cut_off_on_the_way_are_left_behind(problem: Problem, whole) -> None:
    corrector: Corrector = AdaptiveProximal("strength", 30, pace=Pace(pressure=5.0))
    guess = State(problem.loss.initial(), 0.02, 0.0, problem.loss.buffers)
    small, effort = corrector.correct(problem, guess, 0).state, problem.loss.effort
    assert problem.shrunk(small.theta) is not None
    whole()
    problem.loss.effort = 0.0
    large = corrector.correct(problem, guess, 0).state
    torch.testing.assert_close(small.theta, large.theta, **ON_THE_WAY)
    assert effort == pytest.approx(problem.loss.effort)


@pytest.mark.slow
def test_a_limit_stops_the_smaller_network_too(problem: Problem) -> None:
    theta = cut(problem)
    problem.loss.limit = problem.loss.effort + 1.5
    AdaptiveProximal("strength", 20).correct(problem, State(theta, 0.01, 0.0, problem.loss.buffers), 0)
    assert 1 < problem.loss.effort <= 2


def support(blocks: Sequence[Block]) -> Penalty:
    return Support(problems.vector(5, blocks[-1].stop) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("make", [*PENALTIES.values(), support], ids=[*PENALTIES, "support"])
def test_a_penalty_of_the_parts_is_the_penalty(make: Callable[..., Penalty], problem: Problem) -> None:
    penalty, theta = make(problem.loss.layout), cut(problem)
    parts = problem.loss.shrunk(theta).parts
    among = penalty.among(parts)
    part, level = parts.of(theta), 0.6 * float(penalty.value(theta))
    step = 0.1 + problems.vector(2, len(theta)).abs()
    torch.testing.assert_close(among.value(part), penalty.value(theta), **EXACTLY)
    for found, expected in (
        (among.prox(part, 0.05), penalty.prox(theta, 0.05)),
        (among.prox(part, 0.05 * parts.of(step)), penalty.prox(theta, 0.05 * step)),
        (among.subgradient(part), penalty.subgradient(theta)),
        (among.project(part, level, parts.of(step))[0], penalty.project(theta, level, step)[0]),
        (among.trim(part, 0.1), penalty.trim(theta, 0.1)),
    ):
        torch.testing.assert_close(parts.whole(found), expected, rtol=1e-9, atol=1e-9)


def test_buffers_are_shared(monkeypatch: pytest.MonkeyPatch, whole) -> None:
    monkeypatch.setattr(losses, "MUCH", 0)
    problem = made(NETWORKS["batch norm before"]())
    theta = cut(problem)
    before = float(problem.loss.value(theta))
    problem.loss.calibrate(theta)
    after = float(problem.loss.value(theta))
    whole()
    assert after != before
    assert float(problem.loss.value(theta)) == pytest.approx(after, abs=1e-12)


def test_other_buffers_are_measured_anew(monkeypatch: pytest.MonkeyPatch, whole) -> None:
    monkeypatch.setattr(losses, "MUCH", 0)
    problem = made(NETWORKS["batch norm before"]())
    theta, before = cut(problem), problem.loss.buffers
    problem.loss.value_and_grad(theta)
    first = problem.loss.metrics(theta)
    problem.loss.calibrate(theta)
    calibrated = problem.loss.metrics(theta)
    problem.loss.value_and_grad(theta)
    problem.loss.load_buffers(before)
    again = problem.loss.metrics(theta)
    problem.loss.calibrate(theta)
    whole()
    assert first["train_accuracy"] != calibrated["train_accuracy"]
    assert again == pytest.approx(first)
    assert calibrated == pytest.approx(problem.loss.metrics(theta))


def test_the_zero_network_keeps_a_unit_of_each_layer(problem: Problem) -> None:
    theta = torch.zeros_like(problem.loss.initial())
    smaller = problem.shrunk(theta).problem.loss.module
    assert all(joint.n_units == 1 for joint in joints(smaller))
    assert float(problem.loss.value(theta)) == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    "module",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Sigmoid(), nn.Linear(12, 10)),
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv2d(1, 6, 3),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 10),
        ),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    ],
    ids=["a unit without weights answers", "filters in groups", "no units"],
)
def test_what_may_come_back_stays(module: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch, whole) -> None:
    monkeypatch.setattr(losses, "MUCH", 0)
    problem = made(module())
    theta = torch.zeros_like(problem.loss.initial())
    smaller = problem.shrunk(theta)
    gradient = problem.loss.value_and_grad(theta)[1]
    whole()
    torch.testing.assert_close(gradient, problem.loss.value_and_grad(theta)[1], **EXACTLY)
    assert smaller is None or smaller.parts.of(gradient).count_nonzero() == gradient.count_nonzero()


def test_where_little_is_cut_off_nothing_is_copied(problem: Problem) -> None:
    assert problem.shrunk(problem.loss.initial()) is None
    shrinking = Shrinking(problem.loss.module)
    assert shrinking.parts(shrinking.units(cut(problem, left=8))) is None


@pytest.mark.slow
def test_a_trace_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch, whole) -> None:
    monkeypatch.setattr(losses, "MUCH", 0)
    small = [w.point for w in continuation(6, 0, Budget(), quality="draft").trace(made(NETWORKS["dense"]()))]
    whole()
    large = [w.point for w in continuation(6, 0, Budget(), quality="draft").trace(made(NETWORKS["dense"]()))]
    assert [p.loss for p in small] == pytest.approx([p.loss for p in large], rel=1e-4)
    assert [p.penalty for p in small] == pytest.approx([p.penalty for p in large], rel=1e-4)
    assert [p.effort for p in small] == pytest.approx([p.effort for p in large])
