"""Fronts against brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidSpec, UnknownName
from engine.front import Front, Layer, ParetoPoint


def point(index: int, loss: float, penalty: float, n_nonzero: int = 5, **metrics: float) -> ParetoPoint:
    return ParetoPoint(index, None, 0, loss, penalty, 0.1, 0.0, n_nonzero, 10, 1.0, 1.0, metrics)


def front(*pairs: tuple[float, float]) -> Front:
    return Front(tuple(point(i, loss, penalty, n_nonzero=i) for i, (penalty, loss) in enumerate(pairs)))


finite = st.floats(0, 10, allow_nan=False)
COORDINATES = st.integers(0, 50).map(float)


@given(st.lists(st.tuples(finite, finite), max_size=12))
def test_non_dominated_is_what_pairwise_comparison_says(pairs: list[tuple[float, float]]) -> None:
    found = {(p.penalty, p.loss) for p in front(*pairs).non_dominated()}
    expected = {a for a in pairs if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in pairs)}
    assert found == expected
    assert len(front(*pairs).non_dominated()) == len(expected)


def test_non_dominated_is_sorted_and_leaves_out_nan() -> None:
    kept = front((3, 1), (1, 3), (2, 2), (2.5, 2.5), (0.5, math.nan)).non_dominated()
    assert [p.index for p in kept] == [1, 2, 0]


def test_hypervolume_is_the_area_of_the_staircase() -> None:
    assert front((1, 3), (2, 2), (3, 1)).hypervolume((4, 4)) == pytest.approx(3 + 2 + 1)
    assert front().hypervolume((4, 4)) == 0.0


def test_hypervolume_of_a_dominated_point_changes_nothing() -> None:
    assert front((1, 3), (3, 1), (3, 3)).hypervolume((4, 4)) == front((1, 3), (3, 1)).hypervolume((4, 4))


def test_accuracy_and_sparsity_are_maximised() -> None:
    points = (
        point(0, 1, 1, 2, test_accuracy=0.5),
        point(1, 1, 1, 8, test_accuracy=0.9),
        point(2, 1, 1, 9, test_accuracy=0.8),
    )
    kept = Front(points).non_dominated(("sparsity", "test_accuracy"))
    assert {p.index for p in kept} == {0, 1}


def gap(kept: Front, whole: Front) -> float:
    """The largest distance from a point to the nearest kept one, both objectives scaled to [0, 1]."""
    values, some = whole.values(("penalty", "loss")), kept.values(("penalty", "loss"))
    low, width = values.min(axis=0), np.ptp(values, axis=0)
    differences = ((values - low) / width)[:, None] - ((some - low) / width)[None]
    return float(np.linalg.norm(differences, axis=2).min(axis=1).max())


@pytest.mark.slow
@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=4, max_size=9, unique=True), st.integers(2, 5))
def test_spread_points_leave_at_most_twice_the_least_gap(pairs: list[tuple[float, float]], n_points: int) -> None:
    whole = front(*pairs).non_dominated()
    kept = front(*pairs).spread(n_points)
    assert [p for p in whole if p in kept.points] == list(kept)
    assert len(kept) == min(n_points, len(whole))
    if n_points < len(whole):
        assert (kept.points[0], kept.points[-1]) == (whole.points[0], whole.points[-1])
        choices = [Front(some) for some in itertools.combinations(whole.points, n_points)]
        assert gap(kept, whole) <= 2 * min(gap(some, whole) for some in choices) + 1e-9


def test_spread_points_are_even_on_a_line() -> None:
    line = front(*((float(i), 8.0 - i) for i in range(9)))
    assert [p.index for p in line.spread(5)] == [0, 2, 4, 6, 8]
    assert [p.index for p in line.spread(2)] == [0, 8]
    assert line.spread(9) == line.spread(99) == line
    assert front().spread(3) == front((1, math.nan)).spread(3) == front()
    with pytest.raises(InvalidSpec, match="1 points cannot be spread"):
        line.spread(1)


def test_knee_of_a_sharp_corner() -> None:
    assert front((0, 10), (1, 1), (10, 0)).knee().index == 1


def test_weights_move_the_choice_from_end_to_end() -> None:
    curve = front(*[(x, 1 / x) for x in np.linspace(0.2, 5, 25)])
    sparsest, middle, densest = (curve.weighted(w) for w in ((1, 0), (1, 1), (0, 1)))
    assert sparsest.penalty < middle.penalty < densest.penalty


def test_choices_by_sparsity_nonzeros_loss_and_metric() -> None:
    points = tuple(
        point(i, loss, 1, nz, test_accuracy=acc)
        for i, (loss, nz, acc) in enumerate([(0.1, 9, 0.9), (0.5, 4, 0.8), (2.0, 0, 0.1)])
    )
    found = Front(points)
    assert found.at_sparsity(0.5).index == 1
    assert found.at_sparsity(1.0).index == 2
    assert found.at_nonzeros(8).index == 1
    assert found.at_loss(0.5).index == 1
    assert found.at_metric("test_accuracy", 0.85).index == 0


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda f: f.at_sparsity(1.2), "1.2"),
        (lambda f: f.at_sparsity(0.95), "from 0.8 to 0.9"),
        (lambda f: f.at_loss(0.5), "from 1 to 3"),
        (lambda f: f.weighted((-1, 2)), "-1"),
        (lambda f: f.at_metric("speed", 1), "speed"),
        (lambda _: Front(()).knee(), "no points"),
    ],
)
def test_impossible_choices_name_the_value_and_what_there_is(choose, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        choose(Front((point(0, 1, 3, 2), point(1, 3, 1, 1))))


def test_unknown_quantity_names_those_known() -> None:
    with pytest.raises(UnknownName, match="penalty"):
        point(0, 1, 1).value("los")


def test_point_survives_its_dictionary() -> None:
    original = ParetoPoint(
        3, None, 1, 0.25, 2.0, None, None, 4, 8, 1.5, 2.5, {"l1": 2.0}, (Layer("w", (2, 4), 4, 1, 2),)
    )
    assert ParetoPoint.from_dict(original.to_dict()) == original
    assert original.to_dict()["sparsity"] == 0.5
