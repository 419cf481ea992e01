"""Adaptive dropout: each variant's step against its definition, what the variants share, and the sweep."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.correctors import ProximalGradient
from engine.dropout import VARIANTS, Adam, Descent, NoisyLayer, Spot, Variant
from engine.errors import Diverged, InvalidSpec
from engine.layout import layout
from engine.losses import LeastSquares, NetworkLoss
from engine.penalties import L1, PENALTIES
from engine.penalties.effective import LogSum, divergence
from engine.problem import Problem, State
from engine.tracers import Budget
from engine.tracers.dropout import AdaptiveDropout, Sweep, dropout
from tests.engine import problems
from tests.engine.problems import vector

NOISY = ["variational", "variational_local", "variational_local_additive"]
REWEIGHTED = ["ada_prox", "ada_tikhonov", "log_sum"]
QUICK = {"epochs": 2, "first_epochs": 10, "strength": 1e-3}


def spot_on(problem: Problem, theta: Tensor, variant: Variant, strength: float = 0.02, seed: int = 0) -> Spot:
    dual = variant.fresh(theta, strength) + vector(7, len(theta))[: len(variant.fresh(theta, strength))] * 0.3
    generator = torch.Generator().manual_seed(seed)
    return Spot(problem.loss, problem.penalty.penalised, strength, theta, dual.to(theta), generator)


def lasso_spot(name: str, epsilon: float = 0.5) -> tuple[Variant, Spot]:
    problem, variant = problems.diabetes().problem, VARIANTS[name](epsilon)
    return variant, spot_on(problem, vector(3, 10), variant)


def smooth_network() -> Problem:
    """Convolution, batch norm and a linear layer, smooth, float64."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 10)
    module = nn.Sequential(nn.Unflatten(1, (1, 8)), *layers).double()
    data = problems.load("digits", {"limit": 60}, {})
    return problems.network_problem(module, replace(data, **{k: v.astype(float) for k, v in inputs(data).items()}))


def inputs(data: problems.Dataset) -> dict[str, np.ndarray]:
    return {name: getattr(data, name) for name in ("X_train", "X_validation", "X_test")}


class TestSteps:
    def test_ada_tikhonovs_pull_is_the_gradient_of_the_effective_penalty(self) -> None:
        variant, spot = lasso_spot("ada_tikhonov")
        everything = torch.arange(spot.loss.n_samples)
        found, _ = variant.gradients(spot, everything)
        theta = spot.theta.clone().requires_grad_()
        (spot.strength * LogSum(0.5).value(theta.abs())).sum().backward()
        expected = spot.loss.value_and_grad(spot.theta, everything)[1] + theta.grad
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)

    def test_log_sum_is_pulled_alike(self) -> None:
        variant, spot = lasso_spot("log_sum")
        rival, _ = lasso_spot("ada_tikhonov")
        everything = torch.arange(spot.loss.n_samples)
        torch.testing.assert_close(variant.gradients(spot, everything)[0], rival.gradients(spot, everything)[0])

    def test_ada_tikhonovs_pull_is_bounded_near_zero(self) -> None:
        variant, spot = lasso_spot("ada_tikhonov")
        spot.theta.fill_(1e-12)
        everything = torch.arange(spot.loss.n_samples)
        pull = variant.gradients(spot, everything)[0] - spot.loss.value_and_grad(spot.theta, everything)[1]
        torch.testing.assert_close(pull, 999 * spot.theta, rtol=0, atol=1e-15)

    def test_ada_prox_is_the_proximal_operator_of_ridge_at_eta(self) -> None:
        variant, spot = lasso_spot("ada_prox")
        before, step = spot.theta.clone(), vector(4, 10).abs() + 0.1
        variant.shrink_(spot, step.clone())
        eta = LogSum(0.5).eta(before.abs())
        slope = (spot.theta - before) / step + spot.strength * spot.theta / eta
        torch.testing.assert_close(slope, torch.zeros_like(slope))
        assert bool((spot.theta.abs() < before.abs()).all())
        assert torch.equal(spot.theta.sign(), before.sign())

    def test_ada_prox_keeps_zeros_and_what_is_not_dropped(self) -> None:
        variant, spot = lasso_spot("ada_prox")
        spot.theta[3] = 0.0
        spot = replace(spot, dropped=torch.arange(10) < 5)
        before = spot.theta.clone()
        variant.shrink_(spot, torch.full((10,), 0.1).double())
        assert spot.theta[3] == 0
        assert torch.equal(spot.theta[5:], before[5:])

    def test_the_eta_tricks_gradients_are_those_of_its_objective(self) -> None:
        variant, spot = lasso_spot("eta_trick")
        everything = torch.arange(spot.loss.n_samples)
        found = variant.gradients(spot, everything)
        rho = (spot.dual - math.log(spot.strength)).requires_grad_()
        theta = spot.theta.clone().requires_grad_()
        eta = rho.exp() * spot.strength
        bound = (theta.square() / eta + LogSum(0.5).dual(eta) + 1e-3 * rho).sum() * spot.strength / 2
        bound.backward()
        torch.testing.assert_close(found[0], spot.loss.value_and_grad(spot.theta, everything)[1] + theta.grad)
        torch.testing.assert_close(found[1], rho.grad)

    @pytest.mark.parametrize("name", NOISY)
    def test_variational_gradients_are_those_of_the_same_draw(self, name: str) -> None:
        problem, variant = smooth_network(), VARIANTS[name](2.0)
        theta = problem.loss.initial() + 0.05
        batch, spot = torch.arange(40), spot_on(problem, theta, variant)
        by_theta, by_dual = variant.gradients(spot, batch)
        along = [vector(seed, len(theta)) / len(theta) ** 0.5 for seed in (1, 2)]
        for direction, dual_direction in ((along[0], 0 * along[1]), (0 * along[0], along[1])):
            ends = [objective(variant, spot, batch, h * direction, h * dual_direction) for h in (1e-5, -1e-5)]
            expected = (ends[0] - ends[1]) / 2e-5
            assert float(by_theta @ direction + by_dual @ dual_direction) == pytest.approx(expected, rel=1e-5, abs=1e-8)

    @pytest.mark.parametrize("name", NOISY)
    def test_noise_leaves_no_trace_in_the_network(self, name: str) -> None:
        problem, variant = smooth_network(), VARIANTS[name](2.0)
        theta, batch = problem.loss.initial(), torch.arange(40)
        before, statistics = problem.loss.value(theta), problem.loss.buffers
        variant.gradients(spot_on(problem, theta.clone(), variant), batch)
        problem.loss.load_buffers(statistics)
        assert torch.equal(problem.loss.value(theta), before)


