"""``python -m benchmarks.compacting``: size and latency of exported networks, whole and compact, in onnxruntime."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, final

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.refusal import in_a_line
from benchmarks.timing import ratio, timed
from engine.data.download import data_folder
from engine.errors import InvalidSpec
from engine.export import export
from engine.front import Front, Waypoint
from engine.spec import JobSpec, build, check, rebuild, shorthand

SPARSITIES = (0.9, 0.95, 0.99)
BATCHES = (1, 256)
PENALTIES = ("l1", "group_l2")
SECONDS_PER_ROUND = 0.02


@final
@dataclass(frozen=True)
class Task:
    """A network on data, and how its front is traced."""

    network: str
    data: str
    method: str = "continuation:end=0.995"
    points: int = 25

    def spec(self, folder: Path, penalty: str) -> JobSpec:
        """The job under that penalty."""
        data = shorthand(self.data.format(folder=folder))
        parts = {"penalty": shorthand(penalty), "method": shorthand(self.method), "points": self.points}
        return JobSpec(shorthand(self.network), data, device="cpu", **parts)  # type: ignore[arg-type]


TASKS = {
    "digits": Task("mlp:32", "digits"),
    "lenet": Task("lenet300", "{folder}/mnist10k.npz"),
    "cifar": Task("cifar_cnn", "{folder}/cifar12k.npz:limit=2000", "continuation:end=0.995,quality=draft", 15),
}


@final
@dataclass(frozen=True)
class Row:
    """One network, whole and compact; latencies are medians of the ratios whole to compact within a round."""

    task: str
    penalty: str
    sparsity: float
    accuracy: float
    bytes_before: int
    bytes: int
    n_params_before: int
    n_params: int
    multiply_adds_before: int
    multiply_adds: int
    max_difference: float
    faster: dict[int, float]


@in_a_line
def main() -> None:
    """Trace, pick, export both ways, time both, print and store."""
    given = _arguments()
    torch.set_num_threads(1)
    rows = []
    for name in given.task or TASKS:
        for penalty in given.penalty or PENALTIES:
            for row in measure(name, TASKS[name], penalty, given.data_folder, given.rounds):
                print(_line(row), flush=True)
                rows.append(row)
    print(record.store("compacting", {"rows": [asdict(row) for row in rows]}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compacting", description=main.__doc__)
    parser.add_argument("--task", action="append", choices=TASKS, help="may be repeated; all by default")
    parser.add_argument("--penalty", action="append", help="may be repeated; l1 and group_l2 by default")
    parser.add_argument("--data-folder", type=Path, default=data_folder())
    parser.add_argument("--rounds", type=int, default=21)
    return parser.parse_args()


def measure(name: str, task: Task, penalty: str, folder: Path, rounds: int) -> list[Row]:
    """One row for each network that one of `SPARSITIES` picks."""
    spec = task.spec(folder, penalty)
    experiment, facts = build(spec, {}), check(spec, {})
    waypoints = list(experiment.tracer.trace(experiment.problem))
    samples = torch.from_numpy(experiment.dataset.X_test)
    return [
        _row((name, penalty), rebuild(spec, facts, waypoint), waypoint, samples, rounds)
        for waypoint in _chosen(waypoints)
    ]


def _chosen(waypoints: Sequence[Waypoint]) -> list[Waypoint]:
    """The networks of least training loss with at least so many zeros, each once."""
    front, found = Front(tuple(waypoint.point for waypoint in waypoints)), list[int]()
    for sparsity in SPARSITIES:
        with contextlib.suppress(InvalidSpec):
            found.append(front.at_sparsity(sparsity).index)
    return [waypoint for waypoint in waypoints if waypoint.point.index in found]


def _row(names: tuple[str, str], network: nn.Module, waypoint: Waypoint, samples: Tensor, rounds: int) -> Row:
    whole = export("onnx", network, samples, {})
    compact = export("onnx", network, samples, {}, compact=True)
    facts = {name: value for name, value in compact.facts.items() if name in Row.__annotations__}
    faster = {size: speedup(whole.payload, compact.payload, samples[:size].numpy(), rounds) for size in BATCHES}
    point = waypoint.point
    return Row(*names, point.sparsity, point.metrics["test_accuracy"], **facts, faster=faster)


def speedup(whole: bytes, compact: bytes, samples: "np.ndarray[Any, Any]", rounds: int) -> float:
    """How many times faster the second program answers, on one thread, in rounds that take turns."""
    runs = [_runner(payload, samples) for payload in (whole, compact)]
    repeats = [max(1, round(SECONDS_PER_ROUND / _pace(run))) for run in runs]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, count, into in zip(runs, repeats, seconds, strict=True):
            into.append(timed(_again, run, count)[1] / count)
    return ratio(*seconds)


def _runner(payload: bytes, samples: "np.ndarray[Any, Any]") -> Callable[[], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": samples})


def _pace(run: Callable[[], Any]) -> float:
    """Seconds of one call, once it is warm."""
    return median(timed(_again, run, 10)[1] / 10 for _ in range(5))


def _again(run: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        run()


def _line(row: Row) -> str:
    """A row of a table in Markdown."""
    pairs = [(row.bytes_before, row.bytes), (row.n_params_before, row.n_params)]
    pairs.append((row.multiply_adds_before, row.multiply_adds))
    cells = [row.task, row.penalty, f"{100 * row.sparsity:.1f} %", f"{100 * row.accuracy:.1f} %"]
    cells += [f"{before:,} → {after:,}" for before, after in pairs]
    return "| " + " | ".join(cells + [f"{times:.2f}" for times in row.faster.values()]) + " |"


if __name__ == "__main__":
    main()
