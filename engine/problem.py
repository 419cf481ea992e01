"""Two objectives, a loss and a penalty, and the certificate that a network is Pareto critical for them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.cleanup import Cleanup
from engine.conjugate_gradients import Product
from engine.losses import Buffers, Loss
from engine.penalties import Penalty
from engine.shrinking import Parts


@dataclass(frozen=True, slots=True)
class State:
    """Weights and the trade-off they are meant for.

    Parameters
    ----------
    theta : Tensor, shape (n_params,)
    lam : float
        Strength of the penalty: what a fixed-lambda corrector holds still.
    level : float
        Value of the penalty: what an l1-ball corrector holds still.
    buffers : mapping of str to Tensor
    step : float, optional
        Step that worked there, in the corrector's own unit; correctors start from it and keep it up to date.
    saved : float
        Penalty that cleaning took off these weights.
    """

    theta: Tensor
    lam: float
    level: float
    buffers: Buffers = field(default_factory=dict)
    step: float | None = None
    saved: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Minimise ``(loss, penalty)``.

    Parameters
    ----------
    loss : Loss
    penalty : Penalty
    cleanup : Cleanup, optional
        Takes penalty off weights at no loss; networks are left as found if None.
    """

    loss: Loss
    penalty: Penalty
    cleanup: Cleanup | None = None

    def cleaned(self, at: State) -> State:
        """The same network with as little penalty as `cleanup` finds."""
        if self.cleanup is None:
            return at
        if smaller := self.shrunk(at.theta):
            return smaller.whole(smaller.problem.cleaned(smaller.part(at)))
        theta = self.cleanup(at.theta)
        saved = float(self.penalty.value(at.theta) - self.penalty.value(theta))
        return replace(at, theta=theta, saved=saved)

    def shrunk(self, theta: Tensor) -> "Smaller | None":
        """The problem without weights that are zero at `theta` and get no gradient; None where they are not many."""
        found = self.loss.shrunk(theta)
        penalty = found and self.penalty.among(found.parts)
        if found is None or penalty is None:
            return None
        cleanup = self.cleanup and Cleanup(found.loss.module, penalty)
        return Smaller(Problem(found.loss, penalty, cleanup), found.parts)

    def multiplier(self, theta: Tensor, grad: Tensor) -> float:
        """The strength for which `theta` is closest to stationary on its support, at least 0.

        The least-squares solution of ``grad + lam * subgradient = 0``; for l1 the mean of ``-grad_i sign(theta_i)``,
        and 0 where the penalty is flat.

        References
        ----------
        Amakor, Sonntag, Peitz, arXiv 2308.12044, section 2 (multipliers of the Karush-Kuhn-Tucker system).
        """
        slope = self.penalty.subgradient(theta)
        square = float(slope @ slope)
        if square > 0:
            return max(0.0, -float(slope @ grad) / square)
        return 0.0 if bool(self.penalty.value(theta) > 0) else self._holding_at_zero(theta, grad)

    def residual(self, theta: Tensor, grad: Tensor, lam: float) -> float:
        """The certificate ``||theta - prox(theta - grad, lam)||_2``; 0 exactly where `theta` is Pareto critical."""
        return float((theta - self.penalty.prox(theta - grad, lam)).norm())

    def hvp(self, theta: Tensor, support: Tensor, lam: float) -> Product:
        """Hessian-vector products of ``loss + lam * penalty`` between the weights of a support; see `Loss.hvp`."""
        product = self.loss.hvp(theta, support)

        def curved(direction: Tensor) -> Tensor:
            along = torch.zeros_like(theta).index_copy(0, support, direction)
            bent = self.penalty.curvature(theta, along)
            return product(direction) if bent is None else product(direction) + lam * bent[support]

        return curved

    def _holding_at_zero(self, theta: Tensor, grad: Tensor) -> float:
        """The least strength, to a relative 1e-6, that keeps all penalised weights at zero."""
        high = float(grad.abs().max())
        low = 0.0
        while bool(self.penalty.subgradient(self.penalty.prox(theta - grad, high)).any()):
            low, high = high, 2 * high
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            moved = bool(self.penalty.subgradient(self.penalty.prox(theta - grad, middle)).any())
            low, high = (middle, high) if moved else (low, middle)
        return high


@dataclass(frozen=True, slots=True)
class Smaller:
    """A problem without some of another's weights, which stay zero whatever is done here.

    Parameters
    ----------
    problem : Problem
    parts : Parts
        Where its weights stand in the other's.
    """

    problem: Problem
    parts: Parts

    def part(self, at: State) -> State:
        return replace(at, theta=self.parts.of(at.theta))

    def whole(self, at: State) -> State:
        return replace(at, theta=self.parts.whole(at.theta))
