"""Figures of merit, attainment and sizes against what their definitions say, counted by brute force."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comparison import attainment, attainment_difference, compare, sparse_bytes
from engine.front import Array, Front, Layer
from tests.storage.examples import a_point

SIDE = 6
CELLS = [(x + 0.5, y + 0.5) for x, y in product(range(SIDE), repeat=2)]

FRONTS = st.lists(st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)), min_size=1, max_size=6)
RUNS = st.lists(FRONTS, min_size=1, max_size=4)
FEW = settings(max_examples=40)
Pairs = Sequence[tuple[float, float]]


def front(pairs: Pairs) -> Front:
    return Front(tuple(a_point(i, penalty=x, loss=y) for i, (x, y) in enumerate(pairs)))


def attains(pairs: Pairs, cell: tuple[float, float]) -> bool:
    return any(x <= cell[0] and y <= cell[1] for x, y in pairs)


def best(pairs: Pairs) -> set[tuple[float, float]]:
    return {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)}


@FEW
@given(st.lists(FRONTS, min_size=1, max_size=3))
def test_the_hypervolume_counts_the_cells_that_a_front_attains(fronts: list[Pairs]) -> None:
    found = compare([front(pairs) for pairs in fronts])
    kept = [best(pairs) for pairs in fronts]
    reference = [max(p[i] for pairs in kept for p in pairs) for i in (0, 1)]
    ideal = [min(p[i] for pairs in kept for p in pairs) for i in (0, 1)]
    assert (found.ideal, found.reference) == (tuple(ideal), tuple(reference))
    area = math.prod(b - a for a, b in zip(ideal, reference, strict=True))
    for pairs, merit in zip(kept, found.merits, strict=True):
        inside = [cell for cell in CELLS if cell[0] < reference[0] and cell[1] < reference[1]]
        assert merit.hypervolume == pytest.approx(sum(attains(list(pairs), cell) for cell in inside))
        assert merit.share == pytest.approx(merit.hypervolume / area) if area else math.isnan(merit.share)


@FEW
@given(FRONTS, FRONTS)
def test_coverage_is_the_share_that_is_equalled_or_beaten_both_ways(one: Pairs, other: Pairs) -> None:
    found = compare([front(one), front(other)]).coverage
    for (i, a), (j, b) in product(enumerate((best(one), best(other))), repeat=2):
        assert found[i][j] == pytest.approx(sum(attains(list(a), p) for p in b) / len(b))


@FEW
@given(FRONTS, FRONTS)
def test_epsilon_is_the_least_shift_that_covers(one: Pairs, other: Pairs) -> None:
    found = compare([front(one), front(other)])
    ideal, reference = np.array(found.ideal), np.array(found.reference)
    width = np.where(reference > ideal, reference - ideal, 1.0)
    scaled = [[(np.array(p) - ideal) / width for p in best(pairs)] for pairs in (one, other)]
    for (i, a), (j, b) in product(enumerate(scaled), repeat=2):
        expected = max(min((p - q).max() for p in a) for q in b)
        assert found.epsilon[i][j] == pytest.approx(expected, abs=1e-12)


@FEW
@given(FRONTS, FRONTS)
def test_leading_points_and_distances_to_them(one: Pairs, other: Pairs) -> None:
    found = compare([front(one), front(other)])
    leading = best([*one, *other])
    ideal, reference = np.array(found.ideal), np.array(found.reference)
    width = np.where(reference > ideal, reference - ideal, 1.0)
    for pairs, merit in zip((one, other), found.merits, strict=True):
        assert merit.leading == len(best(pairs) & leading)
        distances = [
            min(np.linalg.norm(np.maximum(np.subtract(p, z) / width, 0.0)) for p in best(pairs)) for z in leading
        ]
        assert merit.igd_plus == pytest.approx(np.mean(distances), abs=1e-12)
        assert (merit.epsilon == 0) == (merit.leading == len(leading)) == (merit.igd_plus == 0)


def test_more_can_be_better() -> None:
    points = [a_point(i, n_nonzero=i, metrics={"test_accuracy": 0.1 * i}) for i in (1, 2)]
    worse = a_point(2, n_nonzero=2, metrics={"test_accuracy": 0.15})
    found = compare([Front(tuple(points)), Front((worse,))], ("n_nonzero", "test_accuracy"))
    assert found.coverage == ((1.0, 1.0), (0.0, 1.0))
    assert found.ideal == (1.0, -0.2)


def test_empty_fronts_attain_nothing() -> None:
    found = compare([front([(1, 2), (2, 1)]), Front(())])
    assert found.merits[1].hypervolume == 0
    assert found.merits[1].epsilon == found.merits[1].igd_plus == math.inf
    assert math.isnan(found.coverage[0][1])
    assert found.coverage[1][0] == 0
    assert compare([Front(()), Front(())]).reference == ()
    assert compare([]).merits == ()


@FEW
@given(RUNS)
def test_attainment_surfaces_say_how_many_runs_attain(runs: list[Pairs]) -> None:
    found = attainment([front(pairs) for pairs in runs])
    needed = {"best": 1, "median": math.ceil(len(runs) / 2), "worst": len(runs)}
    for level, count in needed.items():
        corners = [tuple(corner) for corner in getattr(found, level).tolist()]
        assert corners == sorted(corners)
        assert set(corners) == best(corners)
        for cell in CELLS:
            assert attains(corners, cell) == (sum(attains(pairs, cell) for pairs in runs) >= count)


@pytest.mark.slow
@FEW
@given(RUNS, RUNS)
def test_differences_are_those_of_the_shares_that_attain(first: list[Pairs], second: list[Pairs]) -> None:
    rectangles = attainment_difference([front(p) for p in first], [front(p) for p in second])
    for cell in CELLS:
        shares = [sum(attains(pairs, cell) for pairs in runs) / len(runs) for runs in (first, second)]
        holding = [row for row in rectangles if inside(row, cell)]
        assert len(holding) == (abs(shares[0] - shares[1]) > 1e-12)
        assert all(row[4] == pytest.approx(shares[0] - shares[1]) for row in holding)


def inside(row: Array, cell: tuple[float, float]) -> bool:
    return bool(row[0] <= cell[0] < row[2] and row[1] <= cell[1] < row[3])


def test_a_file_costs_its_nonzeros_and_the_entropy_of_their_places() -> None:
    half = a_point(n_params=64, n_nonzero=32, layers=(Layer("a", (8, 8), 32, 8, 8),))
    assert sparse_bytes(half) == 4 * 32 + 64 / 8
    full = (Layer("a", (32,), 32, 32, 32), Layer("b", (32,), 0, 0, 32))
    assert sparse_bytes(replace(half, layers=full)) == 4 * 32
    assert sparse_bytes(replace(half, layers=())) == sparse_bytes(half)
    assert sparse_bytes(replace(half, n_nonzero=0, layers=())) == 0
