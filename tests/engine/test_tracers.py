"""Tracers: known paths, the promises every tracer keeps, and a path resumed as if never stopped."""

import functools
import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.linear_model import Lasso, lars_path
from torch import Tensor, nn

from engine.correctors.adaptive import TRIM
from engine.errors import Diverged, InvalidSpec
from engine.front import Front, Waypoint
from engine.losses import LeastSquares
from engine.penalties import L1, GroupL2, GroupMCP
from engine.predictors import state
from engine.problem import Problem
from engine.registry import parameters
from engine.tracers import TRACERS, Budget, Tracer
from engine.tracers.continuation import Continuation, _Judge, _sample
from engine.tracers.methods import QUALITIES, continuation
from tests.engine import problems

QUICK = {"epochs": 2, "anchor_epochs": 10, "sweeps": 2}
SETTINGS = {
    "default": QUICK,
    "accelerated": {**QUICK, "corrector": "accelerated"},
    "fixed strength": {**QUICK, "corrector": "accelerated", "held": "strength"},
    "fixed strength, adaptive": {**QUICK, "held": "strength", "predictor": "warm_start"},
    "secant, three sweeps": {**QUICK, "predictor": "secant", "sweeps": 3},
    "multiobjective": {"epochs": 5, "anchor_epochs": 10, "corrector": "multiobjective"},
    "exact": {"epochs": 20, "anchor_epochs": 50, "corrector": "proximal_gradient"},
    "newton": {"epochs": 20, "anchor_epochs": 50, "corrector": "newton"},
    "tangent": {**QUICK, "predictor": "tangent"},
    "from the network": {**QUICK, "start": "network", "predictor": "gradient"},
    "population": {"epochs": 2, "rounds": 2, "starts": 2},
    "relevance": {"epochs": 2, "anchor_epochs": 10},
    "weighted_sum": {"epochs": 2, "first_epochs": 6, "strongest": 0.3},
    "weighted_sum, cold": {"first_epochs": 6, "start": "cold", "strongest": 0.05},
    "pruning": {"epochs": 2, "dense_epochs": 5},
    "pruning, rewound": {"epochs": 2, "dense_epochs": 5, "retraining": "weight_rewinding"},
    "evolutionary": {"population": 24, "generations": 4},
    "lassonet": {"epochs": 2, "first_epochs": 6},
    "dropout": {"epochs": 2, "first_epochs": 10, "end": 0.999},
    "dropout, variational": {"epochs": 2, "first_epochs": 10, "end": 0.999, "variant": "variational_local_additive"},
    "dessilbi": {"epochs": 40, "strength": 0.3, "dense": 0.3},
    "growing": {"epochs": 5, "fine_tune_epochs": 5, "tau": 0.01, "units": 1, "factor": 1.0, "strength": 0.01},
    "linbreg": {"epochs": 40, "strength": 0.1, "rate": 0.1, "density": 0.01, "dense": 0.3},
}
WITHOUT_STRENGTH = {"dessilbi", "growing", "linbreg", "relevance"}


def tracer(name: str, points: int = 8, **more: object) -> Tracer:
    factory = TRACERS.get(name.partition(",")[0], continuation)
    known = {p.name for p in parameters(factory)}
    settings = {**SETTINGS[name], **{setting: value for setting, value in more.items() if setting in known}}
    return factory(points, 0, Budget(), **settings)


def problem_for(name: str, otherwise: Callable[[], Problem] = problems.digits_network) -> Problem:
    made = {"lassonet": problems.lasso_network, "growing": problems.digits_network}
    return made.get(name, otherwise)()


OFTEN = {"default", "exact", "weighted_sum", "relevance", "dropout", "linbreg"}


