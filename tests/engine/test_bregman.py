"""Inverse scale space: known paths of linear models, points from sparse to dense, tickets, resumed to the same bits."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from engine.errors import Diverged, InvalidSpec
from engine.front import Array, Trail, Waypoint
from engine.layout import Block
from engine.losses import LeastSquares
from engine.optim import LinBreg
from engine.penalties import L1, GroupL2
from engine.problem import Problem
from engine.spec import JobSpec, Part, build, check
from engine.tracers import Budget, Tracer
from engine.tracers.bregman import adabreg, dessilbi, linbreg, loosest, sparsified, timely
from engine.tracers.methods import refit
from tests.engine import problems
from tests.engine.test_tracers import same

QUICK: dict[str, tuple[Any, dict[str, Any]]] = {
    "dessilbi": (dessilbi, {"epochs": 40, "strength": 0.3}),
    "dessilbi, adam": (dessilbi, {"form": "adam", "rate": 3e-2, "nu": 2.0, "epochs": 40, "strength": 0.3}),
    "linbreg": (linbreg, {"epochs": 40, "strength": 0.1, "rate": 0.1, "density": 0.01}),
    "adabreg": (adabreg, {"epochs": 40, "strength": 0.1, "rate": 1e-2}),
}


@pytest.fixture(params=QUICK)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def tracer(name: str, points: int = 6, budget: Budget | None = None, **more: Any) -> Tracer:
    factory, settings = QUICK[name]
    found: Tracer = factory(points, 0, budget or Budget(), **{**settings, **more})
    return found


def digits() -> Problem:
    """Networks are stored as they were trained."""
    return replace(problems.digits_network(), cleanup=None)


def orthonormal() -> tuple[Problem, Array]:
    """A least-squares problem whose solution is read off coordinate by coordinate."""
    rng = np.random.default_rng(0)
    X = math.sqrt(40) * np.linalg.qr(rng.normal(size=(40, 8)))[0]
    solution = np.array([3.0, -2.0, 1.5, 1.0, -0.7, 0.5, -0.3, 0.2])
    loss = LeastSquares(torch.tensor(X), torch.tensor(X @ solution))
    return Problem(loss, L1(loss.layout)), solution


# Known paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        (dessilbi, {"rate": 0.1, "nu": 1.0, "strength": 2.0}),
        (linbreg, {"rate": 0.05, "momentum": 0.0, "strength": 1.0}),
    ],
)
def test_on_an_orthonormal_design_the_largest_coefficients_enter_first_and_none_is_shrunk(
    factory: Any, settings: dict[str, Any]
) -> None:
    problem, solution = orthonormal()
    path = list(factory(8, 0, Budget(), end=0.9, dense=0.0, batch=40, epochs=600, **settings).trace(problem))
    counts = [w.point.n_nonzero for w in path]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 6
    for waypoint, n in zip(path, counts, strict=True):
        assert np.array_equal(np.flatnonzero(waypoint.theta), np.arange(n))
    np.testing.assert_allclose(path[-1].theta[:5], solution[:5], rtol=0.03)


def test_the_path_of_least_squares_ends_at_the_least_squares() -> None:
    lasso = problems.diabetes()
    settings = {"rate": 0.1, "strength": 0.01, "epochs": 1500, "batch": 442, "dense": 0.0, "end": 0.9}
    path = list(dessilbi(400, 0, Budget(), **settings).trace(lasso.problem))
    expected = np.linalg.lstsq(lasso.X, lasso.y, rcond=None)[0]
    best = min(path, key=lambda w: w.point.loss)
    assert best.point.loss == pytest.approx(((lasso.y - lasso.X @ expected) ** 2).mean() / 2, rel=2e-2)


def inverse_scale_space(X: Array, y: Array, knots: int) -> Iterator[tuple[float, float, Array]]:
    """Begin, end and solution of the stretches of the inverse scale space flow of ``||y - X u||^2 / (2 n)`` under l1.

    Burger, Moeller, Benning, Osher, "An adaptive inverse scale space method for compressed sensing", Mathematics of
    Computation 82, 2013.
    """
    n, time, p = len(y), 0.0, np.zeros(X.shape[1])
    for _ in range(knots):
        on = np.abs(p) >= 1 - 1e-9
        u = np.zeros_like(p)
        u[on] = np.sign(p[on]) * nnls(X[:, on] * np.sign(p[on]), y)[0] if on.any() else 0.0
        slope = X.T @ (y - X @ u) / n
        meets = np.where(np.abs(slope) > 1e-9, (np.sign(slope) - p) / np.where(slope == 0, 1, slope), np.inf)
        ahead = meets[meets > 1e-9].min()
        yield time, time + ahead, u
        time, p = time + ahead, p + ahead * slope


@pytest.mark.slow
def test_linbreg_follows_the_inverse_scale_space_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 6))
    y = X @ np.array([2.0, -1.5, 1.0, 0.6, 0.0, 0.3]) + 0.3 * rng.normal(size=60)
    rate, delta = 4e-3, 150.0
    loss = LeastSquares(torch.tensor(X), torch.tensor(y))
    theta = loss.initial()
    found = LinBreg([theta], rate, penalty=L1(loss.layout), strength=1.0, delta=delta)
    step = compared = 0
    for begin, end, expected in inverse_scale_space(X, y, 6):
        while (step + 1) * rate < 0.1 * begin + 0.9 * end:
            theta.grad = loss.value_and_grad(theta)[1]
            found.step()
            step += 1
        if end - begin > 0.1:
            np.testing.assert_allclose(theta.numpy(), expected, atol=0.03)
            compared += expected.any()
    assert compared >= 3


# Points


@pytest.mark.slow
def test_points_are_as_many_as_asked_from_sparse_to_dense_without_strength(name: str) -> None:
    found = tracer(name, 6)
    points = [w.point for w in found.trace(digits())]
    assert len(points) == found.expected == 6
    assert all(a.n_nonzero <= 1.1 * b.n_nonzero for a, b in pairwise(points))
    assert points[-1].n_nonzero > 2 * points[0].n_nonzero
    assert points[-1].loss < points[0].loss
    assert all(p.lam is None and p.residual is None for p in points)
    assert [p.parent for p in points] == [None, 0, 1, 2, 3, 4]


@pytest.mark.slow
def test_growth_is_spread_evenly_between_both_ends() -> None:
    found = tracer("dessilbi", 10, end=0.97, dense=0.7, epochs=150, strength=1.0)
    sizes = [w.point.n_nonzero / w.point.n_params for w in found.trace(digits())]
    assert sizes[0] >= 0.015
    assert np.diff(np.log(sizes)).max() <= 0.9


def test_the_path_ends_at_its_dense_end() -> None:
    found = tracer("dessilbi", 4, dense=0.9)
    path = list(found.trace(digits()))
    assert path[-1].point.sparsity <= 0.9
    assert all(w.point.sparsity > 0.9 for w in path[:-1])
    assert path[-1].memory["done"] < 40 * 7


def test_a_stored_network_is_the_trained_one_on_its_support() -> None:
    for waypoint in tracer("dessilbi").trace(digits()):
        weights, dual = waypoint.memory["weights"], torch.from_numpy(waypoint.memory["dual"])
        support = np.abs(dual.numpy()) > 0.3
        np.testing.assert_array_equal(waypoint.theta, np.where(support, weights, 0))
        assert np.count_nonzero(weights) > np.count_nonzero(waypoint.theta)


def test_unpenalised_weights_are_in_every_network() -> None:
    problem = digits()
    penalty = L1(problem.loss.layout, parameters="weights")
    for waypoint in tracer("dessilbi").trace(Problem(problem.loss, penalty)):
        assert (waypoint.theta[~penalty.penalised.numpy()] != 0).all()


def test_under_a_group_norm_whole_units_enter() -> None:
    problem = digits()
    penalty = GroupL2(problem.loss.layout)
    first, last = (b for b in problem.loss.layout if b.kind == "weight")
    some = 0
    for waypoint in tracer("dessilbi", strength=0.03).trace(Problem(problem.loss, penalty)):
        for block, within in ((first, 1), (last, 0)):
            alive = (waypoint.theta[block.start : block.stop].reshape(block.shape) != 0).mean(axis=within)
            assert set(alive) <= {0.0, 1.0}
            some += 0 < alive.sum() < len(alive)
    assert some


def test_by_default_half_of_the_weights_would_enter_if_they_stayed_as_they_start() -> None:
    problem = digits()
    start, time = problem.loss.initial(), 30.0
    strength = timely(problem, time) / 0.9
    assert int((time * start.abs() > strength).sum()) == pytest.approx(len(start) / 2, abs=1)
    grouped = Problem(problem.loss, GroupL2(problem.loss.layout))
    kept = grouped.penalty.prox(time * start, timely(grouped, time) / 0.9) != 0
    assert 0.4 * len(start) <= int(kept.sum()) <= 0.7 * len(start)


def test_by_default_the_tie_is_looser_for_larger_networks() -> None:
    small, large = digits().loss, problems.digits_network(400).loss
    assert loosest(small) == loosest(problems.diabetes().problem.loss) == 2
    assert loosest(large) == pytest.approx(0.12 * float(large.initial().norm()) ** 2)
    assert loosest(large) > 10


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [5, 60])
def test_by_default_a_path_spreads_however_short_it_is(epochs: int) -> None:
    path = list(dessilbi(8, 0, Budget(), epochs=epochs).trace(digits()))
    assert len(path) == 8
    assert path[-1].point.n_nonzero > 5 * path[0].point.n_nonzero


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_is_as_if_never_stopped(name: str, stop: int) -> None:
    whole = list(tracer(name).trace(problems.norm_network()))
    begun = list(islice(tracer(name).trace(problems.norm_network()), stop))
    rest = list(tracer(name).trace(problems.norm_network(), begun))
    assert len(begun) + len(rest) == len(whole) > 4
    assert all(same(a, b) for a, b in zip(whole, [*begun, *rest], strict=True))


@pytest.mark.slow
def test_a_finished_path_has_nothing_to_add(name: str) -> None:
    whole = list(tracer(name).trace(digits()))
    assert list(tracer(name).trace(digits(), whole)) == []


@pytest.mark.slow
def test_a_path_on_which_nothing_enters_ends_with_the_zero_network() -> None:
    (only,) = tracer("dessilbi", strength=1e6).trace(digits())
    assert only.point.n_nonzero == 0


@pytest.mark.slow
def test_a_path_begins_where_its_network_beats_the_zero_network() -> None:
    problem = digits()
    nothing = float(problem.loss.value(torch.zeros_like(problem.loss.initial())))
    first, *_ = dessilbi(20, 0, Budget(), epochs=60, end=0.999).trace(problem)
    assert first.point.loss < nothing


@pytest.mark.slow
def test_a_path_that_never_beats_the_zero_network_is_its_end() -> None:
    (only,) = tracer("dessilbi, adam", rate=1e-2).trace(problems.norm_network())
    assert only.point.loss > math.log(10)
    assert only.point.n_nonzero > 0


def test_a_budget_is_kept_and_named() -> None:
    found = tracer("dessilbi", 40, Budget(epochs=20))
    last = list(found.trace(digits()))[-1]
    assert 18 <= last.point.effort <= 22
    assert "20 epochs" in found.ended


def test_rates_that_are_too_high_end_with_the_reason() -> None:
    with pytest.raises(Diverged, match="lower the method's 'rate'"):
        list(tracer("dessilbi", rate=1e30).trace(digits()))


def test_a_dense_end_that_is_sparser_than_the_sparse_end_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="dense 0"):
        tracer(name, end=0.5, dense=0.5)


# The sparse start


@pytest.mark.parametrize("penalty", [L1, GroupL2])
def test_a_sparse_start_keeps_some_of_every_matrix_and_its_norm(penalty: Any) -> None:
    problem = problems.digits_network(32)
    problem = Problem(problem.loss, penalty(problem.loss.layout))
    theta = problem.loss.initial()
    found = sparsified(problem, theta, 0.01)
    for block in problem.loss.layout:
        before, after = (x[block.start : block.stop] for x in (theta, found))
        share = float((after != 0).double().mean())
        torch.testing.assert_close(after.norm(), before.norm())
        if block.kind == "bias":
            assert torch.equal(before, after)
        elif penalty is L1:
            assert share == math.ceil(0.01 * block.size) / block.size
        else:
            assert share == 1 / 32


def test_linear_models_start_from_zero() -> None:
    problem = Problem(loss := problems.diabetes().problem.loss, L1((Block("coef", (10,), 0),)))
    assert not sparsified(problem, torch.ones_like(loss.initial()), 0.5).any()


# Winning tickets


def followed(path: list[Waypoint], **settings: Any) -> Tracer:
    found = refit(3, 0, Budget(), job=1, rewind=True, **settings)
    found.follow(Trail(tuple(w.point for w in path), lambda index: path[index]))
    return found


@pytest.mark.slow
def test_a_ticket_is_the_support_trained_from_the_first_weights() -> None:
    path = list(tracer("dessilbi").trace(digits()))
    problem = digits()
    untrained = {w.point.metrics["source"]: w for w in followed(path, epochs=1, rate=1e-9).trace(problem)}
    assert len(untrained) == 3
    for source, waypoint in untrained.items():
        support = path[int(source)].theta != 0
        expected = np.where(support, problem.loss.initial().numpy(), 0)
        np.testing.assert_allclose(waypoint.theta, expected, atol=1e-6)
    trained = list(followed(path, epochs=30).trace(problem))
    for waypoint in trained:
        source = int(waypoint.point.metrics["source"])
        assert ((waypoint.theta != 0) <= (path[source].theta != 0)).all()
        assert waypoint.point.metrics["pruned_from"] == source
        assert waypoint.point.loss <= untrained[source].point.loss
    densest = trained[0].point
    assert densest.loss < 0.5 * untrained[densest.metrics["source"]].point.loss


@pytest.mark.slow
def test_a_ticket_is_trained_on_other_data_of_the_same_shape() -> None:
    quick = Part("dessilbi", {"epochs": 40, "strength": 0.3})
    spec = JobSpec(Part("mlp", {"hidden": [6]}), Part("digits", {"limit": 200}), method=quick, points=4)
    source = build(spec, {})
    path = list(source.tracer.trace(source.problem))
    trail = Trail(tuple(w.point for w in path), lambda index: path[index])
    other = JobSpec(
        Part("mlp", {"hidden": [6]}),
        Part("digits", {"limit": 300}),
        method=Part("refit", {"job": 1, "rewind": True, "epochs": 5}),
        points=3,
    )
    assert check(other, {}, lambda _: trail)["follows"] == 1
    experiment = build(other, {}, lambda _: trail)
    found = list(experiment.tracer.trace(experiment.problem))
    assert [w.point.loss for w in found] == sorted(w.point.loss for w in found)
