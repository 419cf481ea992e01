"""``python -m benchmarks.lasso_path``: the lasso's path beside scikit-learn's, at the same duality gap."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import final

import numpy as np
import torch
from sklearn.linear_model import lasso_path

from benchmarks import record
from benchmarks.timing import ratio, timed
from engine.correctors import ActiveSetNewton, Corrector, ProximalGradient
from engine.front import Array
from engine.losses import LeastSquares
from engine.penalties import L1
from engine.problem import Problem, State
from engine.tracers.base import Budget
from engine.tracers.methods import continuation

POINTS, RANGE = 50, 100.0
TOLERANCE, RESIDUAL = 1e-6, 3e-7
PASSES, ANCHOR_PASSES = 100_000, 400


@final
@dataclass(frozen=True)
class Path:
    """Strengths, weights of shape (n_points, n_features), and the CPU seconds they cost."""

    strengths: Array
    weights: Array
    seconds: float


@final
@dataclass(frozen=True)
class Design:
    """Gaussian columns, the neighbours correlated, and a sparse truth under noise."""

    name: str
    noise: float
    correlation: float = 0.0

    def draw(self, seed: int, samples: int, features: int) -> tuple[Array, Array]:
        """Columns in Fortran order and the target, both float64; `noise` is relative to the signal."""
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((samples, features))
        for j in range(1, features) if self.correlation else ():
            X[:, j] = self.correlation * X[:, j - 1] + np.sqrt(1 - self.correlation**2) * X[:, j]
        truth = np.zeros(features)
        truth[rng.choice(features, 50, replace=False)] = rng.standard_normal(50)
        signal = X @ truth
        return np.asfortranarray(X), signal + self.noise * signal.std() * rng.standard_normal(samples)


DESIGNS = (Design("little noise", 0.1), Design("much noise", 0.5), Design("correlated columns", 0.3, 0.9))


def scikit_learn(X: Array, y: Array, strengths: Array) -> Path:
    """Coordinate descent on the grid."""
    (_, weights, _), seconds = timed(lasso_path, X, y, alphas=strengths, tol=TOLERANCE)
    return Path(strengths, weights.T, seconds)


def holding_strengths(X: Array, y: Array, strengths: Array) -> Path:
    """Our exact corrector on the grid, each strength from the weights of the one before."""
    return _corrected(ActiveSetNewton("strength", PASSES, RESIDUAL), X, y, strengths, np.zeros_like(strengths))


def holding_penalties(X: Array, y: Array, strengths: Array) -> Path:
    """The same on the grid of penalties that the strengths lead to."""
    levels = np.abs(holding_strengths(X, y, strengths).weights).sum(axis=1)
    return _corrected(ActiveSetNewton("penalty", PASSES, RESIDUAL), X, y, strengths, levels)


def proximal_gradient(X: Array, y: Array, strengths: Array) -> Path:
    """Accelerated proximal gradient steps on the grid."""
    return _corrected(ProximalGradient("strength", PASSES, RESIDUAL), X, y, strengths, np.zeros_like(strengths))


def whole_job(X: Array, y: Array, strengths: Array) -> Path:
    """A continuation of as many points from the grid's weakest strength, its anchor and measurements included."""
    tracer = continuation(
        len(strengths),
        0,
        Budget(),
        corrector="newton",
        held="penalty",
        tolerance=RESIDUAL,
        epochs=PASSES,
        end=1.0,
        anchor_epochs=ANCHOR_PASSES,
        strength=float(strengths[-1]),
    )
    waypoints, seconds = timed(lambda: list(tracer.trace(_problem(X, y))))
    return Path(np.array([w.point.lam for w in waypoints]), np.stack([w.theta for w in waypoints]), seconds)


def _corrected(corrector: Corrector, X: Array, y: Array, strengths: Array, levels: Array) -> Path:
    weights, seconds = timed(lambda: _followed(corrector, _problem(X, y), strengths, levels))
    return Path(strengths, weights, seconds)


def _followed(corrector: Corrector, problem: Problem, strengths: Array, levels: Array) -> Array:
    theta, weights, step = problem.loss.initial(), [], None
    for lam, level in zip(strengths, levels, strict=True):
        found = corrector.correct(problem, State(theta, float(lam), float(level), step=step), 0).state
        theta, step = found.theta, found.step
        weights.append(theta.numpy())
    return np.stack(weights)


def _problem(X: Array, y: Array) -> Problem:
    loss = LeastSquares(torch.from_numpy(X), torch.from_numpy(y))
    return Problem(loss, L1(loss.layout))


WAYS: dict[str, Callable[[Array, Array, Array], Path]] = {
    "scikit-learn": scikit_learn,
    "newton, strengths held": holding_strengths,
    "newton, penalties held": holding_penalties,
    "proximal gradient": proximal_gradient,
    "whole continuation": whole_job,
}


def duality_gap(X: Array, y: Array, theta: Array, lam: float) -> float:
    """Of ``||y - X theta||^2 / 2 + n lam ||theta||_1``, as a share of ``||y||^2``: what scikit-learn stops by."""
    rest, charge = y - X @ theta, lam * len(y)
    scale = min(1.0, charge / max(float(np.abs(X.T @ rest).max()), 1e-300))
    primal = rest @ rest / 2 + charge * np.abs(theta).sum()
    return float((primal - (scale * rest @ y - scale**2 * rest @ rest / 2)) / (y @ y))


@final
@dataclass(frozen=True)
class Row:
    """One way on one design: medians over the repeats."""

    design: str
    way: str
    seconds: float
    ratio: float
    widest_gap: float
    most_nonzeros: int


def measure(design: Design, repeats: int, samples: int, features: int) -> list[Row]:
    """All ways in turns in one process; ratios are within a repeat."""
    X, y = design.draw(0, samples, features)
    highest = float(np.abs(X.T @ y).max()) / len(y)
    strengths = np.geomspace(highest, highest / RANGE, POINTS)
    runs = [{name: way(X, y, strengths) for name, way in WAYS.items()} for _ in range(repeats)]
    return [_row(design, name, X, y, runs) for name in WAYS]


def _row(design: Design, name: str, X: Array, y: Array, runs: Sequence[dict[str, Path]]) -> Row:
    path = runs[0][name]
    gaps = [duality_gap(X, y, theta, lam) for lam, theta in zip(path.strengths, path.weights, strict=True)]
    seconds, unit = ([run[way].seconds for run in runs] for way in (name, "scikit-learn"))
    nonzeros = int((path.weights != 0).sum(axis=1).max())
    return Row(design.name, name, median(seconds), ratio(seconds, unit), max(gaps), nonzeros)


def main() -> None:
    """Print and store the cost and the accuracy of every way on every design."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lasso_path", description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for design in DESIGNS:
        found = measure(design, given.repeats, given.samples, given.features)
        rows += found
        for row in found:
            cost = f"{row.seconds:8.3f} CPU s, {row.ratio:6.2f} x scikit-learn"
            print(f"{row.design:20s} {row.way:24s} {cost}, gap {row.widest_gap:.1e}, {row.most_nonzeros} nonzeros")
    record.store("lasso_path", {**vars(given), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
