"""``python -m benchmarks.reproduce``: what five papers claim, run small on real data; Markdown, and JSON in a file."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.reproduce import EXPERIMENTS
from benchmarks.reproduce.experiment import Experiment, Row, Setting, Study
from engine.data.download import data_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Repeat published experiments."""
    given = _arguments(arguments)
    torch.set_num_threads(given.threads)
    setting, names = Setting(given.data_folder, given.seed, given.quick), given.name or list(EXPERIMENTS)
    document = {**record.origin(), "seed": given.seed, "quick": given.quick, "experiments": dict[str, Any]()}
    file = given.into / f"{record.stamp()}-reproduce.json"
    for name in names:
        document["experiments"][name] = found = _headed(name, EXPERIMENTS[name])
        for study in EXPERIMENTS[name].studies:
            _add(found, study, setting)
            record.save(document, file)
    experiments = document["experiments"].items()
    missing = [f"LEFT OUT: {name}: {reason}" for name, found in experiments for reason in found["left_out"]]
    print("\n".join([*missing, f"Results: {file.name}"]))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=main.__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all by default")
    parser.add_argument("--data-folder", type=Path, default=data_folder(), help="where data files are looked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--into", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="only go through everything once: a test, no measurement")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.name if name not in EXPERIMENTS]:
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(EXPERIMENTS)}")
    return given


def _headed(name: str, experiment: Experiment) -> dict[str, Any]:
    print(f"## {name}\n\n{experiment.paper}.\n\nClaim: {experiment.claim}\n", flush=True)
    return {"paper": experiment.paper, "claim": experiment.claim, "studies": [], "left_out": []}


def _add(found: dict[str, Any], study: Study, setting: Setting) -> None:
    """Do a study, or say why not."""
    if file := study.missing(setting.folder):
        reason = f"{study.title}: there is no file {file}"
        print(f"LEFT OUT: {reason}\n", flush=True)
        found["left_out"].append(reason)
    else:
        found["studies"].append(_done(study, setting))


def _done(study: Study, setting: Setting) -> dict[str, Any]:
    begun, seconds, rows = time.perf_counter(), time.process_time(), list[Row]()
    for row in study.rows(setting):
        rows.append(row)
        print(f"{study.title}: {row}", file=sys.stderr, flush=True)
    spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - seconds}
    took = f"({spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} s of CPU)"
    print("\n".join([f"{study.title} {took}", "", *table(rows), ""]), flush=True)
    return {"title": study.title, **spent, "rows": rows}


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of Markdown; a column for everything that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = [[_cell(row, column) for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *body]]


def _cell(row: Mapping[str, str | float], column: str) -> str:
    value = row.get(column, "")
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else _whole(value)


def _whole(value: str | float) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
