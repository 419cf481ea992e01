"""``python -m benchmarks``: all rivals on all problems, as a table, a figure and JSON in benchmarks/results."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import figure, record, refitting, results, table
from benchmarks.contest import Outcome, Settings, contest
from benchmarks.problems import BENCHMARKS, Benchmark, own
from benchmarks.refusal import in_a_line
from benchmarks.rivals import ONLY_IF_NAMED, OURS, RIVALS
from engine.data.download import data_folder
from engine.errors import EngineError
from engine.spec import check, shorthand

USUAL_LIMIT = 1200.0


@in_a_line
def main() -> None:
    """Compare the product with what its users could run instead."""
    given = _arguments()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA device here: nothing was measured.")
        return
    torch.set_num_threads(given.threads)
    settings, (problems, reasons) = _settings(given), _problems(given)
    if wrong := _wrong(settings, problems):
        raise SystemExit(wrong)
    _say(table.left_out(reasons))
    stem, outcomes = given.into / record.stamp(), dict[str, Outcome]()
    _save(stem, settings, [], reasons)
    try:
        for done, outcome in (each for name, of in problems.items() for each in contest(name, of, settings)):
            outcomes[outcome.name] = outcome
            _save(stem, settings, list(outcomes.values()), reasons)
            _say(done)
    except KeyboardInterrupt:
        reasons = {**reasons, "the rest": "it was broken off"}
        _save(stem, settings, list(outcomes.values()), reasons)
    print(table.printed(list(outcomes.values()), reasons))
    print(f"\nResults: {given.into.name}/{stem.name}.json, .md{', .html' if outcomes else ''}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    names = [OURS, *RIVALS]
    usual = [name for name in names if name not in ONLY_IF_NAMED]
    parser.add_argument("--problem", action="append", choices=BENCHMARKS, help="may be repeated; all by default")
    parser.add_argument("-n", "--network", help="with --data: a problem of your own")
    parser.add_argument("-d", "--data", help="a name or a file")
    parser.add_argument(
        "--rival", action="append", choices=names, help=f"may be repeated; by default {', '.join(usual)}"
    )
    parser.add_argument("--ours", action="append", default=[], metavar="[NAME=]METHOD", help="one more variant of ours")
    parser.add_argument("--refit", default=refitting.METHOD, metavar="METHOD", help="what refitted figures come from")
    parser.add_argument("--points", type=int, default=40, help="networks wanted on each front")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each rival")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--limit", type=float, default=USUAL_LIMIT, help="CPU seconds of one run; 0 is none")
    parser.add_argument("--data-folder", type=Path, default=data_folder(), help="where data files are looked for")
    parser.add_argument("--into", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="only go through everything once: a test, no measurement")
    given = parser.parse_args()
    if (given.network is None) != (given.data is None) or (given.network and given.problem):
        parser.error("give --network and --data together, and without --problem")
    given.rival = given.rival or usual
    return given


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(
        rivals=given.rival,
        ours=dict(map(_variant, given.ours)),
        points=4 if given.quick else given.points,
        seeds=1 if given.quick else given.seeds,
        first=given.first_seed,
        device=given.device,
        folder=given.data_folder,
        limit=given.limit or None,
        refit=refitting.SMOKE if given.quick else given.refit,
        quick=given.quick,
    )


def _variant(text: str) -> tuple[str, str]:
    """``NAME=METHOD``; the method is its own name where none is given."""
    name, found, method = text.partition("=")
    return (name, method) if found and ":" not in name else (text, text)


def _problems(given: argparse.Namespace) -> tuple[Mapping[str, Benchmark], Mapping[str, str]]:
    """Those that can run, and why others cannot."""
    if given.network is not None:
        return {f"{given.network} on {Path(given.data).name}": own(given.network, given.data)}, {}
    wanted = {name: BENCHMARKS[name] for name in given.problem or BENCHMARKS}
    missing = {name: file for name, benchmark in wanted.items() if (file := benchmark.missing(given.data_folder))}
    reasons = {name: f"there is no file {file}" for name, file in missing.items()}
    return {name: benchmark for name, benchmark in wanted.items() if name not in reasons}, reasons


def _wrong(settings: Settings, problems: Mapping[str, Benchmark]) -> str:
    """Why a problem or a method cannot be what it was asked for as; empty where all can."""
    if shorthand(settings.refit).name != refitting.METHOD:
        return f"--refit {settings.refit!r} is no {refitting.METHOD}, such as {refitting.SMOKE!r}"
    refitting.check(settings.refit)
    ours = {f" --ours {name}={method}": method for name, method in settings.ours.items()}
    for problem, benchmark in problems.items():
        spec = benchmark.spec(settings.folder, settings.points, settings.first, settings.device)
        for name, method in {"": benchmark.method, **ours}.items():
            try:
                check(replace(spec, method=shorthand(method)), benchmark.uploads())
            except EngineError as error:
                return f"{problem}{name}: {error}"
    return ""


def _say(line: str) -> None:
    """Progress, beside the table."""
    if line:
        print(line, file=sys.stderr, flush=True)


def _save(stem: Path, settings: Settings, outcomes: list[Outcome], reasons: Mapping[str, str]) -> None:
    """Write what there is so far: a long run that is killed leaves the runs that were done."""
    record.save(results.document(settings, outcomes, reasons), stem.with_suffix(".json"))
    stem.with_suffix(".md").write_text(table.printed(outcomes, reasons) + "\n")
    if outcomes:
        figure.save(outcomes, stem.with_suffix(".html"))


if __name__ == "__main__":
    main()
