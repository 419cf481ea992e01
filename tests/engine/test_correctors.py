"""Correctors against scikit-learn, closed forms and the published numbers of the multiobjective step."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, LogisticRegression

from engine.correctors import (
    Accelerated,
    ActiveSetNewton,
    AdaptiveProximal,
    Corrector,
    MultiobjectiveProximalGradient,
    Pace,
    ProximalGradient,
    common_descent,
)
from engine.correctors.adaptive import BETA, Fineness, _Moments
from engine.correctors.base import Hold, Level, hold, mini_batches
from engine.layout import Block
from engine.losses import LeastSquares
from engine.penalties import L1, GroupL2
from engine.problem import Problem, State
from engine.stretches import STRETCH
from tests.engine import problems
from tests.engine.problems import vector

CORRECTORS: dict[str, tuple[Corrector, str]] = {
    "proximal gradient": (ProximalGradient("strength", 200), "strength"),
    "proximal gradient on the ball": (ProximalGradient("penalty", 200), "penalty"),
    "newton": (ActiveSetNewton("strength", 60), "strength"),
    "newton on the ball": (ActiveSetNewton("penalty", 60), "penalty"),
    "accelerated": (Accelerated("strength", 20), "strength"),
    "accelerated on the ball": (Accelerated("penalty", 20), "penalty"),
    "adaptive": (AdaptiveProximal("strength", 20), "strength"),
    "adaptive on the ball": (AdaptiveProximal("penalty", 20), "penalty"),
    "multiobjective": (MultiobjectiveProximalGradient(40), "nothing"),
    "multiobjective, mini-batch": (MultiobjectiveProximalGradient(10, 64), "nothing"),
}
EXACT = [ProximalGradient, ActiveSetNewton]
PROBLEMS = {
    "diabetes": lambda: problems.diabetes().problem,
    "digits": problems.digits_network,
    "batch norm": problems.norm_network,
}


def start(problem: Problem) -> State:
    theta = problem.loss.initial()
    theta = theta + 0.05 * problems.vector(1, len(theta)).to(theta)
    return State(theta, 0.01, 0.7 * float(problem.penalty.value(theta)), problem.loss.buffers)


@pytest.mark.parametrize("name", CORRECTORS)
@pytest.mark.parametrize("on", PROBLEMS)
class TestContract:
    def test_improves_what_it_is_for(self, name: str, on: str) -> None:
        corrector, held = CORRECTORS[name]
        problem = PROBLEMS[on]()
        guess = start(problem)
        found = corrector.correct(problem, guess, 0).state
        problem.loss.load_buffers(found.buffers)
        after, penalty = float(problem.loss.value_and_grad(found.theta)[0]), float(problem.penalty.value(found.theta))
        problem.loss.load_buffers(guess.buffers)
        inside, _ = problem.penalty.project(guess.theta, guess.level)
        before, full = (float(problem.loss.value_and_grad(theta)[0]) for theta in (inside, guess.theta))
        if held == "penalty":
            assert penalty <= guess.level * (1 + 1e-5)
            assert after < before
        else:
            lam = 0.01
            assert after + lam * penalty < full + lam * float(problem.penalty.value(guess.theta))

    @pytest.mark.slow
    def test_same_seed_same_bits_and_the_guess_is_left_alone(self, name: str, on: str) -> None:
        corrector, _ = CORRECTORS[name]
        problem = PROBLEMS[on]()
        guess = start(problem)
        kept = guess.theta.clone()
        first, second = (corrector.correct(problem, guess, 3).state for _ in range(2))
        assert torch.equal(first.theta, second.theta)
        assert all(torch.equal(first.buffers[k], second.buffers[k]) for k in first.buffers)
        assert torch.equal(guess.theta, kept)


@pytest.mark.parametrize("lam", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("data", [problems.diabetes, problems.wide])
@pytest.mark.parametrize("exact", EXACT)
def test_least_squares_is_scikit_learns_lasso(exact, data, lam: float) -> None:
    lasso = data()
    found = exact("strength", 20_000, 1e-10).correct(lasso.problem, _from_zero(lasso.problem, lam), 0)
    expected = Lasso(lam, fit_intercept=False, tol=1e-13, max_iter=10**6).fit(lasso.X, lasso.y).coef_
    assert found.converged
    np.testing.assert_allclose(found.state.theta.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.array_equal(found.state.theta.numpy() != 0, expected != 0)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.2, 0.02])
def test_logistic_is_scikit_learns(lam: float) -> None:
    X, y, problem = problems.breast_cancer()
    model = LogisticRegression(
        l1_ratio=1, C=1 / (len(y) * lam), fit_intercept=False, solver="saga", tol=1e-9, max_iter=20_000
    )
    expected = model.fit(X, y).coef_[0]
    for exact in EXACT:
        found = exact("strength", 20_000, 1e-9).correct(problem, _from_zero(problem, lam), 0)
        np.testing.assert_allclose(found.state.theta.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("exact", EXACT)
def test_holding_the_penalty_finds_the_same_network_as_holding_its_strength(exact) -> None:
    problem = problems.diabetes().problem
    by_strength = exact("strength", 20_000, 1e-11).correct(problem, _from_zero(problem, 0.1), 0).state
    level = float(problem.penalty.value(by_strength.theta))
    guess = State(problem.loss.initial(), 0.0, level)
    by_level = exact("penalty", 20_000, 1e-7).correct(problem, guess, 0).state.theta
    torch.testing.assert_close(by_level, by_strength.theta, rtol=0, atol=1e-6)
    assert problem.multiplier(by_level, problem.loss.value_and_grad(by_level)[1]) == pytest.approx(0.1, rel=1e-4)


def test_certificate_is_zero_at_the_solution_and_not_elsewhere() -> None:
    problem = problems.diabetes().problem
    theta = ProximalGradient("strength", 20_000, 1e-11).correct(problem, _from_zero(problem, 0.1), 0).state.theta
    assert problem.residual(theta, problem.loss.value_and_grad(theta)[1], 0.1) < 1e-9
    moved = theta + 0.01
    assert problem.residual(moved, problem.loss.value_and_grad(moved)[1], 0.1) > 1e-3


def test_zero_is_critical_at_its_multiplier() -> None:
    problem = problems.diabetes().problem
    zero = problem.loss.initial()
    _, grad = problem.loss.value_and_grad(zero)
    lam = problem.multiplier(zero, grad)
    assert lam == pytest.approx(float(grad.abs().max()), rel=1e-5)
    assert problem.residual(zero, grad, lam) == 0.0


@pytest.mark.parametrize("exact", EXACT)
def test_not_converging_is_an_answer(exact) -> None:
    problem = problems.diabetes().problem
    assert not exact("strength", 3).correct(problem, _from_zero(problem, 0.01), 0).converged


@pytest.mark.parametrize(
    ("n_samples", "size", "epochs", "steps", "expected"),
    [(4000, 100, None, 90, 90), (4000, 100, 2, 90, 80), (4000, 5000, None, 3, 3), (250, 50, None, 10, 20)],
)
def test_mini_batches_make_up_the_steps_or_the_passes(
    n_samples: int, size: int, epochs: int | None, steps: int, expected: int
) -> None:
    loss = LeastSquares(torch.zeros(n_samples, 1), torch.zeros(n_samples))
    found = list(mini_batches(loss, 1, size, epochs, steps))
    assert len(found) == expected
    per_pass = max(1, n_samples // size)
    assert sorted(torch.cat(found[:per_pass]).tolist()) == list(range(n_samples))[: min(per_pass, expected) * n_samples]


@pytest.mark.parametrize(
    ("reuse", "batch", "n_samples", "size", "steps", "share", "pressure"),
    [
        (1.0, None, 9600, 160, 100, 1, 10),
        (0.5, None, 9600, 160, 100, 1, 10),
        (2.0, None, 9600, 80, 141, 0.5, 10 / 2**0.5),
        (100.0, None, 9600, 40, 200, 0.25, 5),
        (100.0, None, 1600, 32, 100, 1, 10),
        (1.0, 80, 9600, 80, 141, 0.5, 10 / 2**0.5),
        (1.0, 320, 9600, 320, 100, 1, 10),
        (1.0, 10, 9600, 10, 200, 0.25, 5),
    ],
)
def test_smaller_batches_come_with_more_and_gentler_steps(
    reuse: float, batch: int | None, n_samples: int, size: int, steps: int, share: float, pressure: float
) -> None:
    loss = LeastSquares(torch.zeros(n_samples, 1), torch.zeros(n_samples))
    loss.reuse = reuse
    pace = Pace(pressure=10, fineness=Fineness(0.5, rate=1, pressure=0.5))
    course = AdaptiveProximal(batch=batch, pace=pace, steps=100)._course(loss, None, 0)
    assert ({len(b) for b in course.batches}, len(course.batches)) == ({size}, steps)
    assert course.share == pytest.approx(share)
    assert course.pace.pressure == pytest.approx(pressure)
    plain = AdaptiveProximal(batch=batch, pace=Pace(pressure=10), steps=100)._course(loss, None, 0)
    assert ({len(b) for b in plain.batches}, len(plain.batches)) == ({batch or max(32, n_samples // 60)}, 100)
    assert (plain.share, plain.pace.pressure) == (1, 10)


@pytest.mark.parametrize("held", ["strength", "penalty"])
def test_only_what_mini_batches_leave_is_trimmed(held: Literal["strength", "penalty"]) -> None:
    problem = problems.iris_network()
    n_samples, guess = problem.loss.n_samples, start(problem)
    for batch, differs in ((n_samples, False), (n_samples - 1, True)):
        found, untrimmed = (
            AdaptiveProximal(held, epochs=20, batch=batch, trim=trim).correct(problem, guess, 0).state.theta
            for trim in (0.3, 0.0)
        )
        assert (int(found.count_nonzero()) < int(untrimmed.count_nonzero())) == differs
        assert torch.equal(found, untrimmed) != differs


def test_averages_are_let_go_before_weights_are_trimmed() -> None:
    problem, alive = problems.digits_network(), list[int]()

    def trim(theta: torch.Tensor, share: float) -> torch.Tensor:
        alive.append(sum(type(held) is _Moments for held in gc.get_objects()))
        return theta.clone()

    with patch.object(problem.penalty, "trim", trim):
        AdaptiveProximal(epochs=1).correct(problem, start(problem), 0)
    assert alive == [0]


@pytest.mark.parametrize("rate", [1.0, 1e30])
def test_no_adaptive_step_moves_a_layer_by_more_than_a_share_of_its_weights(rate: float) -> None:
    problem = problems.digits_network()
    guess = replace(start(problem), lam=0.0)
    corrector = AdaptiveProximal("strength", epochs=1, batch=problem.loss.n_samples, pace=Pace(rate), trim=0)
    found = corrector.correct(problem, guess, 0).state
    moved = (found.theta - guess.theta).abs()
    for layer, typical in layers(problem, guess.theta):
        assert 0.1 * typical < float(moved[layer].max()) <= 0.151 * typical


def layers(problem: Problem, theta: torch.Tensor) -> Iterator[tuple[slice, float]]:
    """Weights and bias of each layer, and the mean magnitude of those that are not zero."""
    names = list(dict.fromkeys(block.name.rpartition(".")[0] for block in problem.loss.layout))
    for name in names:
        own = [block for block in problem.loss.layout if block.name.rpartition(".")[0] == name]
        layer = slice(own[0].start, own[-1].stop)
        yield layer, float(theta[layer].abs().sum() / max(1, theta[layer].count_nonzero()))


class TestNewton:
    """What second derivatives on the support buy, and what they must not cost."""

    @pytest.mark.parametrize("held", ["strength", "penalty"])
    @pytest.mark.parametrize("on", [PROBLEMS["diabetes"], problems.digits_network, problems.iris_network])
    def test_the_objective_never_rises(self, on, held: str) -> None:
        problem = on()
        guess, lam = start(problem), 0.01 if held == "strength" else 0.0
        found = [ActiveSetNewton(held, passes).correct(problem, guess, 0).state for passes in (1, 10, 20, 40, 80)]
        values = [problem.loss.value(at.theta) + lam * problem.penalty.value(at.theta) for at in found]
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values))
        assert values[-1] < values[0]

    def test_it_takes_fewer_passes_than_proximal_gradient_steps(self) -> None:
        _, _, problem = problems.breast_cancer()
        spent = []
        for exact in EXACT:
            before = problem.loss.effort
            assert exact("strength", 20_000, 1e-8).correct(problem, _from_zero(problem, 0.01), 0).converged
            spent.append(problem.loss.effort - before)
        assert spent[1] < spent[0] / 3

    def test_columns_that_are_the_same_leave_the_optimum(self) -> None:
        lasso = problems.diabetes()
        X = np.hstack([lasso.X, lasso.X])
        twice = problems.Lasso(X, lasso.y).problem
        found = ActiveSetNewton("strength", 5_000, 1e-8).correct(twice, _from_zero(twice, 0.01), 0)
        once = ActiveSetNewton("strength", 5_000, 1e-8).correct(lasso.problem, _from_zero(lasso.problem, 0.01), 0)
        values = [
            float(p.loss.value(f.state.theta) + 0.01 * p.penalty.value(f.state.theta))
            for p, f in ((twice, found), (lasso.problem, once))
        ]
        assert found.converged
        assert values[0] == pytest.approx(values[1], rel=1e-10)

    @pytest.mark.slow
    def test_group_penalties_have_the_optimum_of_proximal_gradient_steps(self) -> None:
        problem = problems.iris_network()
        grouped = Problem(problem.loss, GroupL2(problem.loss.layout))
        theta = problem.loss.initial() + 0.3 * vector(1, 55)
        found = [exact("strength", 2_000, 1e-5).correct(grouped, State(theta, 0.01, 0.0), 0) for exact in EXACT]
        values = [float(problem.loss.value(f.state.theta) + 0.01 * grouped.penalty.value(f.state.theta)) for f in found]
        assert found[1].converged
        assert values[1] <= values[0] * (1 + 1e-6)

    @pytest.mark.parametrize("held", ["strength", "penalty"])
    def test_a_path_meets_scikit_learns_duality_gap(self, held: str) -> None:
        lasso = problems.wide()
        problem, highest = lasso.problem, float(np.abs(lasso.X.T @ lasso.y).max()) / len(lasso.y)
        theta = problem.loss.initial()
        for lam in np.geomspace(highest, highest / 100, 10)[1:]:
            level = 0.0
            if held == "penalty":
                model = Lasso(lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(lasso.X, lasso.y)
                level = float(np.abs(model.coef_).sum())
            theta = ActiveSetNewton(held, 1_000, 1e-6).correct(problem, State(theta, lam, level), 0).state.theta
            assert _duality_gap(lasso, theta.numpy(), lam) <= 1e-6 * float(lasso.y @ lasso.y)


@pytest.mark.slow
@pytest.mark.parametrize(("held", "tolerance"), [("strength", 1e-9), ("penalty", 1e-3)])
@pytest.mark.parametrize("on", [lambda: problems.diabetes().problem, problems.iris_network])
@pytest.mark.parametrize("few", [STRETCH, 0])
def test_adaptive_steps_in_place_are_those_of_the_formulas(on, held: str, tolerance: float, few: int) -> None:
    problem = on()
    guess = start(problem)
    with patch("engine.correctors.adaptive.STRETCH", few):
        found = AdaptiveProximal(held, epochs=20, batch=15, trim=0).correct(problem, guess, 5).state.theta
    expected = naive_adaptive(problem, guess, hold(held, guess), held)
    assert float((found - expected).norm()) <= tolerance * float((expected - guess.theta).norm())


def naive_adaptive(problem: Problem, guess: State, keep: Hold, held: str) -> torch.Tensor:
    """Adam's averages by their definitions as sums over all gradients so far, and the exact hold after every step."""
    theta, pace, highest = guess.theta, Pace(), torch.empty_like(guess.theta)
    usual = float(theta.abs().sum()) / max(1, int(theta.count_nonzero()))
    for layer, typical in layers(problem, theta):
        highest[layer] = min(pace.rate, pace.trust * (typical or usual) or pace.rate)
    first = max(1.0, float(problem.penalty.value(theta)) / guess.level) if held == "penalty" else 1.0
    batches = list(mini_batches(problem.loss, 5, 15, 20, 0))
    grads, shares = [], torch.zeros(0, dtype=theta.dtype)
    for done, batch in enumerate(batches, 1):
        grads.append(problem.loss.value_and_grad(theta, batch)[1])
        new = 1 / pace.averaged((done - 1) / len(batches))
        shares = torch.cat([shares * (1 - new), shares.new_tensor([new])])
        ages = torch.arange(done - 1, -1, -1, dtype=theta.dtype)
        mean = shares @ torch.stack(grads) / shares.sum()
        square = BETA**ages @ torch.stack(grads).square() / (BETA**ages).sum()
        rate = highest * pace.share((done - 1) / len(batches), done / len(batches))
        step = rate / square.sqrt().clamp_min(3e-3)
        keep.ease(first ** max(0.0, 1 - (done - 1) / len(batches) / 0.3))
        theta = keep(problem.penalty, theta - step * mean, step)
    return theta


