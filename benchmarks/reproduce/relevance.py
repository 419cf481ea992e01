"""Relevance beside pruning without it: accuracy against the weights that remain."""

from collections.abc import Iterator
from functools import partial

from benchmarks.reproduce.experiment import Experiment, Job, Row, Setting, Study, per_cent

IMAGES, TEXT = "mnist10k.npz", "tinyshakespeare.txt"
POINTS = 12
ZEROS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
METHODS = {
    "relevance": "relevance:patience=1,anchor_epochs={0},epochs={1}",
    "the same, gamma = 0": "relevance:gamma=0,patience=1,anchor_epochs={0},epochs={1}",
    "magnitude pruning": "pruning:dense_epochs={0},epochs={1}",
}


def rows(setting: Setting, network: str, data: str, passes: tuple[int, int]) -> Iterator[Row]:
    """A row for every method: test accuracy of the network of best validation accuracy with at least so many zeros.

    Parameters
    ----------
    passes : (int, int)
        Over the training data for the first network, and for each of those that follow: the same for all methods.
    """
    for name, method in METHODS.items():
        found = setting.traced(Job(network, data, method.format(*passes), POINTS))
        accuracies = {f"{zeros:.0%}" if zeros else "any": per_cent(found.at(zeros)) for zeros in ZEROS}
        yield {"method": name, **accuracies, "passes": found.passes, "CPU s": found.seconds}


def _study(network: str, data: str, passes: tuple[int, int]) -> Study:
    first, each = passes
    title = f"{network} on {data}, {POINTS} networks, {first} passes for the first and {each} for each that follows: "
    named = partial(rows, network=network, data=data, passes=passes)
    return Study(f"{title}test accuracy % by zeros", named, data.partition(":")[0])


EXPERIMENT = Experiment(
    "Bonetta, Ribero, Cancelliere, Regularization-based pruning of irrelevant weights in deep neural architectures, "
    "Applied Intelligence, 2023",
    "Pulling irrelevant weights to zero between prunings keeps more accuracy than magnitude pruning, on images and "
    "language: best in one of four image tasks and one of two language tasks.",
    (
        _study("mlp:20,20", IMAGES, (15, 3)),
        _study("lenet5", f"{IMAGES}:limit=1000", (10, 3)),
        _study("char_transformer:2,width=32", f"{TEXT}:limit=300", (25, 5)),
    ),
)
