"""Refitting: no more weights than before, the loss falls to the least there is on them, resumed as if never stopped."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import nn

from engine.correctors import AdaptiveProximal, ProximalGradient
from engine.correctors.adaptive import Pace
from engine.data import load
from engine.errors import InvalidSpec
from engine.front import Front, Trail, Waypoint
from engine.losses import LeastSquares
from engine.penalties import L1
from engine.problem import Problem
from engine.spec import JobSpec, Part, build, check
from engine.tracers import Budget, Refit, Tracer
from engine.tracers.methods import continuation, refit
from engine.tracers.refit import Selection, pruned
from tests.engine import problems
from tests.engine.test_tracers import same

EXACT = {"corrector": "proximal_gradient", "epochs": 30_000, "tolerance": 1e-9}
SETTINGS = {"default": {"epochs": 3}, "exact": {"corrector": "proximal_gradient", "epochs": 40}}


def trail_of(waypoints: Sequence[Waypoint]) -> Trail:
    return Trail(tuple(w.point for w in waypoints), lambda index: waypoints[index])


def following(source: Sequence[Waypoint], points: int = 100, seed: int = 0, **settings: object) -> Tracer:
    found = refit(points, seed, Budget(), job=1, **settings)
    found.follow(trail_of(source))
    return found


def zeros(waypoint: Waypoint) -> bytes:
    return (waypoint.theta == 0).tobytes()


def without_validation() -> Problem:
    """The network of `problems.digits_network` on the same digits, none of them kept for validation."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return problems.network_problem(module, load("digits", {"limit": 300, "validation": 0}, {}))


@pytest.fixture(scope="module")
def traced() -> list[Waypoint]:
    """A network's path."""
    return list(
        continuation(8, 0, Budget(), epochs=2, anchor_epochs=10, strength=3e-4).trace(problems.digits_network())
    )


@pytest.fixture(scope="module")
def normed() -> list[Waypoint]:
    """The path of a network with batch norm."""
    return list(continuation(5, 0, Budget(), epochs=2, anchor_epochs=10).trace(problems.norm_network()))


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest) -> dict[str, object]:
    return SETTINGS[request.param]


# What is refitted


@pytest.mark.slow
def test_the_networks_no_other_beats_are_refitted_from_dense_to_sparse(traced: list[Waypoint]) -> None:
    found = following(traced, epochs=1, prune=False)
    points = [w.point for w in found.trace(problems.digits_network())]
    wanted = Front(trail_of(traced).points).non_dominated(("n_nonzero", "loss"))
    assert [int(p.metrics["source"]) for p in points] == [p.index for p in wanted][::-1]
    assert [p.index for p in points] == list(range(found.expected))
    assert all(a.n_nonzero > b.n_nonzero for a, b in pairwise(points))
    assert all(p.parent is None and p.lam is None and p.residual is None for p in points)
    assert found.ended == f"The {len(points)} networks of job 1 were refitted."


@pytest.mark.slow
def test_what_is_kept_has_no_higher_validation_loss_than_before(traced: list[Waypoint]) -> None:
    problem = problems.digits_network()
    found = [w.point for w in following(traced, epochs=30).trace(problem)]
    before = [traced[int(p.metrics["source"])].point.metrics["validation_loss"] for p in found]
    assert all(p.metrics["validation_loss"] <= loss * (1 + 1e-6) for p, loss in zip(found, before, strict=True))
    assert any(p.loss < 0.9 * traced[int(p.metrics["source"])].point.loss for p in found)


@pytest.mark.slow
def test_all_networks_are_refitted_when_asked(traced: list[Waypoint]) -> None:
    found = following(traced, epochs=1, dominated=True)
    sources = [w.point.metrics["source"] for w in found.trace(problems.digits_network())]
    assert sorted(sources) == list(range(len(traced)))


def test_of_too_many_networks_both_ends_are_kept(traced: list[Waypoint]) -> None:
    points = trail_of(traced).points
    every, few = Selection(1, 1000).of(points), Selection(1, 3).of(points)
    assert len(few) == 3
    assert (few[0], few[-1]) == (every[0], every[-1])


