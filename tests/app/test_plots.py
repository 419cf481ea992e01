"""Figures say what the points say: nothing lost, nothing invented, legible in both themes."""

import json
import math
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.plots import CONFIG, SPARK_POINTS, THEMES, View, front_figure, layers_figure, sparkline
from engine.errors import UnknownName
from engine.front import Front, ParetoPoint
from tests.storage.examples import a_point


def traced(*pairs: tuple[float, float], **values: Any) -> Front:
    """A front with the given (penalty, loss) pairs."""
    return Front(tuple(a_point(i, penalty=x, loss=y, **values) for i, (x, y) in enumerate(pairs)))


def marked(front: Front, view: View | None = None) -> dict[str, list[int]]:
    """Indices of the points by the name of the trace that shows them."""
    figure = front_figure(front, view)
    return {trace.name: list(trace.customdata) for trace in figure.data if trace.mode == "markers"}


def test_every_sweep_has_its_own_colour_and_symbol() -> None:
    points = [a_point(i, penalty=3.0 - i, loss=1.0 + i, sweep=i % 2) for i in range(3)]
    first, second = [t for t in front_figure(Front(tuple(points))).data if t.mode == "markers"]
    assert (first.name, list(first.customdata)) == ("sweep 1", [2, 0])
    assert (second.name, list(second.customdata)) == ("sweep 2", [1])
    assert first.marker.symbol != second.marker.symbol
    assert first.marker.color != second.marker.color


def test_dominated_points_stand_apart_and_can_be_left_out() -> None:
    front = traced((1, 3), (2, 2), (3, 1), (3, 3))
    assert marked(front) == {"sweep 1": [0, 1, 2], "dominated": [3]}
    assert marked(front, View(dominated=False)) == {"sweep 1": [0, 1, 2]}


def test_domination_is_told_by_the_axes_shown() -> None:
    worse, better = ({"test_accuracy": 0.8}, {"test_accuracy": 0.9})
    front = Front((a_point(0, n_nonzero=4, metrics=better), a_point(1, n_nonzero=5, metrics=worse)))
    view = View(x="n_nonzero", y="test_accuracy")
    assert marked(front, view) == {"sweep 1": [0], "dominated": [1]}


def test_an_axis_that_is_no_objective_leaves_domination_to_penalty_and_loss() -> None:
    front = traced((1, 3), (2, 2), (3, 3))
    assert marked(front, View(x="effort")) == {"sweep 1": [0, 1], "dominated": [2]}


def test_the_line_runs_through_the_front_from_left_to_right() -> None:
    line = front_figure(traced((3, 1), (1, 3), (2, 2), (2, 4))).data[0]
    assert list(line.x) == [1, 2, 3]
    assert list(line.y) == [3, 2, 1]


def test_a_log_axis_says_what_it_cannot_show() -> None:
    front = traced((0, 3), (2, 2), (3, 1))
    assert marked(front) == {"sweep 1": [1, 2]}
    assert "1 at 0, not on a log axis" in front_figure(front).layout.xaxis.title.text
    assert marked(front, View(log_x=False)) == {"sweep 1": [0, 1, 2]}
    assert front_figure(front, View(log_x=False)).layout.xaxis.title.text == "penalty"


def test_points_without_a_value_are_counted() -> None:
    front = Front((a_point(0, lam=None), a_point(1, lam=2.0)))
    figure = front_figure(front, View(x="lam", log_x=False))
    assert "1 without a value" in figure.layout.xaxis.title.text


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_never_reach_the_browser(loss: float) -> None:
    front = traced((1, 2), (2, loss))
    document = front_figure(front).to_json()
    assert json.loads(document, parse_constant=pytest.fail)["data"][1]["customdata"] == [0]


def test_an_unknown_quantity_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"'weight'.*known: .*n_nonzero"):
        front_figure(traced((1, 1)), View(x="weight"))


def test_an_empty_front_says_so() -> None:
    figure = front_figure(Front(()))
    assert figure.layout.annotations[0].text == "no points yet"
    assert not any(trace.x for trace in figure.data)


def test_hover_tells_every_value() -> None:
    point = a_point(7, metrics={"l1": 0.5, "test_accuracy": 0.875, "depth": 3.0})
    text = front_figure(Front((point,))).data[1].hovertext[0]
    for said in (
        "point 7",
        "7 of 8 weights",
        "12.5 % zeros",
        "test accuracy 87.5 %",
        "depth 3",
        "trade-off λ 0.007812",
    ):
        assert said in text


def test_new_points_keep_the_zoom_and_new_axes_reset_it() -> None:
    fewer, more = traced((2, 2)), traced((2, 2), (3, 1))
    assert front_figure(fewer).layout.uirevision == front_figure(more).layout.uirevision
    assert front_figure(more).layout.uirevision != front_figure(more, View(log_y=True)).layout.uirevision


FINITE = st.floats(-5, 5)


@pytest.mark.slow
@given(st.lists(st.tuples(FINITE, FINITE), max_size=12), st.booleans(), st.booleans())
def test_every_drawable_point_is_shown_exactly_once(pairs: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:
    front = traced(*pairs)
    shown = [i for indices in marked(front, View(log_x=log_x, log_y=log_y)).values() for i in indices]
    drawable = [i for i, (x, y) in enumerate(pairs) if (x > 0 or not log_x) and (y > 0 or not log_y)]
    assert sorted(shown) == drawable


def test_layers_are_shown_as_shares_and_counts() -> None:
    units, weights = layers_figure(a_point(5)).data
    assert (list(weights.y), list(weights.text)) == (["0.bias", "0.weight"], ["0 of 2", "5 of 6"])
    assert list(weights.x) == [0, 5 / 6]
    assert list(units.text) == ["0 of 2", "2 of 2"]


def test_a_point_without_layers_has_an_empty_figure() -> None:
    assert [len(bars.y) for bars in layers_figure(replace(a_point(), layers=())).data] == [0, 0]


@pytest.mark.parametrize("pairs", [(), ((1, 1),), ((1, 3), (2, 2), (4, 1), (4, 4)), ((0, 9), (1, 1))])
def test_the_sparkline_draws_the_front_and_nothing_else(pairs: tuple[tuple[float, float], ...]) -> None:
    front = traced(*pairs)
    drawing = ElementTree.fromstring(sparkline(front))
    assert len(drawing.findall("circle")) == sum(p.penalty > 0 for p in front.non_dominated())
    assert f"of {len(pairs)} point" in drawing.attrib["aria-label"]


def test_the_sparkline_of_a_long_front_is_thinned_but_keeps_its_ends() -> None:
    drawing = ElementTree.fromstring(sparkline(traced(*((1.0 + i, 1000.0 - i) for i in range(1000)))))
    dots = [float(circle.attrib["cx"]) for circle in drawing.findall("circle")]
    assert len(dots) == SPARK_POINTS
    assert (dots[0], dots[-1]) == (4.0, 156.0)


def test_figures_never_offer_to_send_data_away() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""
    assert CONFIG["displaylogo"] is False


@pytest.mark.parametrize("name", THEMES)
def test_colours_can_be_told_from_their_ground(name: str) -> None:
    theme = THEMES[name]
    assert contrast(theme.ink, theme.card) >= 7
    assert contrast(theme.muted, theme.card) >= 4.5
    assert min(contrast(colour, theme.card) for colour in theme.series) >= 4.5


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_large_front_stays_a_small_document() -> None:
    points: list[ParetoPoint] = [a_point(i, penalty=1000 - i, loss=1 + i) for i in range(1000)]
    assert len(front_figure(Front(tuple(points))).to_json()) < 600_000
