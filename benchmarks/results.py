"""Results of a contest as one JSON document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.contest import Outcome, Settings
from benchmarks.problems import BENCHMARKS


def document(settings: Settings, outcomes: Sequence[Outcome], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was measured.

    Parameters
    ----------
    left_out : mapping of str to str
        Problems that did not run, and why.
    """
    return {
        "command": _command(settings, outcomes),
        **record.origin(settings.device),
        "points": settings.points,
        "seeds": settings.seeds,
        "first_seed": settings.first,
        "limit_seconds": settings.limit,
        "quick": settings.quick,
        "left_out": dict(left_out),
        "problems": {outcome.name: outcome.to_dict() for outcome in outcomes},
    }


def _command(settings: Settings, outcomes: Sequence[Outcome]) -> str:
    """What gives these results again, but for the folder of the data."""
    words = ["python -m benchmarks", f"--points {settings.points} --seeds {settings.seeds} --device {settings.device}"]
    words += [f"--first-seed {settings.first}"] if settings.first else []
    words += [f"--limit {settings.limit or 0:g}", "--quick" if settings.quick else f'--refit "{settings.refit}"']
    words += [_chosen(outcome) for outcome in outcomes]
    words += [f'--rival "{name}"' for name in settings.rivals]
    return " ".join([*words, *(f'--ours "{name}={method}"' for name, method in settings.ours.items())])


def _chosen(outcome: Outcome) -> str:
    benchmark = outcome.benchmark
    if outcome.name in BENCHMARKS:
        return f"--problem {outcome.name}"
    return f"--network {benchmark.network} --data {Path(benchmark.data).name}"
