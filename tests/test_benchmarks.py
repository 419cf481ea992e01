"""The benchmarks of steps: all ways take the same steps, and growth is fitted as it is."""

import pytest

from benchmarks.scaling import exponent
from benchmarks.steps import Bench, ratio, times
from engine.spec import JobSpec, shorthand


def test_all_ways_take_the_same_number_of_steps_on_the_same_batches() -> None:
    bench = Bench(JobSpec(shorthand("mlp:4"), shorthand("iris"), device="cpu"), 5)
    before = bench.problem.loss.effort
    steps = {name: take(0) for name, take in bench.ways.items()}
    assert len(set(steps.values())) == 1
    per_way = steps["fused Adam"] / round(bench.problem.loss.n_samples / bench.batch)
    assert bench.problem.loss.effort - before == pytest.approx(2 * per_way, rel=0.15)


def test_every_round_has_its_times() -> None:
    bench = Bench(JobSpec(shorthand("mlp:4"), shorthand("iris"), device="cpu"), 1)
    assert {len(seconds) for seconds in times(bench, 2).values()} == {2}


def test_ratios_are_taken_within_rounds() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 3.0]) == 1.0


def test_the_exponent_of_a_power_is_its_own() -> None:
    assert exponent([1.0, 10.0, 100.0], [3.0, 3.0 * 10**1.5, 3.0 * 10**3]) == pytest.approx(1.5)
