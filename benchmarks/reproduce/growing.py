"""``python -m benchmarks.reproduce.growing``: networks grown from few filters beside the same network trained whole.

The comparison of Fu et al., TPAMI 2022, on small data: the whole network is trained by the same method for as many
passes as all networks grown together, then fine-tuned like the last of them.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.download import data_folder
from engine.front import ParetoPoint
from engine.spec import JobSpec, Part, build

DATA = {"lenet5": "mnist10k.npz", "cifar_cnn": "cifar12k.npz"}
POINTS, LIMIT = 12, 2000
WHOLE = {"filters": 10_000, "units": 10_000}


@dataclass(frozen=True)
class Row:
    """One network.

    Parameters
    ----------
    kind : str
        "grown" or "whole".
    widths : str
        Filters and units that are left in each layer.
    n_nonzero : int
    error : float
        Of test samples, in per cent.
    passes : float
        Over the training data, so far.
    """

    kind: str
    widths: str
    n_nonzero: int
    error: float
    passes: float


def rows(network: str, seed: int, folder: Path, limit: int = LIMIT, **settings: float) -> Iterator[Row]:
    """The grown networks, from small to wide and fine-tuned, then the whole one and its fine-tuned form.

    Parameters
    ----------
    network : str
        One of DATA.
    folder : Path
        Where its data lie.
    limit : int
        Training images, those for validation included.
    **settings
        Of the method `growing`.
    """
    data = Part(str(folder / DATA[network]), {"limit": limit})
    spent = 0.0
    grown = Part("growing", dict(settings))
    for point in _traced(JobSpec(Part(network, {}), data, method=grown, points=POINTS, seed=seed)):
        spent = point.effort
        yield _row("grown", point)
    whole = Part("growing", {**settings, **WHOLE, "epochs": round(spent)})
    for point in _traced(JobSpec(Part(network, {}), data, method=whole, points=2, seed=seed)):
        yield _row("whole", point)


def _traced(spec: JobSpec) -> Iterator[ParetoPoint]:
    experiment = build(spec, {})
    return (waypoint.point for waypoint in experiment.tracer.trace(experiment.problem))


def _row(kind: str, point: ParetoPoint) -> Row:
    widths = "-".join(str(layer.units_alive) for layer in point.layers if len(layer.shape) > 1)
    return Row(kind, widths, point.n_nonzero, 100 * (1 - point.metrics["test_accuracy"]), point.effort)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, line by line as it is found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce.growing", description=__doc__)
    parser.add_argument("--data-folder", type=Path, default=data_folder(), help="where the data lie")
    parser.add_argument("--network", choices=list(DATA), default="lenet5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=LIMIT, help="training images, those for validation included")
    asked = parser.parse_args(arguments)
    print(f"{'':8}{'widths':>18}{'nonzeros':>10}{'error %':>9}{'passes':>8}")
    for row in rows(asked.network, asked.seed, asked.data_folder, asked.limit):
        print(f"{row.kind:8}{row.widths:>18}{row.n_nonzero:>10,}{row.error:9.2f}{row.passes:8.0f}", flush=True)


if __name__ == "__main__":
    main()
