"""Every penalty's operators against their definitions, closed forms and published numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from engine.errors import InvalidSpec
from engine.layout import Block, layout
from engine.losses import LeastSquares
from engine.penalties import L1, GroupL2, GroupLinf, GroupMCP, Penalty, SparseGroup
from engine.penalties.base import selection
from engine.penalties.group import GroupPenalty
from engine.penalties.groups import Grouping, Partition
from engine.penalties.searched import SearchedNorms
from engine.problem import Problem
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

    def test_large_steps_make_exact_zeros_and_leave_the_unpenalised_alone(self, penalty: Penalty) -> None:
        x = vector(3)
        found = penalty.prox(x, 1e6)
        assert not found[penalty.penalised].any()
        assert torch.equal(found[~penalty.penalised], x[~penalty.penalised])

    def test_steps_of_no_length_leave_the_weights_alone(self, penalty: Penalty) -> None:
        x = vector(3)
        torch.testing.assert_close(penalty.prox(x, 0.0), x)

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


CONVEX = [name for name, penalty in problems.PENALTIES.items() if not isinstance(penalty, GroupMCP)]
GROUPED = [name for name, penalty in problems.PENALTIES.items() if isinstance(penalty, GroupPenalty)]
SEARCHED = [name for name, penalty in problems.PENALTIES.items() if isinstance(penalty, SearchedNorms)]

weights = st.lists(st.floats(-3, 3, width=32), min_size=16, max_size=16).map(lambda x: torch.tensor(x).double())
steps = st.lists(st.floats(-2, 1, width=32), min_size=16, max_size=16).map(lambda x: 10 ** torch.tensor(x).double())


class TestLaws:
    """What follows from the definition of the prox, for any weights and any diagonal metric."""

    @pytest.mark.parametrize("name", CONVEX)
    @settings(max_examples=12, deadline=None)
    @given(x=weights, step=steps, other=weights)
    def test_the_move_of_the_prox_is_a_subgradient_there(
        self, name: str, x: Tensor, step: Tensor, other: Tensor
    ) -> None:
        penalty = problems.PENALTIES[name]
        z = penalty.prox(x, step)
        supported = penalty.value(z) + ((x - z) / step) @ (other - z)
        assert float(penalty.value(other)) >= float(supported) - 1e-8 * (1 + abs(float(supported)))

    @pytest.mark.parametrize("name", CONVEX)
    @settings(max_examples=12, deadline=None)
    @given(x=weights, step=steps, y=weights)
    def test_the_prox_of_a_convex_penalty_does_not_expand(self, name: str, x: Tensor, step: Tensor, y: Tensor) -> None:
        penalty = problems.PENALTIES[name]
        after = (penalty.prox(x, step) - penalty.prox(y, step)).square() / step
        assert float(after.sum()) <= float(((x - y).square() / step).sum()) * (1 + 1e-9) + 1e-12

    @pytest.mark.parametrize("name", problems.PENALTIES)
    @settings(max_examples=12, deadline=None)
    @given(x=weights, step=steps, factor=st.floats(1, 10))
    def test_longer_steps_leave_less_of_the_penalty(self, name: str, x: Tensor, step: Tensor, factor: float) -> None:
        penalty = problems.PENALTIES[name]
        values = [float(penalty.value(penalty.prox(x, length * step))) for length in (1, factor)]
        assert values[1] <= values[0] * (1 + 1e-9)

    @pytest.mark.parametrize("name", GROUPED)
    @settings(max_examples=12, deadline=None)
    @given(x=weights, step=steps, share=st.floats(0.05, 1.2))
    def test_the_projection_is_the_prox_with_the_least_multiplier(
        self, name: str, x: Tensor, step: Tensor, share
    ) -> None:
        penalty = problems.PENALTIES[name]
        radius = share * float(penalty.value(x))
        found, multiplier = penalty.project(x, radius, step)
        met = min(radius, float(penalty.value(x)))
        assert float(penalty.value(found)) == pytest.approx(met, rel=1e-9)
        if multiplier > 0:
            here, before = (penalty.prox(x, factor * multiplier * step) for factor in (1 + 1e-9, 0.9999))
            assert float(penalty.value(here)) <= radius * (1 + 1e-6) <= float(penalty.value(before)) * (1 + 2e-6)
            jumps = float(penalty.value(here)) < radius * (1 - 1e-6)
            assert jumps or torch.allclose(found, here, rtol=1e-6, atol=1e-6)
            assert not (jumps and name in CONVEX)

    @pytest.mark.parametrize("name", [name for name in CONVEX if name in GROUPED])
    @settings(max_examples=12, deadline=None)
    @given(x=weights, step=steps, share=st.floats(0.05, 1.2))
    def test_single_precision_finds_what_double_does(self, name: str, x: Tensor, step: Tensor, share) -> None:
        penalty, radius = problems.PENALTIES[name], share * float(problems.PENALTIES[name].value(x))
        single, double = (
            (penalty.prox(z, t), *penalty.project(z, radius, t)) for z, t in ((x.float(), step.float()), (x, step))
        )
        least = max(1e-5 * float(x.abs().max()), torch.finfo(torch.float32).tiny)
        for there, here in zip(single[:2], double[:2], strict=True):
            torch.testing.assert_close(there.double(), here, rtol=0, atol=least)

    @settings(max_examples=30, deadline=None)
    @given(
        x=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
        logs=st.tuples(st.floats(-3, 2), st.floats(-3, 2)),
        plateau=st.floats(0.2, 3),
    )
    def test_no_point_of_a_fine_grid_is_better_than_the_prox_of_mcp(self, x, logs, plateau: float) -> None:
        start, step = np.array(x), 10.0 ** np.array(logs)
        penalty = GroupMCP((Block("w", (1, 2), 0),), plateau=plateau)
        found = penalty.prox(torch.tensor(start), torch.tensor(step)).numpy()
        grid = np.stack(np.meshgrid(*(np.linspace(0, end, 151) for end in x)), axis=-1)

        def cost(z):
            norm = np.minimum(np.linalg.norm(z, axis=-1), plateau)
            charge = math.sqrt(2) * (norm - norm**2 / (2 * plateau))
            return ((z - start) ** 2 / (2 * step)).sum(axis=-1) + charge

        assert cost(found) <= cost(grid).min() * (1 + 1e-9)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_fall_is_how_the_penalty_after_the_prox_changes(name: str) -> None:
    penalty, x, step, at = problems.PENALTIES[name], vector(1), STEPS["vector"], torch.tensor(0.05).double()
    trial = penalty._trial(x, step)
    values = [trial.at(multiplier) for multiplier in (at + 1e-6, at - 1e-6, at)]
    assert float(values[2]) == pytest.approx(float(penalty.value(penalty.prox(x, at * step))), rel=1e-9)
    torch.testing.assert_close(trial.moved(), penalty.prox(x, at * step))
    assert float(trial.fall()) == pytest.approx(float(values[1] - values[0]) / 2e-6, rel=1e-6)
    assert trial.fall() > 0


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("distance", [0.5, 1.5])
def test_a_multiplier_nearby_leads_to_within_a_thousandth(name: str, distance: float) -> None:
    penalty, x, step = problems.PENALTIES[name], vector(5), STEPS["vector"]
    radius = 0.7 * float(penalty.value(x))
    near = distance * penalty.project(x, radius, step)[1]
    penalty.project_(x, radius, step.clone(), near)
    assert float(penalty.value(x)) == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("name", GROUPED)
def test_projections_of_weights_that_are_no_numbers_come_to_an_end(name: str) -> None:
    found, _ = problems.PENALTIES[name].project(torch.full((16,), math.nan), 1.0)
    assert found.isnan().any()


@pytest.mark.parametrize("name", GROUPED)
def test_adams_metric_in_float32_keeps_what_is_held(name: str) -> None:
    penalty, x = problems.PENALTIES[name], vector(1).float()
    metric = torch.logspace(-2, 8, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    radius = 0.3 * float(penalty.value(x))
    found, multiplier = penalty.project(x, radius, metric)
    assert bool(found.isfinite().all())
    assert multiplier > 0
    assert float(penalty.value(found)) <= radius * (1 + 1e-6)


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


@pytest.mark.parametrize("make", [GroupL2, GroupLinf, SparseGroup])
def test_groups_of_one_are_soft_thresholded(make: type[GroupPenalty]) -> None:
    blocks = (Block("w", (4, 1), 0),)
    x, step = vector(1, 4), vector(2, 4).abs()
    torch.testing.assert_close(make(blocks).prox(x, step), L1(blocks).prox(x, step))


def test_mcp_prox_golden_numbers() -> None:
    x, metric = torch.tensor([0.6, -0.3]).double(), torch.tensor([1.0, 2.0]).double()
    found = GroupMCP((Block("w", (1, 2), 0),), plateau=2.0).prox(x, 0.1 / 2**0.5 / metric)
    expected = torch.tensor([0.53845705, -0.28378254]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_mcp_without_curvature_is_the_group_lasso() -> None:
    x, step = vector(1), STEPS["vector"]
    torch.testing.assert_close(GroupMCP(MATRIX, plateau=1e12).prox(x, step), GroupL2(MATRIX).prox(x, step))


@pytest.mark.parametrize("length", [0.1, 0.6, 1.5])
def test_mcp_thresholds_firmly_the_same_in_both_kinds_of_metric(length: float) -> None:
    penalty, x = GroupMCP(MATRIX, plateau=1.5), vector(1)
    found = penalty.prox(x, length)
    torch.testing.assert_close(found, penalty.prox(x, torch.full_like(x, length)))
    norm, kept = x[:12].view(4, 3).norm(dim=1), found[:12].view(4, 3).norm(dim=1)
    assert torch.equal(kept[norm >= 1.5] == norm[norm >= 1.5], norm[norm >= 1.5].square() > length * 3**0.5 * 1.5)
    assert bool((kept[norm < 1.5] < norm[norm < 1.5]).all())


def test_the_projection_of_mcp_shrinks_the_smaller_of_two_units_beyond_the_plateau() -> None:
    penalty = GroupMCP((Block("w", (2, 1), 0),), plateau=1.0)
    found, multiplier = penalty.project(torch.tensor([3.0, 2.0]).double(), 0.75)
    assert found.tolist() == pytest.approx([3.0, 1 - 0.5**0.5])
    assert float(multiplier) == pytest.approx(4.0, rel=1e-9)


def test_where_mcp_is_flat_there_is_no_strength() -> None:
    loss = LeastSquares(torch.eye(2).double(), torch.ones(2).double())
    penalty = GroupMCP((Block("w", (2, 1), 0),), plateau=0.5)
    theta = torch.tensor([3.0, 2.0]).double()
    assert Problem(loss, penalty).multiplier(theta, loss.value_and_grad(theta)[1]) == 0.0


def test_linf_prox_golden_numbers() -> None:
    x, metric = torch.tensor([3.0, -1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.5]).double()
    found = GroupLinf((Block("w", (1, 3), 0),)).prox(x, 0.5 / metric)
    torch.testing.assert_close(found, torch.tensor([5 / 3, -1.0, 5 / 3]).double())


def test_linf_prox_is_what_the_projection_on_the_l1_ball_takes_off() -> None:
    blocks, x = (Block("w", (1, 7), 0),), vector(1, 7)
    taken, _ = L1(blocks).project(x, 7 * 0.2)
    torch.testing.assert_close(GroupLinf(blocks).prox(x, 0.2), x - taken)


def test_sparse_group_prox_satisfies_its_optimality_conditions() -> None:
    x, step = vector(1, 6), 10 ** torch.linspace(-2, 0.3, 6).double()
    z = SparseGroup((Block("w", (1, 6), 0),), share=0.3).prox(x, step)
    alive, slope = z != 0, (x - z) / step
    smooth = 0.7 * 6**0.5 * z / z.norm()
    torch.testing.assert_close(slope[alive], (smooth + 0.3 * z.sign())[alive])
    assert bool((slope[~alive].abs() <= 0.3).all())
    assert 0 < int(alive.sum()) < 6


def test_a_neurons_bias_joins_its_group_when_penalised() -> None:
    found = GroupL2(MATRIX, parameters="all").prox(vector(3), 0.6)
    weights, bias = found[:12].view(4, 3), found[12:]
    assert torch.equal((weights != 0).any(dim=1), bias != 0)


def test_input_groups_are_columns() -> None:
    found = GroupL2(MATRIX, groups="input").prox(vector(3), 0.8)[:12].view(4, 3) != 0
    assert torch.equal(found.any(dim=0), found.all(dim=0))
    assert not found.all()


class Attention(nn.Module):
    """Two heads of three features each."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads = 2
        self.query, self.key, self.value, self.output = (nn.Linear(6, 6) for _ in range(4))


