"""The continuation beside the weighted sum and NSGA-II: hypervolume, gaps and cost."""

from collections.abc import Iterator
from functools import partial

from benchmarks.measuring import Run, race
from benchmarks.merit import Box, alone, chosen
from benchmarks.problems import BENCHMARKS, Benchmark
from benchmarks.reproduce.experiment import Experiment, Row, Setting, Study
from benchmarks.rivals import OURS, REFERENCE, RIVALS, SMOKE, Rival, Task
from benchmarks.rivals.traced import Traced

POINTS, LIMIT, QUICK_LIMIT = 40, 60.0, 0.2
SHOWN = (REFERENCE, "weighted sum", "lambda grid", "NSGA-II, binary", "NSGA-II")


def rows(name: str, setting: Setting) -> Iterator[Row]:
    """A row for every way to a front of a benchmark's problem."""
    benchmark = BENCHMARKS[name]
    known: dict[str, Rival] = SMOKE if setting.quick else RIVALS
    for rival, how in {OURS: Traced(), **{shown: known[shown] for shown in SHOWN}}.items():
        spec = benchmark.spec(setting.folder, 3 if setting.quick else POINTS, setting.seed, "cpu")
        task = Task(spec, benchmark.experiment(spec), benchmark.setup)
        yield {"method": rival, **_figures(race(how, task, QUICK_LIMIT if setting.quick else LIMIT), benchmark)}


def _figures(run: Run, benchmark: Benchmark) -> Row:
    if not len(run.front):
        return {"points": 0, "passes": run.cost.passes, "CPU s": run.cost.seconds, "ended": run.ended or "found none"}
    box = Box(benchmark.worst_l1 or 1.0, benchmark.worst_loss or 1.0, benchmark.least_l1 or 0.01)
    figures, best = alone(run.front, box), run.front.non_dominated()
    network = chosen(run.front, 0.0)
    return {
        "points": len(best),
        "hypervolume": figures["hypervolume"],
        "with log l1": figures["hypervolume, log l1"],
        "widest gap / median": figures["widest gap / median"],
        "l1": f"{best.points[0].penalty:.3g} to {best.points[-1].penalty:.3g}",
        "loss": f"{best.points[0].loss:.3g} to {best.points[-1].loss:.2g}",
        "test accuracy %": round(100 * network.metrics["test_accuracy"], 1) if network else "none",
        "passes": run.cost.passes,
        "CPU s": run.cost.seconds,
        "ended": run.ended or "by itself",
    }


EXPERIMENT = Experiment(
    "Amakor, Sonntag, Peitz, A multiobjective continuation method to compute the regularization path of deep neural "
    "networks, Machine Learning with Applications 19, 2025",
    "The whole front of loss and l1 norm in less time than a weighted sum or NSGA-II, whose points are few and in "
    "clusters.",
    (
        Study("iris, 4-4-4-3 tanh, 30 flowers for training as in the paper; 40 points asked", partial(rows, "iris")),
        Study("digits, 64-32-10; 40 points asked", partial(rows, "digits")),
    ),
    seeds=3,
)