def objective(variant: Variant, spot: Spot, batch: Tensor, move: Tensor, dual_move: Tensor) -> float:
    """What a variational step lowers, elsewhere, with the same draw of noise."""
    theta, dual = spot.theta + move, spot.dual + dual_move
    generator = torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    watched = replace(spot, theta=theta, dual=dual, generator=generator, loss=Watched(spot.loss, losses))
    variant.gradients(watched, batch)
    return float(losses[0] + spot.strength * divergence(-variant.odds(watched).log()).sum())


class Watched(NetworkLoss):
    """A loss that writes down the values of its mini-batches."""

    def __init__(self, loss: NetworkLoss, losses: list[Tensor]) -> None:
        self.__dict__.update(loss.__dict__)
        self._losses = losses

    def value_and_grad_(self, theta: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = super().value_and_grad_(theta, batch)
        self._losses.append(value)
        return value, grad


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(1, 2, 3), lambda: nn.Linear(5, 3)])
def test_local_noise_has_the_moments_of_noisy_weights(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    layer, x = make().double(), torch.randn(1, 1, 5, 5).double()
    plain = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    noisy = NoisyLayer(layer, *layout(layer))
    draws = 1500
    with torch.no_grad():
        weights = [{k: v + 0.3 * v.abs() * torch.randn_like(v) for k, v in plain.items()} for _ in range(draws)]
        expected = torch.stack([functional_call(layer, drawn, (x,)) for drawn in weights])
        with noisy.hook(lambda _, parameter: (0.3 * parameter).square(), torch.Generator().manual_seed(0)):
            found = torch.stack([layer(x) for _ in range(draws)])
    error = 6 * float(expected.std(0).max()) / draws**0.5
    torch.testing.assert_close(found.mean(0), expected.mean(0), rtol=0, atol=error)
    torch.testing.assert_close(found.std(0), expected.std(0), rtol=0, atol=error)


def test_local_noise_needs_layers() -> None:
    variant, spot = lasso_spot("variational_local")
    with pytest.raises(InvalidSpec, match="variational"):
        variant.gradients(spot, torch.arange(10))


def test_adam_is_its_papers_algorithm() -> None:
    found, theta = vector(1), vector(1)
    adam, mean, square = Adam(found), torch.zeros(16).double(), torch.zeros(16).double()
    for t in range(1, 6):
        grad = vector(10 + t)
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        theta = theta - 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)) ** 0.5 + 1e-8)
        adam.descend_(found, grad, 0.01)
    torch.testing.assert_close(found, theta)


