"""``python -m benchmarks.population``: what a member of a population costs beside the network alone."""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import final

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.refusal import in_a_line
from benchmarks.timing import ratio
from engine.losses import Batch, Loss
from engine.population import OneByOne, PopulationLoss, population_loss
from engine.spec import JobSpec, build, shorthand
from engine.tracers.population import shuffled

REPEATS, SHORTEST = 7, 0.05


@final
@dataclass(frozen=True, slots=True)
class Row:
    """Seconds per member and step, medians: of the members one by one, and of all stacked; and how often faster."""

    members: int
    alone: float
    stacked: float
    speedup: float


@in_a_line
def main() -> None:
    """Print and store the time of a mini-batch's gradient per member, one by one and stacked."""
    given = _arguments()
    torch.set_num_threads(1)
    loss = build(JobSpec(shorthand(given.network), shorthand(given.data), device=given.device), {}).problem.loss
    rows = [measure(loss, n_members, given.batch) for n_members in given.members]
    for row in rows:
        times = f"{1e3 * row.alone:7.3f} ms alone, {1e3 * row.stacked:7.3f} ms stacked"
        print(f"{row.members:5d} members: {times}, {row.speedup:6.1f} x")
    about = {"network": given.network, "data": Path(given.data).name, "batch": given.batch}
    record.store("population", {**about, "rows": [asdict(row) for row in rows]}, given.device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.population", description=main.__doc__)
    parser.add_argument("--network", default="mlp:32")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32, 120])
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def measure(loss: Loss, n_members: int, batch: int, repeats: int = REPEATS) -> Row:
    """Both ways in turn; process CPU time, on CUDA time on the clock."""
    samples = torch.arange(min(batch, loss.n_samples)).to(loss.device)
    thetas = shuffled(loss, n_members, 0)
    ways: list[PopulationLoss] = [OneByOne(loss), population_loss(loss)]
    alone, stacked = zip(*([_seconds(way, thetas, samples) for way in ways] for _ in range(repeats)), strict=True)
    return Row(n_members, median(alone) / n_members, median(stacked) / n_members, ratio(alone, stacked))


def _seconds(way: PopulationLoss, thetas: Tensor, samples: Batch) -> float:
    """Of one gradient, from as many as fill the shortest time worth measuring."""
    clock: Callable[[], float] = time.process_time if thetas.device.type == "cpu" else time.perf_counter
    begun, done = clock(), 0
    while clock() - begun < SHORTEST or done < 2:
        _, grads = way.value_and_grad(thetas, samples)
        done += 1
        if grads.device.type == "cuda":
            torch.cuda.synchronize(grads.device)
    return (clock() - begun) / done


if __name__ == "__main__":
    main()
