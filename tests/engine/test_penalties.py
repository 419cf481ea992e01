"""Every penalty's operators against their definitions, closed forms and published numbers."""

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from engine.errors import InvalidSpec
from engine.losses import Block
from engine.penalties import L1, GroupL2, Penalty
from engine.penalties.base import selection
from engine.stretches import STRETCH
from tests.engine import problems
from tests.engine.problems import MATRIX, vector

STEPS = {"scalar": torch.tensor(0.3, dtype=torch.float64), "vector": vector(9).abs() + 0.05}


@pytest.fixture(params=problems.PENALTIES)
def penalty(request: pytest.FixtureRequest) -> Penalty:
    return problems.PENALTIES[request.param]


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest) -> Tensor:
    return STEPS[request.param]


def objective(penalty: Penalty, z: Tensor, x: Tensor, step: Tensor) -> float:
    return float(((z - x).square() / (2 * step)).sum() + penalty.value(z))


class TestContract:
    def test_prox_is_no_worse_than_what_a_general_optimiser_finds(self, penalty: Penalty, step: Tensor) -> None:
        x = vector(1)
        found = penalty.prox(x, step)

        def value(z) -> float:
            return objective(penalty, torch.as_tensor(z), x, step)

        rival = minimize(value, found.numpy() + 1e-3, method="Powell", options={"maxiter": 4000, "xtol": 1e-9})
        assert objective(penalty, found, x, step) <= rival.fun + 1e-8

    def test_prox_does_not_expand(self, penalty: Penalty, step: Tensor) -> None:
        x, y = vector(1), vector(2)
        before = ((x - y).square() / step).sum()
        after = ((penalty.prox(x, step) - penalty.prox(y, step)).square() / step).sum()
        assert after <= before + 1e-12

    def test_large_steps_make_exact_zeros_and_leave_the_unpenalised_alone(self, penalty: Penalty) -> None:
        x = vector(3)
        found = penalty.prox(x, 1e6)
        assert not found[penalty.penalised].any()
        assert torch.equal(found[~penalty.penalised], x[~penalty.penalised])

    def test_subgradient_is_the_gradient_where_there_is_one(self, penalty: Penalty) -> None:
        x = vector(4).requires_grad_()
        penalty.value(x).backward()
        torch.testing.assert_close(penalty.subgradient(x.detach()), x.grad)

    def test_subgradient_at_zero_is_zero(self, penalty: Penalty) -> None:
        assert not penalty.subgradient(torch.zeros(16, dtype=torch.float64)).any()

    def test_projection_meets_the_radius_and_is_a_prox(self, penalty: Penalty, step: Tensor) -> None:
        x = vector(5)
        radius = 0.4 * float(penalty.value(x))
        found, multiplier = penalty.project(x, radius, step)
        assert float(penalty.value(found)) == pytest.approx(radius, rel=1e-9)
        torch.testing.assert_close(found, penalty.prox(x, multiplier * step))

    def test_projection_leaves_what_is_inside(self, penalty: Penalty) -> None:
        x = vector(6)
        found, multiplier = penalty.project(x, 1.1 * float(penalty.value(x)))
        assert torch.equal(found, x)
        assert multiplier == 0

    def test_projection_to_nothing_is_exactly_zero(self, penalty: Penalty) -> None:
        found, _ = penalty.project(vector(7), 0.0)
        assert not found[penalty.penalised].any()

    def test_weights_are_not_changed_in_place(self, penalty: Penalty, step: Tensor) -> None:
        x = vector(8)
        kept = x.clone()
        penalty.prox(x, step)
        penalty.project(x, 0.1, step)
        assert torch.equal(x, kept)

    def test_float32_weights_stay_float32(self, penalty: Penalty) -> None:
        x = vector(1).float()
        assert penalty.prox(x, torch.full_like(x, 0.1)).dtype == torch.float32
        assert penalty.project(x, 1.0)[0].dtype == torch.float32


def single(size: int) -> GroupL2:
    """One group of `size` weights; its penalty is ``sqrt(size)`` times the norm."""
    return GroupL2((Block("w", (1, size), 0),))


