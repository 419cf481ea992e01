"""Problems with known answers, small enough to solve exactly."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from torch import Tensor, nn

from engine.cleanup import Cleanup
from engine.criteria import CrossEntropy
from engine.data import Dataset, load
from engine.lassonet import lassonet
from engine.layout import Block
from engine.losses import LeastSquares, Logistic, NetworkLoss
from engine.networks import char_transformer
from engine.penalties import L1, GroupL2, GroupLinf, GroupMCP, SparseGroup
from engine.problem import Problem

MATRIX = (Block("dense.weight", (4, 3), 0), Block("dense.bias", (4,), 12, "bias"))
IRIS_TRAIN = [
    *(82, 30, 123, 128, 66, 107, 21, 115, 106, 7, 23, 135, 46, 72, 89),
    *(97, 95, 111, 124, 25, 113, 100, 78, 18, 39, 55, 51, 99, 104, 17),
]


@dataclass(frozen=True)
class Lasso:
    """A lasso problem as arrays (for scikit-learn) and as a problem."""

    X: np.ndarray
    y: np.ndarray

    @property
    def problem(self) -> Problem:
        loss = LeastSquares(torch.tensor(self.X), torch.tensor(self.y))
        return Problem(loss, L1(loss.layout))


def diabetes() -> Lasso:
    """Standardised in both; float64."""
    X, y = load_diabetes(return_X_y=True)
    return Lasso((X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std())


def wide() -> Lasso:
    """More columns than rows, correlated."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 60)) + rng.normal(size=(40, 1))
    y = X[:, :5] @ np.array([3.0, -2.0, 1.5, 1.0, -1.0]) + 0.1 * rng.normal(size=40)
    return Lasso((X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std())


def breast_cancer() -> tuple[np.ndarray, np.ndarray, Problem]:
    """Logistic regression: columns, classes of -1 and 1, and the problem; float64."""
    X, y = load_breast_cancer(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), 2.0 * y - 1
    loss = Logistic(torch.tensor(X), torch.tensor(y))
    return X, y, Problem(loss, L1(loss.layout))


def iris_network() -> Problem:
    """The continuation paper's iris problem: 4-4-4-3 tanh from its sparse start, 30 training samples, float64."""
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    for layer in (module[0], module[2]):
        layer.weight.data.copy_(0.1 * torch.eye(4))
    return network_problem(module, dataset(X[IRIS_TRAIN], y[IRIS_TRAIN]))


@functools.cache
def digits(limit: int) -> Dataset:
    """So many real digits, read once; not to be written on."""
    return load("digits", {"limit": limit}, {})


def digits_network(hidden: int = 8, limit: int = 300) -> Problem:
    """A small ReLU network on real digits, float32."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    return network_problem(module, digits(limit))


def many_samples() -> Problem:
    """A small ReLU network on 4,096 digits, some of them more than once."""
    images = digits(1500)
    rows = np.arange(4096) % len(images.X_train)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return network_problem(module, replace(images, X_train=images.X_train[rows], y_train=images.y_train[rows]))


def lasso_network() -> Problem:
    """A small network of LassoNet's kind on real digits."""
    torch.manual_seed(0)
    return network_problem(lassonet((8, 8), 10, hidden=(8,)), digits(300))


def norm_network() -> Problem:
    """A convolution with batch norm on real digits."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    )
    return network_problem(module, digits(200))


def text_network() -> Problem:
    """A transformer of one block on a synthetic text."""
    torch.manual_seed(0)
    data = load("markov_text", {"context": 8, "length": 900}, {})
    module = char_transformer(data.input_shape, data.n_outputs, blocks=1, width=8, heads=2, activation="gelu")
    return network_problem(module, data)


def network_problem(module: nn.Module, data: Dataset) -> Problem:
    loss = NetworkLoss(module, data, CrossEntropy())
    penalty = L1(loss.layout)
    return Problem(loss, penalty, Cleanup(module, penalty))


def dataset(X: np.ndarray, y: np.ndarray) -> Dataset:
    """All of it for training."""
    y = y.astype(np.int64)
    none = {"X_validation": X[:0], "y_validation": y[:0], "X_test": X[:0], "y_test": y[:0]}
    return replace(load("iris", {}, {}), X_train=X, y_train=y, n_outputs=int(y.max()) + 1, **none)


PENALTIES = {
    "l1": L1(MATRIX),
    "l1 weights": L1(MATRIX, parameters="weights"),
    "group neuron": GroupL2(MATRIX),
    "group neuron with bias": GroupL2(MATRIX, parameters="all"),
    "group input": GroupL2(MATRIX, groups="input"),
    "linf neuron": GroupLinf(MATRIX),
    "linf input": GroupLinf(MATRIX, groups="input"),
    "mcp neuron with bias": GroupMCP(MATRIX, parameters="all", plateau=4.0),
    "mcp input": GroupMCP(MATRIX, groups="input", plateau=9.0),
    "sparse group neuron": SparseGroup(MATRIX),
    "sparse group input": SparseGroup(MATRIX, groups="input", share=0.2),
}


def vector(seed: int, size: int = 16) -> Tensor:
    """Random weights, float64."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
