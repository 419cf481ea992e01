"""Predictors: the sign of the step is the direction, its size the share of the improved objective to shed."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import lars_path

from engine.front import ParetoPoint, Waypoint
from engine.predictors import PREDICTORS, Secant, Shrinkage, Tangent
from engine.problem import Problem
from engine.tracers.base import Budget
from engine.tracers.methods import continuation
from tests.engine import problems


@pytest.fixture(scope="module")
def trail() -> tuple[Problem, list[Waypoint]]:
    problem = problems.digits_network()
    return problem, list(continuation(6, 0, Budget(), sweeps=1, end=0.6).trace(problem))[:3]


@pytest.mark.parametrize("name", PREDICTORS)
class TestContract:
    def test_sparser_sheds_the_share_of_the_penalty(self, name: str, trail) -> None:
        problem, waypoints = trail
        guess = PREDICTORS[name]().predict(problem, waypoints, 0.2, 0)
        here = waypoints[-1].point
        assert guess.level == pytest.approx(0.8 * here.penalty)
        assert guess.lam > here.lam

    def test_denser_allows_more_penalty_for_less_strength(self, name: str, trail) -> None:
        problem, waypoints = trail
        guess = PREDICTORS[name]().predict(problem, waypoints, -0.2, 0)
        here = waypoints[-1].point
        assert guess.level > here.penalty
        assert guess.lam < here.lam

    def test_predicts_finite_weights_from_a_single_point(self, name: str, trail) -> None:
        problem, waypoints = trail
        guess = PREDICTORS[name]().predict(problem, waypoints[:1], 0.1, 0)
        assert torch.isfinite(guess.theta).all()
        assert guess.theta.shape == (problem.loss.n_params,)

    def test_the_trail_is_left_alone(self, name: str, trail) -> None:
        problem, waypoints = trail
        before = waypoints[-1].theta.copy()
        guess = PREDICTORS[name]().predict(problem, waypoints, 0.3, 0)
        guess.theta.zero_()
        assert (waypoints[-1].theta == before).all()


def test_shrinking_meets_the_penalty_and_expanding_too(trail) -> None:
    problem, waypoints = trail
    for step in (0.2, -0.2):
        guess = PREDICTORS["shrinkage"]().predict(problem, waypoints, step, 0)
        assert float(problem.penalty.value(guess.theta)) == pytest.approx(guess.level, rel=1e-4)


def test_the_gradient_predictor_lowers_the_loss(trail) -> None:
    problem, waypoints = trail
    guess = PREDICTORS["gradient"]().predict(problem, waypoints, -0.05, 0)
    assert float(problem.loss.value_and_grad(guess.theta)[0]) < waypoints[-1].point.loss


def test_the_secant_is_exact_on_a_straight_path() -> None:
    problem = problems.diabetes().problem
    base, slope = problems.vector(1, 10).abs() + 1, problems.vector(2, 10).abs()
    points = [_waypoint(problem, base + t * slope) for t in (0.0, -0.1)]
    here = points[-1].point.penalty
    wanted = float(problem.penalty.value(base - 0.15 * slope))
    guess = Secant().predict(problem, points, 1 - wanted / here, 0)
    torch.testing.assert_close(guess.theta, base - 0.15 * slope)


def test_the_secant_stops_weights_at_zero() -> None:
    problem = problems.diabetes().problem
    base = torch.ones(10).double()
    base[0] = 0.05
    points = [_waypoint(problem, theta) for theta in (base + 0.1, base)]
    guess = Secant().predict(problem, points, 0.09, 0)
    assert guess.theta[0] == 0.0


@pytest.mark.parametrize(("begun", "ended"), [(0.8, 0.3), (0.2, 0.7)])
@pytest.mark.parametrize("segment", range(2, 12))
def test_the_tangent_is_exact_between_the_knots_of_the_lasso(segment: int, begun: float, ended: float) -> None:
    lasso = problems.diabetes()
    knots, _, path = lars_path(lasso.X, lasso.y, method="lasso")
    here, there = ((1 - t) * path[:, segment] + t * path[:, segment + 1] for t in (begun, ended))
    strength = (1 - ended) * knots[segment] + ended * knots[segment + 1]
    waypoint = _waypoint(lasso.problem, torch.tensor(here))
    change = float(np.abs(there).sum() / np.abs(here).sum()) - 1
    point = waypoint.point
    step = -change if change < 0 else -change * point.lam * point.penalty / point.loss
    guess = Tangent(tolerance=1e-12).predict(lasso.problem, [waypoint], step, 0)
    np.testing.assert_allclose(guess.theta.numpy(), there, rtol=0, atol=1e-13)
    assert guess.lam == pytest.approx(strength, rel=1e-9)


def test_the_tangent_stops_weights_at_zero() -> None:
    lasso = problems.diabetes()
    _, _, path = lars_path(lasso.X, lasso.y, method="lasso")
    theta = torch.tensor(path[:, 10])
    guess = Tangent().predict(lasso.problem, [_waypoint(lasso.problem, theta)], 0.6, 0)
    assert (guess.theta * theta >= 0).all()
    assert (guess.theta != 0).sum() < (theta != 0).sum()
    assert float(lasso.problem.penalty.value(guess.theta)) <= guess.level * (1 + 1e-12)


def test_the_tangent_shrinks_where_the_loss_curves_downwards() -> None:
    problem = problems.iris_network()
    waypoint = _waypoint(problem, problems.vector(1, 55))
    guess, shrunk = (p.predict(problem, [waypoint], 0.2, 0) for p in (Tangent(), Shrinkage()))
    assert torch.equal(guess.theta, shrunk.theta)


def _waypoint(problem: Problem, theta: torch.Tensor) -> Waypoint:
    value, grad = problem.loss.value_and_grad(theta)
    lam = problem.multiplier(theta, grad)
    point = ParetoPoint(0, None, 0, float(value), float(problem.penalty.value(theta)), lam, 0.0, 10, 10, 0.0, 0.0)
    return Waypoint(point, theta.numpy())