def test_of_too_many_networks_those_that_just_have_as_many_zeros_are_kept(traced: list[Waypoint]) -> None:
    like = traced[0].point
    counts = [round(1000 * 0.93**i) for i in range(80)]
    points = [replace(like, index=i, n_nonzero=n, n_params=1000, loss=1 - n / 2000) for i, n in enumerate(counts)]
    chosen = [p.n_nonzero for p in Selection(1, 12).of(points)]
    assert len(chosen) == 12
    assert chosen == sorted(chosen, reverse=True)
    assert (chosen[0], chosen[-1]) == (max(counts), min(counts))
    assert {max(n for n in counts if n <= k) for k in (500, 200, 100, 50, 20, 10)} < set(chosen)
    assert max(a / b for a, b in pairwise(chosen)) < 4
    assert [p.n_nonzero for p in Selection(1, 2).of(points)] == [chosen[0], chosen[-1]]


def test_weights_are_loaded_one_network_at_a_time(traced: list[Waypoint]) -> None:
    loaded: list[int] = []
    found = refit(100, 0, Budget(), job=1, epochs=1, prune=False)
    found.follow(Trail(trail_of(traced).points, lambda index: loaded.append(index) or traced[index]))
    assert loaded == []
    path = found.trace(problems.digits_network())
    for count in (1, 2):
        next(path)
        assert len(loaded) == count


def test_networks_are_told_apart_by_their_numbers_where_some_are_gone(traced: list[Waypoint]) -> None:
    left = [w for w in traced if w.point.index % 2]
    trail = Trail(tuple(w.point for w in left), lambda index: traced[index])
    found = refit(100, 0, Budget(), job=1, epochs=1, dominated=True, prune=False)
    found.follow(trail)
    for waypoint in found.trace(problems.digits_network()):
        source = traced[int(waypoint.point.metrics["source"])]
        assert source in left
        assert zeros(waypoint) == zeros(source)


def test_a_job_without_points_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="job 1 has no points"):
        following([])


# What every refit keeps


@pytest.mark.slow
def test_the_support_stays_bit_for_bit(traced: list[Waypoint], settings: dict[str, object]) -> None:
    for waypoint in following(traced, prune=False, **settings).trace(problems.digits_network()):
        source = traced[int(waypoint.point.metrics["source"])]
        assert waypoint.point.metrics["pruned_from"] == source.point.index
        assert zeros(waypoint) == zeros(source)
        assert not np.signbit(waypoint.theta[waypoint.theta == 0]).any()
        assert waypoint.point.n_nonzero == source.point.n_nonzero
        assert waypoint.point.layers == source.point.layers


@pytest.mark.slow
def test_without_validation_data_the_loss_is_never_larger_and_falls(
    traced: list[Waypoint], settings: dict[str, object]
) -> None:
    problem = without_validation()
    found = following(traced, **settings).trace(problem)
    starts = [(w.point.loss, torch.from_numpy(traced[int(w.point.metrics["source"])].theta)) for w in found]
    pairs = [(loss, float(problem.loss.value_and_grad(theta)[0])) for loss, theta in starts]
    assert all(after <= before for after, before in pairs)
    assert sum(after < 0.9 * before for after, before in pairs) > len(pairs) / 2


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_refit_that_fails_leaves_the_source_s_weights(traced: list[Waypoint], rate: float) -> None:
    found = Refit(Selection(1, 3), AdaptiveProximal(epochs=1, pace=Pace(rate, trust=math.inf)))
    found.follow(trail_of(traced))
    pairs = [(w, traced[int(w.point.metrics["source"])]) for w in found.trace(problems.digits_network())]
    left = [(waypoint, source) for waypoint, source in pairs if not waypoint.point.loss < source.point.loss]
    assert len(left) >= 2
    for waypoint, source in left:
        assert waypoint.theta.tobytes() == source.theta.tobytes()
        assert (waypoint.point.loss, waypoint.point.metrics["l1"]) == (source.point.loss, source.point.metrics["l1"])


@pytest.mark.slow
@pytest.mark.parametrize("penalised", ["l1", "group"])
def test_numbers_are_those_of_the_stored_weights(normed: list[Waypoint], penalised: str) -> None:
    problem = problems.norm_network()
    if penalised == "group":
        problem = Problem(problem.loss, problems.GroupL2(problem.loss.layout))
    for waypoint in following(normed, epochs=2).trace(problem):
        theta, point = torch.from_numpy(waypoint.theta), waypoint.point
        problem.loss.load_buffers({k: torch.from_numpy(v) for k, v in waypoint.buffers.items()})
        assert point.loss == float(problem.loss.value_and_grad(theta)[0])
        assert point.penalty == float(problem.penalty.value(theta))
        assert point.metrics["l1"] == float(theta.abs().sum())
        assert point.metrics["train_accuracy"] == problem.loss.metrics(theta)["train_accuracy"]


