"""``python -m benchmarks.reproduce.dropout``: error against nonzeros of LeNet-300-100 under adaptive dropout.

The experiment of LeJeune, Javadi, Baraniuk, NeurIPS 2021, on a sixth of MNIST: each variant trained once at the paper's
strength from a fresh network, with a learning rate of 0.001 for a thirtieth of its steps.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.problems import BENCHMARKS
from engine.data.download import data_folder
from engine.spec import Part, build

EPSILON, STRENGTH, PRIOR_STRENGTH = 2.0, 1e-3, 1 / 60_000
RATE, BATCH, EPOCHS = 1e-3, 128, 40
PUBLISHED = {
    "variational_local_additive": (3.21, 0.0238),
    "variational_local": (1.41, 0.0885),
    "variational": (1.54, 0.5946),
    "eta_trick": (2.16, 0.0513),
    "ada_prox": (2.94, 0.0276),
    "ada_tikhonov": (2.88, 0.0183),
    "log_sum": (2.93, 0.0190),
}


@dataclass(frozen=True)
class Row:
    """One variant's network beside the published one.

    Parameters
    ----------
    variant : str
    error, published_error : float
        Of test samples, in per cent.
    kept, published_kept : float
        Fraction of the weights, biases not counted, that are not zero.
    """

    variant: str
    error: float
    kept: float
    published_error: float
    published_kept: float


def table(seed: int, folder: Path, epochs: int = EPOCHS, variants: Sequence[str] = tuple(PUBLISHED)) -> list[Row]:
    """A row for every variant.

    Parameters
    ----------
    folder : Path
        Where mnist10k.npz lies.
    epochs : int
        Passes over the training data; 200 in the paper.
    """
    return [_row(variant, seed, folder, epochs) for variant in variants]


def _row(variant: str, seed: int, folder: Path, epochs: int) -> Row:
    strength = PRIOR_STRENGTH if variant.startswith("variational") else STRENGTH
    settings = {"variant": variant, "epsilon": EPSILON, "strength": strength, "first_epochs": epochs}
    steps = {"rate": RATE, "batch": BATCH, "cleanup": False}
    spec = BENCHMARKS["lenet"].spec(folder, 2, seed, "cpu")
    method, penalty = Part("dropout", {**settings, **steps}), Part("l1", {"parameters": "weights"})
    experiment = build(replace(spec, method=method, penalty=penalty), {})
    point = next(iter(experiment.tracer.trace(experiment.problem))).point
    weights = [layer for layer in point.layers if len(layer.shape) > 1]
    kept = sum(layer.n_nonzero for layer in weights) / sum(layer.shape[0] * layer.shape[1] for layer in weights)
    return Row(variant, 100 * (1 - point.metrics["test_accuracy"]), kept, *PUBLISHED[variant])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, line by line as it is found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce.dropout", description=__doc__)
    parser.add_argument("--data-folder", type=Path, default=data_folder(), help="where mnist10k.npz lies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training data; 200 in the paper")
    parser.add_argument("--variant", action="append", choices=list(PUBLISHED), help="may be given several times")
    asked = parser.parse_args(arguments)
    print(f"{'variant':28}{'error %':>9}{'kept':>9}{'published error %':>19}{'kept':>9}")
    for variant in asked.variant or PUBLISHED:
        for row in table(asked.seed, asked.data_folder, asked.epochs, [variant]):
            ours = f"{row.error:9.2f}{row.kept:9.4f}"
            print(f"{row.variant:28}{ours}{row.published_error:19.2f}{row.published_kept:9.4f}", flush=True)


if __name__ == "__main__":
    main()
