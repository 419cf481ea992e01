"""Methods of different papers that are the same algorithm under the right settings; the table is in docs/method.md."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from engine.correctors.multiobjective import common_descent
from engine.layout import Block
from engine.losses import LeastSquares
from engine.optim import DessiLBI, LinBreg, PenalisedOptimizer, ProxAdam, ProxSGD
from engine.penalties import L1, GroupL2, GroupLinf, GroupMCP, Penalty, SparseGroup, mcp
from engine.penalties.l1 import soft
from engine.problem import Problem
from engine.tracers.lassonet import hierarchical
from engine.tracers.pruning import sparser
from engine.tracers.refit import Support, pruned
from engine.tracers.relevance import Irrelevance
from tests.engine.problems import MATRIX, diabetes, vector

ROWS, SINGLES = (Block("w", (4, 3), 0),), (Block("w", (6, 1), 0),)


def stepped(make: Callable[..., PenalisedOptimizer], theta: Tensor, grad: Tensor, **settings: Any) -> Tensor:
    """The weights after one step along a gradient."""
    weights = theta.clone()
    weights.grad = grad.clone()
    make([weights], **settings).step()
    return weights


# Steps


@pytest.mark.parametrize("penalty", [L1(MATRIX), GroupL2(MATRIX, parameters="all"), SparseGroup(MATRIX)])
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_the_multiobjective_step_is_a_proximal_step(penalty: Penalty, seed: int) -> None:
    theta, grad, h = vector(seed), 3 * vector(seed + 100), 0.05
    found, alpha = common_descent(penalty, theta, grad, h)
    assert 0 < alpha < 1
    expected = stepped(ProxSGD, theta, grad, lr=h * alpha, penalty=penalty, strength=(1 - alpha) / alpha)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strength", [0.05, 0.3])
def test_the_multiobjective_and_the_proximal_step_have_the_same_fixed_points(strength: float) -> None:
    lasso = diabetes()
    problem = lasso.problem
    model = Lasso(alpha=strength, fit_intercept=False, tol=1e-13, max_iter=100_000).fit(lasso.X, lasso.y)
    theta = torch.tensor(model.coef_)
    _, grad = problem.loss.value_and_grad(theta)
    assert theta.any()
    moved, alpha = common_descent(problem.penalty, theta, grad, 0.2)
    torch.testing.assert_close(moved, theta, rtol=0, atol=1e-9)
    assert (1 - alpha) / alpha == pytest.approx(float(grad.abs().max()), rel=1e-6) == pytest.approx(strength)


@pytest.mark.parametrize("penalty", [L1(MATRIX), GroupL2(MATRIX), GroupMCP(MATRIX, plateau=2.0)])
def test_prox_adam_in_a_constant_metric_is_prox_sgd(penalty: Penalty) -> None:
    theta, grad, metric = vector(1), vector(2), 1e9
    adams = {"lr": 0.1 * metric, "betas": (0.0, 0.0), "eps": metric}
    found = stepped(ProxAdam, theta, grad, penalty=penalty, strength=8.0, **adams)
    expected = stepped(ProxSGD, theta, grad, lr=0.1, penalty=penalty, strength=8.0)
    assert (expected == 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


# Group shrinkage


def shrunk(x: Tensor, threshold: float) -> Tensor:
    """Group soft-thresholding of rows, by its formula."""
    rows = x.view(4, 3)
    return (rows * (1 - threshold / rows.norm(dim=1, keepdim=True)).clamp_min(0)).flatten()


def test_group_shrinkage_is_the_same_in_every_method() -> None:
    x, zero, penalty, t = vector(5, 12), vector(0, 12) * 0, GroupL2(ROWS), 0.8
    expected = shrunk(x, t * math.sqrt(3))
    assert (expected == 0).any()
    assert (expected != 0).any()
    metric = torch.full_like(x, t)
    torch.testing.assert_close(penalty.prox(x, metric), expected)
    torch.testing.assert_close(stepped(ProxSGD, x, zero, lr=1.0, penalty=penalty, strength=t), expected)
    torch.testing.assert_close(stepped(LinBreg, zero, -x, lr=1.0, penalty=penalty, strength=t), expected)
    torch.testing.assert_close(entered(x, penalty, t), expected)


def entered(dual: Tensor, penalty: Penalty, strength: float) -> Tensor:
    """The sparse twin when the dual has become so: one step from nothing with weights of its size."""
    weights = dual.clone()
    weights.grad = torch.zeros_like(weights)
    optimizer = DessiLBI([weights], 1.0, penalty=penalty, strength=strength, nu=1.0)
    optimizer.step()
    return next(optimizer.gammas())[1]


def test_groupings_of_the_papers_are_rows_columns_and_single_weights() -> None:
    x = vector(6, 12)
    columns = GroupL2(ROWS, groups="input").prox(x, 0.2).view(4, 3)
    turned = GroupL2((Block("w", (3, 4), 0),)).prox(x.view(4, 3).T.flatten(), 0.2).view(3, 4)
    torch.testing.assert_close(columns, turned.T)


@pytest.mark.parametrize("make", [GroupL2, GroupLinf])
def test_groups_of_one_are_l1(make: Callable[..., Penalty]) -> None:
    x, step = vector(1, 6), vector(2, 6).abs()
    torch.testing.assert_close(make(SINGLES).prox(x, step), L1(SINGLES).prox(x, step))


def test_group_mcp_of_groups_of_one_is_mcp() -> None:
    x, single = 2 * vector(1, 6), mcp(SINGLES, knot=1.3)
    for step in (0.05, 0.4, 1.2):
        torch.testing.assert_close(GroupMCP(SINGLES, plateau=1.3).prox(x, step), single.prox(x, step))
    torch.testing.assert_close(GroupMCP(SINGLES, plateau=1.3).value(x), single.value(x))


@pytest.mark.parametrize(("share", "other"), [(1 - 1e-10, L1(ROWS)), (1e-10, GroupL2(ROWS))])
def test_sparse_groups_lie_between_l1_and_groups(share: float, other: Penalty) -> None:
    x, step = vector(1, 12), vector(2, 12).abs() + 0.1
    penalty = SparseGroup(ROWS, share=share)
    torch.testing.assert_close(penalty.value(x), other.value(x))
    torch.testing.assert_close(penalty.prox(x, step), other.prox(x, step))


def test_mcp_leaves_groups_beyond_its_plateau_as_a_refit_does() -> None:
    x, penalty = 4 * vector(7, 12), GroupMCP(ROWS, plateau=2.0)
    found, far = penalty.prox(x, 0.5), x.view(4, 3).norm(dim=1) > 2.0
    assert far.any()
    assert torch.equal(found.view(4, 3)[far], x.view(4, 3)[far])
    assert not torch.equal(GroupL2(ROWS).prox(x, 0.5).view(4, 3)[far], x.view(4, 3)[far])


def test_lassonet_without_a_hierarchy_shrinks_groups_of_skip_weights() -> None:
    skip, hidden = vector(8, 12).view(4, 3), vector(9, 20).view(4, 5)
    found, rest = hierarchical(skip.T, hidden.T, 0.8, 0.0)
    torch.testing.assert_close(found.T.flatten(), shrunk(skip.flatten(), 0.8))
    assert not rest.any()


# Inverse scale space


@pytest.mark.parametrize("penalty", [L1(ROWS), GroupL2(ROWS)])
@pytest.mark.parametrize(("strength", "delta"), [(1.5, 0.8), (0.5, 2.4)])
def test_the_sparse_twin_of_dessilbi_is_linbreg_on_the_tie(penalty: Penalty, strength: float, delta: float) -> None:
    """LinBreg descends ``||W - G||^2 / (2 nu)``; a dual times c goes with a strength times c and a delta over c."""
    nu, lr, kappa, scale = 0.7, 0.1, 0.8, strength / 1.5
    assert delta == pytest.approx(kappa / scale)
    weights, twin = vector(3, 12), torch.zeros(12).double()
    split = DessiLBI([weights], lr, penalty=penalty, strength=1.5, kappa=kappa, nu=nu)
    single = LinBreg([twin], lr, penalty=penalty, strength=strength, delta=delta)
    for step in range(60):
        twin.grad = -scale * (weights - twin) / nu
        weights.grad = vector(step, 12) / 10 - 1
        split.step()
        single.step()
        torch.testing.assert_close(next(split.gammas())[1], twin)
    assert twin.any()


# Relevance, pruning, refit


def test_relevance_without_relevance_is_weight_decay() -> None:
    theta, grad, gamma = vector(1), vector(2), 0.03
    pull = Irrelevance(gamma, scale=1e30).coefficients(grad, torch.arange(16))
    assert torch.equal(pull, torch.ones_like(theta))
    expected = stepped(ProxSGD, theta, grad, lr=0.1, weight_decay=2 * gamma)
    torch.testing.assert_close(theta - 0.1 * (grad + 2 * gamma * pull * theta), expected)


def test_relevance_with_relevance_is_ridge_with_a_strength_of_each_weight() -> None:
    theta, grad, gamma, lam = vector(1), vector(2), 0.03, 0.2
    eta = lam / (2 * gamma * Irrelevance(gamma, scale=0.5).coefficients(grad, torch.arange(16)))
    weights = theta.clone().requires_grad_()
    (lam / 2 * (weights.square() / eta)).sum().backward()
    pull = 2 * gamma * torch.exp(-grad.abs() / 0.5) * theta
    torch.testing.assert_close(weights.grad, pull)


@pytest.mark.parametrize("kept", [2, 5, 8])
def test_pruning_is_the_projection_on_so_many_weights(kept: int) -> None:
    problem = diabetes().problem
    theta = vector(4, 10)
    largest = torch.zeros_like(theta)
    places = theta.abs().topk(kept).indices
    largest[places] = theta[places]
    assert torch.equal(pruned(problem.penalty, theta, kept), largest)
    assert torch.equal(sparser(problem, theta, 1 - kept / 10), largest)


def test_a_refit_is_the_limit_of_a_vanishing_strength_on_its_support() -> None:
    X = torch.linalg.qr(vector(1, 60).view(10, 6)).Q * math.sqrt(10)
    loss = LeastSquares(X, vector(2, 10))
    least = -loss.value_and_grad(torch.zeros(6).double())[1]
    support = Support(torch.tensor([True, False, True, True, False, False]))
    problem = Problem(loss, support)
    refitted = support.prox(least, 1.0)
    distances = [float((support.prox(soft(least, t), 1.0) - refitted).abs().max()) for t in (1e-1, 1e-2, 1e-3)]
    assert distances == pytest.approx([1e-1, 1e-2, 1e-3], rel=1e-9)
    assert problem.residual(refitted, loss.value_and_grad(refitted)[1], 0.0) == pytest.approx(0, abs=1e-12)
