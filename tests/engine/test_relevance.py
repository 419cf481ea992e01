"""Relevance: the regulariser is what the paper's formulas say, and what is pruned stays pruned."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.criteria import CrossEntropy, SquaredError
from engine.errors import Diverged
from engine.front import Waypoint
from engine.losses import NetworkLoss
from engine.networks import NETWORKS
from engine.penalties import L1, GroupL2
from engine.problem import Problem
from engine.tracers import Budget
from engine.tracers.relevance import Irrelevance, Pruning, relevance
from tests.engine import problems

QUICK = {"epochs": 2, "anchor_epochs": 10}
ALL = torch.arange(16)


def path(problem: Problem, points: int = 6, budget: Budget | None = None, **settings: object) -> list[Waypoint]:
    return list(relevance(points, 0, budget or Budget(), **{**QUICK, **settings}).trace(problem))


def unclean() -> Problem:
    return replace(problems.digits_network(), cleanup=None)


def zeros(waypoints: Sequence[Waypoint]) -> list[np.ndarray]:
    return [w.theta == 0 for w in waypoints]


class TestIrrelevance:
    def test_is_one_without_a_gradient_and_falls_exponentially(self) -> None:
        grad = torch.tensor([0.0, 0.5, -1.0, 2.0], dtype=torch.float64)
        found = Irrelevance(scale=0.5).coefficients(grad, ALL[:4])
        torch.testing.assert_close(found, torch.tensor([1, math.exp(-1), math.exp(-2), math.exp(-4)]).double())

    def test_its_gradient_has_no_second_order_term(self) -> None:
        """Autograd of gamma * sum(I * w**2), with I made from a gradient that depends on w, but held constant."""
        theta = problems.vector(0).requires_grad_()
        (grad,) = torch.autograd.grad(theta.pow(4).sum(), theta, create_graph=True)
        held = torch.exp(-grad.detach().abs() / 0.7)
        (expected,) = torch.autograd.grad(0.3 * (held * theta.square()).sum(), theta)
        irrelevance = Irrelevance(gamma=0.3, scale=0.7)
        found = 2 * irrelevance.strength(0) * irrelevance.coefficients(grad.detach(), ALL) * theta.detach()
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("factor", [1e-6, 1e4])
    def test_a_scale_from_the_quantile_does_not_depend_on_that_of_the_loss(self, factor: float) -> None:
        grad = problems.vector(1)
        found = Irrelevance().coefficients(factor * grad, ALL)
        torch.testing.assert_close(found, Irrelevance().coefficients(grad, ALL))
        assert int((found >= math.exp(-1) - 1e-12).sum()) == 8

    def test_a_fixed_scale_of_one_degenerates_to_l2_where_gradients_are_small(self) -> None:
        grad = 1e-3 * problems.vector(1)
        assert float(Irrelevance(scale=1.0).coefficients(grad, ALL).min()) > 0.99
        assert float(Irrelevance().coefficients(grad, ALL).min()) < 0.2

    def test_only_typical_weights_make_the_quantile(self) -> None:
        grad, typical = problems.vector(1), ALL[1::2]
        found = [Irrelevance().coefficients(g, typical)[typical] for g in (grad, grad.index_fill(0, ALL[::2], 100.0))]
        assert torch.equal(*found)

    def test_where_most_gradients_are_zero_only_those_weights_are_irrelevant(self) -> None:
        grad = torch.zeros(16).index_fill(0, torch.arange(5), 0.1)
        assert torch.equal(Irrelevance().coefficients(grad, ALL), (grad == 0).float())

    def test_its_strength_falls_over_one_pass_after_a_pruning(self) -> None:
        found = [Irrelevance(gamma=2.0, decay=True).strength(begun) for begun in (0.0, 0.25, 1.0, 3.0)]
        assert found == [2.0, 1.5, 0.0, 0.0]
        assert Irrelevance(gamma=2.0, decay=False).strength(3.0) == 2.0


class TestPruning:
    @pytest.mark.parametrize("fraction", [0.04, 0.1, 0.2])
    def test_a_fraction_of_the_remaining_weights_goes_each_time(self, fraction: float) -> None:
        left, rule = [431_080], Pruning(fraction=fraction)
        for n in range(20):
            left.append(rule.kept(left[-1], left[0], n + 1))
        assert all(a - b == math.floor(fraction * a) for a, b in pairwise(left))
        assert left[20] == pytest.approx(left[0] * (1 - fraction) ** 20, rel=1e-3)

    @pytest.mark.parametrize(("end", "least"), [(0.99, 163), (0.5, 8165), (1.0, 0)])
    def test_by_default_the_shares_are_equal_and_lead_to_the_end(self, end: float, least: int) -> None:
        left, rule = [16_330], Pruning(points=12, end=end)
        for n in range(11):
            left.append(rule.kept(left[-1], left[0], n + 1))
        assert left[-1] == least
        ratios = [b / a for a, b in pairwise(left[:-1])]
        assert ratios == pytest.approx([(max(least, 1) / left[0]) ** (1 / 11)] * 10, rel=0.05) or end == 1.0

    def test_at_least_one_weight_goes(self) -> None:
        assert Pruning(fraction=1e-6).kept(100, 100, 1) == 99
        assert Pruning(points=1000, end=0.01).kept(100, 100, 1) == 99

    def test_the_bound_is_relative_to_the_first_network(self) -> None:
        assert Pruning(drop=0.015).bound(0.9926) == pytest.approx(0.9777, abs=1e-4)
        assert Pruning(drop=0.1).bound(-2.0) == pytest.approx(-2.2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [problems.digits_network, problems.norm_network, problems.text_network])
def test_what_is_pruned_never_comes_back(make) -> None:
    problem, found = make(), path(make(), end=0.9)
    assert all((after >= before).all() for before, after in pairwise(zeros(found)))
    assert all(a.point.n_nonzero > b.point.n_nonzero for a, b in pairwise(found))
    assert found[-1].point.n_nonzero <= 0.1 * problem.loss.n_params
    assert [w.point.parent for w in found] == [None, *range(len(found) - 1)]
    assert all(w.point.lam is w.point.residual is None for w in found)


@pytest.mark.slow
def test_counts_are_the_schedules() -> None:
    found = path(unclean(), 8, fraction=0.3)
    left = [w.point.n_nonzero for w in found]
    assert all(b == a - math.floor(0.3 * a) for a, b in pairwise(left))


def test_the_smallest_of_all_remaining_weights_go() -> None:
    first, second = path(unclean(), 2, end=0.6)
    gone = (second.theta == 0) & (first.theta != 0)
    assert np.abs(first.theta[gone]).max() <= np.abs(first.theta[second.theta != 0]).min()


def test_only_what_the_penalty_acts_on_is_pruned_and_pulled() -> None:
    problem = problems.digits_network()
    weights = Problem(problem.loss, L1(problem.loss.layout, parameters="weights"))
    last = path(weights, end=0.9)[-1]
    biases = np.concatenate([last.theta[b.start : b.stop] for b in problem.loss.layout if b.kind == "bias"])
    assert (biases != 0).all()
    assert last.point.sparsity >= 0.89


@pytest.mark.slow
def test_groups_are_pruned_whole() -> None:
    problem = problems.digits_network()
    grouped = Problem(problem.loss, GroupL2(problem.loss.layout))
    last = path(grouped, end=0.8)[-1].point
    *hidden, output = [layer for layer in last.layers if "weight" in layer.name]
    assert last.sparsity >= 0.8
    assert all(layer.n_nonzero == layer.units_alive * layer.shape[1] for layer in hidden)
    assert output.n_nonzero % output.shape[0] == 0


@pytest.mark.slow
def test_the_pull_lowers_the_weights_and_none_is_plain_training() -> None:
    plain, pulled = (path(problems.digits_network(), 3, gamma=gamma, drop=1.0, end=0.5) for gamma in (0.0, 0.1))
    assert np.array_equal(plain[0].theta, pulled[0].theta)
    assert all(a.point.penalty > b.point.penalty for a, b in zip(plain[1:], pulled[1:], strict=True))


def test_one_step_is_adams_on_the_regularised_loss() -> None:
    problem, settings = unclean(), {"epochs": 1, "batch": 300, "patience": 1, "end": 0.5}
    first, second = path(problem, 2, scale=0.1, gamma=0.5, **settings)
    theta = torch.from_numpy(np.where(second.theta == 0, 0, first.theta)).requires_grad_()
    grad = problem.loss.value_and_grad(theta.detach())[1]
    held = torch.exp(-grad.abs() / 0.1)
    optimizer = torch.optim.Adam([theta], lr=min(1e-2, 0.1 * float(theta.detach().abs().sum() / (theta != 0).sum())))
    theta.grad = (grad + torch.autograd.grad(0.5 * (held * theta.square()).sum(), theta)[0]) * (theta != 0)
    optimizer.step()
    np.testing.assert_allclose(second.theta, theta.detach(), atol=1e-6)


@pytest.mark.slow
def test_networks_within_the_bound_are_pruned_at_once_and_others_trained_on() -> None:
    quick, slow = (path(problems.digits_network(), drop=drop, patience=4) for drop in (1.0, 0.0))
    steps = [np.diff([w.point.effort for w in found]) for found in (quick, slow)]
    assert steps[0].max() < 4.5
    assert 3 * 2 < steps[1].max() < 4 * 2 + 2.5


def test_a_strict_path_ends_at_the_bound_and_says_so() -> None:
    tracer = relevance(12, 0, Budget(), drop=0.02, strict=True, end=0.99, **QUICK)
    found = [w.point for w in tracer.trace(problems.digits_network())]
    bound = Pruning(drop=0.02).bound(found[0].metrics["validation_accuracy"])
    assert 2 < len(found) < 12
    assert all(p.metrics["validation_accuracy"] > bound for p in found)
    assert f"beyond a sparsity of {found[-1].sparsity:.4g} is as good" in tracer.ended


@pytest.mark.slow
def test_works_without_accuracy_and_without_validation_data() -> None:
    module = NETWORKS["mlp"]((10,), 1, hidden=(6,))
    regression = NetworkLoss(module, problems.load("diabetes", {}, {}), SquaredError())
    assert path(Problem(regression, L1(regression.layout)), end=0.8)[-1].point.sparsity >= 0.8
    lasso = path(problems.diabetes().problem, 4, end=0.5)
    assert lasso[-1].point.n_nonzero == 5
    assert np.diff([w.point.effort for w in lasso]) == pytest.approx(3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [problems.norm_network, problems.text_network])
def test_resumes_to_the_bit_with_norms_and_texts(make) -> None:
    whole = path(make(), 4)
    rest = list(relevance(4, 0, Budget(), **QUICK).trace(make(), whole[:2]))
    assert [w.point.index for w in rest] == [2, 3]
    for a, b in zip(whole[2:], rest, strict=True):
        assert np.array_equal(a.theta, b.theta)
        assert all(np.array_equal(a.buffers[name], b.buffers[name]) for name in a.buffers)


@pytest.mark.slow
def test_the_zero_network_ends_the_path_when_asked() -> None:
    last = path(problems.digits_network(), 4, end=1.0)[-1].point
    assert (last.n_nonzero, last.penalty) == (0, 0.0)


def test_tied_weights_are_counted_once() -> None:
    torch.manual_seed(0)
    data = problems.load("markov_text", {"context": 8, "length": 900}, {})
    module = NETWORKS["char_transformer"]((8,), 12, blocks=1, width=8, heads=2, tied=True)
    loss = NetworkLoss(module, data, CrossEntropy())
    last = path(Problem(loss, L1(loss.layout)), 3, end=0.5)[-1]
    assert last.point.n_params == sum(p.numel() for p in module.parameters())
    assert last.point.n_nonzero == last.point.n_params // 2


@pytest.mark.parametrize("epochs", [20, 30])
def test_a_budget_is_kept_to_a_tenth(epochs: float) -> None:
    tracer = relevance(100, 0, Budget(epochs=epochs))
    last = list(tracer.trace(problems.digits_network()))[-1]
    assert 0.9 * epochs <= last.point.effort <= 1.1 * epochs
    assert "epochs" in tracer.ended


def test_a_loss_that_is_no_number_ends_with_the_reason() -> None:
    class Steep(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)) * math.inf

    with pytest.raises(Diverged, match="The loss became nan"):
        path(problems.network_problem(Steep(64, 10), problems.load("digits", {"limit": 200}, {})))