@pytest.fixture(params=[n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def same(a: Waypoint, b: Waypoint) -> bool:
    """Equal to the bit, wall time apart."""
    numbers = [{k: v for k, v in w.point.to_dict().items() if k != "seconds"} for w in (a, b)]
    arrays = [[w.theta, *w.buffers.values(), *w.memory.values()] for w in (a, b)]
    return numbers[0] == numbers[1] and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(*arrays, strict=True))


@dataclass(frozen=True)
class Traced:
    """A finished trace: what it yielded, copies made as each came, and what it said at its end."""

    waypoints: list[Waypoint]
    copies: list[Waypoint]
    expected: int
    ended: str


@functools.cache
def traced(name: str) -> Traced:
    """One for all contracts that are about whole traces."""
    found, waypoints, copies = tracer(name), [], []
    assert found.ended == ""
    for waypoint in found.trace(problem_for(name)):
        waypoints.append(waypoint)
        copies.append(deepcopy(waypoint))
    return Traced(waypoints, copies, found.expected, found.ended)


class TestContract:
    @pytest.mark.slow
    def test_indices_count_up_and_parents_came_before(self, name: str) -> None:
        whole = traced(name)
        points = [w.point for w in whole.waypoints]
        assert [p.index for p in points] == list(range(len(points)))
        assert all(p.parent is None or p.parent < p.index for p in points)
        assert 2 <= len(points) <= 2 * whole.expected

    @pytest.mark.slow
    def test_what_was_found_stays_as_it_was_when_found(self, name: str) -> None:
        whole = traced(name)
        assert all(same(a, b) for a, b in zip(whole.waypoints, whole.copies, strict=True))

    @pytest.mark.slow
    def test_numbers_are_those_of_the_stored_weights(self, name: str) -> None:
        problem = problem_for(name, problems.norm_network)
        for waypoint in islice(tracer(name, 5).trace(problem), 6):
            theta, point = torch.from_numpy(waypoint.theta), waypoint.point
            problem.loss.load_buffers({k: torch.from_numpy(v) for k, v in waypoint.buffers.items()})
            loss, grad = problem.loss.value_and_grad(theta)
            assert point.loss == float(loss)
            assert point.penalty == float(problem.penalty.value(theta))
            assert point.n_nonzero == int((theta != 0).sum()) == sum(layer.n_nonzero for layer in point.layers)
            assert (point.lam is None) == (point.residual is None) == (name in WITHOUT_STRENGTH)
            assert point.lam is None or point.residual == problem.residual(theta, grad, point.lam)
            assert point.metrics["l1"] == float(theta.abs().sum())

    @pytest.mark.slow
    @pytest.mark.parametrize("stop", [0, 1, 4, 7, 11])
    def test_resumed_is_as_if_never_stopped(self, name: str, stop: int) -> None:
        whole = traced(name).copies
        assert len(whole) > 7
        rest = list(tracer(name).trace(problem_for(name), deepcopy(whole[:stop])))
        assert all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))

    @pytest.mark.slow
    def test_says_why_it_ended(self, name: str) -> None:
        assert "sparsity" in traced(name).ended

    @pytest.mark.slow
    def test_effort_and_seconds_only_grow(self, name: str) -> None:
        points = [w.point for w in traced(name).waypoints]
        assert all(a.effort < b.effort and a.seconds < b.seconds for a, b in pairwise(points))

    @pytest.mark.slow
    def test_group_penalties_are_traced_too(self, name: str) -> None:
        problem = problem_for(name)
        grouped = Problem(problem.loss, problems.GroupL2(problem.loss.layout))
        points = [w.point for w in tracer(name, 5, end=0.5).trace(grouped)]
        assert max(p.sparsity for p in points) >= 0.5


@pytest.mark.slow
def test_every_network_is_stored_with_the_batch_norm_statistics_of_its_weights() -> None:
    problem = problems.norm_network()
    for waypoint in tracer("default").trace(problem):
        stored = {name: torch.from_numpy(array) for name, array in waypoint.buffers.items()}
        problem.loss.load_buffers(stored)
        problem.loss.calibrate(torch.from_numpy(waypoint.theta))
        torch.testing.assert_close(dict(problem.loss.buffers), stored)


@pytest.mark.slow
def test_resumes_with_batch_norm_statistics() -> None:
    whole = list(tracer("default").trace(problems.norm_network()))
    rest = list(tracer("default").trace(problems.norm_network(), whole[:5]))
    assert all(same(a, b) for a, b in zip(whole[5:], rest, strict=True))


