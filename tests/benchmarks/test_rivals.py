"""Rivals against oracles: torch's Adam, scikit-learn's conditions, published schedules; and what they promise."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from benchmarks.measuring import race
from benchmarks.rivals import OURS, RIVALS, SMOKE, Rival
from benchmarks.rivals.adam import Adam
from benchmarks.rivals.grids import LambdaGrid
from benchmarks.rivals.paretopath import Paretopath
from benchmarks.rivals.pruning import RUN_SPARSITIES, GradualPruning, PruningRuns, cubic, largest
from tests.benchmarks.parts import SMALL, task
from tests.engine.problems import vector

pytestmark = pytest.mark.slow

ALL = {**SMOKE, OURS: Paretopath()}


def test_adam_is_torchs() -> None:
    theta, mine = vector(0, 5).requires_grad_(), vector(0, 5)
    theirs, adam = torch.optim.Adam([theta], lr=0.1), Adam(mine)
    for i in range(5):
        theta.grad = vector(10 + i, 5)
        theirs.step()
        mine = mine - adam.step(vector(10 + i, 5), 0.1)[0]
    torch.testing.assert_close(mine, theta.detach(), rtol=1e-6, atol=1e-9)


def test_the_sparsity_rises_by_the_published_schedule() -> None:
    assert [0.9 * cubic(t) for t in (0.1, 0.25, 0.5, 1.0)] == pytest.approx([0.2439, 0.5203125, 0.7875, 0.9])


def test_the_smallest_weights_are_pruned_and_stay_pruned() -> None:
    theta = torch.tensor([0.0, 3.0, -0.5, 2.0, 0.0, 0.0])
    assert largest(theta, 2 / 3).tolist() == [False, True, False, True, False, False]
    assert largest(theta, 0.2).tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("pruning", [GradualPruning(most_passes=2), PruningRuns(most_passes=2)])
def test_pruning_spends_the_compute_it_is_given(pruning: Rival) -> None:
    run = race(pruning, task(SMALL, passes=60.0))
    assert 50 < run.cost.passes <= 60


def test_runs_of_pruning_end_at_their_sparsities() -> None:
    networks = PruningRuns(steps=30, most_passes=1).networks(task(SMALL))
    for network, sparsity in zip(networks, RUN_SPARSITIES, strict=True):
        zeros = float((network.theta == 0).double().mean())
        assert sparsity <= zeros + 1e-12 < sparsity + 1 / network.theta.numel()


@pytest.mark.parametrize(("method", "tolerance"), [("lasso_path", 5e-2), ("lars_path", 1e-3)])
def test_scikit_learns_paths_are_pareto_critical_here(method: str, tolerance: float) -> None:
    front = race(RIVALS[method], task("diabetes", points=10)).front
    assert len(front) == 10
    assert max(p.metrics["violation"] for p in front if p.n_nonzero) < tolerance


def test_a_grid_of_strengths_minimises_for_each_strength() -> None:
    on = task("diabetes", points=5)
    data = on.experiment.dataset
    X, y = data.X_train.astype(float), data.y_train.ravel().astype(float)
    front = race(LambdaGrid(steps=300), on).front
    for lam, point in zip(np.geomspace(*on.strengths, 5), front, strict=True):
        lasso = Lasso(lam, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(X, y)
        least = ((y - lasso.predict(X)) ** 2).mean() / 2 + lam * np.abs(lasso.coef_).sum()
        assert -1e-6 < point.loss + lam * point.penalty - least < 2e-3


@pytest.mark.parametrize("name", sorted(ALL))
def test_same_seed_same_networks_and_all_are_measured(name: str) -> None:
    on = task("diabetes") if name.endswith("_path") else task(SMALL)
    assert not ALL[name].refusal(on)
    first, second = (race(ALL[name], task("diabetes") if name.endswith("_path") else task(SMALL)) for _ in range(2))
    assert [p.loss for p in first.front] == [p.loss for p in second.front]
    assert first.cost.passes == second.cost.passes > 0
    assert len(first.front) == len(first.networks) > 0
    assert not first.ended
    for point in first.front:
        assert math.isfinite(point.loss)
        assert {"violation"} < set(point.metrics)


def test_rivals_refuse_what_they_are_not_for() -> None:
    assert RIVALS["lars_path"].refusal(task("breast_cancer")) == "not a lasso"
    assert "2,000" in RIVALS["NSGA-II"].refusal(task("digits"))
    assert not RIVALS["NSGA-II, binary"].refusal(task("digits"))
