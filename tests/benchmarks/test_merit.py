"""Figures of merit with known values, and what is measured of a run."""

import math
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks import best_known, merit
from benchmarks.measuring import Meter, race, violation
from benchmarks.problems import BENCHMARKS
from benchmarks.refitting import refitted
from benchmarks.rivals import Network, Rival, Task
from benchmarks.rivals.traced import Traced
from engine.front import Front, ParetoPoint
from tests.benchmarks.parts import SMALL, task

BOX = merit.Box(worst_l1=10.0, worst_loss=2.0, least_l1=0.1)


def front(*pairs: tuple[float, float]) -> Front:
    return Front(best_known.points(pairs))


def network(sparsity: float, validation: float, test: float, loss: float = 1.0) -> ParetoPoint:
    point = front((1.0, loss)).points[0]
    metrics = {"validation_accuracy": validation, "test_accuracy": test}
    return replace(point, n_nonzero=round(100 * (1 - sparsity)), n_params=100, metrics=metrics)


def test_shares_of_the_box() -> None:
    found = front((1.0, 1.0), (5.0, 0.5))
    assert BOX.share(found) == pytest.approx((9 * 1 + 5 * 0.5) / 20)
    assert BOX.log_share(found) == pytest.approx((math.log(10) + 0.5 * math.log(2)) / (2 * math.log(100)))
    assert BOX.share(front((11.0, 0.1), (1.0, 3.0))) == 0
    assert BOX.log_share(front((0.0, 1.0))) == pytest.approx(0.5)


def test_dominance_both_ways_and_the_line_between_points() -> None:
    ours, theirs = front((1.0, 1.0), (3.0, 0.5)), front((0.5, 1.5), (2.0, 0.8), (4.0, 0.6))
    found = merit.beside(theirs, ours)
    assert found["dominated by ours"] == pytest.approx(1 / 3)
    assert found["dominates of ours"] == 0
    assert found["ours no higher"] == pytest.approx(2 / 3)
    assert found["largest gap"] == pytest.approx(max(0.75 - 0.8, 0.5 - 0.6))
    assert merit.beside(ours, ours) == {
        "dominated by ours": 1,
        "dominates of ours": 1,
        "ours no higher": 1,
        "largest gap": 0,
    }


def test_a_front_is_compared_at_the_other_fronts_norms() -> None:
    ours, other = front((1.0, 1.0), (3.0, 0.5)), front((0.5, 1.5), (2.0, 0.76), (3.0, 0.4), (4.0, 0.3))
    assert merit.no_higher(ours, other) == pytest.approx(1 / 4)
    assert merit.no_higher(other, ours) == pytest.approx(1 / 2)
    assert math.isnan(merit.no_higher(ours, front()))


def test_networks_are_chosen_by_validation_never_by_test() -> None:
    found = Front((network(0.9, 0.7, 0.9), network(0.95, 0.8, 0.6), network(0.5, 0.9, 0.5)))
    accuracies = merit.accuracies(found)
    assert accuracies["test accuracy at 0%"] == 0.5
    assert accuracies["test accuracy at 90%"] == 0.6
    assert math.isnan(accuracies["test accuracy at 98%"])


def test_violation_is_zero_at_critical_weights_only() -> None:
    theta, grad = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([-0.5, 0.5, 0.3])
    assert violation(theta, grad, 0.5) == 0
    assert violation(theta, torch.tensor([-0.5, 0.5, 0.6]), 0.5) == pytest.approx(0.2)
    assert violation(theta, torch.tensor([-0.4, 0.5, 0.3]), 0.5) == pytest.approx(0.2)
    assert violation(theta, grad, 0.0) == math.inf


class Endless(Rival):
    """Gradient after gradient, the same weights again and again."""

    def networks(self, task: Task) -> Iterator[Network]:
        theta = task.loss.initial()
        while True:
            task.loss.value_and_grad(theta)
            yield Network(theta, {})


def test_a_rival_out_of_time_keeps_what_it_found_and_says_so() -> None:
    run = race(Endless(), task(SMALL), limit=0.05)
    assert run.ended == "It was stopped after 0.05 CPU seconds."
    assert [p.effort for p in run.front] == pytest.approx(range(1, len(run.front) + 1))


class Unbalanced(Rival):
    """The first weights with every hidden unit scaled up by ten, and its readers' weights down; one unit unread."""

    def networks(self, task: Task) -> Iterator[Network]:
        theta = task.loss.initial()
        weight, bias, readers, _ = (theta[block.start : block.stop] for block in task.loss.layout)
        weight *= 10
        bias *= 10
        readers /= 10
        readers.view(-1, len(bias))[:, 0] = 0
        yield Network(theta, {})


