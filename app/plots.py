"""Figures, built with plotly in Python: the same on the pages and in a notebook.

``front_figure(store.front(3), View(x="n_nonzero", y="test_accuracy")).show(config=CONFIG)``
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import plotly.graph_objects as go

from app.comparing import Compared, Group, Region
from app.wording import duration, label, number, percent, show
from engine.comparison import Attainment
from engine.front import OBJECTIVES, Array, Front, ParetoPoint, is_maximised

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "showTips": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "front"},
}
SPARK_POINTS = 60
LOG_TICKS, LINEAR_TICKS = 4, 8
DEPTHS = {1 / 3: (0.22, "up to 1/3"), 2 / 3: (0.48, "1/3 to 2/3"), 1.0: (0.8, "over 2/3")}
BAND_DEPTH, ROUNDING = 0.16, 1e-9
BELOW_BUTTONS = 96
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a figure; the ground stays transparent."""

    ink: str
    muted: str
    grid: str
    card: str
    series: tuple[str, ...]


THEMES = {
    "light": Theme(
        ink="#1d2733",
        muted="#5b6875",
        grid="#e3e8ed",
        card="#ffffff",
        series=("#1b6ca8", "#b4521a", "#23805a", "#7d4bb0", "#ad2f6d", "#77660c"),
    ),
    "dark": Theme(
        ink="#e4e9ee",
        muted="#9dabb9",
        grid="#2c3742",
        card="#1a2129",
        series=("#6fb7ee", "#f09a62", "#64c898", "#c29be8", "#f08dbb", "#d8c65c"),
    ),
}


@dataclass(frozen=True, slots=True)
class View:
    """What of a front to show, and how.

    Parameters
    ----------
    x, y : str
        Names of numbers of a point (`ParetoPoint.names`).
    log_x, log_y : bool
        Logarithmic axes; points at zero or below are then left out, and counted in the axis title.
    dominated : bool
        Whether to show points that another point beats.
    theme : str
        Key of `THEMES`.
    """

    x: str = "penalty"
    y: str = "loss"
    log_x: bool = True
    log_y: bool = False
    dominated: bool = True
    theme: Literal["light", "dark"] = "light"


def front_figure(front: Front, view: View | None = None) -> go.Figure:
    """The front as a line through its non-dominated points, marked by sweep; dominated points apart.

    A point's index is its ``customdata``. Where an axis is no objective (``lam``, ``effort`` …) domination is told
    by penalty and training loss, otherwise by the two quantities shown.

    Raises
    ------
    UnknownName
        If a point has no such quantity.
    """
    view = view or View()
    shown = [p for p in front if _drawable(p, view)]
    kept = {p.index for p in Front(tuple(shown)).non_dominated(_judges(view))}
    best = sorted((p for p in shown if p.index in kept), key=lambda p: p.value(view.x))
    traces = [_line(best, view), *_sweeps(best, view)]
    if view.dominated:
        traces += _dominated([p for p in shown if p.index not in kept], view)
    return go.Figure(traces, _front_layout(front, shown, view, showlegend=len(traces) > 2))


def compare_figure(compared: Compared, log_x: bool = True, theme: Theme | None = None) -> go.Figure:
    """The fronts of several jobs in the objectives in which they are compared, one colour for each group of seeds.

    Where a group has enough seeds, a band reaches from the best to the worst that its runs attain, about their median.
    A marker's ``customdata`` is the address of its network.
    """
    theme = theme or THEMES["light"]
    frame = _frame(compared, log_x)
    traces = [trace for i, group in enumerate(compared.groups) for trace in _group(compared, group, i, frame, theme)]
    return go.Figure(traces, _compare_layout(compared, log_x, theme))


