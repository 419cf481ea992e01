"""Results as one JSON document, with the machine, the date and the versions they come from."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import Outcome, Settings
from benchmarks.problems import BENCHMARKS

PACKAGES = ("torch", "numpy", "scikit-learn", "pymoo", "moocore")
CPU_FACTS = Path("/proc/cpuinfo")


def document(settings: Settings, outcomes: Sequence[Outcome], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was measured.

    Parameters
    ----------
    left_out : mapping of str to str
        Problems that did not run, and why.
    """
    return {
        "command": _command(settings, outcomes),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "device": _device(settings.device)},
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "points": settings.points,
        "seeds": settings.seeds,
        "limit_seconds": settings.limit,
        "quick": settings.quick,
        "left_out": dict(left_out),
        "problems": {outcome.name: outcome.to_dict() for outcome in outcomes},
    }


def save(content: dict[str, Any], file: Path) -> None:
    """Write the document; what is no number or infinite becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _command(settings: Settings, outcomes: Sequence[Outcome]) -> str:
    """What gives these results again, but for the folder of the data."""
    words = ["python -m benchmarks", f"--points {settings.points} --seeds {settings.seeds} --device {settings.device}"]
    words += [f"--limit {settings.limit or 0:g}", *(["--quick"] if settings.quick else [])]
    words += [_chosen(outcome) for outcome in outcomes]
    words += [f'--rival "{name}"' for name in settings.rivals]
    return " ".join([*words, *(f'--ours "{name}={method}"' for name, method in settings.ours.items())])


def _chosen(outcome: Outcome) -> str:
    benchmark = outcome.benchmark
    if outcome.name in BENCHMARKS:
        return f"--problem {outcome.name}"
    return f"--network {benchmark.network} --data {Path(benchmark.data).name}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    facts = CPU_FACTS.read_text().splitlines() if CPU_FACTS.exists() else []
    names = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else name
