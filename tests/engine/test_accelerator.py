"""What runs on a GPU, on a pretended one and where there is one on it: all is placed there, steps wait for nothing."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from engine.correctors import Accelerated, AdaptiveProximal, Corrector, MultiobjectiveProximalGradient
from engine.front import Waypoint
from engine.networks import NETWORKS
from engine.penalties import PENALTIES
from engine.problem import Problem, State
from engine.spec import JobSpec, Part, build, shorthand
from engine.tracers import TRACERS
from tests.engine.accelerator import DEVICE, Away, Mixed, accelerator
from tests.engine.test_tracers import SETTINGS

DIGITS, TEXT = "digits:limit=200", "markov_text:context=8,length=900"
ALIKE = {
    "fixed strength, adaptive",
    "from the network",
    "pruning, rewound",
    "secant, three sweeps",
    "weighted_sum, cold",
}
PROXIMAL: dict[str, Callable[[int], Corrector]] = {
    "adaptive": lambda steps: AdaptiveProximal("strength", steps=steps),
    "adaptive on the ball": lambda steps: AdaptiveProximal("penalty", steps=steps),
    "accelerated": lambda steps: Accelerated("strength", steps=steps),
    "accelerated on the ball": lambda steps: Accelerated("penalty", steps=steps),
}
COMMON: dict[str, Callable[[int], Corrector]] = {
    "multiobjective": lambda steps: MultiobjectiveProximalGradient(steps=steps, batch=50),
    "multiobjective, ten bisections": lambda steps: MultiobjectiveProximalGradient(steps=steps, solver="bisection"),
}


@functools.cache
def images() -> dict[str, bytes]:
    """Forty real digits of 32 x 32 pixels in three channels."""
    X, y = load_digits(return_X_y=True)
    large = np.kron(X[:40].reshape(-1, 1, 8, 8), np.ones((1, 3, 4, 4)))
    file = io.BytesIO()
    np.savez(file, X_train=large.astype(np.float32), y_train=y[:40])
    return {"images.npz": file.getvalue()}


def job(device: str, network: str = "mlp:8", data: str = DIGITS, **more: Any) -> JobSpec:
    return JobSpec(shorthand(network), shorthand(data), points=4, device=device, **more)


def problem(device: str, network: str, data: str, **more: Any) -> Problem:
    return build(job(device, network, data, **more), images()).problem


def traced(device: str, **more: Any) -> list[Waypoint]:
    experiment = build(job(device, **more), {})
    assert experiment.problem.loss.device == torch.device(device)
    return list(experiment.tracer.trace(experiment.problem))


@pytest.fixture(params=["pretended", *(["real"] if torch.cuda.is_available() else [])])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of the device ``cuda``."""
    with accelerator() if request.param == "pretended" else nullcontext():
        yield request.param


def agree(a: Sequence[Waypoint], b: Sequence[Waypoint]) -> bool:
    """Whether the fronts are the same, up to what rounding makes of it."""
    objectives = [np.array([(w.point.loss, w.point.penalty) for w in each]) for each in (a, b)]
    return len(a) == len(b) and np.allclose(*objectives, rtol=0.05, atol=0.01)


def loss_here(problem: Problem, waypoint: Waypoint) -> float:
    """What the processor makes of a network."""
    problem.loss.load_buffers({name: torch.from_numpy(array) for name, array in waypoint.buffers.items()})
    return float(problem.loss.value(torch.from_numpy(waypoint.theta)))