@pytest.mark.slow
def test_batch_norm_statistics_are_those_of_the_new_weights(normed: list[Waypoint]) -> None:
    problem = problems.norm_network()
    found = list(following(normed, epochs=2).trace(problem))
    improved = [w for w in found if w.point.loss < normed[int(w.point.metrics["source"])].point.loss]
    assert len(improved) >= 3
    for waypoint in improved:
        problem.loss.calibrate(torch.from_numpy(waypoint.theta))
        for name, buffer in problem.loss.buffers.items():
            np.testing.assert_array_equal(waypoint.buffers[name], buffer.numpy())


@pytest.mark.slow
def test_effort_and_seconds_only_grow(traced: list[Waypoint], settings: dict[str, object]) -> None:
    points = [w.point for w in following(traced, **settings).trace(problems.digits_network())]
    assert all(a.effort < b.effort and a.seconds < b.seconds for a, b in pairwise(points))


# Pruning


def pruned_ones(found: Sequence[Waypoint]) -> list[Waypoint]:
    return [w for w in found if w.point.metrics["pruned_from"] != w.point.metrics["source"]]


def test_the_l1_norm_prunes_to_the_largest_weights() -> None:
    theta = torch.randn(500, generator=torch.Generator().manual_seed(0))
    penalty = L1(problems.diabetes().problem.loss.layout)
    for n_nonzero in (0, 1, 17, 499, 500):
        expected = torch.zeros_like(theta)
        largest = theta.abs().topk(n_nonzero).indices
        expected[largest] = theta[largest]
        assert torch.equal(pruned(penalty, theta, n_nonzero), expected)


def test_equal_weights_are_pruned_together() -> None:
    penalty = L1(problems.diabetes().problem.loss.layout)
    theta = torch.tensor([2.0, 1.0, -1.0, 1.0, 0.0])
    assert pruned(penalty, theta, 3).tolist() == [2.0, 0.0, 0.0, 0.0, 0.0]


