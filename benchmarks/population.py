"""``python -m benchmarks.population``: what a member costs beside the network alone, and a front beside others."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from benchmarks.rivals import Run, ours
from engine.population import OneByOne, PopulationLoss, population_loss
from engine.spec import JobSpec, build, shorthand
from engine.tracers.population import shuffled

REPEATS, SHORTEST = 7, 0.05
METHODS = ("continuation", "continuation:sweeps=3", "population")


def main() -> None:
    """Print milliseconds per member and step, one by one and stacked, or the fronts of both methods."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--network", default="mlp:32")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32, 120])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fronts", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = JobSpec(shorthand(given.network), shorthand(given.data), device=given.device)
    if given.fronts:
        fronts([replace(spec, seed=seed) for seed in range(given.seeds)])
    else:
        steps(spec, given.batch, given.members)


def steps(spec: JobSpec, batch: int, members: list[int]) -> None:
    """Gradients of a mini-batch, in turns one by one and stacked; medians of process CPU time (GPU: wall time)."""
    loss = build(spec, {}).problem.loss
    samples = torch.arange(min(batch, loss.n_samples)).to(loss.device)
    for n_members in members:
        thetas = shuffled(loss, n_members, 0)
        ways: list[PopulationLoss] = [OneByOne(loss), population_loss(loss)]
        pairs = [[_seconds(way, thetas, samples) for way in ways] for _ in range(REPEATS)]
        alone, stacked = (1e3 * median(times) / n_members for times in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        print(f"{n_members:5d} members: {alone:7.3f} ms alone, {stacked:7.3f} ms stacked, {ratio:6.1f} x")


def _seconds(way: PopulationLoss, thetas: Tensor, samples: Tensor) -> float:
    clock: Callable[[], float] = time.process_time if thetas.device.type == "cpu" else time.perf_counter
    begun, done = clock(), 0
    while clock() - begun < SHORTEST or done < 2:
        _, grads = way.value_and_grad(thetas, samples)
        done += 1
        if grads.device.type == "cuda":
            torch.cuda.synchronize(grads.device)
    return (clock() - begun) / done


def fronts(specs: list[JobSpec]) -> None:
    """Hypervolume, below the continuation's largest l1 and the loss of knowing nothing, and what it cost."""
    for spec in specs:
        runs = {name: ours(replace(spec, method=shorthand(name))) for name in METHODS}
        box = max(p.penalty for p in runs[METHODS[0]].front), max(p.loss for p in runs[METHODS[0]].front)
        for name, run in runs.items():
            cost = f"{run.cost.seconds:7.1f} CPU s, {run.cost.passes:7.0f} passes"
            print(f"seed {spec.seed} {name:24s} hypervolume {_share(run, box):.4f}, {cost}", flush=True)


def _share(run: Run, box: tuple[float, float]) -> float:
    inside = [p for p in run.front if p.penalty <= box[0] and p.loss <= box[1]]
    return type(run.front)(tuple(inside)).hypervolume(box) / (box[0] * box[1])


if __name__ == "__main__":
    main()
