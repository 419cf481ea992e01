"""The figure: a row of plots per problem, a colour per rival, in one HTML file that needs no network."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from benchmarks.contest import Entry, Outcome
from benchmarks.merit import Box, progress
from engine.front import Front

ROW_HEIGHT, MARGIN = 420, 1.05
PLOTS = ("training loss", "training loss, logarithmic", "accuracy", "hypervolume")
COLOURS = qualitative.D3


def save(outcomes: Sequence[Outcome], file: Path) -> None:
    """Draw all problems and write them with plotly's own script inside."""
    drawing = _Drawing(outcomes)
    for row, outcome in enumerate(outcomes, 1):
        box = outcome.box
        drawing.frame(row, box)
        for rival, entry in ((rival, entry) for rival, entries in outcome.entries.items() for entry in entries):
            drawing.add(row, rival, entry, box)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawing.figure.write_html(file, include_plotlyjs=True, full_html=True)


@final
class _Drawing:
    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        titles = [f"{outcome.name}: {plot}" for outcome in outcomes for plot in PLOTS]
        self.figure = make_subplots(rows=len(outcomes), cols=len(PLOTS), subplot_titles=titles)
        rivals = list(dict.fromkeys(rival for outcome in outcomes for rival in outcome.entries))
        self._colours = {rival: COLOURS[i % len(COLOURS)] for i, rival in enumerate(rivals)}
        self._named: set[str] = set()
        self.figure.update_layout(height=ROW_HEIGHT * len(outcomes), template="plotly_white", hovermode="closest")
        for row in range(1, len(outcomes) + 1):
            self._axes(row)

    def frame(self, row: int, box: Box) -> None:
        """Show the box of the hypervolumes; what lies outside is a zoom away."""
        self.figure.update_xaxes(range=[0, box.worst_l1 * MARGIN], row=row, col=1)
        self.figure.update_yaxes(range=[0, box.worst_loss * MARGIN], row=row, col=1)
        self.figure.update_xaxes(range=[math.log10(box.least_l1), math.log10(box.worst_l1 * MARGIN)], row=row, col=2)

    def add(self, row: int, rival: str, entry: Entry, box: Box) -> None:
        front = entry.run.front.non_dominated()
        l1, loss = [p.penalty for p in front], [p.loss for p in front]
        self._line(row, 1, rival, (l1, loss))
        self._line(row, 2, rival, (l1, loss))
        self._accuracy(row, rival, entry)
        steps = progress(entry.run.front, box)
        self._line(row, 4, rival, ([passes for passes, _, _ in steps], [volume for _, _, volume in steps]))

    def _accuracy(self, row: int, rival: str, entry: Entry) -> None:
        for run, dash in ((entry.run, "solid"), (entry.refit, "dot")):
            if run is not None:
                best = _accurate(run.front)
                places = [p.n_nonzero for p in best], [p.metrics["test_accuracy"] for p in best]
                self._line(row, 3, rival, places, dash)

    def _line(
        self, row: int, column: int, rival: str, places: tuple[list[Any], list[Any]], dash: str = "solid"
    ) -> None:
        first = rival not in self._named
        self._named.add(rival)
        style = {"color": self._colours[rival], "dash": dash, "width": 1.5}
        trace = go.Scatter(
            x=places[0],
            y=places[1],
            name=rival,
            legendgroup=rival,
            showlegend=first,
            mode="lines+markers",
            line=style,
            marker={"size": 4},
        )
        self.figure.add_trace(trace, row=row, col=column)

    def _axes(self, row: int) -> None:
        x = ("l1 norm", "l1 norm", "nonzero weights", "passes over the data")
        y = ("training loss", "training loss", "test accuracy (dotted: refitted)", "share of the box")
        for column in range(len(PLOTS)):
            scale = "linear" if column == 0 else "log"
            self.figure.update_xaxes(title_text=x[column], type=scale, row=row, col=column + 1)
            self.figure.update_yaxes(title_text=y[column], row=row, col=column + 1)
        self.figure.update_yaxes(type="log", row=row, col=2)


def _accurate(front: Front) -> Front:
    """The networks that no other beats in nonzero weights and validation accuracy."""
    measured = Front(tuple(p for p in front if "test_accuracy" in p.metrics and p.n_nonzero > 0))
    name = "validation_accuracy"
    by = name if all(name in p.metrics for p in measured) else "loss"
    return measured.non_dominated(("n_nonzero", by))