class TestMinimisers:
    @pytest.mark.parametrize("name", [*REWEIGHTED, "eta_trick"])
    def test_the_effective_objective_is_as_low_as_by_proximal_gradient_steps(self, name: str) -> None:
        problem, strength = problems.diabetes().problem, 0.02
        penalised = Problem(problem.loss, PENALTIES["log_sum"](problem.loss.layout, epsilon=0.5))
        start = torch.full((10,), 0.3).double()
        oracle = ProximalGradient("strength", 2000, 1e-9).correct(penalised, State(start, strength, 0.0), 0).state
        variant = VARIANTS[name](0.5)
        spot = spot_on(problem, start.clone(), variant, strength)
        Descent(0.02, 0.1, batch=len(problems.diabetes().X))(variant, spot, 0, 800, 0)
        found = torch.where(variant.odds(spot) >= 1 / 19, spot.theta, 0.0)
        heights = [
            problem.loss.value(at) + strength * penalised.penalty.value(at) for at in (found, oracle.theta, start)
        ]
        assert float(heights[0]) == pytest.approx(float(heights[1]), rel=5e-3)
        assert heights[0] < 0.8 * heights[2]

    @pytest.mark.slow
    def test_variational_dropout_shrinks_noise_to_what_the_data_bear(self) -> None:
        """In one dimension the best noise is known: eta minimises the penalty's bound at the weight's curvature."""
        X = torch.ones(20, 1).double()
        loss = LeastSquares(X, 2 * torch.ones(20).double())
        problem, strength = Problem(loss, L1(loss.layout)), 0.1
        variant = VARIANTS["variational"](2.0)
        spot = spot_on(problem, torch.ones(1).double(), variant, strength)
        Descent(0.02, 0.05, batch=20)(variant, spot, 0, 800, 0)
        grid = torch.linspace(-7, 7, 20_001).double()
        bound = 2 * (1 - 1 / (1 + grid.exp())) + strength * divergence(grid)
        assert float(spot.dual) == pytest.approx(float(grid[bound.argmin()]), abs=0.25)
        assert float(spot.theta) == pytest.approx(float(2 / (1 + spot.dual.exp())), abs=0.05)


def swept(name: str, points: int = 6, **more: object) -> list:
    settings = {**QUICK, "variant": name, **more}
    return list(dropout(points, 0, Budget(), **settings).trace(problems.digits_network()))


class TestSweep:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", VARIANTS)
    def test_strengths_rise_until_the_end_is_reached(self, name: str) -> None:
        points = [waypoint.point for waypoint in swept(name, end=0.9, dual_rate=0.5)]
        strengths = [point.metrics["strength"] for point in points]
        assert strengths == sorted(set(strengths))
        assert strengths[0] == 1e-3
        assert points[-1].sparsity >= 0.9 > points[-2].sparsity

    @pytest.mark.parametrize("name", VARIANTS)
    def test_only_a_variants_own_parameters_are_kept_beside_the_weights(self, name: str) -> None:
        waypoint = swept(name, 2, end=0.5, first_epochs=1, epochs=1)[0]
        memory = VARIANTS[name](2.0).memory
        assert {k: v.shape for k, v in waypoint.memory.items()} == ({memory: waypoint.theta.shape} if memory else {})

    def test_dropped_weights_are_zero_and_no_others(self) -> None:
        problem = replace(problems.digits_network(), cleanup=None)
        for waypoint in dropout(6, 0, Budget(), **QUICK, variant="log_sum").trace(problem):
            sizes = np.abs(waypoint.theta[waypoint.theta != 0]).astype(float)
            assert (sizes * (sizes + 0.1) * 19 >= waypoint.point.metrics["strength"] * (1 - 1e-5)).all()

    def test_what_is_not_penalised_is_not_dropped(self) -> None:
        problem = problems.digits_network()
        weights = Problem(problem.loss, L1(problem.loss.layout, parameters="weights"))
        last = list(dropout(4, 0, Budget(), **QUICK, end=0.95).trace(weights))[-1]
        biases = [layer for layer in last.point.layers if layer.name.endswith("bias")]
        assert all(layer.n_nonzero == layer.shape[0] for layer in biases)

    @pytest.mark.slow
    def test_a_diverged_descent_says_so(self) -> None:
        problem = problems.diabetes().problem
        broken = Problem(LeastSquares(problem.loss.X, problem.loss.y * math.nan), problem.penalty)
        with pytest.raises(Diverged, match="strength"):
            list(dropout(3, 0, Budget(), rate=0.1).trace(broken))

    def test_a_budget_ends_the_sweep(self) -> None:
        found = dropout(30, 0, Budget(epochs=20))
        points = [waypoint.point for waypoint in found.trace(problems.digits_network())]
        assert "epochs" in found.ended
        assert 18 <= points[-1].effort <= 22

    def test_nonzeros_fall_evenly(self) -> None:
        def point(n_nonzero: int, strength: float) -> object:
            first = swept("ada_prox", 2)[0].point
            return replace(first, n_nonzero=n_nonzero, n_params=1000, metrics={"strength": strength})

        sweep = Sweep(points=6, strength=1e-3, end=0.99)
        following = sweep.following([point(320, 1e-3), point(160, 1.5e-3)])
        assert following == pytest.approx(1.5e-3 * 1.5 ** (4 / 4))


def test_the_tracer_needs_no_registry() -> None:
    sweep = Sweep(points=3, strength=1e-3, end=1.0, epochs=1, first_epochs=2)
    tracer = AdaptiveDropout(VARIANTS["ada_prox"](0.1), sweep, Descent(None, 0.03))
    assert len(list(tracer.trace(problems.diabetes().problem))) == 3
