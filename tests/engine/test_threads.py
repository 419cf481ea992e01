"""Traces take the threads that their work is worth, and give all of them back."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import final

import pytest
import torch
from torch import Tensor, nn

from engine.criteria import CrossEntropy
from engine.front import Waypoint
from engine.losses import LeastSquares, NetworkLoss
from engine.population import VectorizedNetwork
from engine.problem import Problem
from engine.threads import WORTH, one_thread, threads_for
from engine.tracers.base import Budget, Tracer
from engine.tracers.methods import continuation
from tests.engine import problems


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def given(multiply_adds: float) -> int:
    with threads_for(multiply_adds):
        return torch.get_num_threads()


@pytest.mark.parametrize(("worth", "threads"), [(0, 1), (1.9, 1), (2, 2), (3.5, 3), (1e6, 3)])
def test_one_thread_unless_work_is_worth_more(worth: float, threads: int) -> None:
    with one_thread(), one_thread():
        assert torch.get_num_threads() == 1
        assert given(worth * WORTH) == threads
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_outside_of_traces_nothing_changes() -> None:
    assert given(0) == given(1e12) == 3


def test_errors_leave_the_threads_as_they_were() -> None:
    with pytest.raises(RuntimeError), one_thread(), threads_for(1e12):
        raise RuntimeError
    assert torch.get_num_threads() == 3


@final
class Watching(Tracer):
    """Yields as many of another's waypoints as there are threads; fails in the end."""

    def __init__(self, inner: Tracer) -> None:
        self._inner = inner

    def _trace(self, problem: Problem, trail: Sequence[Waypoint]) -> Iterator[Waypoint]:
        yield from islice(self._inner.trace(problem, trail), torch.get_num_threads())
        raise RuntimeError(torch.get_num_threads())


def small(points: int = 4) -> Tracer:
    return continuation(points, 0, Budget(), epochs=2, anchor_epochs=3)


def test_a_trace_takes_one_and_its_consumer_has_all() -> None:
    waypoints = Watching(small()).trace(problems.digits_network())
    assert next(waypoints).point.index == 0
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError, match="1"):
        next(waypoints)
    assert torch.get_num_threads() == 3


@pytest.mark.slow
def test_the_threads_there_are_do_not_change_small_networks() -> None:
    found = [w.theta for w in small().trace(problems.digits_network(600))]
    torch.set_num_threads(1)
    again = [w.theta for w in small().trace(problems.digits_network(600))]
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@final
class Telling(nn.Module):
    """An activation that notes how many threads there are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def forward(self, values: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        return values.tanh()


Call = Callable[[NetworkLoss, Tensor], object]

ON_ALL: dict[str, Call] = {
    "gradient": lambda loss, theta: loss.value_and_grad(theta),
    "value": lambda loss, theta: loss.value(theta),
    "curvature": lambda loss, theta: loss.hvp(theta, torch.arange(4))(torch.ones(4)),
    "gradients of four": lambda loss, theta: VectorizedNetwork(loss).value_and_grad(theta.repeat(4, 1)),
    "values of four": lambda loss, theta: VectorizedNetwork(loss).value(theta.repeat(4, 1)),
}
ON_THREE: dict[str, Call] = {
    "gradient": lambda loss, theta: loss.value_and_grad(theta, torch.arange(3)),
    "step": lambda loss, theta: loss.value_and_grad_(theta, torch.arange(3)),
    "value": lambda loss, theta: loss.value(theta, torch.arange(3)),
}


def taken(call: Call, of_sample: float, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Threads in which a network is evaluated of which a sample is worth so many."""
    telling = Telling()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), telling, nn.Linear(2, 10))
    loss = NetworkLoss(network, problems.digits(300), CrossEntropy())
    monkeypatch.setattr(loss, "of_layer", of_sample * WORTH)
    theta = loss.initial()
    telling.seen.clear()
    with one_thread():
        call(loss, theta)
    return telling.seen


@pytest.mark.parametrize("name", ON_ALL)
def test_all_data_take_what_they_are_worth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_samples = len(problems.digits(300).X_train)
    assert taken(ON_ALL[name], 0.4 / n_samples, monkeypatch) == {1}
    assert taken(ON_ALL[name], 50 / n_samples, monkeypatch) == {3}


@pytest.mark.parametrize("name", ON_THREE)
def test_mini_batches_take_what_they_are_worth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [taken(ON_THREE[name], worth / 3, monkeypatch) for worth in (1.5, 2.5, 100.0)]
    assert found == [{1}, {2}, {3}]


def test_mini_batches_are_not_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkLoss, "_fitting", lambda _: 1)
    assert taken(ON_THREE["gradient"], 2.5 / 3, monkeypatch) == {2}
    assert taken(ON_ALL["gradient"], 0.9, monkeypatch) == {1}


@pytest.mark.parametrize(("worth", "threads"), [(0.4, 1), (0.9, 2)])
def test_all_steps_of_a_correction_do(worth: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = problems.digits_network().loss
    assert isinstance(loss, NetworkLoss)
    monkeypatch.setattr(loss, "of_layer", worth * WORTH)
    with one_thread(), loss.stepping(3):
        assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_linear_losses_take_more_for_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    loss = LeastSquares(torch.zeros(2, round(WORTH) + 1), torch.zeros(2))
    monkeypatch.setattr(loss, "_outer", lambda *of: (seen.append(torch.get_num_threads()), of)[1])
    with one_thread():
        loss.value_and_grad(loss.initial())
        loss.value(loss.initial())
        loss.value(loss.initial(), torch.arange(1))
    assert seen == [2, 2, 1]
