"""Predictors: the sign of the step is the direction, its size the share of the improved objective to shed."""

import pytest
import torch

from engine.front import ParetoPoint, Waypoint
from engine.predictors import PREDICTORS, Secant
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


def _waypoint(problem: Problem, theta: torch.Tensor) -> Waypoint:
    value, grad = problem.loss.value_and_grad(theta)
    lam = problem.multiplier(theta, grad)
    point = ParetoPoint(0, None, 0, float(value), float(problem.penalty.value(theta)), lam, 0.0, 10, 10, 0.0, 0.0)
    return Waypoint(point, theta.numpy())