def network() -> nn.ModuleDict:
    parts = {"first": nn.Conv2d(3, 4, 2), "attention": Attention(), "last": nn.Linear(6, 5)}
    return nn.ModuleDict(parts)


def zeros(groups: Grouping, number: int) -> dict[str, Tensor]:
    """The weights of the network by name, ones but where the group of that number is zero."""
    blocks = layout(network())
    partition = Partition(blocks, "all", groups)
    per_group = torch.ones(len(partition))
    per_group[number] = 0
    flat = partition.spread(per_group, 1.0)
    return {b.name: flat[b.start : b.stop].view(b.shape) for b in blocks if not flat[b.start : b.stop].all()}


def test_a_filter_is_its_incoming_weights_and_its_bias() -> None:
    found = zeros("filter", 1)
    assert set(found) == {"first.weight", "first.bias"}
    assert found["first.weight"].sum(dim=(1, 2, 3)).tolist() == [12, 0, 12, 12]
    assert found["first.bias"].tolist() == [1, 0, 1, 1]


def test_the_answers_of_a_network_are_no_units() -> None:
    found = zeros("neuron", -1)
    assert set(found) == {"last.weight"}
    assert found["last.weight"].sum(dim=0).tolist() == [5, 5, 5, 5, 5, 0]


def test_an_input_channel_is_what_reads_it() -> None:
    found = zeros("input", 2)
    assert set(found) == {"first.weight"}
    assert found["first.weight"].sum(dim=(0, 2, 3)).tolist() == [16, 16, 0]


