"""Small tasks for rivals."""

from pathlib import Path

from benchmarks.problems import BENCHMARKS, Benchmark
from benchmarks.rivals import Task


def task(benchmark: Benchmark | str, points: int = 4, seed: int = 0, passes: float | None = None) -> Task:
    known = BENCHMARKS[benchmark] if isinstance(benchmark, str) else benchmark
    spec = known.spec(Path("data"), points, seed, "cpu")
    return Task(spec, known.experiment(spec), known.setup, passes)


SMALL = Benchmark("mlp:4", "digits:limit=200", 2.3, method="continuation:epochs=1,anchor_epochs=1")
