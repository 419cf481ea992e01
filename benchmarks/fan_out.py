"""``python -m benchmarks.fan_out``: how much sooner two workers finish a study than one."""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from app import logs
from app.schemas import refusal
from app.service import Service, open_store
from app.settings import Settings
from app.studying import standings, working
from benchmarks import record
from benchmarks.refusal import in_a_line
from benchmarks.timing import ratio
from engine.errors import InvalidSpec

POLL_SECONDS = 0.05


@final
@dataclass(frozen=True, slots=True)
class Run:
    """One study from its submission to its end.

    Parameters
    ----------
    workers : int
        Worker processes at a time, one thread each.
    seconds : float
        On the clock.
    load : float
        The machine's load average over the last minute, at the end: its own workers and all other work.
    """

    workers: int
    seconds: float
    load: float


@in_a_line
def main() -> None:
    """Print and store the seconds of a study with one worker and with two, in turns, and the median ratio."""
    given = _arguments()
    logs.configure(logging.WARNING)
    study = {"networks": [given.network], "data": given.data, "points": given.points, "seeds": given.jobs}
    rounds = [_both(study) for _ in range(given.rounds)]
    found = ratio([two.seconds for _, two in rounds], [one.seconds for one, _ in rounds])
    for one, two in rounds:
        print(
            f"1 worker {one.seconds:6.1f} s (load {one.load:.1f}), 2 workers {two.seconds:6.1f} s (load {two.load:.1f})"
        )
    print(f"two workers take {found:.2f} of the time of one, on {os.cpu_count()} cores")
    runs = [asdict(run) for both in rounds for run in both]
    record.store("fan_out", {**study, "data": Path(given.data).name, "ratio": found, "runs": runs}, "cpu")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fan_out", description=main.__doc__)
    parser.add_argument("--network", default="mlp:32")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=8, help="seeds of the study")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _both(study: Mapping[str, Any]) -> tuple[Run, Run]:
    return measure(study, 1), measure(study, 2)


def measure(study: Mapping[str, Any], workers: int) -> Run:
    """Run a study in a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), database_url=f"sqlite:///{folder}/study.db", threads=1)
        with open_store(settings) as store:
            service = Service(store, allow_paths=True)
            number = _submitted(service, study)
            start = time.monotonic()
            with working(store, settings, number, workers):
                *_, last = standings(service, number, POLL_SECONDS)
            seconds = time.monotonic() - start
    if last["state"] != "completed":
        raise RuntimeError(f"the study ended {last['state']}: {last['progress']['states']}")
    return Run(workers, seconds, os.getloadavg()[0])


def _submitted(service: Service, study: Mapping[str, Any]) -> int:
    """The number of the study."""
    try:
        return int(service.submit_study(study)["id"])
    except ValidationError as error:
        raise InvalidSpec(refusal(error)) from None


if __name__ == "__main__":
    main()
