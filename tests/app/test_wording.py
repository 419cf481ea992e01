"""Numbers, times and certificates in words."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.wording import ago, certificate, duration, label, number, part, percent, short, show
from tests.storage.examples import a_point


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (0.12345, "0.1235"),
        (12.0, "12"),
        (1234.5, "1,234"),
        (1.5e-5, "1.500e-5"),
        (2.5e9, "2.500e9"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers_take_few_characters(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("fraction", "said"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.95, "95 %"), (0.9996, "> 99.9 %"), (0.0004, "0.04 %"), (0.1234, "12.3 %")],
)
def test_percentages_are_100_or_0_only_when_they_are(fraction: float, said: str) -> None:
    assert percent(fraction) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "0.2 s"), (42, "42 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (90_061, "25 h 01 min")],
)
def test_durations_have_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "just now"), (59, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (2e5, "2 days ago")],
)
def test_ages_have_one_unit(seconds: float, said: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sparsity", 0.5, "50 %"),
        ("test_accuracy", 0.975, "97.5 %"),
        ("n_nonzero", 12345.0, "12,345"),
        ("loss", 0.25, "0.25"),
        ("lam", None, "–"),
        ("loss", float("nan"), "–"),
    ],
)
def test_a_value_is_shown_by_what_it_is(name: str, value: float | None, said: str) -> None:
    assert show(name, value) == said


def test_quantities_of_other_packages_have_readable_labels() -> None:
    assert label("energy_per_image") == short("energy_per_image") == "energy per image"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("l1", "l1"),
        ({"name": "l1", "params": {}}, "l1"),
        ({"name": "mlp", "params": {"hidden": [20, 20], "bias": False}}, "mlp (hidden 20-20, bias False)"),
    ],
)
def test_parts_are_one_phrase(value: Any, said: str) -> None:
    assert part(value) == said


@pytest.mark.parametrize(
    ("lam", "residual", "grade", "relative"),
    [
        (0.5, 0.0, "exact", 0.0),
        (0.5, 0.005, "tight", 0.01),
        (0.5, 0.5, "fair", 1.0),
        (0.5, 5.0, "loose", 10.0),
        (5e-324, 5.0, "loose", math.inf),
        (0.0, 0.1, "fair", None),
        (None, None, "none", None),
        (None, 0.1, "none", None),
        (0.5, float("nan"), "none", None),
    ],
)
def test_certificates_are_graded(lam: float | None, residual: float | None, grade: str, relative: float | None) -> None:
    found = certificate(a_point(lam=lam, residual=residual))
    assert (found.grade, found.relative) == (grade, relative)
    assert found.sentence.endswith(".")