def difference_figure(
    compared: Compared, pair: tuple[int, int], log_x: bool = True, theme: Theme | None = None
) -> go.Figure:
    """Where one of two groups of seeds attains more often than the other, in its colour, about both medians.

    The depth of a colour says by how large a share of the runs. `pair` is one of ``compared.pairs``.
    """
    theme = theme or THEMES["light"]
    groups = [compared.groups[place] for place in pair]
    shown = replace(compared, fronts=tuple(front for group in groups for front in group.runs))
    frame, colours = _frame(shown, log_x), [theme.series[place % len(theme.series)] for place in pair]
    sides = zip(groups, colours, (1, -1), strict=True)
    regions = compared.regions(*pair)
    ahead = [trace for group, colour, sign in sides for trace in _ahead(group, colour, sign, regions, frame)]
    medians = [
        _median(surfaces, colour, frame)
        for group, colour in zip(groups, colours, strict=True)
        if (surfaces := compared.surfaces(group))
    ]
    layout = _compare_layout(shown, log_x, theme)
    return go.Figure([*ahead, *medians], layout.update(margin_t=BELOW_BUTTONS))


def layers_figure(point: ParetoPoint, theme: str = "light") -> go.Figure:
    """Share of nonzero weights, and of units alive, in each parameter tensor of one network."""
    colours = THEMES[theme]
    layers = point.layers[::-1]
    names = [layer.name for layer in layers]
    weights = _bars(names, [(x.n_nonzero, math.prod(x.shape)) for x in layers], "nonzero weights", colours.series[0])
    units = _bars(names, [(x.units_alive, x.units) for x in layers], "units alive", colours.series[1])
    return go.Figure([units, weights], _layers_layout(len(layers), colours))


def sparkline(front: Front, width: int = 160, height: int = 48) -> str:
    """The front (log penalty against training loss) as a small SVG drawing, in the colour of its surroundings."""
    best = _thinned([p for p in front.non_dominated() if p.penalty > 0], SPARK_POINTS)
    title = f"Front of {len(front)} point{'' if len(front) == 1 else 's'}"
    opening = f'<svg class="spark" role="img" aria-label="{title}" viewBox="0 0 {width} {height}">'
    if not best:
        return f"{opening}</svg>"
    xs = _scaled([math.log(p.penalty) for p in best], 4, width - 4)
    ys = _scaled([-p.loss for p in best], 4, height - 4)
    return f"{opening}{_polyline(xs, ys)}{_dots(xs, ys)}</svg>"


def _drawable(point: ParetoPoint, view: View) -> bool:
    return _on_axis(point.value(view.x), view.log_x) and _on_axis(point.value(view.y), view.log_y)