def corrected(there: Problem, corrector: Corrector) -> Tensor:
    """Weights that a correction with half of the penalty leads to."""
    theta = there.loss.initial()
    guess = State(theta, 1e-3, 0.5 * float(there.penalty.value(theta)))
    return corrector.correct(there, guess, 0).state.theta


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - ALIKE))
def test_every_method_runs_there(name: str, kind: str) -> None:
    factory = name.partition(",")[0]
    method = Part(factory if factory in TRACERS else "continuation", SETTINGS[name])
    network = "lassonet:8" if factory == "lassonet" else "mlp:8"
    there = traced("cuda", network=network, method=method)
    assert kind == "real" or agree(traced("cpu", network=network, method=method), there)
    here = problem("cpu", network, DIGITS)
    assert [w.point.loss for w in there] == pytest.approx([loss_here(here, w) for w in there], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("held", ["penalty", "strength"])
def test_every_penalty_is_held_there(name: str, held: str, kind: str) -> None:
    here, there = (
        corrected(problem(device, "mlp:8", DIGITS, penalty=Part(name)), AdaptiveProximal(held, steps=8))
        for device in ("cpu", "cuda")
    )
    assert there.is_cuda
    assert there.cpu().numpy() == pytest.approx(here.numpy(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_the_same_loss_there(network: str, kind: str) -> None:
    data = TEXT if network == "char_transformer" else "images.npz"
    here, there = (list(measures(problem(device, network, data))) for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-3)


def measures(problem: Problem) -> Iterator[float]:
    """Of the weights that the network is made with."""
    loss = problem.loss
    theta, batch = loss.initial(), next(loss.batches(0, 16))
    for value, grad in (loss.value_and_grad(theta), loss.value_and_grad(theta, batch)):
        yield from (float(value), float(grad.norm()), problem.residual(theta, grad, 1e-3))
    loss.calibrate(theta)
    yield from (float(loss.value(theta)), *loss.metrics(theta).values())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp:8", "linear"])
def test_data_that_leave_the_device_no_room_stay_here(network: str) -> None:
    method = Part("continuation", {"epochs": 1, "anchor_epochs": 3})
    here = traced("cpu", network=network, method=method)
    with accelerator(free=1000) as fetched:
        assert agree(here, traced("cuda", network=network, method=method))
    assert fetched["cpu"] > here[-1].point.effort


@pytest.mark.slow
@pytest.mark.parametrize(("stepping", "name"), [*product(PROXIMAL, PENALTIES), *product(COMMON, ("l1", "group_l2"))])
def test_a_step_waits_for_nothing(name: str, stepping: str) -> None:
    few, many = (waits(name, (PROXIMAL | COMMON)[stepping](steps)) for steps in (2, 12))
    assert few == many


def waits(name: str, corrector: Corrector) -> int:
    """How often a correction waits, exact projections apart: it has two, which may take any number of iterations."""
    with accelerator() as fetched:
        there = problem("cuda", "mlp:8", DIGITS, penalty=Part(name))
        project_ = there.penalty.project_

        def projected(theta: Tensor, radius: float, metric: Tensor, near: Tensor | None = None) -> Tensor:
            before = fetched.copy()
            multiplier = project_(theta, radius, metric, near)
            if near is None:
                fetched.clear()
                fetched.update(before)
            return multiplier

        with patch.object(there.penalty, "project_", projected):
            corrected(there, corrector)
        return fetched.total()


class TestPretendedDevice:
    """That it refuses what a real one refuses."""

    def test_tensors_of_two_devices(self) -> None:
        with accelerator():
            there = torch.ones(3, device=DEVICE)
            assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]
            for refused in (lambda: there + torch.ones(3), lambda: there.index_select(0, torch.zeros(1).long())):
                with pytest.raises(Mixed, match="tensors here"):
                    refused()

    def test_arrays_of_its_tensors(self) -> None:
        with accelerator():
            with pytest.raises(Mixed):
                torch.ones(3, device=DEVICE).numpy()
            assert torch.ones(3, device=DEVICE).cpu().numpy().tolist() == [1, 1, 1]

    def test_generators_of_another_device(self) -> None:
        with accelerator():
            here, there = (torch.Generator(device).manual_seed(0) for device in ("cpu", DEVICE))
            assert isinstance(torch.rand(3, generator=there, device=DEVICE), Away)
            for generator, device in ((here, DEVICE), (there, "cpu")):
                with pytest.raises(Mixed, match="generator"):
                    torch.rand(3, generator=generator, device=device)

    @pytest.mark.parametrize(
        "wait",
        [float, bool, Tensor.item, Tensor.cpu, Tensor.nonzero, lambda t: t[t > 0], lambda t: torch.equal(t, t)],
    )
    def test_waits_are_counted(self, wait: Callable[[Tensor], object]) -> None:
        with accelerator() as fetched:
            there = torch.ones(1, device=DEVICE)
            there.mul_(2).add_(there.sum())
            assert fetched.total() == 0
            wait(there)
            assert fetched.total() == 1
