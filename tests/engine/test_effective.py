"""Effective penalties of adaptive dropout: the eta trick, closed forms, and the proximal operators of some."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import dawsn
from torch import Tensor

from engine.errors import InvalidSpec
from engine.layout import Block
from engine.penalties import L1, PENALTIES, Separable
from engine.penalties.effective import (
    EffectivePenalty,
    HardConcrete,
    Invertible,
    LogSquareSum,
    LogSum,
    Mcp,
    Power,
    Scad,
    Standout,
    Thresholding,
    VariationalDropout,
)
from tests.engine.problems import MATRIX, vector

SCALARS: dict[str, EffectivePenalty] = {
    "power 0.5": Power(0.5),
    "power 1": Power(1.0),
    "power 1.5": Power(1.5),
    "log sum": LogSum(2.0),
    "log square sum": LogSquareSum(0.7),
    "scad": Scad(3.7, 0.8),
    "mcp": Mcp(1.6),
    "standout": Standout(0.4),
    "variational": VariationalDropout(),
    "hard concrete": HardConcrete(),
}
THRESHOLDING: dict[str, Thresholding] = {"log sum": LogSum(0.5), "mcp": Mcp(0.8), "scad": Scad(3.0, 0.4)}
SIZES = torch.tensor([0.03, 0.2, 0.5, 1.1, 2.3], dtype=torch.float64)
STEPS = {
    "short": torch.tensor(0.05, dtype=torch.float64),
    "long": torch.tensor(3.0, dtype=torch.float64),
    "vector": vector(9).abs() * 0.5 + 0.02,
}


@pytest.fixture(params=SCALARS)
def scalar(request: pytest.FixtureRequest) -> EffectivePenalty:
    return SCALARS[request.param]


@pytest.fixture(params=THRESHOLDING)
def thresholding(request: pytest.FixtureRequest) -> Thresholding:
    return THRESHOLDING[request.param]


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest) -> Tensor:
    return STEPS[request.param]


def at(function, x: float) -> float:
    return float(function(torch.tensor(x, dtype=torch.float64)))


class TestEtaTrick:
    def test_the_value_is_half_the_least_over_eta(self, scalar: EffectivePenalty) -> None:
        grid = torch.logspace(-6, 9, 6_001, dtype=torch.float64)
        bounds = SIZES[:, None].square() / grid + scalar.dual(grid)
        torch.testing.assert_close(bounds.min(dim=1).values / 2, scalar.value(SIZES), rtol=1e-4, atol=1e-6)
        assert bool((bounds.min(dim=1).values / 2 >= scalar.value(SIZES) - 1e-6).all())

    def test_eta_attains_it(self, scalar: EffectivePenalty) -> None:
        sizes = SIZES[:3]
        eta = scalar.eta(sizes)
        torch.testing.assert_close(scalar.value(sizes), (sizes.square() / eta + scalar.dual(eta)) / 2)

    def test_eta_is_size_over_slope(self, scalar: EffectivePenalty) -> None:
        sizes = SIZES[:3]
        slope = (scalar.value(sizes + 1e-5) - scalar.value(sizes - 1e-5)) / 2e-5
        torch.testing.assert_close(scalar.eta(sizes), sizes / slope, rtol=2e-4, atol=0)

    def test_eta_grows_with_the_size(self, scalar: EffectivePenalty) -> None:
        eta = scalar.eta(torch.linspace(0.01, 3, 60, dtype=torch.float64))
        assert bool((eta[1:] >= eta[:-1] * (1 - 1e-6)).all())

    def test_nothing_at_zero(self, scalar: EffectivePenalty) -> None:
        assert at(scalar.value, 0.0) == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("name", [name for name, found in SCALARS.items() if isinstance(found, Invertible)])
    def test_size_inverts_eta(self, name: str) -> None:
        found = SCALARS[name]
        assert isinstance(found, Invertible)
        torch.testing.assert_close(found.size(found.eta(SIZES[:3])), SIZES[:3])


@pytest.mark.parametrize("eta", [0.05, 0.5, 4.0])
def test_duals_are_the_closed_forms(eta: float) -> None:
    p, epsilon, b, a, knot = 0.5, 2.0, 1.6, 3.7, 0.8
    q, r = p / (2 - p), math.sqrt(epsilon**2 + 4 * eta)
    assert at(Power(p).dual, eta) == pytest.approx(eta**q / q)
    log_sum = 2 * math.log((r + epsilon) / 2) - (r - epsilon) ** 2 / (4 * eta) - 2 * math.log(epsilon)
    assert at(LogSum(epsilon).dual, eta) == pytest.approx(log_sum)
    assert at(Mcp(b).dual, eta) == pytest.approx(b * eta / (eta + b))
    beyond = knot * ((a + 1) * eta - knot) / ((a - 1) * knot + eta)
    assert at(Scad(a, knot).dual, eta) == pytest.approx(eta if eta <= knot else beyond)
    small = 0.08
    student = 2 * math.log(2 * eta) + small / eta - 2 - 2 * math.log(small) if eta >= small / 2 else 0.0
    assert at(LogSquareSum(small).dual, eta) == pytest.approx(student)


@pytest.mark.parametrize("size", [0.3, 1.0, 2.0, 5.0])
def test_values_are_the_closed_forms(size: float) -> None:
    a, knot, b, lam = 3.7, 0.8, 1.6, 0.4
    middle = (2 * a * knot * size - size**2 - knot**2) / (2 * (a - 1) * knot)
    scad = size if size < knot else middle if size <= a * knot else (a + 1) * knot / 2
    assert at(Scad(a, knot).value, size) == pytest.approx(scad)
    assert at(Mcp(b).value, size) == pytest.approx(size - size**2 / (2 * b) if size < b else b / 2)
    assert at(Standout(lam).value, size) == pytest.approx((1 - (size + 1) * math.exp(-size)) / lam)
    assert at(LogSum(2.0).value, size) == pytest.approx(math.log(size + 2) - math.log(2))


def test_standouts_keep_probability_is_a_sigmoid_of_the_weight() -> None:
    eta = Standout(0.4).eta(SIZES)
    torch.testing.assert_close(eta / (eta + 0.4), torch.sigmoid(SIZES))


def test_variational_dropouts_dual_is_the_exact_one_to_three_hundredths() -> None:
    def slope(eta: float) -> float:
        return dawsn(math.sqrt(eta / 2)) / math.sqrt(eta / 2)

    off, total, before = [], 0.0, 0.0
    for eta in np.logspace(-3, 6, 37):
        total += quad(slope, before, eta, limit=200)[0]
        before = eta
        off.append(total - at(VariationalDropout().dual, eta))
    assert max(off) - min(off) < 0.03


def test_the_hard_concretes_gate_has_the_moments_of_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(400_000, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    gate = (torch.sigmoid((u.logit() + 0.7) * 1.5) * 1.2 - 0.1).clamp(0, 1)
    eta = gate.mean().square() / gate.var()
    chance = (gate > 0).double().mean()
    assert at(HardConcrete().dual, float(eta)) == pytest.approx(float(chance), abs=3e-3)


def test_parameters_outside_their_range_are_refused() -> None:
    for wrong in (lambda: Power(2.0), lambda: LogSum(0.0), lambda: Scad(2.0), lambda: Mcp(-1.0), lambda: Standout(0)):
        with pytest.raises(InvalidSpec):
            wrong()


class TestProx:
    def test_no_point_of_a_fine_grid_is_better(self, thresholding: Thresholding, step: Tensor) -> None:
        sizes, grid = 2 * vector(1).abs(), torch.linspace(0, 6, 60_001, dtype=torch.float64)
        found = thresholding.prox(sizes, step)
        steps = step.expand_as(sizes)

        def height(z: Tensor, x: Tensor, h: Tensor) -> Tensor:
            return (z - x).square() / (2 * h) + thresholding.value(z)

        for x, h, z in zip(sizes, steps, found, strict=True):
            assert height(z, x, h) <= height(grid, x, h).min() + 1e-12

    def test_it_is_stationary_where_it_is_not_zero(self, thresholding: Thresholding, step: Tensor) -> None:
        sizes = 4 * vector(1).abs()
        found = thresholding.prox(sizes, step)
        assert bool((found > 0).any())
        pull = (found - sizes) / step + thresholding.slope(found)
        assert float(pull[found > 0].abs().max()) < 1e-9

    def test_slope_and_bend_are_derivatives(self, thresholding: Thresholding) -> None:
        sizes = torch.tensor([0.11, 0.35, 0.62, 1.9], dtype=torch.float64)
        ahead, behind = thresholding.value(sizes + 1e-6), thresholding.value(sizes - 1e-6)
        torch.testing.assert_close(thresholding.slope(sizes), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)
        change = (thresholding.slope(sizes + 1e-6) - thresholding.slope(sizes - 1e-6)) / 2e-6
        torch.testing.assert_close(thresholding.bend(sizes), change, rtol=1e-6, atol=1e-8)


def test_mcp_prox_is_firm_thresholding() -> None:
    x, step, knot = vector(1, 40).abs() * 2, 0.3, 1.5
    firm = torch.where(x > knot, x, knot / (knot - step) * (x - step).clamp_min(0.0))
    torch.testing.assert_close(Mcp(knot).prox(x, torch.tensor(step).double()), firm)


def test_a_wide_log_sum_thresholds_softly_and_a_far_mcp_too() -> None:
    x, step = vector(1, 40), torch.tensor(0.3, dtype=torch.float64)
    soft = L1((Block("w", (40,), 0),)).prox(x, step)
    torch.testing.assert_close(x.sign() * Mcp(1e9).prox(x.abs(), step), soft)
    torch.testing.assert_close(x.sign() * LogSum(1e9).prox(x.abs(), step * 1e9), soft, rtol=0, atol=1e-6)


@pytest.fixture(params=["log_sum", "mcp", "scad"])
def penalty(request: pytest.FixtureRequest) -> Separable:
    found = PENALTIES[request.param](MATRIX, parameters="weights")
    assert isinstance(found, Separable)
    return found


class TestSeparable:
    def test_the_unpenalised_are_left_alone_and_large_steps_make_zeros(self, penalty: Separable) -> None:
        x = vector(3)
        found = penalty.prox(x, 1e6)
        assert not found[penalty.penalised].any()
        assert torch.equal(found[~penalty.penalised], x[~penalty.penalised])

    def test_subgradient_and_curvature_are_derivatives(self, penalty: Separable) -> None:
        x, direction = vector(4).requires_grad_(), vector(2)
        penalty.value(x).backward()
        torch.testing.assert_close(penalty.subgradient(x.detach()), x.grad)
        x = x.detach()
        ahead, behind = (penalty.subgradient(x + h * direction) for h in (1e-6, -1e-6))
        torch.testing.assert_close(penalty.curvature(x, direction), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)
        assert not penalty.subgradient(torch.zeros_like(x)).any()

    @pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
    def test_projection_is_a_prox_within_the_radius(self, penalty: Separable, step: Tensor, share: float) -> None:
        x = vector(5)
        radius = share * float(penalty.value(x))
        found, multiplier = penalty.project(x, radius, step)
        assert float(penalty.value(found)) <= radius * (1 + 1e-12)
        torch.testing.assert_close(found, penalty.prox(x, multiplier * step))
        less = penalty.prox(x, multiplier * (1 - 1e-9) * step)
        assert float(penalty.value(less)) >= radius * (1 - 1e-6)

    def test_projection_leaves_what_is_inside_and_reaches_zero(self, penalty: Separable) -> None:
        x = vector(6)
        found, multiplier = penalty.project(x, 1.1 * float(penalty.value(x)))
        assert torch.equal(found, x)
        assert multiplier == 0
        assert not penalty.project(x, 0.0)[0][penalty.penalised].any()

    def test_a_multiplier_nearby_is_followed(self, penalty: Separable) -> None:
        x, metric = vector(5), torch.full((16,), 0.02, dtype=torch.float64)
        radius = 0.98 * float(penalty.value(x))
        exact = penalty.project(x, radius, metric)[1]
        first = abs(float(penalty.value(penalty.prox(x, 0.98 * exact * metric))) - radius)
        found = x.clone()
        penalty.project_(found, radius, metric.clone(), 0.98 * exact)
        assert abs(float(penalty.value(found)) - radius) < 0.2 * first

    def test_trimming_takes_no_more_than_its_share(self, penalty: Separable) -> None:
        theta = vector(3)
        before, after = float(penalty.value(theta)), float(penalty.value(penalty.trim(theta, 0.3)))
        assert 0.7 * before - 1e-12 <= after < before

    def test_single_precision_stays(self, penalty: Separable) -> None:
        x = vector(1).float()
        assert penalty.prox(x, torch.full_like(x, 0.1)).dtype == torch.float32
        assert penalty.project(x, 1.0)[0].dtype == torch.float32


def test_the_trick_agrees_with_a_general_optimiser() -> None:
    penalty = VariationalDropout()
    for size in (0.1, 1.0, 3.0):

        def bound(log_eta: float, size: float = size) -> float:
            return size**2 / math.exp(log_eta) + at(penalty.dual, math.exp(log_eta))

        found = minimize_scalar(bound, bounds=(-15, 10), method="bounded", options={"xatol": 1e-10})
        assert at(penalty.value, size) == pytest.approx(found.fun / 2, abs=1e-9)
