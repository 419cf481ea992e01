"""``python -m benchmarks.scaling``: cost of a step as the network grows and of a pass as the data grow, as a figure."""

import argparse
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from benchmarks import record
from benchmarks.refusal import in_a_line
from benchmarks.steps import Bench, times
from engine.spec import JobSpec, Part, shorthand

WIDTHS = (75, 150, 280, 530, 960, 1750, 3126)
SHARES = (0.1, 0.2, 0.5, 1.0)
BATCH = 32
BOUND_BY_CALLS = 3
FEWEST, MOST, WEIGHT_STEPS = 40, 120, 12 * 10**7


@in_a_line
def main() -> None:
    """Print, store and draw the costs."""
    given = _arguments()
    torch.set_num_threads(1)
    networks = [_grown(given, width) for width in WIDTHS]
    data = [_fed(given, share) for share in SHARES]
    file = record.store("scaling", {"network": networks, "data": data})
    figure = _figure(networks, data)
    figure.write_html(file.with_suffix(".html"), config={"showSendToCloud": False, "displaylogo": False})
    _report("weights", networks, BOUND_BY_CALLS)
    _report("samples", data)
    print(file.with_suffix(".html"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=main.__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--network", default="mlp:32", help="for the growing data")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _grown(given: argparse.Namespace, width: int) -> dict[str, Any]:
    """Seconds per step of a network with two hidden layers of that width."""
    spec = JobSpec(Part("mlp", {"hidden": [width, width]}), shorthand(given.data), device="cpu")
    steps = max(FEWEST, min(MOST, WEIGHT_STEPS // width**2))
    bench = Bench(spec, steps, BATCH)
    return {"size": bench.problem.loss.n_params, "seconds": _medians(bench, given.rounds)}


def _fed(given: argparse.Namespace, share: float) -> dict[str, Any]:
    """Seconds per pass over that share of the data."""
    data = shorthand(given.data)
    samples = _loaded(given, data).n_samples
    limited = Part(data.name, {**data.params, "limit": round(share * samples)})
    bench = Bench(JobSpec(shorthand(given.network), limited, device="cpu"), MOST, BATCH)
    n_samples = bench.problem.loss.n_samples
    per_pass = max(1, round(n_samples / BATCH))
    return {"size": n_samples, "seconds": {name: per_pass * s for name, s in _medians(bench, given.rounds).items()}}


def _loaded(given: argparse.Namespace, data: Part) -> Any:
    return Bench(JobSpec(shorthand(given.network), data, device="cpu"), 1, BATCH).problem.loss


def _medians(bench: Bench, rounds: int) -> dict[str, float]:
    return {name: median(seconds) for name, seconds in times(bench, rounds).items()}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the seconds over the sizes, both in logarithms: 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _report(what: str, rows: Sequence[dict[str, Any]], small: int = 0) -> None:
    """Print the seconds, and the exponent of their growth beyond the first `small` rows."""
    names = list(rows[0]["seconds"])
    print(f"\n{what:>12s} " + " ".join(f"{name:>25s}" for name in names))
    for row in rows:
        print(f"{row['size']:12,d} " + " ".join(f"{1e3 * row['seconds'][name]:22.3f} ms" for name in names))
    large = rows[small:]
    slopes = [exponent([r["size"] for r in large], [r["seconds"][name] for r in large]) for name in names]
    print(f"{'exponent':>12s} " + " ".join(f"{slope:25.2f}" for slope in slopes) + f"  from {large[0]['size']:,d} on")


def _figure(networks: Sequence[dict[str, Any]], data: Sequence[dict[str, Any]]) -> go.Figure:
    titles = ("A step, as the network grows", "A pass, as the data grow")
    figure = make_subplots(cols=2, subplot_titles=titles)
    for column, (rows, what, each) in enumerate(((networks, "weights", "step"), (data, "samples", "pass")), 1):
        for trace in _lines(rows, legend=column == 1):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title=what, type="log", row=1, col=column)
        figure.update_yaxes(title=f"CPU seconds per {each}", type="log", row=1, col=column)
    return figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.2})


def _lines(rows: Sequence[dict[str, Any]], legend: bool) -> list[go.Scatter]:
    """One line for every way, and one of linear growth through the last point of the last way."""
    sizes, names = [row["size"] for row in rows], list(rows[0]["seconds"])
    ways = {name: [row["seconds"][name] for row in rows] for name in names}
    last = ways[names[-1]][-1]
    line = {"dash": "dot", "color": "#000000"}
    y = [last * size / sizes[-1] for size in sizes]
    linear = go.Scatter(x=sizes, y=y, name="linear", mode="lines", line=line, showlegend=legend)
    colours = ("#8c8c8c", "#d08a00", "#2a9d5c", "#1f5fbf")
    return [
        go.Scatter(
            x=sizes, y=y, name=name, mode="lines+markers", line={"color": c}, legendgroup=name, showlegend=legend
        )
        for (name, y), c in zip(ways.items(), colours, strict=True)
    ] + [linear]


if __name__ == "__main__":
    main()