@pytest.mark.parametrize("held", ["penalty", "strength"])
@pytest.mark.parametrize("data", [problems.diabetes, problems.wide])
@pytest.mark.parametrize(("exact", "passes"), [("newton", 2_000), ("proximal_gradient", 30_000)])
def test_every_waypoint_is_scikit_learns_lasso(exact: str, passes: int, data, held: str) -> None:
    lasso = data()
    settings = {"corrector": exact, "epochs": passes, "anchor_epochs": passes, "tolerance": 1e-9}
    found = continuation(12, 0, Budget(), held=held, sweeps=1, strength=0.01, end=1.0, **settings)
    for waypoint in found.trace(lasso.problem):
        point, theta = waypoint.point, waypoint.theta
        if not theta.any():
            continue
        model = Lasso(point.lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(lasso.X, lasso.y)
        assert np.abs(theta - model.coef_).max() <= 1e-5 * np.abs(model.coef_).max()


def test_waypoints_lie_on_the_lars_path() -> None:
    lasso = problems.diabetes()
    knots, _, path = lars_path(lasso.X, lasso.y, method="lasso")
    settings = {"corrector": "proximal_gradient", "epochs": 30_000, "anchor_epochs": 30_000, "tolerance": 1e-9}
    for waypoint in continuation(12, 0, Budget(), sweeps=1, strength=0.01, **settings).trace(lasso.problem):
        if waypoint.theta.any():
            expected = [np.interp(-waypoint.point.lam, -knots, row) for row in path]
            np.testing.assert_allclose(waypoint.theta, expected, rtol=0, atol=1e-5 * np.abs(path).max())


@pytest.mark.slow
def test_the_path_covers_the_range_evenly_with_as_many_points_as_asked() -> None:
    waypoints = list(continuation(20, 0, Budget()).trace(problems.digits_network(32, 700)))
    front = Front(tuple(w.point for w in waypoints)).non_dominated()
    gaps = np.diff(np.log([p.penalty for p in front if p.penalty > 0]))
    assert len(front) == 20
    assert max(p.sparsity for p in front) >= 0.99
    assert gaps.max() <= 3 * np.median(gaps)


@pytest.mark.slow
def test_a_mean_stays_as_it_is_only_where_the_front_bends_as_fronts_do() -> None:
    found = list(continuation(40, 0, Budget()).trace(problems.digits_network(32, 700)))
    cost = np.diff([w.point.effort for w in found], prepend=0.0)
    between = [w for w in found if w.memory["gap"][0] >= 0]
    means = [w for w in between if cost[w.point.index] < 1.5]
    assert 0 < len(means) < len(between)
    for here in (w.point for w in means):
        sparser, denser = (found[i].point for i in found[here.index].memory["gap"])
        line = np.interp(here.penalty, [sparser.penalty, denser.penalty], [sparser.loss, denser.loss])
        assert here.loss - denser.loss <= QUALITIES["balanced"].slack * (line - denser.loss) + 1e-6


def mean_of(problem: Problem, sparser: Waypoint, denser: Waypoint) -> torch.Tensor:
    """The weighted mean halfway between two penalties on a log scale, without its smallest weights."""
    near, far = (torch.from_numpy(waypoint.theta) for waypoint in (sparser, denser))
    level = math.sqrt(sparser.point.penalty * denser.point.penalty) / (1 - TRIM)
    share = brentq(lambda s: float(problem.penalty.value(near.lerp(far, s))) - level, 0, 1)
    return problem.penalty.trim(near.lerp(far, share), TRIM)


@pytest.mark.slow
def test_no_correction_of_a_mean_is_kept_that_made_it_worse() -> None:
    problem = problems.digits_network(32, 700)
    found = list(continuation(40, 0, Budget()).trace(problem))
    between = [w for w in found if w.memory["gap"][0] >= 0]
    assert between
    for here in between:
        mean = mean_of(problem, *(found[place] for place in here.memory["gap"]))
        assert here.point.loss <= float(problem.loss.value(mean)) * (1 + 1e-4)


@pytest.mark.slow
def test_of_many_samples_an_eighth_judges_means() -> None:
    problem = problems.many_samples()
    found = list(continuation(20, 0, Budget(), quality="draft").trace(problem))
    cost = np.diff([w.point.effort for w in found], prepend=0.0)
    between = [cost[w.point.index] for w in found if w.memory["gap"][0] >= 0]
    means = [each for each in between if each < 1.5]
    assert means
    assert means == pytest.approx([1 + 1 / 8 / 3] * len(means))
    judged = [float(problem.loss.value(torch.from_numpy(w.theta), judges(problem))) for w in found]
    assert [float(w.memory["judged"]) for w in found] == pytest.approx(judged, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 8])
