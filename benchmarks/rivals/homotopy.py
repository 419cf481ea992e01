"""scikit-learn's lasso paths: where the network is linear, its front is known exactly."""

from collections.abc import Iterator
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import lars_path, lasso_path

from benchmarks.rivals.base import Network, Rival, Task, stored

REACH = 1e-3
MOST_KNOTS = 100_000


@final
class LassoPath(Rival):
    """Coordinate descent, or the exact homotopy; both give networks on a logarithmic grid of strengths.

    A round of coordinate descent counts as one pass over the data, and so does a knot of the homotopy.

    Parameters
    ----------
    method : str
        "lasso_path" or "lars_path"; the latter's weights are linear in the strength between its knots.

    References
    ----------
    Friedman, Hastie, Tibshirani, JSS 33, 2010 (coordinate descent).
    Efron, Hastie, Johnstone, Tibshirani, "Least angle regression", Annals of Statistics 32, 2004 (homotopy).
    """

    def __init__(self, method: Literal["lasso_path", "lars_path"]) -> None:
        self._method = method

    def refusal(self, task: Task) -> str:
        spec, data = task.spec, task.experiment.dataset
        linear = spec.network.name == "linear" and spec.network.params.get("bias") is False
        return "" if linear and data.task == "regression" and data.n_outputs == 1 else "not a lasso"

    def networks(self, task: Task) -> Iterator[Network]:
        data, start = task.experiment.dataset, task.loss.initial()
        X, y = data.X_train.reshape(len(data.X_train), -1).astype(float), data.y_train.ravel().astype(float)
        coefs, rounds = self._path(X, y, task.points)
        task.loss.effort += rounds
        for column in coefs.T:
            yield stored(task.loss, torch.from_numpy(column.copy()).to(start))

    def _path(self, X: NDArray[Any], y: NDArray[Any], points: int) -> tuple[NDArray[Any], float]:
        """Weights for each strength of a log grid, shape (n_params, points), and what they cost."""
        strongest = np.abs(X.T @ y).max() / len(y)
        strengths = np.geomspace(strongest, REACH * strongest, points)
        if self._method == "lasso_path":
            _, coefs, _, rounds = lasso_path(X, y, alphas=strengths, return_n_iter=True)
            return coefs, float(np.sum(rounds))
        knots, _, corners = lars_path(X, y, method="lasso", alpha_min=REACH * strongest, max_iter=MOST_KNOTS)
        return np.array([np.interp(strengths, knots[::-1], row[::-1]) for row in corners]), float(len(knots))
