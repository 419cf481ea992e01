"""``python -m benchmarks``: one table, and the same as JSON in benchmarks/results."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.rivals import Run, accuracy_at, dense, gradual_pruning, lambda_grid, ours
from engine.spec import JobSpec, shorthand

SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)
RIVALS = {"paretopath": ours, "lambda grid": lambda_grid, "gradual pruning": gradual_pruning}


def main() -> None:
    """Run all rivals over all seeds and print their medians."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    seeds = [_seed(given, seed) for seed in range(given.seeds)]
    _report(given, seeds)
    _save(given, seeds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--network", default="mlp:32")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _seed(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    spec = JobSpec(shorthand(given.network), shorthand(given.data), points=given.points, seed=seed)
    metrics, cost = dense(spec)
    runs = {name: run(spec) for name, run in RIVALS.items()}
    top = max(p.penalty for p in runs["paretopath"].front)
    reference = (top, max(p.loss for r in runs.values() for p in r.front.non_dominated()))
    found = {name: _figures(run, reference, cost.passes, cost.seconds) for name, run in runs.items()}
    return {"dense": {"test_accuracy": metrics["test_accuracy"], **asdict(cost)}, **found}


def _figures(run: Run, reference: tuple[float, float], passes: float, seconds: float) -> dict[str, Any]:
    front = run.front.non_dominated()
    inside = [p for p in front if p.penalty <= reference[0]]
    gaps = np.diff(np.log([p.penalty for p in front if p.penalty > 0]))
    return {
        "points": len(front),
        "hypervolume": type(front)(tuple(inside)).hypervolume(reference) / (reference[0] * reference[1]),
        "widest gap / median": float(gaps.max() / np.median(gaps)) if len(gaps) else float("nan"),
        "passes / dense": run.cost.passes / passes,
        "seconds / dense": run.cost.seconds / seconds,
        **{f"accuracy at {s:.0%}": a for s, a in zip(SPARSITIES, accuracy_at(front, SPARSITIES), strict=True)},
    }


def _report(given: argparse.Namespace, seeds: Sequence[dict[str, Any]]) -> None:
    accuracy = median(seed["dense"]["test_accuracy"] for seed in seeds)
    passes = median(seed["dense"]["passes"] for seed in seeds)
    print(
        f"{given.network} on {Path(given.data).name}, {given.points} points, medians (least to most) of {given.seeds}"
    )
    print(f"dense training: test accuracy {accuracy:.4f} after {passes:g} passes")
    for name in RIVALS:
        print(f"\n{name}")
        for figure in seeds[0][name]:
            values = [seed[name][figure] for seed in seeds]
            print(f"  {figure:22s} {median(values):9.4f}  ({min(values):.4f} to {max(values):.4f})")


def _save(given: argparse.Namespace, seeds: Sequence[dict[str, Any]]) -> None:
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    about = {"date": now.isoformat(), "machine": platform.processor() or platform.machine(), "threads": given.threads}
    about |= {"python": platform.python_version(), "torch": version("torch"), "data": Path(given.data).name}
    content = {**about, "network": given.network, "points": given.points, "seeds": list(seeds)}
    (folder / f"{now:%Y%m%dT%H%M%S}.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
