"""Best known fronts: one JSON per problem in benchmarks/reference, of pairs (l1, loss)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.front import Front, ParetoPoint

FOLDER = Path(__file__).parent / "reference"


def front(problem: str, folder: Path = FOLDER) -> Front | None:
    """The best known front of a problem; None where there is no file."""
    file = folder / f"{problem}.json"
    return Front(points(json.loads(file.read_text())["front"])) if file.exists() else None


def points(pairs: Iterable[tuple[float, float]]) -> tuple[ParetoPoint, ...]:
    """Pairs of l1 norm and training loss as points of a front; nothing else is known of them."""
    return tuple(ParetoPoint(i, None, 0, loss, l1, None, None, 0, 1, 0.0, 0.0) for i, (l1, loss) in enumerate(pairs))


def join(known: Front | None, found: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-dominated pairs of a front and of others."""
    both = (*(known.points if known else ()), *points(found))
    return [(p.penalty, p.loss) for p in Front(both).non_dominated()]


def in_results(document: dict[str, Any], problem: str) -> list[tuple[float, float]]:
    """All pairs that a file of benchmarks/results has of a problem."""
    runs = document["problems"].get(problem, {"runs": {}})["runs"]
    return [(p["penalty"], p["loss"]) for several in runs.values() for run in several for p in run["points"]]
