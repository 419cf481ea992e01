"""Optimisers: what torch asks of its own, the golden numbers, what they are without a penalty, and their invariants."""

import copy
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from engine.layout import Block, layout
from engine.optim import AdaBreg, AdaDessiLBI, DessiLBI, LinBreg, PenalisedOptimizer, ProxAdam, ProxSGD
from engine.penalties import L1, GroupL2
from tests.engine import problems

Make = Callable[..., PenalisedOptimizer]
KINDS: dict[str, Make] = {
    "ProxSGD": partial(ProxSGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, strength=0.02),
    "ProxAdam": partial(ProxAdam, lr=0.02, weight_decay=1e-2, strength=0.02),
    "LinBreg": partial(LinBreg, lr=0.05, momentum=0.8, strength=0.05, delta=2.0),
    "AdaBreg": partial(AdaBreg, lr=0.02, strength=0.05),
    "DessiLBI": partial(DessiLBI, lr=0.05, strength=0.1, nu=2.0, weight_decay=1e-3),
    "AdaDessiLBI": partial(AdaDessiLBI, lr=0.02, strength=0.1, nu=0.5, kappa=2.0),
}
BARE = {name: made.func for name, made in KINDS.items()}  # type: ignore[attr-defined]
PENALTIES = {"none": lambda _: None, "l1": L1, "group": partial(GroupL2, groups="input")}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=PENALTIES)
def penalty(request: pytest.FixtureRequest) -> Any:
    return PENALTIES[request.param]


