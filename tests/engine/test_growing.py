"""Growing networks: smaller ones inside the widest, growth where layers are saturated, resumed to the same bits."""

import math
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.data import load
from engine.errors import Diverged, InvalidSpec
from engine.networks import lenet5
from engine.problem import Problem
from engine.spec import JobSpec, Part, check
from engine.tracers import Budget, Tracer
from engine.tracers.growing import Growth, HiddenLayer, Network, Training, Widest, growing, hidden_layers
from tests.engine import problems
from tests.engine.test_tracers import same

QUICK: dict[str, Any] = {"epochs": 5, "fine_tune_epochs": 5, "units": 2, "growth": 2, "rate": 0.05}


def tracer(points: int = 6, budget: Budget | None = None, **settings: Any) -> Tracer:
    return growing(points, 0, budget or Budget(), **{**QUICK, **settings})


def digits(hidden: int = 16) -> Problem:
    """Networks are stored as they were trained."""
    return replace(problems.digits_network(hidden), cleanup=None)


def convolutional() -> Problem:
    """Convolutions, pooling and dense layers on real digits."""
    torch.manual_seed(0)
    convolutions = (nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.MaxPool2d(2))
    module = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 10))
    return problems.network_problem(module, load("digits", {"limit": 300}, {}))


# Networks inside the widest one


def lenet() -> tuple[Widest, torch.Tensor, tuple[HiddenLayer, ...]]:
    torch.manual_seed(0)
    loss = problems.network_problem(lenet5((16, 16), 3), _images()).loss
    return Widest(loss.initial(), loss.layout), loss.initial(), hidden_layers(loss.layout)


def _images() -> Any:
    X = np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32)
    return problems.dataset(X, np.array([0, 1, 2] * 2))


def test_a_smaller_network_has_the_size_of_one_made_with_its_widths() -> None:
    widest, _, layers = lenet()
    assert [(layer.n_units, layer.is_convolution) for layer in layers] == [(20, True), (50, True), (500, False)]
    expected = (4 * 25 + 4) + (7 * 4 * 25 + 7) + (30 * 7 + 30) + (3 * 30 + 3)
    assert int(widest.mask((4, 7, 30)).sum()) == expected
    assert widest.mask((20, 50, 500)).all()


def test_fresh_weights_are_as_large_as_those_of_a_network_made_with_their_fan_in() -> None:
    widest, start, layers = lenet()
    torch.testing.assert_close(widest.fresh((20, 50, 500)), start)
    small = widest.fresh((5, 10, 50))
    for layer, fan_in in zip(layers, (25, 5 * 25, 10), strict=True):
        made = layer.made(small)
        assert float(made.abs().max()) == pytest.approx(1 / math.sqrt(fan_in), rel=0.05)
        assert layer.norm(small) == pytest.approx(1 / math.sqrt(3), rel=0.2)


def test_grown_networks_keep_their_weights() -> None:
    widest, _, _ = lenet()
    trained = 2 * widest.fresh((4, 7, 30))
    grown = widest.grown(trained, (4, 7, 30), (6, 7, 40))
    mask = widest.mask((4, 7, 30))
    assert torch.equal(grown[mask], trained[mask])
    assert torch.equal(grown != 0, widest.mask((6, 7, 40)))


@pytest.mark.parametrize(
    ("network", "data"),
    [("linear", "digits"), ("mlp", "digits"), ("resnet20", "digits"), ("char_transformer", "markov_text")],
)
def test_networks_that_are_no_plain_chain_are_refused_at_once(network: str, data: str) -> None:
    settings = {"hidden": [8]} if network == "mlp" else {}
    spec = JobSpec(Part(network, settings), Part(data, {}), method=Part("growing", QUICK), points=4)
    if network == "mlp":
        assert check(spec, {})["expected"] == 4
    else:
        with pytest.raises(InvalidSpec, match="plain chains"):
            check(spec, {})


# Growth


