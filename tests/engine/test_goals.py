"""What is asked of a job later: targets are met, stored points stay, an interrupted search ends in the same bits."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, lars_path

from engine.errors import InvalidSpec, UnknownName
from engine.front import Front, Trail, Waypoint
from engine.goals import GOALS, Asked, Goal
from engine.goals.base import asked
from engine.goals.solving import largest
from engine.penalties import PENALTIES
from engine.problem import Problem
from engine.spec import BUDGET, JobSpec, Part, asking, build, promised
from engine.tracers import Budget, Tracer
from engine.tracers.methods import continuation
from tests.engine import problems
from tests.engine.test_tracers import SETTINGS, problem_for, same, tracer

EXACT = {"corrector": "newton", "epochs": 2000, "anchor_epochs": 2000, "tolerance": 1e-9}


def goal(name: str, **settings: Any) -> Goal:
    return GOALS[name](**settings)


def method(points: int = 10, **settings: Any) -> Tracer:
    return continuation(points, 0, settings.pop("budget", Budget()), **{"quality": "draft", **settings})


def told(
    problem: Problem, trail: Sequence[Waypoint], *goals: Goal, made: Tracer | None = None
) -> tuple[list[Waypoint], str]:
    """The points that goals add to a finished trail, and what is said of them."""
    found = Asked(made or method(), goals, over=1)
    return list(found.trace(problem, trail)), found.ended


@pytest.fixture(scope="module")
def trail() -> list[Waypoint]:
    """Ten points of a network with 610 weights."""
    return list(method().trace(problems.digits_network()))


@pytest.fixture(scope="module")
def diabetes() -> list[Waypoint]:
    """The lasso's path on ten columns, in eight points."""
    return list(method(8, strength=0.01, end=1.0, **EXACT).trace(problems.diabetes().problem))


PLAN: list[Goal | None] = [
    goal("fill", points=3),
    goal("nonzeros", count=37),
    None,
    goal("strength", lam=0.01),
    goal("sparser", end=0.996, points=2),
    goal("loss", most=0.3),
    goal("sparsity", least=0.9),
]


# Stopping and going on


def plan() -> Asked:
    """A method cut short by its budget, goals, the method again, more goals."""
    return Asked(method(budget=Budget(epochs=200)), PLAN)


@pytest.fixture(scope="module")
def whole() -> list[Waypoint]:
    """What the plan finds when it is never stopped."""
    return list(plan().trace(problems.digits_network()))


@pytest.mark.slow
def test_every_goal_of_a_plan_has_a_point(whole: list[Waypoint]) -> None:
    assert {asked(w.point) for w in whole} == {0, *(number for number, g in enumerate(PLAN, 1) if g)}


@pytest.mark.slow
@pytest.mark.parametrize("first", [9, pytest.param(8, marks=pytest.mark.slow)])
def test_stopped_anywhere_it_ends_in_the_same_bits(whole: list[Waypoint], first: int) -> None:
    numbers = tuple(w.point for w in whole)
    for stop in range(first, len(whole) + 1, 2 if first == 8 else 5):
        begun = Trail(numbers[:stop], whole.__getitem__) if stop % 2 else whole[:stop]
        rest = list(plan().trace(problems.digits_network(), begun))
        assert all(same(a, b) for a, b in zip(whole[stop:], rest, strict=True))


@pytest.mark.slow
def test_what_is_said_does_not_depend_on_the_stops(whole: list[Waypoint]) -> None:
    said = set()
    for stop in (10, 14, len(whole)):
        again = plan()
        list(again.trace(problems.digits_network(), whole[:stop]))
        said.add(again.ended)
    assert len(said) == 1


@pytest.mark.slow
def test_indices_and_effort_grow_and_parents_came_before(whole: list[Waypoint]) -> None:
    assert [w.point.index for w in whole] == list(range(len(whole)))
    assert all(w.point.parent is None or w.point.parent < w.point.index for w in whole)
    assert all(a.point.effort < b.point.effort for a, b in pairwise(whole))

    short, long = Budget(epochs=60), Budget(epochs=500)
    alone = list(method(budget=short).trace(problems.digits_network()))
    undisturbed = [*alone, *method(budget=long).trace(problems.digits_network(), alone)]
    goals = [goal("nonzeros", count=50), None]
    found = Asked(method(budget=long), goals, over=1)
    between = list(Asked(method(budget=short), goals[:1], over=1).trace(problems.digits_network(), alone))
    rest = list(found.trace(problems.digits_network(), [*alone, *between]))
    own = [w for w in [*alone, *between, *rest] if not asked(w.point)]
    assert len(alone) < len(own) == len(undisturbed)
    assert all(np.array_equal(a.theta, b.theta) for a, b in zip(undisturbed, own, strict=True))