class Fit:
    """A small network on noise, float64, deterministic."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        self.X, self.y = torch.randn(20, 6).double(), torch.randn(20, 2).double()

    def loss(self) -> Tensor:
        return (self.module(self.X) - self.y).square().mean()

    def train(self, optimizer: PenalisedOptimizer, steps: int) -> list[float]:
        def closure() -> float:
            optimizer.zero_grad()
            value = self.loss()
            value.backward()
            return float(value.detach())

        return [optimizer.step(closure) for _ in range(steps)]

    def theta(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])


def optimiser(fit: Fit, kind: str, penalty: Any, **more: Any) -> PenalisedOptimizer:
    return KINDS[kind](fit.module.parameters(), penalty=penalty(layout(fit.module)), **more)


# What torch asks of its own optimisers


def test_the_loss_falls_and_the_closure_s_value_is_handed_on(kind: str, penalty: Any) -> None:
    fit = Fit()
    first = float(fit.loss().detach())
    found = fit.train(optimiser(fit, kind, penalty), 40)
    assert found[0] == first
    assert min(found[-5:]) < 0.9 * first


def test_a_step_without_a_closure_gives_none_and_without_gradients_moves_nothing(kind: str, penalty: Any) -> None:
    fit = Fit()
    found, before = optimiser(fit, kind, penalty), fit.theta()
    assert found.step() is None
    assert torch.equal(fit.theta(), before)


def test_state_goes_through_a_file_of_plain_tensors_and_training_goes_on_to_the_same_bits(
    kind: str, penalty: Any
) -> None:
    whole = Fit()
    losses = whole.train(optimiser(whole, kind, penalty), 12)
    first = Fit()
    begun = optimiser(first, kind, penalty)
    found = first.train(begun, 5)
    file = io.BytesIO()
    torch.save({"optimizer": begun.state_dict(), "module": first.module.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Fit(seed=1)
    second.X, second.y = whole.X, whole.y
    second.module.load_state_dict(saved["module"])
    again = optimiser(second, kind, penalty, lr=1.0)
    again.load_state_dict(saved["optimizer"])
    found += second.train(again, 7)
    assert found == losses
    assert torch.equal(second.theta(), whole.theta())


def test_a_loaded_state_is_a_copy_and_a_deep_copy_trains_alike(kind: str, penalty: Any) -> None:
    fit = Fit()
    found = optimiser(fit, kind, penalty)
    fit.train(found, 3)
    kept = copy.deepcopy(found.state_dict())
    found.load_state_dict(kept)
    twin, twin_found = copy.deepcopy((fit, found))
    losses = fit.train(found, 4)
    assert twin.train(twin_found, 4) == losses
    restored = optimiser(Fit(), kind, penalty)
    restored.load_state_dict(kept)
    fresh = restored.state_dict()["state"]
    for index, values in kept["state"].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(fresh[index][name]), torch.as_tensor(value))


def test_the_state_has_no_penalty_and_loading_keeps_it(kind: str) -> None:
    fit = Fit()
    found = optimiser(fit, kind, L1)
    own = found.param_groups[0]["penalty"]
    fit.train(found, 2)
    state = found.state_dict()
    assert "penalty" not in state["param_groups"][0]
    found.load_state_dict(state)
    assert found.param_groups[0]["penalty"] is own


def test_groups_have_values_of_their_own(kind: str) -> None:
    fit = Fit()
    first, second = fit.module[0], fit.module[2]
    free = {"params": second.parameters(), "penalty": None, "lr": 0.0}
    found = KINDS[kind]([{"params": first.parameters(), "penalty": L1(layout(first))}])
    found.add_param_group(free)
    before = [p.detach().clone() for p in fit.module.parameters()]
    fit.train(found, 3)
    moved = [not torch.equal(a, b) for a, b in zip(before, fit.module.parameters(), strict=True)]
    assert moved == [True, True, False, False]


def test_named_parameters_and_printing(kind: str) -> None:
    fit = Fit()
    found = KINDS[kind](fit.module.named_parameters(), penalty=L1(layout(fit.module)))
    fit.train(found, 2)
    assert found.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"
    assert kind in repr(found)


def test_learning_rate_schedules_apply(kind: str) -> None:
    plain, scheduled = Fit(), Fit()
    by_hand, found = optimiser(plain, kind, L1), optimiser(scheduled, kind, L1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(found, 0.5)
    for _ in range(4):
        plain.train(by_hand, 1)
        scheduled.train(found, 1)
        schedule.step()
        by_hand.param_groups[0]["lr"] *= 0.5
    assert torch.equal(plain.theta(), scheduled.theta())


def test_a_rate_of_zero_changes_no_weight_of_a_proximal_step(penalty: Any) -> None:
    for name in ("ProxSGD", "ProxAdam"):
        fit = Fit()
        before = fit.theta()
        fit.train(optimiser(fit, name, penalty, lr=0.0), 3)
        assert torch.equal(fit.theta(), before)


def test_parameters_without_a_gradient_stay(kind: str, penalty: Any) -> None:
    fit = Fit()
    frozen = fit.module[0].weight.requires_grad_(False)
    before = frozen.clone()
    fit.train(optimiser(fit, kind, penalty), 3)
    assert torch.equal(frozen, before)
    assert not torch.equal(fit.theta(), Fit().theta())


def test_maximising_is_minimising_the_negative(kind: str, penalty: Any) -> None:
    up, down = Fit(), Fit()
    down.loss = lambda: -Fit.loss(down)  # type: ignore[method-assign]
    up.train(optimiser(up, kind, penalty, maximize=True), 3)
    down.train(optimiser(down, kind, penalty), 3)
    assert torch.equal(up.theta(), down.theta())


def test_sparse_gradients_are_refused(kind: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        KINDS[kind]([weight]).step()


def test_complex_parameters_are_refused_and_the_group_is_not_added(kind: str) -> None:
    found = KINDS[kind]([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="complex"):
        found.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(found.param_groups) == 1


BAD = {
    "lr": [-1.0, float("nan"), float("inf")],
    "strength": [-1e-3, float("nan")],
    "weight_decay": [-1.0],
    "momentum": [-0.1, 1.0],
    "dampening": [1.5],
    "delta": [0.0, -1.0],
    "kappa": [0.0],
    "nu": [0.0, float("inf")],
    "eps": [0.0],
    "betas": [(1.0, 0.9), (0.9, -0.1)],
}


def test_values_that_cannot_work_are_refused_by_name(kind: str) -> None:
    tried = 0
    for name in BARE[kind]([nn.Parameter(torch.ones(2))]).defaults.keys() & BAD.keys():
        for value in BAD[name]:
            tried += 1
            with pytest.raises(ValueError, match=name):
                BARE[kind]([nn.Parameter(torch.ones(2))], **{name: value})
            with pytest.raises(ValueError, match=name):
                BARE[kind]([{"params": [nn.Parameter(torch.ones(2))], name: value}])
    assert tried >= 5


@pytest.mark.parametrize("made", [ProxSGD, DessiLBI])
def test_nesterov_needs_momentum(made: Make) -> None:
    with pytest.raises(ValueError, match="nesterov"):
        made([nn.Parameter(torch.ones(2))], nesterov=True, momentum=0.0)
    with pytest.raises(ValueError, match="nesterov"):
        made([nn.Parameter(torch.ones(2))], nesterov=True, momentum=0.9, dampening=0.5)


def test_penalties_that_do_not_fit_their_group_are_refused(kind: str) -> None:
    fit = Fit()
    with pytest.raises(ValueError, match="made for 47 weights, its group has 30"):
        KINDS[kind]([fit.module[0].weight], penalty=L1(layout(fit.module)))
    mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())]
    with pytest.raises(ValueError, match="one dtype"):
        KINDS[kind](mixed, penalty=L1((Block("a", (4,), 0),)))


# Golden numbers and closed forms


def at(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def descend(found: PenalisedOptimizer, theta: Tensor, target: list[float]) -> Iterator[Tensor]:
    """Steps on ``||theta - target||^2 / 2``."""
    while True:
        theta.grad = theta.detach() - at(target)
        found.step()
        yield theta


TWO = L1((Block("theta", (2,), 0),))


def test_linbreg_takes_the_golden_steps() -> None:
    theta = at([0.5, 0.0])
    found = LinBreg([theta], 0.25, penalty=TWO, strength=0.3, delta=2.0)
    expected = {1: [1.25, 0], 2: [1.625, -0.4], 3: [1.8125, -0.7], 5: [1.953125, -0.925]}
    for step, here in zip(range(1, 6), descend(found, theta, [2.0, -1.0]), strict=False):
        if step == 1:
            torch.testing.assert_close(found.state[theta]["dual"], at([0.925, -0.25]))
        if step in expected:
            torch.testing.assert_close(here, at(expected[step]))


def test_dessilbi_takes_the_golden_steps() -> None:
    theta = at([0.1, 0.2])
    found = DessiLBI([theta], 0.2, penalty=TWO, kappa=2.0, nu=0.5, momentum=0.0)
    twins = []
    for _, _here in zip(range(6), descend(found, theta, [2.0, -0.5]), strict=False):
        twins.append(next(found.gammas())[1])
    torch.testing.assert_close(theta, at([0.8976448, -0.1666432]), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.state[theta]["dual"], at([1.295616, -0.2777856]), atol=1e-7, rtol=0)
    torch.testing.assert_close(torch.stack(twins[4:]), torch.stack([at([0.288768, 0]), at([0.591232, 0])]))
    assert not torch.stack(twins[:4]).any()
    assert next(found.supports())[1].tolist() == [True, False]


def test_linbreg_on_an_orthonormal_design_lets_weights_enter_when_their_dual_has_grown_and_never_shrinks_them() -> None:
    target = [3.0, -2.0, 0.7, 0.2, -0.05]
    theta = torch.zeros(5, dtype=torch.float64)
    found = LinBreg([theta], 0.1, penalty=L1((Block("theta", (5,), 0),)), strength=1.01)
    entered = [0] * 5
    for step, here in zip(range(1, 400), descend(found, theta, target), strict=False):
        entered = [first or (step if value else 0) for first, value in zip(entered, here.tolist(), strict=True)]
    assert entered == [next(k for k in range(1, 999) if k * 0.1 * abs(z) > 1.01) for z in target]
    torch.testing.assert_close(theta, at(target))


@pytest.mark.parametrize("kind", ["DessiLBI", "AdaDessiLBI"])
def test_the_limit_of_the_split_path_has_no_shrinkage(kind: str) -> None:
    theta, target = torch.zeros(2, dtype=torch.float64), [2.0, -0.5]
    found = BARE[kind]([theta], 0.02, penalty=TWO, nu=0.25)
    for _ in zip(range(1500), descend(found, theta, target), strict=False):
        pass
    torch.testing.assert_close(theta, at(target), atol=2e-2, rtol=0)
    torch.testing.assert_close(next(found.gammas())[1], at(target), atol=2e-2, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ProxSGD", "ProxAdam"])
def test_proximal_steps_end_at_scikit_learns_lasso(name: str) -> None:
    lasso, lam = problems.diabetes(), 0.05
    loss = lasso.problem.loss
    theta = loss.initial()
    rates = {"ProxSGD": {"lr": 0.2}, "ProxAdam": {"lr": 1e-2, "betas": (0.0, 0.9)}}[name]
    found = BARE[name]([theta], penalty=L1(loss.layout), strength=lam, **rates)
    for k in range(1200):
        theta.grad = loss.value_and_grad(theta)[1]
        found.param_groups[0]["lr"] = rates["lr"] * (1 - k / 1200 if name == "ProxAdam" else 1)
        found.step()
    expected = torch.from_numpy(Lasso(lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(lasso.X, lasso.y).coef_)
    torch.testing.assert_close(theta, expected, atol=1e-4, rtol=0)
    assert torch.equal(theta != 0, expected != 0)


def test_proximal_adam_leaves_a_minimiser_where_it_is_from_the_first_step_on() -> None:
    theta = at([1.5, -0.5, 0.0])
    found = ProxAdam([theta], 0.1, penalty=L1((Block("theta", (3,), 0),)), strength=0.3)
    for _ in range(5):
        theta.grad = at([-0.3, 0.3, 0.2])
        found.step()
        torch.testing.assert_close(theta, at([1.5, -0.5, 0.0]))


def test_proximal_adam_takes_the_penalty_s_step_in_its_own_metric() -> None:
    blocks = (Block("weight", (2, 3), 0),)
    penalty = GroupL2(blocks)
    torch.manual_seed(0)
    theta, grad = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    metric = grad.abs() + 1e-3
    expected = penalty.prox((theta - 0.1 * grad / metric).flatten(), (0.1 * 0.7 / metric).flatten())
    found = ProxAdam([theta], 0.1, penalty=penalty, strength=0.7)
    theta.grad = grad
    found.step()
    torch.testing.assert_close(theta.flatten(), expected)


# What they are without a penalty


PLAIN: dict[str, tuple[Make, Callable[..., torch.optim.Optimizer]]] = {
    "ProxSGD": (
        partial(ProxSGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "ProxSGD, dampened": (
        partial(ProxSGD, lr=0.1, momentum=0.9, dampening=0.5),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    ),
    "ProxAdam": (
        partial(ProxAdam, lr=0.1, eps=1e-3, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.1, eps=1e-3, weight_decay=0.1),
    ),
    "LinBreg": (partial(LinBreg, lr=0.1, delta=2.0), partial(torch.optim.SGD, lr=0.2)),
    "AdaBreg": (partial(AdaBreg, lr=0.1), partial(torch.optim.Adam, lr=0.1)),
    "DessiLBI": (partial(DessiLBI, lr=0.05, kappa=2.0), partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    "AdaDessiLBI": (partial(AdaDessiLBI, lr=0.05, kappa=2.0), partial(torch.optim.Adam, lr=0.1)),
}
NO_PENALTY = {"none": lambda fit: {}, "strength of 0": lambda fit: {"penalty": L1(layout(fit.module)), "strength": 0.0}}
LOOSE = {"nu of 1e12": lambda fit: {"penalty": L1(layout(fit.module)), "nu": 1e12}}


@pytest.mark.parametrize("without", [*NO_PENALTY, *LOOSE])
@pytest.mark.parametrize("name", PLAIN)
def test_without_a_penalty_it_is_torch_s(name: str, without: str) -> None:
    split = "Dessi" in name
    if (without in LOOSE) is not split and without != "none":
        return
    ours, theirs = Fit(), Fit()
    made, plain = PLAIN[name]
    found = made(ours.module.parameters(), **{**NO_PENALTY, **LOOSE}[without](ours))
    expected = plain(theirs.module.parameters())
    for _ in range(10):
        ours.train(found, 1)
        expected.zero_grad()
        theirs.loss().backward()
        expected.step()
    torch.testing.assert_close(ours.theta(), theirs.theta(), rtol=1e-9, atol=1e-9)


# Invariants


@pytest.mark.parametrize("penalty", [L1, GroupL2, partial(GroupL2, groups="input")])
@pytest.mark.parametrize("name", ["LinBreg", "AdaBreg", "DessiLBI", "AdaDessiLBI"])
def test_duals_less_their_weights_are_subgradients_at_every_step(name: str, penalty: Any) -> None:
    """``s`` is a subgradient of ``strength R`` at ``theta`` exactly where ``theta = prox(theta + s)``."""
    fit = Fit()
    found, made = optimiser(fit, name, penalty), penalty(layout(fit.module))
    values = found.param_groups[0]
    for _ in range(15):
        fit.train(found, 1)
        dual = torch.cat([found.state[p]["dual"].flatten() for p in fit.module.parameters()])
        if "kappa" in values:
            twin = torch.cat([gamma.flatten() for _, gamma in found.gammas()])
            theta, scale = twin / values["kappa"], 1.0
        else:
            theta, scale = fit.theta(), values["delta"]
        slope = dual - theta / scale
        acts = made.penalised
        torch.testing.assert_close(made.prox(theta + slope, values["strength"])[acts], theta[acts])
    assert penalty is not L1 or 0 < int((theta == 0).sum()) < len(theta)


def test_the_dual_of_linbreg_is_the_start_less_all_gradients() -> None:
    fit = Fit()
    found = LinBreg(fit.module.parameters(), 0.1, penalty=L1(layout(fit.module)), strength=0.2, delta=2.0)
    theta = fit.theta()
    expected = theta / 2 + 0.2 * theta.sign()
    for _ in range(6):
        fit.train(found, 1)
        expected -= 0.1 * torch.cat([p.grad.flatten() for p in fit.module.parameters()])
    dual = torch.cat([found.state[p]["dual"].flatten() for p in fit.module.parameters()])
    torch.testing.assert_close(dual, expected)


def test_supports_are_true_where_no_penalty_acts_and_those_weights_are_not_tied() -> None:
    fit, free = Fit(), Fit()
    tied = DessiLBI(fit.module.parameters(), 0.1, penalty=L1(layout(fit.module), parameters="0.weight"), nu=1e12)
    found = dict(tied.supports())
    assert not found[fit.module[0].weight].any()
    assert all(bool(mask.all()) for p, mask in found.items() if p is not fit.module[0].weight)
    fit.train(tied, 5)
    free.train(DessiLBI(free.module.parameters(), 0.1), 5)
    torch.testing.assert_close(fit.theta(), free.theta())