def test_a_group_norm_prunes_whole_units() -> None:
    loss = problems.digits_network().loss
    penalty, theta = problems.GroupL2(loss.layout), loss.initial()
    fewer = pruned(penalty, theta, theta.numel() // 2)
    kept = (fewer != 0)[penalty.penalised]
    groups = [part.view(b.shape) for b in loss.layout if b.kind == "weight" for part in [fewer[b.start : b.stop]]]
    assert 0 < kept.sum() < len(kept)
    assert int(fewer.count_nonzero()) <= theta.numel() // 2
    assert torch.equal(fewer[~penalty.penalised], theta[~penalty.penalised])
    for group in groups:
        assert set(((group != 0).double().mean(dim=1)).tolist()) <= {0.0, 1.0}


@pytest.mark.slow
def test_a_pruned_network_has_no_more_weights_and_a_donor_s_largest(traced: list[Waypoint]) -> None:
    whole = list(following(traced, epochs=3).trace(problems.digits_network()))
    assert len(pruned_ones(whole)) >= 3
    for before, waypoint in pairwise(whole):
        source, donor = (traced[int(waypoint.point.metrics[name])] for name in ("source", "pruned_from"))
        if donor is not source:
            n_nonzero = source.point.n_nonzero
            refitted = [before] if before.point.metrics["source"] == donor.point.index else []
            assert waypoint.point.n_nonzero <= n_nonzero < donor.point.n_nonzero
            assert any(_are_largest(waypoint.theta != 0, d.theta, n_nonzero) for d in [donor, *refitted])


def _are_largest(kept: np.ndarray, theta: np.ndarray, n_nonzero: int) -> bool:
    return bool((np.abs(theta[kept]) >= np.sort(np.abs(theta))[-n_nonzero]).all())


@pytest.mark.slow
def test_pruning_never_gives_a_larger_validation_loss(traced: list[Waypoint], settings: dict[str, object]) -> None:
    both, own = (
        [w.point.metrics["validation_loss"] for w in following(traced, prune=prune, **settings).trace(problem)]
        for prune, problem in ((True, problems.digits_network()), (False, problems.digits_network()))
    )
    assert all(a <= b for a, b in zip(both, own, strict=True))


@pytest.mark.slow
def test_pruning_never_gives_a_larger_loss_and_lowers_it(traced: list[Waypoint], settings: dict[str, object]) -> None:
    both, own = (
        list(following(traced, prune=prune, **settings).trace(without_validation())) for prune in (True, False)
    )
    assert all(a.point.loss <= b.point.loss for a, b in zip(both, own, strict=True))
    assert sum(a.point.loss < 0.9 * b.point.loss for a, b in zip(both, own, strict=True)) >= 3


def test_the_denser_network_has_about_four_times_as_many_weights(traced: list[Waypoint]) -> None:
    like = traced[0].point
    counts = (0, 10, 20, 45, 70, 640)
    points = [replace(like, index=i, n_nonzero=n, loss=1.0 / (1 + n)) for i, n in enumerate(counts)]
    beaten = replace(like, index=6, n_nonzero=40, loss=2.0)
    found = [Selection(1, 9).denser([*points, beaten], p) for p in points]
    assert [p.n_nonzero if p else None for p in found] == [None, 45, 70, 70, 640, None]
    assert not any(Selection(1, 9, prune=False).denser(points, p) for p in points)


# Resuming


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_is_as_if_never_stopped(traced: list[Waypoint], settings: dict[str, object], stop: int) -> None:
    whole = list(following(traced, **settings).trace(problems.digits_network()))
    begun = list(islice(following(traced, **settings).trace(problems.digits_network()), stop))
    rest = list(following(traced, **settings).trace(problems.digits_network(), begun))
    assert len(begun) + len(rest) == len(whole) > 4
    assert all(same(a, b) for a, b in zip(whole, [*begun, *rest], strict=True))


@pytest.mark.slow
def test_resumes_with_batch_norm_statistics(normed: list[Waypoint]) -> None:
    whole = list(following(normed, epochs=2).trace(problems.norm_network()))
    rest = list(following(normed, epochs=2).trace(problems.norm_network(), whole[:2]))
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


@pytest.mark.slow
def test_a_source_that_grew_is_refitted_without_repeating(traced: list[Waypoint]) -> None:
    begun = list(following(traced[:5], epochs=1).trace(problems.digits_network()))
    rest = list(following(traced, epochs=1).trace(problems.digits_network(), begun))
    sources = [w.point.metrics["source"] for w in [*begun, *rest]]
    assert rest
    assert len(set(sources)) == len(sources)
    assert [w.point.index for w in [*begun, *rest]] == list(range(len(sources)))


def test_a_budget_ends_it_and_says_so(traced: list[Waypoint]) -> None:
    found = refit(100, 0, Budget(epochs=5), job=1, epochs=2)
    found.follow(trail_of(traced))
    assert 1 <= len(list(found.trace(problems.digits_network()))) < found.expected
    assert "5 epochs" in found.ended


@pytest.mark.slow
def test_seeds_decide_and_a_refit_can_be_refitted(traced: list[Waypoint]) -> None:
    first, second = (list(following(traced, 3, s, epochs=1).trace(problems.digits_network())) for s in (0, 1))
    assert not all(np.array_equal(a.theta, b.theta) for a, b in zip(first, second, strict=True))
    again = list(following(first, epochs=1, prune=False).trace(problems.digits_network()))
    assert [zeros(w) for w in again] == [zeros(first[int(w.point.metrics["source"])]) for w in again]


# Closed forms


@pytest.mark.parametrize("data", [problems.diabetes, problems.wide])
def test_a_refitted_lasso_is_ordinary_least_squares_on_its_support(data) -> None:
    lasso = data()
    exact = {"corrector": "proximal_gradient", "epochs": 3000, "anchor_epochs": 3000, "tolerance": 1e-9}
    path = list(continuation(8, 0, Budget(), sweeps=1, strength=0.05, **exact).trace(lasso.problem))
    shrunk = 0
    for waypoint in following(path, dominated=True, prune=False, **EXACT).trace(lasso.problem):
        support, before = waypoint.theta != 0, path[int(waypoint.point.metrics["source"])].theta
        expected = np.linalg.lstsq(lasso.X[:, support], lasso.y, rcond=None)[0]
        atol = 1e-5 * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(waypoint.theta[support], expected, rtol=0, atol=atol)
        np.testing.assert_array_equal(support, before != 0)
        shrunk += np.abs(before).sum() < 0.99 * np.abs(expected).sum()
    assert shrunk >= 4


def test_a_pruned_lasso_is_ordinary_least_squares_on_fewer_weights_that_fit_better() -> None:
    lasso = problems.wide()
    exact = {"corrector": "proximal_gradient", "epochs": 3000, "anchor_epochs": 3000, "tolerance": 1e-9}
    path = list(continuation(8, 0, Budget(), sweeps=1, strength=0.05, **exact).trace(lasso.problem))
    found = pruned_ones(list(following(path, **EXACT).trace(lasso.problem)))
    assert found
    for waypoint in found:
        support, before = waypoint.theta != 0, path[int(waypoint.point.metrics["source"])].theta != 0
        expected, own = (np.linalg.lstsq(lasso.X[:, on], lasso.y, rcond=None)[0] for on in (support, before))
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(waypoint.theta[support], expected, rtol=0, atol=atol)
        residuals = (np.linalg.norm(lasso.y - lasso.X[:, on] @ w) for on, w in ((support, expected), (before, own)))
        assert next(residuals) < next(residuals)


def test_in_an_orthonormal_design_soft_thresholding_becomes_hard() -> None:
    rng = np.random.default_rng(0)
    X = math.sqrt(40) * np.linalg.qr(rng.normal(size=(40, 12)))[0]
    y = X @ (3 * rng.normal(size=12)) + rng.normal(size=40)
    loss = LeastSquares(torch.tensor(X), torch.tensor(y))
    problem, z = Problem(loss, L1(loss.layout)), X.T @ y / 40
    levels = np.sort(np.abs(z))[[3, 6, 9]] * (1 + 1e-3)
    soft = [np.sign(z) * np.maximum(np.abs(z) - lam, 0) for lam in levels]
    like = next(iter(continuation(2, 0, Budget(), **EXACT, anchor_epochs=10).trace(problem)))
    lasso = [
        replace(like, theta=theta, point=replace(like.point, index=i, n_nonzero=int((theta != 0).sum())))
        for i, theta in enumerate(soft)
    ]
    for waypoint in following(lasso, dominated=True, **EXACT).trace(problem):
        lam = levels[int(waypoint.point.metrics["source"])]
        np.testing.assert_allclose(waypoint.theta, np.where(np.abs(z) > lam, z, 0), rtol=0, atol=1e-9)


def test_a_network_of_zeros_stays_one() -> None:
    problem = problems.diabetes().problem
    like = next(iter(continuation(2, 0, Budget(), **EXACT, anchor_epochs=10).trace(problem)))
    tracer = Refit(Selection(1, 2), ProximalGradient())
    tracer.follow(trail_of([replace(like, theta=np.zeros_like(like.theta))]))
    (waypoint,) = tracer.trace(problem)
    assert (waypoint.point.n_nonzero, waypoint.point.penalty) == (0, 0.0)


# As a job


def job(**changes: object) -> JobSpec:
    spec = JobSpec(Part("mlp", {"hidden": [6]}), Part("digits", {"limit": 200}), points=3)
    small = Part("continuation", {"epochs": 1, "anchor_epochs": 2, "sweeps": 1})
    return replace(spec, **{"method": small, **changes})


@pytest.mark.slow
def test_a_job_s_networks_are_refitted_by_number() -> None:
    source = build(job(), {})
    path = trail_of(list(source.tracer.trace(source.problem)))
    again = job(method=Part("refit", {"job": 7, "epochs": 1}), points=50)
    facts = check(again, {}, {7: path}.__getitem__)
    experiment = build(again, {}, {7: path}.__getitem__)
    assert (facts["follows"], facts["expected"]) == (7, len(list(experiment.tracer.trace(experiment.problem))))
    assert check(job(), {})["follows"] is None


def test_networks_that_are_not_at_hand_or_do_not_fit_are_refused(traced: list[Waypoint]) -> None:
    spec = job(method=Part("refit", {"job": 7}))
    with pytest.raises(InvalidSpec, match="networks of job 7 are not at hand"):
        check(spec, {})
    with pytest.raises(InvalidSpec, match="networks of job 7 have 610 weights, this one has 460"):
        build(spec, {}, lambda _: trail_of(traced))
    with pytest.raises(InvalidSpec, match="needs the setting 'job'"):
        check(job(method=Part("refit")), {})