@pytest.mark.slow
def test_a_stage_that_is_over_is_not_gone_into_again(trail: list[Waypoint]) -> None:
    found = Asked(method(40), [goal("nonzeros", count=50)], over=1)
    new = list(found.trace(problems.digits_network(), trail[:6]))
    assert {asked(w.point) for w in new} == {1}
    assert found.follows is None


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_takes_a_raised_budget_and_every_goal(name: str) -> None:
    begun = list(tracer(name, 5).trace(problem_for(name)))
    goals = [goal("fill", points=1), goal("nonzeros", count=20), None, goal("loss", most=1.0)]
    found = Asked(tracer(name, 5), goals)
    rest = list(found.trace(problem_for(name), begun))
    assert [w.point.index for w in rest] == list(range(len(begun), len(begun) + len(rest)))
    assert any(w.point.n_nonzero == 20 for w in [*begun, *rest]) or "No network with exactly 20" in found.ended


# More points


@pytest.mark.slow
def test_ten_points_become_sixteen_in_the_widest_gaps(trail: list[Waypoint]) -> None:
    new, said = told(problems.digits_network(), trail, goal("fill", points=6))
    before, after = (Front(tuple(w.point for w in ws)).non_dominated() for ws in (trail, [*trail, *new]))
    assert len(after) == len(before) + 6
    assert widest(after) < widest(before)
    assert "6 of the 6" in said
    for waypoint in new[:1]:
        assert waypoint.point.penalty < trail[waypoint.point.parent or 0].point.penalty


def widest(front: Front) -> float:
    return max(math.log(b.penalty / a.penalty) for a, b in pairwise(front))


@pytest.mark.slow
def test_a_stretch_gets_its_points_between_its_ends(trail: list[Waypoint]) -> None:
    low, high = Front(tuple(w.point for w in trail)).non_dominated().points[3:5]
    new, said = told(problems.digits_network(), trail, goal("fill", points=3, between=(high.index, low.index)))
    assert len(new) == 3
    assert all(low.penalty < w.point.penalty < high.penalty for w in new)
    assert f"between points {high.index} and {low.index}" in said


def test_on_a_convex_problem_every_new_point_is_scikit_learns_lasso(diabetes: list[Waypoint]) -> None:
    lasso = problems.diabetes()
    new, _ = told(lasso.problem, diabetes, goal("fill", points=5))
    assert len(new) == 5
    assert all(distance(lasso, w.theta, w.point.lam) <= 1e-5 for w in new)


def distance(lasso: problems.Lasso, theta: Any, lam: float | None) -> float:
    """How far weights are from scikit-learn's lasso, relative to its largest."""
    model = Lasso(lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(lasso.X, lasso.y)
    return float(np.abs(theta - model.coef_).max() / np.abs(model.coef_).max())


@pytest.mark.slow
def test_the_front_goes_on_to_a_sparser_end(trail: list[Waypoint]) -> None:
    new, said = told(problems.digits_network(), trail, goal("sparser", end=0.9965, points=3))
    assert max(w.point.sparsity for w in trail) < 0.9965 <= new[-1].point.sparsity
    assert "reaches" in said
    assert all(a.point.penalty > b.point.penalty for a, b in pairwise(new))


# A target


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 9, 57, 100])
def test_exactly_so_many_weights_and_no_worse_than_the_next_network_cut(trail: list[Waypoint], count: int) -> None:
    problem = problems.digits_network()
    new, said = told(problem, trail, goal("nonzeros", count=count))
    best = min((w for w in [*trail, *new] if w.point.n_nonzero == count), key=lambda w: w.point.loss)
    assert best is new[-1]
    assert np.count_nonzero(best.theta) == count
    assert best.point.loss == float(problem.loss.value_and_grad(torch.from_numpy(best.theta))[0])
    assert f"Point {best.point.index} has {count} nonzero weight" in said
    denser = min((w for w in [*trail, *new] if w.point.n_nonzero > count), key=lambda w: w.point.n_nonzero)
    cut = torch.from_numpy(denser.theta).clone()
    cut[cut.abs().argsort(descending=True)[count:]] = 0
    assert best.point.loss <= float(problem.loss.value(cut))


@pytest.mark.slow
def test_more_weights_than_any_network_has(trail: list[Waypoint]) -> None:
    densest = max(w.point.n_nonzero for w in trail)
    new, _ = told(problems.digits_network(), trail, goal("nonzeros", count=densest + 20))
    assert new[-1].point.n_nonzero == densest + 20
    assert new[-1].point.loss < max(trail, key=lambda w: w.point.n_nonzero).point.loss


