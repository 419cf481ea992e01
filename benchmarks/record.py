"""JSON files that say on which machine, when and with which versions their figures came about."""

import json
import math
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scikit-learn", "pymoo", "moocore")
CPU_FACTS = Path("/proc/cpuinfo")


def origin(device: str = "cpu") -> dict[str, Any]:
    """Date, machine, threads and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "device": _device(device)},
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def stamp() -> str:
    """The time, as the beginning of a file's name."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}"


def save(content: dict[str, Any], file: Path) -> None:
    """Write a document; what is no number or infinite becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def store(name: str, content: dict[str, Any], device: str = "cpu") -> Path:
    """Save what a program measured, and its origin, in benchmarks/results."""
    file = RESULTS / f"{stamp()}-{name}.json"
    save({**origin(device), **content}, file)
    return file


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