def test_judging_by_a_sample_goes_on_as_if_never_stopped(done: int) -> None:
    whole = list(continuation(10, 0, Budget(), quality="draft").trace(problems.many_samples()))
    tail = list(continuation(10, 0, Budget(), quality="draft").trace(problems.many_samples(), whole[:done]))
    assert [w.point.effort for w in tail] == [w.point.effort for w in whole[done:]]
    for found, expected in zip(tail, whole[done:], strict=True):
        assert np.array_equal(found.theta, expected.theta)


def judges(problem: Problem) -> Tensor | None:
    """The samples that a trace of seed 0 judges by."""
    tracer = continuation(2, 0, Budget())
    assert isinstance(tracer, Continuation)
    return _sample(problem, tracer._draw(-1, 0))


@pytest.mark.slow
def test_the_first_network_takes_no_gradient_of_what_it_starts_from() -> None:
    problem = problems.many_samples()
    first = next(iter(continuation(20, 0, Budget(), quality="draft", anchor_epochs=3).trace(problem)))
    training, judging = 240 / 60 + 3, 2 / 8 / 3
    assert first.point.effort == pytest.approx(training + judging + 1 / 3 + 1)


@pytest.mark.slow
def test_no_mean_stays_as_it_is_under_a_group_penalty() -> None:
    network = problems.digits_network(16)
    grouped = Problem(network.loss, GroupL2(network.loss.layout))
    found = list(continuation(10, 0, Budget()).trace(grouped))
    cost = np.diff([w.point.effort for w in found], prepend=0.0)
    between = [cost[w.point.index] for w in found if w.memory["gap"][0] >= 0]
    assert between
    assert min(between) >= 1.5


@pytest.mark.slow
def test_no_unit_of_a_narrow_first_network_is_beyond_the_usual_plateau() -> None:
    network, usual = problems.digits_network(8), inspect.signature(GroupMCP).parameters["plateau"].default
    first = next(continuation(6, 0, Budget()).trace(replace(network, penalty=GroupMCP(network.loss.layout))))
    block = network.loss.layout[0]
    norms = np.linalg.norm(first.theta[block.start : block.stop].reshape(8, -1), axis=1)
    assert max(norms) < usual


@pytest.mark.slow
def test_where_an_end_of_zeros_is_out_of_reach_the_zero_network_is_the_end() -> None:
    network = problems.digits_network(16)
    problem = replace(network, penalty=L1(network.loss.layout, parameters="weights"), cleanup=None)
    found = [w.point for w in continuation(8, 0, Budget(), quality="draft").trace(problem)]
    explored = [p for p in found[1:] if p.parent == p.index - 1]
    cost = np.diff([p.effort for p in found], prepend=0.0)
    assert [p.penalty for p in explored if p.penalty == 0] == [explored[-1].penalty]
    assert 0.98 * math.log(10) < explored[-1].loss < math.log(10)
    assert cost[1 : len(explored) + 1] == pytest.approx(cost[1])


@pytest.mark.slow
def test_where_an_asked_end_is_out_of_reach_nothing_is_tried_that_knows_no_more_than_zero() -> None:
    network = problems.digits_network()
    problem = replace(network, penalty=GroupL2(network.loss.layout), cleanup=None)
    tracer = continuation(6, 0, Budget(), quality="draft", end=0.95, anchor_epochs=60, epochs=12)
    explored = [w.point for w in tracer.trace(problem)][:6]
    cost = np.diff([p.effort for p in explored])
    assert (explored[-1].penalty, explored[-2].sparsity < 0.95) == (0, True)
    assert explored[-1].loss <= 1.001 * math.log(10)
    assert cost[0] < cost[-1] <= 7 * cost[0]