def _on_axis(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _judges(view: View) -> tuple[str, str]:
    return (view.x, view.y) if _is_objective(view.x) and _is_objective(view.y) else (OBJECTIVES[0], OBJECTIVES[1])


def _is_objective(name: str) -> bool:
    return name in {*OBJECTIVES, "l1", "n_nonzero", "sparsity"} or name.endswith(("_loss", "_accuracy"))


def _line(points: Sequence[ParetoPoint], view: View) -> go.Scatter:
    return go.Scatter(
        x=[p.value(view.x) for p in points],
        y=[p.value(view.y) for p in points],
        mode="lines",
        line={"color": THEMES[view.theme].muted, "width": 1.25},
        hoverinfo="skip",
        showlegend=False,
        name="front",
        uid="front",
    )


def _sweeps(points: Sequence[ParetoPoint], view: View) -> list[go.Scatter]:
    return [
        _markers([p for p in points if p.sweep == sweep], view, f"sweep {sweep + 1}", _sweep_marker(sweep, view))
        for sweep in sorted({p.sweep for p in points})
    ]


def _sweep_marker(sweep: int, view: View) -> dict[str, Any]:
    theme = THEMES[view.theme]
    return {
        "color": theme.series[sweep % len(theme.series)],
        "symbol": SYMBOLS[sweep % len(SYMBOLS)],
        "size": 9,
        "line": {"width": 1, "color": theme.card},
    }


def _dominated(points: Sequence[ParetoPoint], view: View) -> list[go.Scatter]:
    marker = {"color": THEMES[view.theme].muted, "symbol": "circle-open", "size": 6, "opacity": 0.75}
    return [_markers(points, view, "dominated", marker)] if points else []


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where surfaces end that have no end: the least x that can be drawn, the largest x, and the worst y."""

    x: str
    y: str
    log_x: bool
    least: float
    most: float
    worst: float


def _frame(compared: Compared, log_x: bool) -> _Frame:
    x, y = compared.objectives
    values = [(p.value(x), p.value(y)) for front in compared.fronts for p in front]
    drawn = [value for value, _ in values if _on_axis(value, log_x)] or [1.0]
    heights = [value for _, value in values] or [0.0]
    return _Frame(x, y, log_x, min(drawn), max(drawn), min(heights) if is_maximised(y) else max(heights))


def _group(compared: Compared, group: Group, place: int, frame: _Frame, theme: Theme) -> list[go.Scatter]:
    colour = theme.series[place % len(theme.series)]
    marker = {
        "color": colour,
        "symbol": SYMBOLS[place % len(SYMBOLS)],
        "size": 8,
        "line": {"width": 1, "color": theme.card},
    }
    surfaces = compared.surfaces(group)
    lines = [_median(surfaces, colour, frame)] if surfaces else [_path(front, colour, frame) for front in group.fronts]
    band = [_band(surfaces, colour, frame)] if surfaces else []
    small = {**marker, "size": 5, "opacity": 0.7} if surfaces else marker
    return [*band, *lines, _networks(group, small, frame)]


def _path(front: Front, colour: str, frame: _Frame) -> go.Scatter:
    points = sorted(_visible(front, frame), key=lambda p: p.value(frame.x))
    corners = [(p.value(frame.x), p.value(frame.y)) for p in points]
    return _silent(corners, {"mode": "lines", "line": {"color": colour, "width": 1.25}})


def _median(surfaces: Attainment, colour: str, frame: _Frame) -> go.Scatter:
    return _silent(_staircase(surfaces.median, frame), {"mode": "lines", "line": {"color": colour, "width": 2}})


def _band(surfaces: Attainment, colour: str, frame: _Frame) -> go.Scatter:
    outline = _staircase(surfaces.best, frame) + _staircase(surfaces.worst, frame)[::-1]
    style = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": _faint(colour, BAND_DEPTH)}
    return _silent(outline, style)


def _ahead(group: Group, colour: str, sign: int, regions: Sequence[Region], frame: _Frame) -> list[go.Scatter]:
    """A trace for every depth of a group's colour in which any region is."""
    found, traces, least = [(sign * region.share, region) for region in regions], [], 0.0
    for most, (depth, words) in DEPTHS.items():
        corners = [corner for share, r in found if least < share <= most + ROUNDING for corner in _outline(r, frame)]
        name = f"{group.label}, {words} of runs"
        traces += [_region_trace(corners, name, _faint(colour, depth))] if corners else []
        least = most + ROUNDING
    return traces


def _outline(region: Region, frame: _Frame) -> list[tuple[float, float]]:
    """The corners of a region inside the frame, and a gap after them; none where nothing of it is inside."""
    left, right = max(region.best[0], frame.least), min(region.worst[0], frame.most)
    near, far = region.best[1], _nearer(region.worst[1], frame.worst, region.best[1])
    corners = [(left, near), (right, near), (right, far), (left, far), (left, near), (math.nan, math.nan)]
    return corners if left < right else []


def _nearer(one: float, other: float, place: float) -> float:
    return min(one, other, key=lambda value: abs(value - place))


def _region_trace(corners: Sequence[tuple[float, float]], name: str, colour: str) -> go.Scatter:
    style = {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": colour}
    x, y = ([corner[i] for corner in corners] for i in (0, 1))
    return go.Scatter(x=x, y=y, name=name, text=name, uid=name, hoveron="fills", hoverinfo="text", **style)


def _staircase(corners: Array, frame: _Frame) -> list[tuple[float, float]]:
    """The surface through `corners`, from the worst value at the left end of the frame to its right end."""
    steps = [(frame.least, frame.worst)]
    for x, y in corners.tolist():
        reached = max(x, frame.least)
        steps += [(reached, steps[-1][1]), (reached, y)]
    return [*steps, (frame.most, steps[-1][1])]


def _silent(corners: Sequence[tuple[float, float]], style: dict[str, Any]) -> go.Scatter:
    x, y = ([corner[i] for corner in corners] for i in (0, 1))
    return go.Scatter(x=x, y=y, hoverinfo="skip", showlegend=False, **style)


def _faint(colour: str, depth: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{depth})"


def _visible(front: Front, frame: _Frame) -> list[ParetoPoint]:
    return [p for p in front if _on_axis(p.value(frame.x), frame.log_x)]


def _networks(group: Group, marker: dict[str, Any], frame: _Frame) -> go.Scatter:
    """The group's networks; without any, nothing under the group's name, so that the legend still has it."""
    found = [(job, p) for job, front in zip(group.jobs, group.fronts, strict=True) for p in _visible(front, frame)]
    corners = [(p.value(frame.x), p.value(frame.y)) for _, p in found] or [(math.nan, math.nan)]
    return go.Scatter(
        x=[x for x, _ in corners],
        y=[y for _, y in corners],
        customdata=[f"/jobs/{job.id}#point={p.index}" for job, p in found],
        hovertext=[f"<b>job {job.id}</b> · seed {job.spec.get('seed')}<br>{_hover(p)}" for job, p in found],
        hovertemplate="%{hovertext}<extra></extra>",
        mode="markers",
        marker=marker,
        name=group.label,
        uid=group.label,
    )


def _compare_layout(compared: Compared, log_x: bool, theme: Theme) -> go.Layout:
    everything = Front(tuple(p for front in compared.fronts for p in front))
    x, y = compared.objectives
    base = _base(theme)
    return go.Layout(
        **{
            **base,
            "legend": {**base["legend"], "itemsizing": "constant", "itemclick": False, "itemdoubleclick": False},
        },
        xaxis=_axis(x, log_x, _note(everything, x, log_x), theme),
        yaxis=_axis(y, False, _note(everything, y, False), theme),
        uirevision=f"{x} {y} {log_x}",
        showlegend=True,
        hovermode="closest",
        clickmode="event",
        annotations=[] if len(everything) else [_nothing(everything, theme)],
    )


def _markers(points: Sequence[ParetoPoint], view: View, name: str, marker: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=[p.value(view.x) for p in points],
        y=[p.value(view.y) for p in points],
        customdata=[p.index for p in points],
        hovertext=[_hover(p) for p in points],
        hovertemplate="%{hovertext}<extra></extra>",
        mode="markers",
        marker=marker,
        name=name,
        uid=name,
    )


def _hover(point: ParetoPoint) -> str:
    rows = [
        f"<b>point {point.index}</b> · sweep {point.sweep + 1}",
        f"{point.n_nonzero:,} of {point.n_params:,} weights nonzero ({percent(point.sparsity)} zeros)",
        *(f"{label(name)} {show(name, point.value(name))}" for name in _hover_names(point)),
        f"found after {number(point.effort)} epochs, {duration(point.seconds)}",
    ]
    return "<br>".join(rows)


def _hover_names(point: ParetoPoint) -> list[str]:
    names = ["penalty", "loss", "lam", "residual", *point.metrics]
    return [name for name in names if not math.isnan(point.value(name))]


def _front_layout(front: Front, shown: Sequence[ParetoPoint], view: View, showlegend: bool) -> go.Layout:
    theme = THEMES[view.theme]
    return go.Layout(
        **_base(theme),
        xaxis=_axis(view.x, view.log_x, _note(front, view.x, view.log_x), theme),
        yaxis=_axis(view.y, view.log_y, _note(front, view.y, view.log_y), theme),
        uirevision=f"{view.x} {view.y} {view.log_x} {view.log_y}",
        showlegend=showlegend,
        hovermode="closest",
        clickmode="event",
        annotations=[] if shown else [_nothing(front, theme)],
    )


def _base(theme: Theme) -> dict[str, Any]:
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": theme.ink},
        "hoverlabel": {
            "align": "left",
            "bgcolor": theme.card,
            "bordercolor": theme.muted,
            "font": {"family": FONT, "size": 13, "color": theme.ink},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": theme.muted, "activecolor": theme.ink},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 16, "t": 40, "b": 56},
    }


def _note(front: Front, name: str, log: bool) -> str:
    """What an axis cannot show, as a second line of its title."""
    values = [p.value(name) for p in front]
    below = sum(v <= 0 for v in values) if log else 0
    missing = sum(not math.isfinite(v) for v in values)
    said = [f"{below} at 0, not on a log axis"] * (below > 0) + [f"{missing} without a value"] * (missing > 0)
    return f"<br><sub>{'; '.join(said)}</sub>" if said else ""


def _axis(name: str, log: bool, note: str, theme: Theme) -> dict[str, Any]:
    as_percent = name == "sparsity" or name.endswith("accuracy")
    return {
        "type": "log" if log else "linear",
        "title": {"text": label(name) + note, "standoff": 12},
        "automargin": True,
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "showline": True,
        "ticks": "",
        "zeroline": False,
        "tickformat": _tick_format(log, as_percent),
        "nticks": LOG_TICKS if log else LINEAR_TICKS,
    }


def _tick_format(log: bool, as_percent: bool) -> str:
    if as_percent:
        return "~%"
    return "~g" if log else ""


def _nothing(front: Front, theme: Theme) -> dict[str, Any]:
    text = "no point has a value on these axes" if len(front) else "no points yet"
    return {
        "text": text,
        "showarrow": False,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "font": {"color": theme.muted, "size": 15},
    }


def _bars(names: list[str], counts: Sequence[tuple[int, int]], name: str, colour: str) -> go.Bar:
    return go.Bar(
        y=names,
        x=[part / max(whole, 1) for part, whole in counts],
        text=[f"{part:,} of {whole:,}" for part, whole in counts],
        orientation="h",
        textposition="outside",
        cliponaxis=False,
        marker={"color": colour},
        hovertemplate="%{y}: %{text} " + name + "<extra></extra>",
        name=name,
    )


def _layers_layout(n_layers: int, theme: Theme) -> go.Layout:
    base = _base(theme)
    small = {"margin": {"l": 8, "r": 8, "t": 34, "b": 8}, "font": {**base["font"], "size": 12}}
    legend = {**base["legend"], "traceorder": "reversed"}
    return go.Layout(
        **{**base, **small, "legend": legend},
        xaxis={"range": [0, 1.35], "visible": False, "fixedrange": True},
        yaxis={"automargin": True, "fixedrange": True, "ticksuffix": " "},
        barmode="group",
        bargap=0.25,
        height=60 + 46 * n_layers,
    )


def _thinned(points: Sequence[ParetoPoint], limit: int) -> Sequence[ParetoPoint]:
    """At most `limit` of `points`, evenly spread, both ends among them."""
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    least, span = min(values), max(values) - min(values)
    return [low + (high - low) * ((v - least) / span if span else 0.5) for v in values]


def _polyline(xs: Iterable[float], ys: Iterable[float]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>'


def _dots(xs: Iterable[float], ys: Iterable[float]) -> str:
    return "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="currentColor"/>' for x, y in zip(xs, ys, strict=True)
    )
