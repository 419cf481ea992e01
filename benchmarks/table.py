"""The table: a row per figure of merit, a column per rival, medians with the least and the most."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from benchmarks.contest import Outcome
from benchmarks.merit import SPARSITIES
from benchmarks.rivals import REFERENCE

ROWS = (
    "points on the front",
    "hypervolume",
    "hypervolume, log l1",
    "hypervolume / best known",
    "widest gap / median",
    "residual / lambda, median",
    "residual / lambda, worst",
    "violation / lambda, median",
    "dominated by ours",
    "dominates of ours",
    "ours no higher",
    "largest gap",
    "no higher than the reference",
    *(f"test accuracy at {s:.0%}{after}" for after in ("", ", refitted") for s in SPARSITIES),
    "passes",
    "passes / dense",
    "passes / reference",
    "CPU seconds",
    "seconds / dense",
    "seconds / reference",
    "refit passes",
    "refit CPU seconds",
)

COMPARED = (
    "/ reference: as a share of what the reference algorithm spent.",
    "no higher than the reference: share of the reference algorithm's points at whose l1 norm a front is no higher.",
)
REFITTED = (
    "refitted: the product's refit ({}) of a dozen networks of the run: trained on without the penalty, with their own"
    " support or the largest weights of a denser one. Only for rivals whose penalty shrinks weights; what it costs"
    " stands in rows of its own."
)


def table(outcome: Outcome) -> str:
    """One problem as a Markdown table, with what did not run or run to its end beneath."""
    rivals, figures = list(outcome.entries), outcome.figures()
    rows = [[row, *(_cell([found.get(row) for found in figures[r]]) for r in rivals)] for row in ROWS]
    kept = [row for row in rows if any(row[1:])]
    lines = _aligned([[outcome.name, *rivals], *kept])
    return "\n".join([_heading(outcome), "", *lines, "", *_notes(outcome)])


def left_out(reasons: Mapping[str, str]) -> str:
    """A line for each problem that did not run."""
    return "\n".join(f"LEFT OUT: {name}: {reason}" for name, reason in reasons.items())


def _heading(outcome: Outcome) -> str:
    units, box = outcome.units, outcome.box
    accuracies = [unit.metrics["test_accuracy"] for unit in units if "test_accuracy" in unit.metrics]
    accuracy = f"test accuracy {median(accuracies):.4f} " if accuracies else ""
    return (
        f"{outcome.benchmark.network} on {outcome.benchmark.data}, medians [least, most] of {len(units)} seeds.\n"
        f"dense training: {accuracy}after {median(unit.passes for unit in units):g} passes,"
        f" {median(unit.seconds for unit in units):.3g} CPU seconds: the unit of cost.\n"
        f"Box of the hypervolumes: l1 up to {box.worst_l1:.6g} (logarithmic from {box.least_l1:.6g}),"
        f" loss up to {box.worst_loss:.6g}."
    )


def _cell(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if not numbers:
        return ""
    middle, low, high = (f"{value:.3g}" for value in (median(numbers), min(numbers), max(numbers)))
    missing = len(values) - len(numbers)
    spread = "" if low == high else f" [{low}, {high}]"
    return middle + spread + (f" ({missing} of {len(values)} have none)" if missing else "")


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for place, row in enumerate(rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if place == 0:
            yield "| " + " | ".join("-" * width for width in widths) + " |"


def _notes(outcome: Outcome) -> list[str]:
    ended = [
        f"{name}, seed {entry.seed}: {run.ended}"
        for name, entries in outcome.entries.items()
        for entry in entries
        for run in (entry.run, entry.refit)
        if run is not None and run.ended
    ]
    refused = [f"{name} does not run here: {reason}." for name, reason in outcome.refused.items()]
    return [*_legend(outcome), *ended, *refused]


def _legend(outcome: Outcome) -> list[str]:
    """What the rows of this table mean, as far as their names do not say it."""
    refits = any(entry.refit for entries in outcome.entries.values() for entry in entries)
    return [
        "/ dense: in units of the dense training.",
        *(COMPARED if REFERENCE in outcome.entries else ()),
        *([REFITTED.format(outcome.refit)] if refits else []),
    ]


def printed(outcomes: Sequence[Outcome], reasons: Mapping[str, str]) -> str:
    """All problems, and those that were left out first and last, so that nobody misses them."""
    parts = [left_out(reasons), *(table(outcome) for outcome in outcomes), left_out(reasons)]
    return "\n\n".join(part for part in parts if part)
