"""Registries: settings from signatures, and parts from installed packages."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from engine.errors import InvalidSpec, UnknownName
from engine.registry import OneOf, checked_settings, extend, fits, lookup, parameters, summary


def part(
    size: int,
    *,
    width: Annotated[int, Ge(1)] = 3,
    kind: Literal["a", "b"] = "a",
    rates: tuple[float, ...] = (),
    like: Annotated[str, OneOf({"x": 1, "y": 2})] = "x",
    needed: bool,
) -> None:
    """Do a thing.

    Parameters
    ----------
    width : int
        How wide,
        in units.
    """


def test_settings_are_the_keyword_only_parameters() -> None:
    found = {p.name: p for p in parameters(part)}
    assert list(found) == ["width", "kind", "rates", "like", "needed"]
    assert found["width"].description == "How wide, in units."
    assert found["like"].annotation == Literal["x", "y"]
    assert found["needed"].required
    assert summary(part) == "Do a thing."


def test_lists_become_tuples() -> None:
    assert checked_settings("part", "p", parameters(part), {"rates": [1, 2.5], "needed": True})["rates"] == (1, 2.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"needed": True, "wide": 2}, "'wide'.*width"),
        ({}, "needs the setting 'needed'"),
        ({"needed": 1}, "needed 1 is not true or false"),
        ({"needed": True, "width": 0}, "width 0 is not a whole number at least 1"),
        ({"needed": True, "width": True}, "width True"),
        ({"needed": True, "kind": "c"}, "one of a, b"),
        ({"needed": True, "rates": ["fast"]}, "each a number"),
        ({"needed": True, "like": "z"}, "one of x, y"),
    ],
)
def test_settings_that_do_not_fit_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        checked_settings("part", "p", parameters(part), given)


def test_optional_settings_take_null() -> None:
    assert fits(int | None, None)
    assert not fits(int | None, "1")


def test_lookup_names_what_is_known() -> None:
    with pytest.raises(UnknownName, match="'c'; known: a, b"):
        lookup("part", {"b": 1, "a": 2}, "c")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts offered by a package: one that works, one that does not."""
    (tmp_path / "offered.py").write_text("def good():\n    return 'good'\n")
    about = tmp_path / "offered-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[paretopath.test]\ngood = offered:good\nbad = missing:bad\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_installed_parts_are_added_and_built_in_ones_stay() -> None:
    registry: dict[str, Any] = {"own": part}
    extend(registry, "paretopath.test")
    assert sorted(registry) == ["bad", "good", "own"]
    assert registry["good"]() == "good"


@pytest.mark.usefixtures("installed")
def test_a_part_that_cannot_be_loaded_says_so_when_used_and_stops_nothing_else() -> None:
    registry: dict[str, Any] = {}
    extend(registry, "paretopath.test")
    assert parameters(registry["bad"]) == []
    with pytest.raises(InvalidSpec, match=r"'bad' of entry point 'missing:bad'.*No module named 'missing'"):
        registry["bad"](1)