@pytest.mark.slow
def test_the_zero_network_is_measured_once_and_at_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, costs = problems.digits_network(16), []
    value = problem.loss.value

    def measured(theta: Tensor, batch: Tensor | None = None) -> Tensor:
        if not theta.any():
            costs.append(problem.loss.effort)
        return value(theta, batch)

    monkeypatch.setattr(problem.loss, "value", measured)
    ended = next(iter(continuation(8, 0, Budget(), quality="draft", end=0.99).trace(problem)))
    assert costs == []
    found = list(continuation(8, 0, Budget(), quality="draft").trace(problem))
    assert costs == [0.0]
    assert found[0].point.effort == ended.point.effort


@pytest.mark.slow
@pytest.mark.parametrize(("above", "stays"), [(-0.5, True), (-1e-3, True), (1e-3, False), (0.5, False)])
def test_a_mean_that_a_sparser_network_is_better_than_does_not_stay(above: float, stays: bool) -> None:
    problem = problems.digits_network(16)
    first, second = islice(continuation(6, 0, Budget(), quality="draft").trace(problem), 2)
    judge = _Judge(second, first, slack=2.0, batch=None)
    loss = second.point.loss + above * (second.point.loss - first.point.loss)
    assert judge.lets_stay(problem, state(problem, second), loss) is stays


@pytest.mark.slow
def test_later_sweeps_only_improve() -> None:
    waypoints = [w.point for w in tracer("default", 10, sweeps=3).trace(problems.digits_network())]
    reference = (1e3, 3.0)
    volumes = [Front(tuple(p for p in waypoints if p.sweep <= sweep)).hypervolume(reference) for sweep in range(3)]
    assert volumes == sorted(volumes)
    assert volumes[2] > volumes[0]


@pytest.mark.slow
def test_the_zero_network_ends_the_path_when_asked() -> None:
    waypoints = tracer("default", 6, sweeps=1, end=1.0).trace(problems.digits_network())
    sparsest = max((w.point for w in waypoints), key=lambda p: p.sparsity)
    assert (sparsest.n_nonzero, sparsest.penalty) == (0, 0.0)


def zero_loss(problem: Problem) -> float:
    return float(problem.loss.value(torch.zeros(problem.loss.n_params)))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [8, 400])
def test_the_path_goes_on_until_little_is_left_of_what_was_learnt(hidden: int) -> None:
    problem = problems.digits_network(hidden)
    end = min((w.point for w in tracer("default", 12, sweeps=1).trace(problem)), key=lambda p: p.penalty)
    assert end.sparsity >= 0.99
    assert end.loss >= 0.85 * zero_loss(problem)
    assert end.n_nonzero > 0


@pytest.mark.slow
def test_an_end_that_is_asked_for_is_kept() -> None:
    problem = problems.digits_network(400)
    waypoints = tracer("default", 12, sweeps=1, end=0.99).trace(problem)
    sparsest = max((w.point for w in waypoints), key=lambda p: p.sparsity)
    assert 0.99 <= sparsest.sparsity < 0.999
    assert sparsest.loss < 0.8 * zero_loss(problem)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "word"), [(Budget(epochs=40), "epochs"), (Budget(seconds=0.0), "seconds")])
def test_a_budget_ends_the_trace_and_says_so(budget: Budget, word: str) -> None:
    found = continuation(50, 0, budget)
    waypoints = list(found.trace(problems.digits_network()))
    assert 1 <= len(waypoints) < 50
    assert word in found.ended


@pytest.mark.parametrize("epochs", [20, 40, 80])
@pytest.mark.parametrize("corrector", ["adaptive", "proximal_gradient"])
def test_a_budget_of_epochs_is_kept_to_a_tenth(epochs: float, corrector: str) -> None:
    found = continuation(500, 0, Budget(epochs=epochs), corrector=corrector)
    last = list(found.trace(problems.digits_network()))[-1]
    assert 0.9 * epochs <= last.point.effort <= 1.1 * epochs