@pytest.mark.slow
def test_what_cannot_be_reached_is_said_with_the_nearest(trail: list[Waypoint]) -> None:
    new, said = told(problems.digits_network(), trail, goal("nonzeros", count=610))
    assert not any(w.point.n_nonzero == 610 for w in new)
    assert said.startswith("No network with exactly 610 nonzero weights was found; the nearest is point")
    new, said = told(problems.digits_network(), trail, goal("loss", most=1e-12))
    least = min([*trail, *new], key=lambda w: w.point.loss).point
    assert said.startswith("No network with a training loss of at most 1e-12 was found")
    assert f"of point {least.index}." in said
    assert least.loss < min(w.point.loss for w in trail)


@pytest.mark.slow
def test_a_network_that_is_there_already_is_the_answer_unless_a_better_one_is_found(trail: list[Waypoint]) -> None:
    new, _ = told(problems.digits_network(), trail, goal("nonzeros", count=50))
    best = new[-1].point
    again, said = told(
        problems.digits_network(), [*trail, *new], goal("nonzeros", count=50), goal("nonzeros", count=50)
    )
    exact = [w.point for w in again if w.point.n_nonzero == 50]
    assert all(a.loss > b.loss for a, b in pairwise([best, *exact]))
    assert exact or f"Point {best.index} has 50 nonzero weights already" in said


@pytest.mark.slow
def test_a_sparsity_is_met_with_as_little_loss_as_there_is(trail: list[Waypoint]) -> None:
    new, said = told(problems.digits_network(), trail, goal("sparsity", least=0.9))
    found = new[-1].point
    assert (found.n_nonzero, found.sparsity >= 0.9) == (61, True)
    assert found.loss == min(w.point.loss for w in [*trail, *new] if w.point.sparsity >= 0.9)
    assert f"Point {found.index} " in said


@pytest.mark.parametrize("count", [1, 3, 6, 10])
def test_a_linear_model_with_so_many_columns_is_their_least_squares_fit(diabetes: list[Waypoint], count: int) -> None:
    lasso = problems.diabetes()
    new, _ = told(lasso.problem, diabetes, goal("nonzeros", count=count))
    theta = min((w for w in [*diabetes, *new] if w.point.n_nonzero == count), key=lambda w: w.point.loss).theta
    used = np.flatnonzero(theta)
    assert len(used) == count
    fitted = np.linalg.lstsq(lasso.X[:, used], lasso.y, rcond=None)[0]
    np.testing.assert_allclose(theta[used], fitted, atol=1e-6)


@pytest.mark.parametrize("data", [problems.diabetes, problems.wide])
@pytest.mark.parametrize("lam", [0.3, 0.05, 0.004])
def test_at_a_strength_it_is_scikit_learns_lasso(data: Any, lam: float) -> None:
    lasso = data()
    trail = list(method(5, strength=0.01, end=0.9, **EXACT).trace(lasso.problem))
    new, said = told(lasso.problem, trail, goal("strength", lam=lam))
    assert (new[-1].point.lam, len(new)) == (lam, 1)
    assert distance(lasso, new[-1].theta, lam) <= 1e-5
    assert f"holds the strength {lam:g}" in said


@pytest.mark.slow
def test_a_network_at_a_strength_is_certified_there_and_no_worse_than_the_best_stored(trail: list[Waypoint]) -> None:
    problem = problems.digits_network()
    found = told(problem, trail, goal("strength", lam=0.01))[0][-1].point
    assert found.loss + 0.01 * found.penalty <= min(w.point.loss + 0.01 * w.point.penalty for w in trail)
    assert (found.residual or 1.0) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("most", [0.02, 0.3, pytest.param(2.29, marks=pytest.mark.slow)])
def test_a_loss_is_kept_to_with_less_penalty_than_before(trail: list[Waypoint], most: float) -> None:
    new, said = told(problems.digits_network(), trail, goal("loss", most=most))
    able = [w.point for w in [*trail, *new] if w.point.loss <= most]
    before = [w.point.penalty for w in trail if w.point.loss <= most]
    best = min(able, key=lambda p: p.penalty)
    assert best.penalty < min(before, default=math.inf)
    assert f"Point {best.index} has the smallest penalty found" in said


