"""Conjugate gradients for the quadratic models of Newton steps and tangents: products with the Hessian alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where conjugate gradients ended.

    Parameters
    ----------
    at : Tensor, shape (n,)
    curved : bool
        Whether all directions met had positive curvature; if not, `at` is the best point before the first that had not.
    """

    at: Tensor
    curved: bool


def minimise(product: Product, slope: Tensor, tolerance: float, limit: int) -> Minimum:
    """Minimise ``d @ H @ d / 2 + slope @ d`` from zero.

    Parameters
    ----------
    product : callable
        ``d -> H @ d`` for a symmetric H.
    slope : Tensor, shape (n,)
    tolerance : float
        Stop when the norm of the quadratic's gradient is at most this.
    limit : int
        Most products.

    References
    ----------
    Steihaug, "The conjugate gradient method and trust regions in large scale optimization", SIAM J. Numerical Analysis
    20, 1983 (without the region).
    """
    at, residual = torch.zeros_like(slope), -slope
    direction, square = residual, slope @ slope
    highest = torch.zeros_like(square)
    for _ in range(limit):
        if square <= tolerance**2:
            break
        bent = product(direction)
        curvature, length = direction @ bent, direction @ direction
        highest = torch.maximum(highest, curvature / length)
        if not curvature > 10 * torch.finfo(slope.dtype).eps * highest * length:
            return Minimum(at, False)
        at = at + square / curvature * direction
        residual = residual - square / curvature * bent
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return Minimum(at, True)


def minimise_on(
    plane: tuple[Tensor, Tensor | float], product: Product, slope: Tensor, tolerance: float, limit: int
) -> Minimum:
    """Minimise the same where ``normal @ d = distance``: the bordered system ``[H, normal; normal.T, 0]``.

    Parameters
    ----------
    plane : (Tensor, float)
        `normal`, not zero, shape (n,), and `distance`.

    References
    ----------
    Gould, Hribar, Nocedal, "On the solution of equality constrained quadratic programming problems arising in
    optimization", SIAM J. Scientific Computing 23, 2001, Algorithm 2.1 (projected conjugate gradients).
    """
    normal, distance = plane
    unit = normal / normal.norm()

    def within(vector: Tensor) -> Tensor:
        inside: Tensor = vector - (unit @ vector) * unit
        return inside

    base = distance / normal.norm() * unit
    start = slope + product(base) if distance else slope
    rounding = 10 * torch.finfo(slope.dtype).eps * float(start.norm())
    found = minimise(lambda d: within(product(d)), within(start), max(tolerance, rounding), limit)
    return Minimum(base + found.at, found.curved)