def test_features_are_the_inputs_of_the_first_layer_alone() -> None:
    first, later = zeros("feature", 0), zeros("feature", 3)
    assert first["first.weight"].sum(dim=(0, 2, 3)).tolist() == [0, 16, 16]
    assert later["attention.query.weight"].sum(dim=1).tolist() == [0, 6, 6, 6, 6, 6]


def test_a_head_is_its_rows_of_three_projections_and_its_columns_of_the_fourth() -> None:
    found = zeros("head", 5)
    rows, columns = [6, 6, 6, 0, 0, 0], [6, 6, 6, 0, 0, 0]
    assert set(found) == {f"attention.{p}.{kind}" for p in ("query", "key", "value") for kind in ("weight", "bias")} | {
        "attention.output.weight"
    }
    assert all(found[f"attention.{p}.weight"].sum(dim=1).tolist() == rows for p in ("query", "key", "value"))
    assert found["attention.output.weight"].sum(dim=0).tolist() == columns


def test_layout_finds_the_heads() -> None:
    heads = {block.name: block.heads for block in layout(network())}
    assert {name for name, count in heads.items() if count == 2} == {
        f"attention.{p}.weight" for p in ("query", "key", "value", "output")
    }


@pytest.mark.parametrize("make", [GroupL2, GroupLinf, GroupMCP, SparseGroup])
def test_every_weight_of_a_matrix_is_in_a_group(make: type[GroupPenalty]) -> None:
    blocks = layout(network())
    for groups in ("neuron", "filter", "input", "feature", "head"):
        assert torch.equal(make(blocks, groups=groups).penalised, selection(blocks, "weights"))


def test_heads_need_attention() -> None:
    with pytest.raises(InvalidSpec, match="no attention head"):
        GroupL2(MATRIX, groups="head")


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


def test_trimming_keeps_all_units_of_a_layer_that_are_as_large_as_each_other() -> None:
    blocks = (Block("first", (4, 100), 0), Block("second", (10, 4), 400))
    theta = torch.cat([torch.ones(400), torch.full((40,), 0.01)]).double()
    assert torch.equal(GroupL2(blocks).trim(theta, 0.1), theta)
    theta[:100] = 1e-3
    assert torch.equal(GroupL2(blocks).trim(theta, 0.1) == 0, theta == 1e-3)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trimming_goes_on_beside_a_group_that_is_zero(dtype: torch.dtype) -> None:
    blocks = (Block("first", (4, 100), 0), Block("second", (10, 4), 400))
    theta = vector(3, 440).to(dtype)
    theta[:100] = 0
    penalty = SparseGroup(blocks)
    assert 0.85 < float(penalty.value(penalty.trim(theta, 0.1)) / penalty.value(theta)) < 0.95
