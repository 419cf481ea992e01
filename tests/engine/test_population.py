"""Populations: many members at once give what each gives alone."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import lars_path
from torch import Tensor, nn

from engine.correctors.population import Balls, PopulationDescent, PopulationHold, Strengths
from engine.criteria import CrossEntropy, LogisticLoss, SquaredError
from engine.data import Dataset, load
from engine.errors import Diverged, InvalidSpec
from engine.losses import Loss, NetworkLoss
from engine.networks import ACTIVATIONS, mlp
from engine.penalties import L1, Penalty
from engine.penalties.rows import EachRow, L1Rows, rows
from engine.population import OneByOne, PopulationLoss, StackedLayers, VectorizedNetwork, population_loss
from engine.problem import Problem
from engine.spec import JobSpec, build, shorthand
from engine.tracers import Budget
from engine.tracers.levels import levels
from engine.tracers.methods import population
from engine.tracers.population import shuffled
from tests.engine import problems

N_MEMBERS = 4


class Skip(nn.Module):
    """Not a sequence: its hidden layer has a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.output = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.output(x + self.inner(x).tanh())


class Choosy(nn.Module):
    """Its control flow depends on the data, which no vectorization follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.flatten(1))
        return y if float(y.detach().sum()) > 0 else 2 * y


@cache
def data(name: str) -> Dataset:
    return load(name, {"limit": 100}, {})


def on_digits(module: nn.Module) -> NetworkLoss:
    return NetworkLoss(module, data("digits"), CrossEntropy())


def dense(**settings: object) -> NetworkLoss:
    return on_digits(mlp((8, 8), 10, hidden=(6, 5), **settings))


LOSSES: dict[str, tuple[Callable[[], Loss], type[PopulationLoss]]] = {
    "dense": (dense, StackedLayers),
    "no biases": (lambda: dense(bias=False), StackedLayers),
    "linear": (lambda: on_digits(mlp((8, 8), 10, hidden=())), StackedLayers),
    "iris, float64": (lambda: problems.iris_network().loss, StackedLayers),
    "two classes": (
        lambda: NetworkLoss(mlp((30,), 1, hidden=(3,)), data("breast_cancer"), LogisticLoss()),
        StackedLayers,
    ),
    "regression": (
        lambda: NetworkLoss(mlp((10,), 1, hidden=(3,)), data("diabetes"), SquaredError()),
        StackedLayers,
    ),
    "convolutions": (
        lambda: NetworkLoss(
            nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)),
            data("digits"),
            CrossEntropy(),
        ),
        VectorizedNetwork,
    ),
    "skip": (lambda: on_digits(Skip()), VectorizedNetwork),
    "text": (lambda: problems.text_network().loss, VectorizedNetwork),
    "control flow": (lambda: on_digits(Choosy()), OneByOne),
    "dropout": (lambda: on_digits(nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10))), OneByOne),
    "batch norm": (lambda: problems.norm_network().loss, OneByOne),
    "least squares": (lambda: problems.diabetes().problem.loss, OneByOne),
}


def members(loss: Loss) -> Tensor:
    """Different from each other, not small."""
    noise = torch.randn(N_MEMBERS, loss.n_params, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return loss.initial() + 0.2 * noise.to(loss.initial())


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    torch.manual_seed(0)
    return LOSSES[request.param][0]()


class TestPopulationLoss:
    @pytest.mark.parametrize("name", LOSSES)
    def test_the_fastest_way_that_works_is_chosen(self, name: str) -> None:
        made, kind = LOSSES[name]
        found, single = population_loss(made()), made()
        assert type(found) is kind
        assert found.loss.effort == single.effort == 0

    @pytest.mark.parametrize("which", ["all", "shared batch", "own batches"])
    def test_members_have_the_value_and_gradient_of_the_single_network(self, loss: Loss, which: str) -> None:
        thetas = members(loss)
        own = torch.randint(loss.n_samples, (N_MEMBERS, 16), generator=torch.Generator().manual_seed(1))
        batch = {"all": None, "shared batch": own[0], "own batches": own}[which]
        values, grads = population_loss(loss).value_and_grad(thetas, batch)
        each = own if which == "own batches" else [batch] * N_MEMBERS
        for value, grad, theta, samples in zip(values, grads, thetas, each, strict=True):
            expected, slope = loss.value_and_grad(theta, samples)
            assert float(value) == pytest.approx(float(expected), rel=1e-5)
            torch.testing.assert_close(grad, slope, rtol=1e-4, atol=1e-5 * float(slope.abs().max()))

    def test_values_on_all_data_are_those_of_the_single_network(self, loss: Loss) -> None:
        thetas = members(loss)
        for value, theta in zip(population_loss(loss).value(thetas), thetas, strict=True):
            loss.calibrate(theta)
            assert float(value) == pytest.approx(float(loss.value(theta)), rel=1e-5)

    def test_effort_counts_every_member(self, loss: Loss) -> None:
        found = population_loss(loss)
        found.value_and_grad(members(loss))
        assert loss.effort == N_MEMBERS
        found.value_and_grad(members(loss), torch.arange(10))
        assert loss.effort == pytest.approx(N_MEMBERS * (1 + 10 / loss.n_samples))

    def test_arguments_stay_as_they_were(self, loss: Loss) -> None:
        thetas = members(loss)
        before = thetas.clone()
        population_loss(loss).value_and_grad(thetas)
        assert torch.equal(thetas, before)
        assert not thetas.requires_grad


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_stacked(activation: str) -> None:
    loss = dense(activation=activation)
    thetas, batch = members(loss), torch.arange(20)
    assert isinstance(population_loss(loss), StackedLayers)
    alone = OneByOne(loss).value_and_grad(thetas, batch)
    for found, expected in zip(population_loss(loss).value_and_grad(thetas, batch), alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_data_larger_than_a_piece_are_evaluated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = dense()
    thetas = members(loss)
    expected = population_loss(loss).value_and_grad(thetas)
    monkeypatch.setattr("engine.population.EVALUATIONS", 7 * N_MEMBERS)
    for found, whole in zip(population_loss(loss).value_and_grad(thetas), expected, strict=True):
        torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("penalty", problems.PENALTIES.values(), ids=problems.PENALTIES)
class TestRows:
    def test_every_row_is_projected_onto_its_own_ball(self, penalty: Penalty) -> None:
        thetas = torch.stack([problems.vector(seed) for seed in range(3)])
        metric = torch.stack([problems.vector(seed).exp() for seed in range(3, 6)])
        radii = rows(penalty).value(thetas)[:, None] * torch.tensor([[0.05], [0.6], [1.5]])
        found, multipliers = rows(penalty).project(thetas, radii, metric)
        for row, multiplier, *given in zip(found, multipliers, thetas, radii.flatten().tolist(), metric, strict=True):
            expected, strength = penalty.project(*given)
            torch.testing.assert_close(row, expected)
            torch.testing.assert_close(multiplier[0], strength)

    def test_values_and_proximal_operators_are_those_of_the_rows(self, penalty: Penalty) -> None:
        thetas = torch.stack([problems.vector(seed) for seed in range(5)])
        step = 0.3 * thetas.exp()
        assert rows(penalty).value(thetas).tolist() == pytest.approx([float(penalty.value(theta)) for theta in thetas])
        for found, *given in zip(rows(penalty).prox(thetas, step), thetas, step, strict=True):
            torch.testing.assert_close(found, penalty.prox(*given))


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1, 100.0])
@pytest.mark.parametrize("name", ["l1", "l1 weights"])
def test_projections_that_begin_nearby_converge_to_the_same(name: str, factor: float) -> None:
    many = rows(problems.PENALTIES[name])
    thetas = torch.stack([problems.vector(seed) for seed in range(3)])
    radii, metric = many.value(thetas)[:, None] * torch.tensor([[0.05], [0.6], [1.5]]), thetas.exp()
    expected, multipliers = many.project(thetas, radii, metric)
    found, around = thetas, factor * multipliers
    for _ in range(8):
        found, around = many.project(thetas, radii, metric, around)
    torch.testing.assert_close(found, expected)


def test_l1_is_projected_all_at_once() -> None:
    assert isinstance(rows(problems.PENALTIES["l1"]), L1Rows)
    assert isinstance(rows(problems.PENALTIES["group neuron"]), EachRow)


@pytest.mark.parametrize("held", ["balls", "strengths"])
def test_members_descend_as_each_would_alone(held: str) -> None:
    problem = problems.iris_network()
    thetas, limits = members(problem.loss), torch.tensor([[2.0], [5.0], [9.0], [100.0]], dtype=torch.float64)

    def hold(which: slice) -> PopulationHold:
        if held == "balls":
            return Balls(rows(problem.penalty), limits[which], thetas[which])
        return Strengths(rows(problem.penalty), limits[which] / 1000)

    descent, loss = PopulationDescent(epochs=50), population_loss(problem.loss)
    together = descent.descend(loss, hold(slice(None)), thetas, 0)
    for i in range(N_MEMBERS):
        alone = descent.descend(loss, hold(slice(i, i + 1)), thetas[i : i + 1], 0)
        torch.testing.assert_close(together[i : i + 1], alone)
    assert bool((loss.value(together) < loss.value(thetas)).all())
    if held == "balls":
        assert bool((rows(problem.penalty).value(together) <= limits[:, 0] * (1 + 1e-6)).all())


def test_fresh_starts_keep_the_sizes_of_each_tensor() -> None:
    loss = dense()
    drawn = shuffled(loss, 3, 0)
    for block in loss.layout:
        sizes = loss.initial()[block.start : block.stop].abs().sort().values
        for theta in drawn[:, block.start : block.stop]:
            torch.testing.assert_close(theta.abs().sort().values, sizes)
    assert torch.equal(drawn, shuffled(loss, 3, 0))
    assert not torch.equal(drawn, shuffled(loss, 3, 1))
    assert not torch.equal(drawn[0], drawn[1])


def test_levels_are_evenly_spaced_in_the_logarithm_and_have_what_is_wanted() -> None:
    assert levels(1.0, 16.0, 5).tolist() == pytest.approx([1, 2, 4, 8, 16])
    assert levels(1.0, 8.0, 5, zero=True).tolist() == pytest.approx([0, 1, 2, 4, 8])
    assert levels(1.0, 16.0, 5, (6.0, 2.5)).tolist() == pytest.approx([1, 2.5, 4, 6, 16])
    assert levels(1.0, 16.0, 5, (32.0,)).tolist() == pytest.approx([1, 32**0.25, 32**0.5, 32**0.75, 32])


@pytest.mark.slow
def test_every_waypoint_is_as_good_as_the_lars_path() -> None:
    lasso = problems.diabetes()
    knots, _, path = lars_path(lasso.X, lasso.y, method="lasso")
    sizes = np.abs(path).sum(axis=0)
    waypoints = list(population(6, 0, Budget(), epochs=100, rounds=2, starts=1, batch=442).trace(lasso.problem))
    front = {int(w.memory["slot"]): w for w in waypoints}
    assert len(knots) > 1
    assert len(front) == 6
    for waypoint in front.values():
        best = np.array([np.interp(waypoint.point.penalty, sizes, row) for row in path])
        loss = ((lasso.y - lasso.X @ best) ** 2).mean() / 2
        assert waypoint.point.loss <= loss * (1 + 1e-3)


@pytest.mark.slow
def test_the_iris_front_is_as_good_as_the_best_known() -> None:
    method = shorthand("population:5,10,12,16,20,25,starts=24,epochs=500,rounds=2")
    network, data = shorthand("mlp:4,4,activation=tanh"), shorthand("iris:split=paper,validation=0")
    experiment = build(JobSpec(network, data, method=method, points=9, device="cpu"), {})
    points = [waypoint.point for waypoint in experiment.tracer.trace(experiment.problem)]
    most = {5: 0.63, 10: 0.345, 12: 0.21, 16: 0.062, 20: 0.0140, 25: 0.0019}
    reached = {level: min(p.loss for p in points if p.penalty <= level) for level in most}
    assert all(reached[level] <= most[level] for level in most), reached


@pytest.mark.slow
def test_wanted_levels_are_among_the_points_and_a_network_only_gives_way_to_a_better_one() -> None:
    found = population(8, 0, Budget(), levels=(10.0, 30.0), epochs=4, rounds=3)
    best: dict[int, float] = {}
    points = []
    for waypoint in found.trace(problems.digits_network()):
        slot = int(waypoint.memory["slot"])
        assert waypoint.point.loss < best.get(slot, math.inf)
        best[slot] = waypoint.point.loss
        points.append(waypoint.point)
    assert len(points) <= found.expected
    for level in (10.0, 30.0):
        assert min(abs(p.penalty / level - 1) for p in points) < 1e-4
    assert max(p.sweep for p in points) == 3


@pytest.mark.slow
@pytest.mark.parametrize("end", [0.9, 1.0])
def test_the_front_ends_at_the_sparsity_asked_for(end: float) -> None:
    points = [w.point for w in population(8, 0, Budget(), epochs=4, end=end).trace(problems.digits_network())]
    assert max(p.sparsity for p in points) >= end


@pytest.mark.parametrize(("budget", "word"), [(Budget(epochs=40), "epochs"), (Budget(seconds=0.0), "seconds")])
def test_a_budget_ends_the_trace_and_says_so(budget: Budget, word: str) -> None:
    found = population(20, 0, budget, epochs=20)
    assert 1 <= len(list(found.trace(problems.digits_network()))) <= 1 + 20
    assert word in found.ended


def test_data_that_give_no_number_are_refused_with_the_reason() -> None:
    problem = problems.iris_network()
    broken = problems.dataset(np.full((30, 4), np.inf), np.arange(30) % 3)
    with pytest.raises(Diverged, match="nan"):
        next(iter(population(4, 0, Budget(), epochs=2).trace(problems.network_problem(problem.loss.module, broken))))


def test_more_levels_than_points_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="3 levels"):
        population(4, 0, Budget(), levels=(1.0, 2.0, 3.0))


@pytest.mark.slow
def test_an_l1_norm_of_some_weights_leaves_the_others_free() -> None:
    loss = problems.digits_network().loss
    problem = Problem(loss, L1(loss.layout, parameters="weights"))
    last = list(population(4, 0, Budget(), epochs=4, end=1.0).trace(problem))[-1]
    masked = np.abs(last.theta[problem.penalty.penalised.numpy()]).sum()
    assert last.point.penalty == pytest.approx(float(masked), rel=1e-5)
