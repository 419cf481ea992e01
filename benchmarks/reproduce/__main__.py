"""``python -m benchmarks.reproduce``: what five papers claim, run small on real data; Markdown, and JSON in a file."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
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
    document = {**record.origin(), "quick": given.quick, "experiments": dict[str, Any]()}
    file = given.into / f"{record.stamp()}-reproduce.json"
    for name in names:
        document["experiments"][name] = found = _headed(name, EXPERIMENTS[name])
        settings = _settings(setting, given.seeds or EXPERIMENTS[name].seeds)
        for study in EXPERIMENTS[name].studies:
            _add(found, study, settings)
            record.save(document, file)
    experiments = document["experiments"].items()
    missing = [f"LEFT OUT: {name}: {reason}" for name, found in experiments for reason in found["left_out"]]
    print("\n".join([*missing, f"Results: {file.name}"]))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=main.__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all by default")
    parser.add_argument("--data-folder", type=Path, default=data_folder(), help="where data files are looked for")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, help="how many; 3 for short experiments by default, 1 for the others")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--into", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="only go through everything once: a test, no measurement")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.name if name not in EXPERIMENTS]:
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(EXPERIMENTS)}")
    return given


def _headed(name: str, experiment: Experiment) -> dict[str, Any]:
    print(f"## {name}\n\n{experiment.paper}.\n\nClaim: {experiment.claim}\n", flush=True)
    return {"paper": experiment.paper, "claim": experiment.claim, "studies": [], "left_out": []}


def _settings(setting: Setting, seeds: int) -> list[Setting]:
    """One for every seed; one in all where the figures mean nothing."""
    return [replace(setting, seed=setting.seed + more) for more in range(1 if setting.quick else seeds)]


def _add(found: dict[str, Any], study: Study, settings: Sequence[Setting]) -> None:
    """Do a study, or say why not."""
    if file := study.missing(settings[0].folder):
        reason = f"{study.title}: there is no file {file}"
        print(f"LEFT OUT: {reason}\n", flush=True)
        found["left_out"].append(reason)
    else:
        found["studies"].append(_done(study, settings))


def _done(study: Study, settings: Sequence[Setting]) -> dict[str, Any]:
    begun, seconds, found = time.perf_counter(), time.process_time(), list[list[Row]]()
    for setting in settings:
        found.append([])
        for row in study.rows(setting):
            found[-1].append(row)
            print(f"{study.title}, seed {setting.seed}: {row}", file=sys.stderr, flush=True)
    spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - seconds}
    took = f"(seeds {len(found)}, {spent['seconds']:.0f} s, {spent['cpu_seconds']:.0f} s of CPU)"
    print("\n".join([f"{study.title} {took}", "", *table(together(found)), ""]), flush=True)
    rows = [{"seed": setting.seed, **row} for setting, rows in zip(settings, found, strict=True) for row in rows]
    return {"title": study.title, **spent, "rows": rows}


def together(found: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """Rows of several seeds as one table: those of the same first entry, which names them, in one row."""
    if len(found) == 1:
        return found[0]
    names = dict.fromkeys(_name(row) for rows in found for row in rows)
    return [_over([row for rows in found for row in rows if _name(row) == name]) for name in names]


def _name(row: Row) -> str | float:
    return next(iter(row.values()))


def _over(rows: Sequence[Row]) -> Row:
    """Means of numbers, and their range; words as they are, or all of them."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return {column: _spread([row[column] for row in rows if column in row]) for column in columns}


def _spread(values: Sequence[str | float]) -> str | float:
    if len(set(values)) == 1:
        return values[0]
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return "; ".join(map(_shown, values))
    return f"{_shown(fmean(numbers))} ({_shown(min(numbers))} to {_shown(max(numbers))})"


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of Markdown; a column for everything that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = [[_cell(row, column) for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *body]]


def _cell(row: Mapping[str, str | float], column: str) -> str:
    return _shown(row.get(column, ""))


def _shown(value: str | float) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
