"""``python -m benchmarks.reference``: trace for long, join with all that is known, and store the best known front."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import best_known, record
from benchmarks.problems import BENCHMARKS
from benchmarks.refusal import in_a_line
from engine.data.download import data_folder
from engine.spec import shorthand

SWEEPS = 10


@in_a_line
def main() -> None:
    """Improve the best known front of a problem."""
    given = _arguments()
    torch.set_num_threads(given.threads)
    found = [pair for seed in range(given.seeds) for pair in _traced(given, seed)]
    documents = [json.loads(file.read_text()) for file in given.results]
    for document in documents:
        found += best_known.in_results(document, given.problem)
    joined = best_known.join(best_known.front(given.problem, given.into), found)
    _save(given, joined, [*_traces(given), *(document["command"] for document in documents)])
    print(f"{given.problem}: {len(joined)} points, from {len(found)} found now and what was known")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=main.__doc__)
    parser.add_argument("--problem", required=True, choices=BENCHMARKS)
    parser.add_argument(
        "--method",
        help="of the long trace; the problem's own by default; a continuation takes ten sweeps if it names none",
    )
    parser.add_argument("--points", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=1, help="traces, from seed 0; 0 only joins result files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-folder", type=Path, default=data_folder())
    parser.add_argument("--into", type=Path, default=best_known.FOLDER)
    parser.add_argument("results", type=Path, nargs="*", help="files of benchmarks/results to join")
    return parser.parse_args()


def _traced(given: argparse.Namespace, seed: int) -> list[tuple[float, float]]:
    benchmark = BENCHMARKS[given.problem]
    spec = benchmark.spec(given.data_folder, given.points, seed, "cpu")
    method = shorthand(given.method) if given.method else spec.method
    sweeps = {"sweeps": SWEEPS} if method.name == "continuation" else {}
    longer = replace(method, params={**sweeps, **method.params})
    experiment = benchmark.experiment(replace(spec, method=longer))
    return [(w.point.penalty, w.point.loss) for w in experiment.tracer.trace(experiment.problem)]


def _traces(given: argparse.Namespace) -> list[str]:
    """What was traced, as a command without this machine's folders."""
    words = ["python -m benchmarks.reference", f"--problem {given.problem}", f"--points {given.points}"]
    words += [f"--seeds {given.seeds}", *([f"--method {given.method}"] if given.method else [])]
    return [" ".join(words)] if given.seeds else []


def _save(given: argparse.Namespace, front: list[tuple[float, float]], commands: list[str]) -> None:
    file = given.into / f"{given.problem}.json"
    before = json.loads(file.read_text())["commands"] if file.exists() else []
    about = {"problem": given.problem, "commands": [*before, *commands]}
    record.save({**about, **record.origin(), "front": front}, file)


if __name__ == "__main__":
    main()