def test_every_network_is_measured_and_kept_cleaned() -> None:
    at = task(SMALL)
    (found,) = Unbalanced().networks(at)
    run = race(Unbalanced(), at)
    (point,), (kept,) = run.front.points, run.networks
    assert point.loss == pytest.approx(float(at.loss.value(found.theta)), rel=1e-5)
    assert point.n_nonzero == int(kept.theta.count_nonzero()) == int(found.theta.count_nonzero()) - 65
    assert point.penalty == pytest.approx(float(at.problem.penalty.value(kept.theta)))
    assert point.penalty < 0.5 * float(at.problem.penalty.value(found.theta))


@pytest.mark.slow
def test_under_a_limit_the_seconds_of_every_network_count() -> None:
    seconds = [p.seconds for p in race(Traced("weighted_sum"), task("diabetes", points=10), limit=100.0).front]
    assert sorted(set(seconds)) == seconds


def test_a_limit_leaves_other_timers_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    armed = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert race(Endless(), task(SMALL), limit=0.05).ended
    assert signal.getsignal(signal.SIGALRM) == before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == armed


class Distracted(Rival):
    """Long in code of others, then without an end at its own work."""

    def networks(self, task: Task) -> Iterator[Network]:
        spin(0.2)
        yield from Endless().networks(task)


def test_a_limit_waits_until_the_rival_is_at_its_own_work_again() -> None:
    run = race(Distracted(), task(SMALL), limit=0.1)
    assert run.ended
    assert run.cost.seconds >= 0.2


@pytest.mark.slow
def test_measuring_costs_nothing() -> None:
    done = task(SMALL)
    run = race(Traced(), replace(done, passes=None))
    alone = task(SMALL)
    points = [waypoint.point for waypoint in alone.experiment.tracer.trace(alone.problem)]
    assert [p.loss for p in run.front] == pytest.approx([p.loss for p in points], rel=1e-6)
    assert run.cost.passes == pytest.approx(alone.loss.effort)


class Measuring(Rival):
    """Looks at its network's quality as often as it can."""

    def networks(self, task: Task) -> Iterator[Network]:
        theta = task.loss.initial()
        task.loss.value_and_grad(theta)
        for _ in range(5):
            task.loss.metrics(theta)
        yield Network(theta, {})


def test_validation_and_test_figures_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at, looks = task(SMALL), []

    def metrics(theta: torch.Tensor) -> dict[str, float]:
        looks.append(at.loss.value(theta))
        return {}

    monkeypatch.setattr(at.loss, "metrics", metrics)
    assert race(Measuring(), at).cost.passes == 1.0
    assert len(looks) == 6


def test_a_pause_within_a_pause_costs_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.measuring.time.process_time", lambda: clock[0])
    meter = Meter(task(SMALL).loss)
    for seconds in (1.0, 10.0, 100.0, 1000.0):
        clock[0] += seconds
        with meter.paused():
            clock[0] += 0.1
            with meter.paused():
                clock[0] += 0.01
            clock[0] += 0.1
    assert meter.cost().seconds == pytest.approx(1111.0)


def spin(seconds: float) -> None:
    """Use so many CPU seconds."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.slow
def test_refitting_keeps_the_zeros_and_lowers_the_loss() -> None:
    at = task(SMALL, points=6)
    run = race(Traced(), at)
    refit = refitted(SMALL, at, run, "refit:dominated=true,epochs=2")
    assert refit is not None
    assert refit.cost.passes > 0
    counts = {p.n_nonzero: p.loss for p in run.front}
    assert all(p.loss <= counts[p.n_nonzero] + 1e-6 for p in refit.front)


def test_the_best_known_front_is_the_envelope() -> None:
    known = front((1.0, 1.0), (3.0, 0.5))
    assert best_known.join(known, [(2.0, 0.4), (0.5, 1.2), (4.0, 0.45)]) == [(0.5, 1.2), (1.0, 1.0), (2.0, 0.4)]
    assert best_known.join(None, [(2.0, 1.0)]) == [(2.0, 1.0)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_declared_boxes_have_an_inside(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.worst_loss is not None
    assert benchmark.worst_loss > 0
    assert 0 < (benchmark.least_l1 or 0) < (benchmark.worst_l1 or 0)