@pytest.mark.slow
def test_on_a_convex_problem_the_least_penalty_for_a_loss_is_met_to_two_percent(diabetes: list[Waypoint]) -> None:
    lasso = problems.diabetes()
    _, _, path = lars_path(lasso.X, lasso.y, method="lasso")
    fine = np.concatenate([a + (b - a) * np.linspace(0, 1, 200)[:, None] for a, b in pairwise(path.T)])
    losses = ((lasso.y - fine @ lasso.X.T) ** 2).mean(axis=1) / 2
    most = float(np.interp(2.0, np.abs(fine).sum(axis=1), losses))
    new, _ = told(lasso.problem, diabetes, goal("loss", most=most))
    best = min(w.point.penalty for w in [*diabetes, *new] if w.point.loss <= most)
    least = np.abs(fine).sum(axis=1)[losses <= most].min()
    assert least * (1 - 1e-3) <= best <= 1.02 * least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["group_l2", "group_mcp", "log_sum", "mcp", "sparse_group"])
def test_other_penalties(name: str) -> None:
    whole = problems.digits_network()
    problem = replace(whole, penalty=PENALTIES[name](whole.loss.layout), cleanup=None)
    trail = list(method(6, end=0.95, anchor_epochs=60, epochs=12).trace(problem))
    goals = [goal("fill", points=1), goal("nonzeros", count=44), goal("strength", lam=0.02), goal("loss", most=0.5)]
    new, said = told(problem, trail, *goals)
    points = [w.point for w in [*trail, *new]]
    found = {asked(p) for p in points}
    assert found | {2} == {0, 1, 2, 3, 4}
    assert 2 in found or "has 44 nonzero weights already, and no better one was found" in said
    assert any(p.n_nonzero == 44 for p in points)
    assert "of at most 0.5:" in said


@pytest.mark.slow
def test_networks_are_stored_with_the_batch_norm_statistics_of_their_weights() -> None:
    problem = problems.norm_network()
    trail = list(method(6).trace(problem))
    goals = [goal("fill", points=1), goal("nonzeros", count=60), goal("strength", lam=0.01)]
    for waypoint in told(problem, trail, *goals)[0]:
        stored = {name: torch.from_numpy(array) for name, array in waypoint.buffers.items()}
        problem.loss.load_buffers(stored)
        problem.loss.calibrate(torch.from_numpy(waypoint.theta))
        torch.testing.assert_close(dict(problem.loss.buffers), stored)


def test_weights_that_are_not_penalised_are_kept_before_the_largest() -> None:
    theta, penalised = torch.tensor([3.0, -5.0, 0.0, 0.1]), torch.tensor([True, True, False, False])
    assert largest(theta, 2, penalised).tolist() == [False, True, False, True]


# At the door


SPEC = JobSpec(network=Part("mlp", {"hidden": [4]}), data=Part("iris"), points=6)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part("colour"), "unknown goal 'colour'; known: budget, fill"),
        (Part("fill", {"points": 0}), "points 0"),
        (Part("fill", {"points": 2, "between": [3, 3]}), "two different points"),
        (Part("fill", {"points": 2, "between": [1]}), "two different points"),
        (Part("fill", {"points": 2, "between": [0, 99]}), "no point 99; this job has points 0 to 9"),
        (Part("sparser", {"end": 0.5, "points": 2}), "no further end: point"),
        (Part("sparser", {"end": 0.9999, "points": 2}), "leaves none of 610 weights; give at most 0.99836"),
        (Part("nonzeros", {"count": 611}), "nonzeros 611 is more than the network's 610 weights"),
        (Part("sparsity", {"least": 0.9999}), "leaves none of 610 weights; give at most 0.99836"),
        (Part("loss", {"most": 0.0}), "most 0.0"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_work(trail: list[Waypoint], part: Part, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words) as refused:
        asking(SPEC, [part], [w.point for w in trail], 1)
    assert isinstance(refused.value, UnknownName) == (part.name == "colour")


def test_nothing_lies_between_a_point_and_one_it_beats(trail: list[Waypoint]) -> None:
    beaten = replace(trail[3].point, index=10, penalty=trail[3].point.penalty * 1.1, loss=trail[3].point.loss + 1)
    with pytest.raises(InvalidSpec, match="nothing lies between points 3 and 10"):
        asking(SPEC, [Part("fill", {"points": 1, "between": [3, 10]})], [*(w.point for w in trail), beaten], 1)


def test_a_spec_with_goals_survives_as_plain_values_and_one_without_is_as_before(trail: list[Waypoint]) -> None:
    assert not {"goals", "over"} & SPEC.to_dict().keys()
    goals = [
        Part(BUDGET, {"epochs": 90.0}),
        Part("fill", {"points": 2, "between": [0, 1]}),
        Part("loss", {"most": 0.1}),
    ]
    spec = asking(SPEC, goals, [w.point for w in trail], 1)
    assert JobSpec.from_dict(spec.to_dict()) == spec
    assert (spec.budget, spec.allowed) == (Budget(), Budget(epochs=90.0))
    assert promised(goals) == 2 + promised(goals[2:])
    assert build(spec, {}).tracer.expected == promised(goals) + 6
