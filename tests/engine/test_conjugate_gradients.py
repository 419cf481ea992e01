"""Conjugate gradients against dense solutions."""

import pytest
import torch
from torch import Tensor

from engine.conjugate_gradients import minimise, minimise_on
from tests.engine.problems import vector


def matrix(eigenvalues: Tensor) -> Tensor:
    """Symmetric, with these eigenvalues."""
    basis = torch.linalg.qr(vector(7, len(eigenvalues) ** 2).view(len(eigenvalues), -1)).Q
    return basis @ torch.diag(eigenvalues) @ basis.T


def bordered(H: Tensor, normal: Tensor, slope: Tensor, distance: float) -> Tensor:
    """The first part of the solution of ``[H, normal; normal.T, 0] [d, lam] = [-slope, distance]``."""
    n = len(slope)
    system = torch.zeros(n + 1, n + 1, dtype=H.dtype)
    system[:n, :n], system[:n, n], system[n, :n] = H, normal, normal
    return torch.linalg.solve(system, torch.cat([-slope, torch.tensor([distance], dtype=H.dtype)]))[:n]


def test_the_minimum_is_that_of_a_dense_solve() -> None:
    H, slope = matrix(torch.logspace(-2, 1, 8, dtype=torch.float64)), vector(1, 8)
    found = minimise(lambda d: H @ d, slope, 1e-12, 100)
    assert found.curved
    torch.testing.assert_close(found.at, torch.linalg.solve(H, -slope))


@pytest.mark.parametrize("limit", range(1, 6))
def test_more_products_lower_the_quadratic(limit: int) -> None:
    H, slope = matrix(torch.logspace(-2, 1, 8, dtype=torch.float64)), vector(1, 8)
    fewer, more = (minimise(lambda d: H @ d, slope, 0.0, n).at for n in (limit, limit + 1))
    assert more @ H @ more / 2 + slope @ more < fewer @ H @ fewer / 2 + slope @ fewer


def test_the_tolerance_bounds_the_gradient_that_is_left() -> None:
    H, slope = matrix(torch.logspace(-2, 1, 30, dtype=torch.float64)), vector(1, 30)
    found = minimise(lambda d: H @ d, slope, 0.1, 100).at
    assert 1e-6 < float((H @ found + slope).norm()) <= 0.1


@pytest.mark.parametrize("lowest", [-1.0, 0.0])
def test_what_does_not_curve_upwards_is_told(lowest: float) -> None:
    H = matrix(torch.tensor([lowest, 1.0, 2.0, 3.0], dtype=torch.float64))
    found = minimise(lambda d: H @ d, vector(1, 4), 1e-12, 100)
    assert not found.curved
    assert torch.isfinite(found.at).all()


@pytest.mark.parametrize("distance", [0.0, -0.3])
def test_on_a_plane_it_solves_the_bordered_system(distance: float) -> None:
    H, normal, slope = matrix(torch.logspace(-1, 1, 8, dtype=torch.float64)), vector(2, 8), vector(1, 8)
    found = minimise_on((normal, distance), lambda d: H @ d, slope, 1e-12, 100)
    torch.testing.assert_close(found.at, bordered(H, normal, slope, distance))
    assert float(normal @ found.at) == pytest.approx(distance, abs=1e-12)


def test_the_plane_may_hide_negative_curvature() -> None:
    H = torch.diag(torch.tensor([-1.0, 1.0, 2.0], dtype=torch.float64))
    normal, slope = torch.tensor([1.0, 0.1, 0.1], dtype=torch.float64), vector(1, 3)
    found = minimise_on((normal, 0.2), lambda d: H @ d, slope, 1e-12, 100)
    assert found.curved
    torch.testing.assert_close(found.at, bordered(H, normal, slope, 0.2))
