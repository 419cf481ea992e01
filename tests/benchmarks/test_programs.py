"""The programs beside the contest: all ways do the same work, and growth is fitted as it is."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fan_out, lasso_path, population
from benchmarks.scaling import exponent
from benchmarks.steps import Bench, times
from benchmarks.timing import ratio
from engine.spec import JobSpec, build, shorthand

pytestmark = pytest.mark.slow


def test_all_ways_take_the_same_number_of_steps_on_the_same_batches() -> None:
    bench = Bench(JobSpec(shorthand("mlp:4"), shorthand("iris"), device="cpu"), 5)
    before = bench.problem.loss.effort
    steps = {name: take(0) for name, take in bench.ways.items()}
    assert len(set(steps.values())) == 1
    per_way = steps["fused Adam"] / round(bench.problem.loss.n_samples / bench.batch)
    assert bench.problem.loss.effort - before == pytest.approx(2 * per_way, rel=0.15)


def test_plain_training_is_timed_on_images_by_pixels_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", X=rng.normal(size=(60, 3, 12, 12)).astype(np.float32), y=np.arange(60) % 3)
    bench = Bench(JobSpec(shorthand("cifar_cnn"), shorthand(str(tmp_path / "images.npz")), device="cpu"), 1)
    assert "fused Adam, by pixels" in bench.ways
    assert len({take(0) for take in bench.ways.values()}) == 1


def test_every_round_has_its_times() -> None:
    bench = Bench(JobSpec(shorthand("mlp:4"), shorthand("iris"), device="cpu"), 1)
    assert {len(seconds) for seconds in times(bench, 2).values()} == {2}


def test_ratios_are_taken_within_rounds() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 3.0]) == 1.0


def test_the_exponent_of_a_power_is_its_own() -> None:
    assert exponent([1.0, 10.0, 100.0], [3.0, 3.0 * 10**1.5, 3.0 * 10**3]) == pytest.approx(1.5)


def test_the_ways_along_the_lasso_path_end_at_the_same_gap() -> None:
    rows = lasso_path.measure(lasso_path.Design("small", 0.1), repeats=1, samples=100, features=50)
    assert [row.way for row in rows] == list(lasso_path.WAYS)
    assert all(0 <= row.widest_gap < 2e-6 for row in rows)
    assert next(row.ratio for row in rows if row.way == "scikit-learn") == 1


def test_the_duality_gap_is_zero_at_the_solution_only() -> None:
    X, y = np.eye(2), np.array([3.0, 1.0])
    assert lasso_path.duality_gap(X, y, np.array([1.0, 0.0]), 1.0) == pytest.approx(0)
    assert lasso_path.duality_gap(X, y, np.array([1.5, 0.0]), 1.0) == pytest.approx(0.075)


def test_members_of_a_population_are_timed_both_ways() -> None:
    loss = build(JobSpec(shorthand("mlp:4"), shorthand("iris"), device="cpu"), {}).problem.loss
    row = population.measure(loss, n_members=2, batch=8, repeats=1)
    assert row.members == 2
    assert row.speedup == pytest.approx(row.alone / row.stacked)


def test_a_study_is_timed_from_its_submission_to_its_end() -> None:
    study = {"networks": ["linear"], "data": "iris", "points": 2, "seeds": 1, "budget": {"epochs": 4}}
    run = fan_out.measure(study, workers=1)
    assert run.workers == 1
    assert run.seconds > 0