def test_group_prox_golden_numbers() -> None:
    x, metric = torch.tensor([3.0, -1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    strength = 1.5 / 3**0.5
    found = single(3).prox(x, strength / metric)
    expected = torch.tensor([1.73145789, -0.73189192, 0.81126429]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("factor", "alive"), [(1 - 1e-9, True), (1 + 1e-9, False)])
def test_group_prox_vanishes_exactly_at_the_threshold(factor: float, alive: bool) -> None:
    x, metric = torch.tensor([3.0, -1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    threshold = float((metric * x).norm()) * factor / 3**0.5
    assert bool(single(3).prox(x, threshold / metric).any()) is alive


def test_group_prox_with_a_constant_metric_is_the_closed_form() -> None:
    x = vector(1, 5)
    expected = x * max(0.0, 1 - 0.2 * 5**0.5 / float(x.norm()))
    torch.testing.assert_close(single(5).prox(x, torch.full_like(x, 0.2)), expected)


def test_group_prox_holds_over_six_decades_of_metric() -> None:
    x, metric = vector(1, 7), torch.logspace(-3, 3, 7).double()
    z = single(7).prox(x, 1e-3 / metric)
    residual = metric * (z - x) + 1e-3 * 7**0.5 * z / z.norm()
    assert float(residual.abs().max()) < 1e-12


def test_groups_of_one_are_soft_thresholded() -> None:
    blocks = (Block("w", (4, 1), 0),)
    x, step = vector(1, 4), vector(2, 4).abs()
    torch.testing.assert_close(GroupL2(blocks).prox(x, step), L1(blocks).prox(x, step))


def test_a_neurons_bias_joins_its_group_when_penalised() -> None:
    found = GroupL2(MATRIX, parameters="all").prox(vector(3), 0.6)
    weights, bias = found[:12].view(4, 3), found[12:]
    assert torch.equal((weights != 0).any(dim=1), bias != 0)


def test_input_groups_are_columns() -> None:
    found = GroupL2(MATRIX, groups="input").prox(vector(3), 0.8)[:12].view(4, 3) != 0
    assert torch.equal(found.any(dim=0), found.all(dim=0))
    assert not found.all()


@pytest.mark.parametrize(
    ("parameters", "expected"), [("all", 16), ("weights", 12), ("*.bias", 4), ("dense.weight,dense.bias", 16)]
)
def test_selection_by_words_and_patterns(parameters: str, expected: int) -> None:
    assert int(selection(MATRIX, parameters).sum()) == expected


def test_a_pattern_that_matches_nothing_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpec, match=r"'conv\*'.*dense.weight, dense.bias"):
        L1(MATRIX, parameters="conv*")


def test_groups_need_a_matrix() -> None:
    with pytest.raises(InvalidSpec, match="no weight matrix"):
        GroupL2((Block("bias", (4,), 0, "bias"),), parameters="all")


@pytest.mark.parametrize("name", problems.PENALTIES)
def test_curvature_is_how_the_subgradient_changes(name: str) -> None:
    penalty, theta, direction = problems.PENALTIES[name], vector(1), vector(2)
    ahead, behind = (penalty.subgradient(theta + step * direction) for step in (1e-6, -1e-6))
    found = penalty.curvature(theta, direction)
    expected = (ahead - behind) / 2e-6
    torch.testing.assert_close(torch.zeros_like(theta) if found is None else found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", problems.PENALTIES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_trimming_takes_whole_parts_and_no_more_than_its_share(name: str, share: float) -> None:
    penalty, theta = problems.PENALTIES[name], vector(3)
    trimmed = penalty.trim(theta, share)
    before, after = float(penalty.value(theta)), float(penalty.value(trimmed))
    assert (1 - share) * before - 1e-12 <= after <= before
    assert bool(((trimmed == theta) | ((trimmed == 0) & penalty.penalised)).all())
    assert share < 1 or after == pytest.approx(0, abs=1e-12)


def test_trimming_takes_the_smallest_weights() -> None:
    penalty = L1((Block("w", (5,), 0),))
    trimmed = penalty.trim(torch.tensor([5.0, -0.5, 3.0, 0.4, -1.1]), 0.1)
    assert trimmed.tolist() == [5.0, 0.0, 3.0, 0.0, pytest.approx(-1.1)]


class TestInPlace:
    """The operators that change their arguments, against those that do not."""

    def test_prox_is_that_of_the_pure_operator(self, penalty: Penalty) -> None:
        x, step = vector(1), STEPS["vector"]
        found = x.clone()
        penalty.prox_(found, step.clone())
        torch.testing.assert_close(found, penalty.prox(x, step))

    def test_projection_is_that_of_the_pure_operator(self, penalty: Penalty) -> None:
        x, metric = vector(5), STEPS["vector"]
        radius = 0.4 * float(penalty.value(x))
        found = x.clone()
        multiplier = penalty.project_(found, radius, metric.clone())
        expected = penalty.project(x, radius, metric)
        torch.testing.assert_close((found, multiplier), expected)

    @pytest.mark.parametrize("level", [0.0, 1.1])
    def test_a_multiplier_nearby_does_no_harm_at_the_ends_of_the_range(self, penalty: Penalty, level: float) -> None:
        x, near = vector(5), torch.tensor(1e3, dtype=torch.float64)
        found = x.clone()
        for _ in range(20):
            near = penalty.project_(found, level * float(penalty.value(x)), STEPS["vector"].clone(), near)
        torch.testing.assert_close(found, x if level else torch.where(penalty.penalised, 0.0, x))

    @pytest.mark.parametrize("parameters", ["all", "first"])
    @pytest.mark.parametrize("distance", [0.9, 1.1])
    def test_error_from_a_multiplier_nearby_is_of_second_order(self, parameters: str, distance: float) -> None:
        penalty, x, metric = long_vector(parameters)
        radius = 0.5 * float(penalty.value(x))
        multiplier = penalty.project(x, radius, metric)[1]
        first = abs(float(penalty.value(penalty.prox(x, distance * multiplier * metric))) - radius)
        penalty.project_(x, radius, metric, distance * multiplier)
        assert 0 < float(penalty.value(x)) - radius < 0.1 * first

    @pytest.mark.parametrize("parameters", ["all", "first"])
    def test_vectors_of_several_stretches_are_projected_as_a_whole(self, parameters: str) -> None:
        penalty, x, metric = long_vector(parameters)
        radius = 0.5 * float(penalty.value(x))
        found = x.clone()
        multiplier = penalty.project_(found, radius, metric.clone())
        assert float(penalty.value(found)) == pytest.approx(radius, rel=1e-12)
        torch.testing.assert_close(found, penalty.prox(x, multiplier * metric))


def long_vector(parameters: str) -> tuple[L1, Tensor, Tensor]:
    """A penalty, weights and step sizes of more than two stretches, the last one short."""
    size = STRETCH * torch.get_num_threads() + 7
    blocks = (Block("first", (size,), 0), Block("second", (size,), size))
    return L1(blocks, parameters=parameters), vector(1, 2 * size), vector(2, 2 * size).abs() + 0.1