@pytest.mark.slow
def test_a_trace_without_a_budget_is_not_held_to_an_earlier_one() -> None:
    problem, budgets = problems.digits_network(), (Budget(), Budget(epochs=5), Budget())
    firsts = [next(iter(continuation(4, 0, budget, **QUICK).trace(problem))) for budget in budgets]
    efforts = [first.point.effort for first in firsts]
    assert efforts[0] == efforts[2] > efforts[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 10.0}, "At strength 10 the first network lost what it had learnt; it was trained at "),
        ({"corrector": "accelerated", "rate": 1e3}, " networks grew; they were corrected again in shorter steps."),
        ({"end": 0.998}, "Nothing but the zero network was found with a sparsity of 0.998 or more."),
        ({}, ""),
    ],
)
def test_what_went_wrong_is_answered_and_told_at_the_end(settings: dict[str, object], said: str) -> None:
    found = continuation(8, 0, Budget(), **{**QUICK, "sweeps": 1, **settings})
    waypoints = list(found.trace(problems.digits_network()))
    assert said in found.ended
    repeated = [w for w in waypoints if w.point.metrics.get("repeats", 0) > 0]
    assert bool(repeated) == ("corrected again" in found.ended)


@pytest.mark.slow
def test_a_plateau_is_told_at_the_end() -> None:
    settings = {"start": "network", "floor": 1e-9, "corrector": "accelerated", "epochs": 30}
    found = continuation(20, 0, Budget(), **settings)
    losses = [w.point.loss for w in found.trace(problems.iris_network()) if int(w.memory["stage"]) in {0, 1}]
    assert min(losses[-3:]) >= losses[-4]
    assert "Towards lower loss the path ends on a plateau" in found.ended


class NotANumber(nn.Module):
    """Answers NaN after 400 evaluations in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 10), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.layer(x.flatten(1)) * (math.nan if self.calls > 500 else 1.0)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_with_the_reason_and_keeps_the_points() -> None:
    problem = problems.network_problem(NotANumber(), problems.load("digits", {}, {}))
    found: list[Waypoint] = []
    with pytest.raises(Diverged, match="nan"):
        found.extend(continuation(30, 0, Budget(), anchor_epochs=5).trace(problem))
    assert found
    assert all(math.isfinite(w.point.loss) for w in found)


def test_a_first_point_whose_strength_was_not_held_is_certified_at_its_own_multiplier() -> None:
    problem = problems.digits_network()
    first = next(iter(tracer("from the network").trace(problem)))
    theta = torch.from_numpy(first.theta)
    assert first.point.lam == problem.multiplier(theta, problem.loss.value_and_grad(theta)[1])


def test_one_point_is_no_path() -> None:
    for factory in TRACERS.values():
        needed = {p.name: 1 for p in parameters(factory) if p.required}
        with pytest.raises(InvalidSpec, match="1 point"):
            factory(1, 0, Budget(), **needed)


@pytest.mark.slow
def test_different_seeds_give_different_networks() -> None:
    problem = problems.digits_network()
    first, second = (next(iter(continuation(4, seed, Budget(), **QUICK).trace(problem))) for seed in (0, 1))
    assert not np.array_equal(first.theta, second.theta)


@pytest.mark.slow
def test_permuting_hidden_units_leaves_the_exact_path() -> None:
    X = torch.tensor(problems.diabetes().X)
    y = torch.tensor(problems.diabetes().y)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    settings = {
        "corrector": "proximal_gradient",
        "epochs": 5_000,
        "anchor_epochs": 5_000,
        "tolerance": 1e-9,
        "sweeps": 1,
    }
    paths = []
    for columns in (torch.arange(10), order):
        loss = LeastSquares(X[:, columns], y)
        paths.append([w.point for w in continuation(6, 0, Budget(), **settings).trace(Problem(loss, L1(loss.layout)))])
    for a, b in zip(*paths, strict=True):
        assert (a.loss, a.penalty) == pytest.approx((b.loss, b.penalty), rel=1e-6)