@pytest.mark.slow
@pytest.mark.parametrize("make", [digits, convolutional])
def test_networks_grow_from_small_to_wide_and_the_last_is_fine_tuned(make: Any) -> None:
    problem = make()
    path = list(tracer(5, tau=0.2, filters=2, strength=0.9).trace(problem))
    widths = [w.memory["widths"].tolist() for w in path]
    assert all(a <= b for before, after in pairwise(widths) for a, b in zip(before, after, strict=True))
    assert widths[0] < widths[-2] == widths[-1]
    layers = hidden_layers(problem.loss.layout)
    for waypoint in path:
        for layer, width in zip(layers, waypoint.memory["widths"], strict=True):
            theta = torch.from_numpy(waypoint.theta.copy())
            assert not layer.made(theta)[width:].any()
            assert not layer.read(theta)[:, width:].any()
    assert path[-1].point.loss < path[0].point.loss
    assert all(w.point.lam is None and w.point.residual is None for w in path)


@pytest.mark.parametrize(("entered", "grows"), [(0, False), (4, False), (5, True), (10, True)])
def test_a_layer_grows_when_the_share_tau_of_its_units_has_entered(entered: int, grows: bool) -> None:
    (layer,) = hidden_layers(digits().loss.layout)
    rules = Growth(points=6, tau=0.5, filters=None, units=None, growth=2, factor=1.0)
    assert rules.after(layer, 10, torch.arange(16) < entered) == (12 if grows else 10)


@pytest.mark.parametrize("nu", [None, 3.0])
@pytest.mark.parametrize(("strength", "enter"), [(0.999, True), (1.001, False)])
def test_units_that_the_loss_leaves_alone_enter_below_a_strength_of_one(
    nu: float | None, strength: float, enter: bool
) -> None:
    problem = convolutional()
    widest = Widest(problem.loss.initial(), problem.loss.layout)
    theta = widest.fresh((6, 8, 20))
    for layer in widest.layers:
        layer.made(theta).div_(layer.made(theta).norm(dim=1, keepdim=True))
    untouched = Network(problem.loss, theta, torch.zeros_like(theta, dtype=torch.bool))
    training = Training(0.05, nu, 0.7, strength, 4, 4, None)
    entered = training.select(untouched, dict.fromkeys(widest.layers, 1.0), 0)
    assert all(bool(units.all() if enter else not units.any()) for units in entered)


@pytest.mark.slow
def test_by_how_much_layers_grow() -> None:
    added, by_factor, to_the_widest = ({"growth": 3}, {"growth": 1, "factor": 2.0}, {"growth": 100})
    for settings, expected in ((added, 7), (by_factor, 8), (to_the_widest, 16)):
        second = list(islice(tracer(tau=0.05, units=4, **settings).trace(digits()), 2))[1]
        assert second.memory["widths"].tolist() == [expected]


@pytest.mark.slow
def test_by_default_growth_leads_to_the_widest_in_as_many_points_as_asked() -> None:
    path = list(tracer(8, tau=0.01, units=None, growth=1, strength=0.01).trace(digits(20)))
    assert [int(w.memory["widths"][0]) for w in path] == [2, 3, 5, 8, 12, 18, 20, 20]


def test_where_no_layer_is_saturated_growth_ends() -> None:
    found = tracer(10, strength=1e3)
    first, last = found.trace(digits())
    assert first.memory["widths"].tolist() == last.memory["widths"].tolist() == [2]
    assert "2 filters and units" in found.ended
    assert last.point.loss < first.point.loss


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resumed_is_as_if_never_stopped(stop: int) -> None:
    def path(*begun: Any) -> list[Any]:
        return list(tracer(5, tau=0.1, filters=2, strength=0.9).trace(convolutional(), begun))

    whole = path()
    rest = path(*whole[:stop])
    assert len(whole) == 5
    assert all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))


@pytest.mark.slow
def test_a_finished_path_has_nothing_to_add() -> None:
    whole = list(tracer().trace(digits()))
    assert list(tracer().trace(digits(), whole)) == []


def test_a_budget_is_kept_and_named() -> None:
    found = tracer(40, Budget(epochs=20), tau=0.01, strength=0.01, growth=1)
    path = list(found.trace(digits()))
    assert 18 <= path[-1].point.effort <= 22
    assert "20 epochs" in found.ended
    assert all(w.point.n_nonzero for w in path)


def test_rates_that_are_too_high_end_with_the_reason() -> None:
    with pytest.raises(Diverged, match="lower the method's 'rate'"):
        list(tracer(rate=1e30).trace(digits()))
