"""Rivals against oracles: torch's Adam, scikit-learn's conditions, published schedules; and what they promise."""

import math

import pytest
import torch

from benchmarks.measuring import race
from benchmarks.problems import Benchmark
from benchmarks.rivals import OURS, RIVALS, SMOKE, Rival
from benchmarks.rivals.adam import Adam
from benchmarks.rivals.traced import RUN_SPARSITIES, Pruned, Traced, spending
from tests.benchmarks.parts import SMALL, task
from tests.engine.problems import vector

pytestmark = pytest.mark.slow

ALL = {**SMOKE, OURS: Traced()}


def test_adam_is_torchs() -> None:
    theta, mine = vector(0, 5).requires_grad_(), vector(0, 5)
    theirs, adam = torch.optim.Adam([theta], lr=0.1), Adam(mine)
    for i in range(5):
        theta.grad = vector(10 + i, 5)
        theirs.step()
        mine = mine - adam.step(vector(10 + i, 5), 0.1)[0]
    torch.testing.assert_close(mine, theta.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pruning", [Pruned(), Pruned(RUN_SPARSITIES)])
def test_pruning_spends_the_compute_it_is_given(pruning: Rival) -> None:
    run = race(pruning, task(SMALL, passes=120.0))
    assert 100 < run.cost.passes <= 132


def test_what_pruning_spends_is_all_of_the_compute() -> None:
    spent = spending(200.0, points=5)
    assert spent["dense_epochs"] + 4 * spent["epochs"] + 5 == pytest.approx(200.0)


def test_runs_of_pruning_end_at_their_sparsities() -> None:
    _, *networks = SMOKE["pruning runs"].networks(task(SMALL))
    for network, sparsity in zip(networks, RUN_SPARSITIES, strict=True):
        assert float((network.theta == 0).double().mean()) >= sparsity - 1e-9


@pytest.mark.parametrize(("method", "tolerance"), [("lasso_path", 5e-2), ("lars_path", 1e-3)])
def test_scikit_learns_paths_are_pareto_critical_here(method: str, tolerance: float) -> None:
    front = race(RIVALS[method], task("diabetes", points=10)).front
    assert len(front) == 10
    assert max(p.metrics["violation"] for p in front if p.n_nonzero) < tolerance


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
    for name in ("NSGA-II", "NSGA-II, binary"):
        assert "20,000" in RIVALS[name].refusal(task(Benchmark("mlp:300", "digits", 2.3)))
        assert not RIVALS[name].refusal(task("digits"))
