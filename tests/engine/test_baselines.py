"""Baselines: the lasso by its grid, published schedules and numbers, operators against their definitions."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, LogisticRegression
from torch import Tensor, nn

from engine.criteria import LogisticLoss, SquaredError
from engine.data import Dataset, load
from engine.errors import InvalidSpec
from engine.front import Front, Waypoint
from engine.lassonet import lassonet as lasso_network
from engine.losses import NetworkLoss
from engine.penalties import L1
from engine.problem import Problem
from engine.spec import JobSpec, check, shorthand
from engine.tracers import Budget, Tracer
from engine.tracers.evolutionary import Evolutionary, evolutionary
from engine.tracers.genetics import SparseCrossover, SparseMutation, initial
from engine.tracers.lassonet import Hierarchy, hierarchical, lassonet
from engine.tracers.pruning import Schedule, Training, cubic, done, evenly, pruning
from engine.tracers.weighted_sum import Grid, weighted_sum
from tests.engine import problems
from tests.engine.problems import vector

SHORT = {"epochs": 2, "dense_epochs": 4}


def traced(tracer: Tracer, problem: Problem | None = None) -> list[Waypoint]:
    return list(tracer.trace(problem or problems.digits_network()))


# Weighted sum


def test_a_grid_of_strengths_is_scikit_learns_lasso() -> None:
    lasso = problems.diabetes()
    points = traced(weighted_sum(6, 0, Budget(), tolerance=1e-9), lasso.problem)
    strongest = np.abs(lasso.X.T @ lasso.y).max() / len(lasso.y)
    assert points[-1].point.lam == pytest.approx(strongest, rel=1e-6)
    np.testing.assert_allclose([w.point.lam for w in points], np.geomspace(1e-3, 1, 6) * strongest, rtol=1e-6)
    for waypoint in points[:-1]:
        model = Lasso(waypoint.point.lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(lasso.X, lasso.y)
        np.testing.assert_allclose(waypoint.theta, model.coef_, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_strongest_leaves_out_what_is_not_penalised() -> None:
    X, y, _ = problems.breast_cancer()
    loss = NetworkLoss(nn.Linear(30, 1).double(), problems.dataset(X, (y + 1) / 2), LogisticLoss())
    problem = Problem(loss, L1(loss.layout, parameters="weights"))
    strongest = traced(weighted_sum(2, 0, Budget(), tolerance=1e-9), problem)[0].memory["strengths"][-1]
    nonzeros = []
    for lam in (0.99 * strongest, 1.01 * strongest):
        model = LogisticRegression(C=1 / (len(y) * lam), l1_ratio=1.0, solver="saga", tol=1e-8, max_iter=10**4).fit(
            X, y
        )
        nonzeros.append(int(np.count_nonzero(model.coef_)))
    assert nonzeros[0] > 0 == nonzeros[1]


def test_the_linear_grid_is_the_papers() -> None:
    strengths = Grid(43, "linear", scale=44.0).strengths(0.0)
    assert strengths[0] == 0
    assert strengths[1:3] == pytest.approx([5.4e-4, 1.1e-3], rel=0.02)


@pytest.mark.slow
def test_scouts_find_the_strength_that_leaves_nothing() -> None:
    points = [w.point for w in traced(weighted_sum(8, 0, Budget(), epochs=4, first_epochs=8))]
    learnt = points[0].loss
    assert points[-1].loss > learnt + 0.7 * (np.log(10) - learnt)
    assert points[-3].loss < learnt + 0.7 * (np.log(10) - learnt)
    assert points[0].lam == pytest.approx(1e-3 * 0.1 ** (3 * (8 - len(points)) / 7) * points[-1].lam)


def test_cold_networks_do_not_depend_on_each_other() -> None:
    settings = {"start": "cold", "first_epochs": 3}
    several = traced(weighted_sum(3, 0, Budget(), strongest=1e-2, weakest=1e-4, **settings))
    one = traced(weighted_sum(2, 0, Budget(), strongest=1e-2, weakest=1e-4, **settings))
    assert np.array_equal(several[0].theta, one[0].theta)
    assert [w.point.parent for w in several] == [None] * 3


@pytest.mark.slow
def test_a_network_is_no_worse_for_its_strength_than_the_one_it_came_from() -> None:
    points = [w.point for w in traced(weighted_sum(8, 0, Budget(), strongest=0.1, epochs=3, first_epochs=8))]
    for a, b in pairwise(points):
        assert b.loss + b.lam * b.penalty <= a.loss + b.lam * a.penalty


@pytest.mark.parametrize("ends", [(1e-3, 1e-3), (1e-4, 1e-3)])
def test_a_grid_needs_two_ends(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidSpec, match="below"):
        weighted_sum(5, 0, Budget(), strongest=ends[0], weakest=ends[1])


# Budgets


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [30.0, 60.0])
@pytest.mark.parametrize("method", [weighted_sum, pruning])
def test_a_budget_is_shared_out_and_kept_to_a_tenth(method: Callable[..., Tracer], epochs: float) -> None:
    tracer = method(10, 0, Budget(epochs=epochs))
    points = [w.point for w in traced(tracer)]
    assert points[-1].effort <= 1.1 * epochs
    assert len(points) >= 8


def test_a_budget_ends_the_evolution_early() -> None:
    tracer = evolutionary(5, 0, Budget(epochs=40), population=30)
    assert traced(tracer)[-1].point.effort < 60
    assert "40 epochs" in tracer.ended


# Pruning


def test_the_sparsity_rises_by_the_published_schedule() -> None:
    assert [0.9 * cubic(t) for t in (0.1, 0.25, 0.5, 1.0)] == pytest.approx([0.2439, 0.5203125, 0.7875, 0.9])
    assert [done(cubic(t)) for t in (0.1, 0.5, 1.0)] == pytest.approx([0.1, 0.5, 1.0])
    assert evenly(4, 0.9)[1:] == pytest.approx([0.7875, 0.8859375, 0.9])


def test_one_run_follows_one_schedule_and_runs_apart_one_each() -> None:
    one = Schedule((0.5, 0.9, 0.99))
    stages = [one.stage(place) for place in (1, 2, 3)]
    assert [stage[-1] for stage in stages] == [0.5, 0.9, 0.99]
    whole = [sparsity for stage in stages for sparsity in stage]
    assert whole == sorted(whole)
    assert 18 <= len(whole) <= 22
    apart = Schedule((0.5, 0.9), apart=True)
    assert apart.stage(2) == pytest.approx([0.9 * cubic(t) for t in np.arange(1, 21) / 20])


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["one", "apart"])
def test_pruning_gives_the_sparsities_that_are_asked_for(runs: str) -> None:
    asked = (0.5, 0.9, 0.98)
    problem = problems.norm_network()
    problem = Problem(problem.loss, problem.penalty)
    dense, *rest = traced(pruning(4, 0, Budget(), sparsities=asked, runs=runs, **SHORT), problem)
    assert dense.point.sparsity < 0.1
    for waypoint, sparsity in zip(rest, asked, strict=True):
        assert waypoint.point.n_nonzero == int((1 - sparsity) * problem.loss.n_params + 1e-6)


def test_in_one_run_no_weight_comes_back() -> None:
    problem = problems.digits_network()
    alive = [w.theta != 0 for w in traced(pruning(6, 0, Budget(), **SHORT), Problem(problem.loss, problem.penalty))]
    assert all((after <= before).all() for before, after in pairwise(alive))


@pytest.mark.slow
def test_weights_are_rewound_to_early_ones() -> None:
    problem, settings = (
        problems.digits_network(),
        {"sparsities": (0.5,), "epochs": 0.2, "dense_epochs": 40, "rate": 0.03},
    )
    problem = Problem(problem.loss, problem.penalty)
    dense, rewound = traced(pruning(2, 0, Budget(), retraining="weight_rewinding", **settings), problem)
    kept = rewound.theta != 0
    from_early, from_dense = (np.abs(rewound.theta - w)[kept].mean() for w in (dense.memory["early"], dense.theta))
    assert from_early < from_dense / 3


def test_learning_rates_after_pruning() -> None:
    paces = {how: Training(how, rate=0.01).after for how in ("fine_tuning", "rate_rewinding", "weight_rewinding")}
    assert (paces["fine_tuning"].rate, paces["fine_tuning"].decay) == (0.001, 1.0)
    assert (paces["rate_rewinding"].rate, paces["rate_rewinding"].decay) == (0.01, 0.1)
    assert paces["weight_rewinding"] == paces["rate_rewinding"]


@pytest.mark.slow
def test_pruning_goes_on_from_the_weights_as_they_were_trained() -> None:
    tracers = [pruning(4, 0, Budget(), sparsities=(0.5, 0.9), **SHORT) for _ in range(2)]
    problem = problems.digits_network()
    clean = traced(tracers[0], problem)
    plain = traced(tracers[1], Problem(problem.loss, problem.penalty))
    assert all(a.point.penalty < b.point.penalty for a, b in zip(clean, plain, strict=True))
    assert all(np.array_equal(a.memory["trained"], b.theta) for a, b in zip(clean, plain, strict=True))


def test_more_sparsities_than_points_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="need 4 points"):
        pruning(3, 0, Budget(), sparsities=(0.5, 0.6, 0.7))


# Evolution


def parents(count: int = 20) -> np.ndarray:
    values = vector(0, 2 * count * 30).reshape(2, count, 30)
    return torch.where(vector(1, 2 * count * 30).reshape(2, count, 30) > 0, values, 0.0).numpy()


def test_children_lie_between_their_parents_and_zeros_stay_exact() -> None:
    X = parents()
    first, second = SparseCrossover()._do(None, X, random_state=np.random.default_rng(0))
    np.testing.assert_allclose(first + second, X.sum(axis=0), atol=1e-12)
    assert not first[(X == 0).all(axis=0)].any()
    assert (first >= X.min(axis=0) - 1e-12).all()
    assert (first <= X.max(axis=0) + 1e-12).all()
    one = (X == 0).sum(axis=0) == 1
    assert set(np.unique((first == 0)[one] | (second == 0)[one])) == {True}


def test_a_mutation_moves_drops_or_adds_weights() -> None:
    X = parents(60)[0]
    changed = SparseMutation()._do(None, X, random_state=np.random.default_rng(0))
    grown, shrunk = ((changed != 0) & (X == 0)).any(axis=1), ((changed == 0) & (X != 0)).any(axis=1)
    moved = (changed != X).any(axis=1) & ~grown & ~shrunk
    assert not (grown & shrunk).any()
    assert min(grown.sum(), shrunk.sum(), moved.sum()) > 5
    assert (changed != X).sum(axis=1).max() <= 10


def test_first_networks_have_all_densities_and_scales() -> None:
    thetas = initial(problems.digits_network(), 100, 0)
    density = thetas.count_nonzero(dim=1) / thetas.shape[1]
    assert density.min() < 0.01
    assert density.max() > 0.7
    assert 0.2 < (density < 0.05).double().mean() < 0.8


@pytest.mark.slow
def test_no_point_of_an_evolution_dominates_another() -> None:
    problem = problems.iris_network()
    waypoints = traced(
        evolutionary(10, 0, Budget(), population=20, generations=40), Problem(problem.loss, problem.penalty)
    )
    front = Front(tuple(w.point for w in waypoints))
    assert len(front.non_dominated()) == len(front) == 10
    assert min(p.loss for p in front) < 1.05


def test_binary_weights_are_zero_or_one() -> None:
    problem = problems.iris_network()
    tracer = evolutionary(10, 0, Budget(), encoding="binary", population=10, generations=3)
    waypoints = traced(tracer, Problem(problem.loss, problem.penalty))
    assert set(np.unique([w.theta for w in waypoints])) == {0.0, 1.0}


def test_evolution_refuses_large_networks() -> None:
    with pytest.raises(InvalidSpec, match=r"20,000 weights, this network has 22,510"):
        check(JobSpec(shorthand("mlp:300"), shorthand("digits"), method=shorthand("evolutionary")), {})
    with pytest.raises(InvalidSpec, match="20,000"):
        next(iter(Evolutionary.trace(evolutionary(5, 0, Budget()), problems.digits_network(hidden=300))))


# LassoNet


def hierarchical_objective(skip: Tensor, first: Tensor, start: tuple[Tensor, Tensor], lam: float) -> Tensor:
    moved = (skip - start[0]).square().sum(dim=0) + (first - start[1]).square().sum(dim=0)
    return moved / 2 + lam * skip.norm(dim=0)


def test_the_hierarchical_operator_has_the_known_answer() -> None:
    v, u = torch.tensor([[0.7]]), torch.tensor([[0.9], [-0.3], [0.5]])
    skip, first = hierarchical(v, u, 0.2, 0.8)
    assert float(skip) == pytest.approx(0.743902, abs=1e-6)
    assert first[:, 0].tolist() == pytest.approx([0.595122, -0.3, 0.5], abs=1e-6)
    assert float(hierarchical_objective(skip, first, (v, u), 0.2)) == pytest.approx(0.19621951, abs=1e-6)


@pytest.mark.parametrize("most", [0.1, 0.8, 3.0])
@pytest.mark.parametrize("lam", [0.05, 1.0])
def test_no_feasible_columns_are_better_than_those_of_the_operator(most: float, lam: float) -> None:
    v, u = vector(0, 3 * 40).view(3, 40), vector(1, 5 * 40).view(5, 40)
    v[:, :5] = 0
    skip, first = hierarchical(v, u, lam, most)
    least = hierarchical_objective(skip, first, (v, u), lam)
    assert (first.abs().amax(dim=0) <= most * skip.norm(dim=0) + 1e-12).all()
    for scale in (1.0, 0.1, 1e-3):
        for seed in range(100):
            other = skip + scale * vector(seed, 3 * 40).view(3, 40)
            bound = most * other.norm(dim=0)
            near = (u if seed % 2 else first + scale * vector(seed + 500, 5 * 40).view(5, 40)).clamp(-bound, bound)
            assert (hierarchical_objective(other, near, (v, u), lam) >= least - 1e-12).all()
    assert (hierarchical_objective(0 * v, 0 * u, (v, u), lam) >= least - 1e-12).all()


@pytest.mark.slow
def test_the_hierarchys_limits() -> None:
    v, u = vector(0, 12).view(3, 4), vector(1, 20).view(5, 4)
    linear, none = hierarchical(v, u, 0.5, 0.0)
    torch.testing.assert_close(linear, v * (1 - 0.5 / v.norm(dim=0)).clamp_min(0))
    assert not none.any()
    loose, free = hierarchical(v, u, 0.5, 1e9)
    torch.testing.assert_close(loose, linear)
    assert torch.equal(free, u)
    assert not torch.cat(hierarchical(v, u, 1e3, 0.8)).any()


def regression() -> Problem:
    torch.manual_seed(0)
    module = lasso_network((10,), 1, hidden=(3,)).double()
    loss = NetworkLoss(module, doubled(load("diabetes", {"validation": 0}, {})), SquaredError())
    return Problem(loss, L1(loss.layout))


def doubled(data: Dataset) -> Dataset:
    """In double precision."""
    names = [f"{kind}_{split}" for kind in "Xy" for split in ("train", "validation", "test")]
    return replace(data, **{name: getattr(data, name).astype(float) for name in names})


@pytest.mark.slow
def test_without_a_hierarchy_lassonet_is_the_lasso() -> None:
    problem = regression()
    data = doubled(load("diabetes", {"validation": 0}, {}))
    settings = {"epochs": 1_000, "first_epochs": 1_000, "tolerance": 1e-9, "strongest": 0.5, "weakest": 0.01}
    for waypoint in traced(lassonet(3, 0, Budget(), hierarchy=0.0, **settings), problem):
        lasso = Lasso(waypoint.point.metrics["strength"], tol=1e-12, max_iter=10**6).fit(
            data.X_train, data.y_train.ravel()
        )
        np.testing.assert_allclose(waypoint.theta[:10], lasso.coef_, rtol=0, atol=1e-5)
        assert waypoint.point.metrics["features"] == np.count_nonzero(lasso.coef_)
        assert waypoint.point.metrics["skip_norm"] == pytest.approx(np.abs(lasso.coef_).sum(), abs=1e-5)


@pytest.mark.slow
def test_every_stored_network_obeys_the_hierarchy() -> None:
    problem = problems.lasso_network()
    waypoints = traced(lassonet(5, 0, Budget(), hierarchy=2.0, epochs=5), problem)
    for waypoint in waypoints:
        skip = waypoint.theta[:640].reshape(10, 64)
        first = waypoint.theta[640 : 640 + 8 * 64].reshape(8, 64)
        assert (np.abs(first).max(axis=0) <= 2 * np.linalg.norm(skip, axis=0) * (1 + 1e-5)).all()
    assert waypoints[-1].point.metrics["features"] < waypoints[0].point.metrics["features"] / 2


def test_the_hierarchys_projection_meets_its_level() -> None:
    hierarchy = Hierarchy(problems.lasso_network().loss.layout, 2.0)
    theta = problems.lasso_network().loss.initial()
    inside, multiplier = hierarchy.project(theta, 1.0)
    assert float(hierarchy.value(inside)) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(inside, hierarchy.prox(theta, multiplier))
    assert not hierarchy.project(theta, 0.0)[0][hierarchy.penalised].any()


def test_lassonet_refuses_other_networks() -> None:
    with pytest.raises(InvalidSpec, match="needs network 'lassonet'"):
        check(JobSpec(shorthand("mlp:4"), shorthand("digits"), method=shorthand("lassonet")), {})
