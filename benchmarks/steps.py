"""``python -m benchmarks.steps``: what a step of the adaptive corrector costs beside a step of plain training.

Every way takes the same steps on the same batches. Times are CPU seconds of the process, ways in turn, as ratios within
a round; memory is the peak of a fresh process, in copies of the weights.
"""

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.refusal import in_a_line
from benchmarks.timing import ratio, timed
from engine.correctors import AdaptiveProximal, Pace
from engine.correctors.adaptive import BATCH_SHARE, LARGEST_BATCH
from engine.correctors.base import batch_size, mini_batches
from engine.criteria import Criterion
from engine.losses import Batch, NetworkLoss
from engine.pixels import by_pixels, reading
from engine.problem import Problem, State
from engine.spec import JobSpec, build, shorthand

Held = Literal["strength", "penalty"]

RATE, STRENGTH, SHARE = 1e-4, 1e-3, 0.5
FEW_STEPS = 3


@final
@dataclass(frozen=True)
class Plain:
    """The network by itself, with parameters of its own, as users train it."""

    module: nn.Module
    criterion: Criterion
    X: Tensor
    y: Tensor
    optimiser: torch.optim.Optimizer

    def train(self, batches: Sequence[Batch], stepping: bool, laid: Callable[[Tensor], Tensor]) -> None:
        """Forward and backward on every batch, its images as they are `laid`, each followed by a step if `stepping`."""
        self.module.train()
        for batch in batches:
            self.optimiser.zero_grad()
            inputs = laid(self.X.index_select(0, batch))
            loss = self.criterion(self.module(inputs), self.y.index_select(0, batch))
            torch.autograd.backward(loss)
            if stepping:
                self.optimiser.step()


@final
class Bench:
    """One problem, and the ways to step on it.

    Parameters
    ----------
    spec : JobSpec
    steps : int
        Steps of every way and round; the corrector takes more where the samples are few, and so do the others.
    batch : int, optional
        Samples in a batch; the corrector's own choice if None.
    """

    def __init__(self, spec: JobSpec, steps: int, batch: int | None = None) -> None:
        experiment = build(spec, {})
        self.problem, data = experiment.problem, experiment.dataset
        loss = _network(self.problem)
        module = deepcopy(loss.module)
        X, y = torch.from_numpy(data.X_train), torch.from_numpy(data.y_train)
        adam = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)
        self._plain = Plain(module, loss.criterion, X, y, adam)
        self._images = X.dim() == 4 and reading(module.eval(), X[:2]) is not module
        self.batch = batch or batch_size(loss, BATCH_SHARE, LARGEST_BATCH)
        self._steps = steps
        theta = loss.initial()
        level = SHARE * float(self.problem.penalty.value(theta))
        self._guess = State(theta, STRENGTH, level, loss.buffers)

    @property
    def ways(self) -> dict[str, Callable[[int], int]]:
        """By name: take the steps that a seed decides, and say how many they were."""
        return {
            "forward and backward": lambda seed: self._train(seed, False),
            "fused Adam": lambda seed: self._train(seed, True),
            **({"fused Adam, by pixels": self._by_pixels} if self._images else {}),
            "corrector, strength held": lambda seed: self._correct(seed, "strength"),
            "corrector, penalty held": lambda seed: self._correct(seed, "penalty"),
        }

    def touch_gradient(self) -> None:
        """Have the system hand over the memory of the corrector's gradient, which it does at the first use."""
        self.problem.loss.value_and_grad(self._guess.theta, self._batches(0)[0])

    def _batches(self, seed: int) -> list[Batch]:
        return list(mini_batches(self.problem.loss, seed, self.batch, None, self._steps))

    def _train(self, seed: int, stepping: bool, laid: Callable[[Tensor], Tensor] = Tensor.contiguous) -> int:
        batches = self._batches(seed)
        self._plain.train(batches, stepping, laid)
        return len(batches)

    def _by_pixels(self, seed: int) -> int:
        """Plain training on images that lie as the corrector has them."""
        return self._train(seed, True, by_pixels)

    def _correct(self, seed: int, held: Held) -> int:
        AdaptiveProximal(held, None, self.batch, Pace(RATE), steps=self._steps).correct(self.problem, self._guess, seed)
        return len(self._batches(seed))


def _network(problem: Problem) -> NetworkLoss:
    if not isinstance(problem.loss, NetworkLoss):
        raise TypeError(f"{type(problem.loss).__name__} has no network to train plainly")
    return problem.loss


def times(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per step of every way, one per round; a round before them warms up."""
    found: dict[str, list[float]] = {name: [] for name in bench.ways}
    for seed in range(rounds + 1):
        for name, take in bench.ways.items():
            steps, seconds = timed(take, seed)
            found[name].append(seconds / steps)
    return {name: each[1:] for name, each in found.items()}


def copies(bench: Bench, way: str) -> float:
    """Most memory that a few steps take beside weights and gradient, in copies of the weights; Linux and glibc only."""
    bench.ways["forward and backward"](0)
    bench.touch_gradient()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    bench.ways[way](0)
    return (_resident("VmHWM") - before) / (bench.problem.loss.n_params * 4)


def _resident(which: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[which].split()[0]) * 1024


def _fresh(given: argparse.Namespace, way: str) -> float:
    """`copies`, measured in a process of its own."""
    of = ["--network", given.network, "--data", given.data, "--penalty", given.penalty, "--memory-of", way]
    command = [sys.executable, "-m", "benchmarks.steps", *of]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


@in_a_line
def main() -> None:
    """Print and store the cost of every way: CPU seconds per step, or with --memory copies of the weights."""
    given = _arguments()
    torch.set_num_threads(1)
    penalty = shorthand(given.penalty)
    spec = JobSpec(shorthand(given.network), shorthand(given.data), penalty=penalty, device="cpu")
    if given.memory_of:
        print(copies(Bench(spec, FEW_STEPS), given.memory_of))
        return
    bench = Bench(spec, given.steps)
    of = {"network": given.network, "data": Path(given.data).name, "penalty": given.penalty}
    about = {**of, "n_params": bench.problem.loss.n_params}
    print(", ".join(map(str, about.values())), "weights, batches of", bench.batch)
    found = _memory(given, bench) if given.memory else _times(bench, given.rounds)
    record.store("steps", {**about, "batch": bench.batch, **found})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=main.__doc__)
    parser.add_argument("--network", default="mlp:32")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--penalty", default="l1")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _times(bench: Bench, rounds: int) -> dict[str, Any]:
    seconds = times(bench, rounds)
    print(f"{'':26s} {'ms':>8s} {'x forward, backward':>20s} {'x fused Adam':>13s}")
    for name, each in seconds.items():
        passes, adam = (ratio(each, seconds[unit]) for unit in ("forward and backward", "fused Adam"))
        print(f"{name:26s} {1e3 * median(each):8.3f} {passes:20.3f} {adam:13.3f}")
    return {"seconds": seconds}


def _memory(given: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    found = {name: _fresh(given, name) for name in bench.ways}
    for name, number in found.items():
        print(f"{name:26s} {number:6.2f} copies of the weights")
    return {"copies": found}


if __name__ == "__main__":
    main()