def test_the_level_is_met_exactly_where_asked_and_nearly_where_not() -> None:
    penalty, keep, metric = L1((Block("w", (1000,), 0),)), Level(50.0), vector(4, 1000).abs() + 0.1
    errors = []
    for scale, exactly in [(1.0, False), (1.1, False), (1.1, False), (2.0, True)]:
        theta = scale * vector(1, 1000)
        keep.restore_(penalty, theta, metric.clone(), exactly)
        errors.append(float(penalty.value(theta)) / 50 - 1)
    first, moved, again, last = errors
    assert abs(first) < 1e-12
    assert moved > 4 * again > 0
    assert abs(last) < 1e-12


class TestCommonDescent:
    """METHODS.md 1.2, T1 to T6."""

    penalty = L1((Block("w", (4,), 0),))
    theta = torch.tensor([1.0, -0.2, 0.0, 0.03], dtype=torch.float64)
    grad = torch.tensor([0.5, 0.1, -2.0, -0.4], dtype=torch.float64)

    def test_golden_step(self) -> None:
        y, alpha = common_descent(self.penalty, self.theta, self.grad, 0.1)
        assert alpha == pytest.approx(0.4799235182, abs=1e-9)
        expected = torch.tensor([0.92399618, -0.15279159, 0.04397706, 0.0], dtype=torch.float64)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-8)
        assert float(self.grad @ (y - self.theta)) == pytest.approx(-0.1092351816, abs=1e-9)
        assert float(y.abs().sum() - self.theta.abs().sum()) == pytest.approx(-0.1092351816, abs=1e-9)

    def test_golden_step_of_the_authors_bisection(self) -> None:
        y, alpha = common_descent(self.penalty, self.theta, self.grad, 0.1, "bisection")
        assert alpha == pytest.approx(0.4799804688, abs=1e-10)
        expected = torch.tensor([0.92399902, -0.15279785, 0.04399414, 0.0], dtype=torch.float64)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-8)

    def test_critical_weights_do_not_move(self) -> None:
        penalty = L1((Block("w", (3,), 0),))
        theta, grad = (
            torch.tensor([1, -0.2, 0], dtype=torch.float64),
            torch.tensor([-0.3, 0.3, 0.1], dtype=torch.float64),
        )
        y, alpha = common_descent(penalty, theta, grad, 0.1)
        torch.testing.assert_close(y, theta)
        assert alpha == pytest.approx(1 / 1.3, abs=1e-9)

    @pytest.mark.parametrize("seed", range(20))
    def test_strong_decrease_and_balance(self, seed: int) -> None:
        theta, grad = vector(seed, 4) * (vector(seed + 100, 4) > 0), 3 * vector(seed + 200, 4)
        step = 0.1
        y, alpha = common_descent(self.penalty, theta, grad, step)
        w1 = float(grad @ (y - theta))
        w2 = float(y.abs().sum() - theta.abs().sum())
        assert max(w1, w2) <= -float((y - theta).square().sum()) / step + 1e-12
        if 0 < alpha < 1:
            assert w1 == pytest.approx(w2, abs=1e-12)

    @pytest.mark.parametrize("seed", range(5))
    def test_is_a_proximal_step_of_its_own_strength(self, seed: int) -> None:
        theta, grad = vector(seed, 4), vector(seed + 50, 4)
        y, alpha = common_descent(self.penalty, theta, grad, 0.1)
        lam, step = (1 - alpha) / alpha, 0.1 * alpha
        torch.testing.assert_close(y, self.penalty.prox(theta - step * grad, step * lam))

    @pytest.mark.slow
    @pytest.mark.parametrize(("step", "loss", "l1"), [(0.05, 1.0952233, 0.7965890), (0.5, 1.0913208, 0.7925294)])
    def test_iris_golden_numbers_after_249_steps(self, step: float, loss: float, l1: float) -> None:
        problem = problems.iris_network()
        corrector = MultiobjectiveProximalGradient(249, step=step, accelerated=False)
        found = corrector.correct(problem, _from_zero(problem, 0.0), 0).state.theta
        assert float(problem.loss.value_and_grad(found)[0]) == pytest.approx(loss, abs=2e-6)
        assert float(problem.penalty.value(found)) == pytest.approx(l1, abs=2e-6)

    def test_both_objectives_fall_at_every_step(self) -> None:
        problem = problems.iris_network()
        theta = problem.loss.initial()
        value, grad = problem.loss.value_and_grad(theta)
        for _ in range(100):
            y, _ = common_descent(problem.penalty, theta, grad, 0.05)
            lower, grad = problem.loss.value_and_grad(y)
            assert lower <= value + 1e-15
            assert problem.penalty.value(y) <= problem.penalty.value(theta) + 1e-15
            theta, value = y, lower


def _duality_gap(lasso: problems.Lasso, theta: np.ndarray, lam: float) -> float:
    """Of ``||y - X theta||^2 / 2 + n lam ||theta||_1``: what scikit-learn compares with tol * ||y||^2."""
    rest, charge = lasso.y - lasso.X @ theta, lam * len(lasso.y)
    scale = min(1.0, charge / np.abs(lasso.X.T @ rest).max())
    primal = rest @ rest / 2 + charge * np.abs(theta).sum()
    return float(primal - (scale * rest @ lasso.y - scale**2 * rest @ rest / 2))


def _from_zero(problem: Problem, lam: float) -> State:
    return State(problem.loss.initial(), lam, 0.0, problem.loss.buffers)
