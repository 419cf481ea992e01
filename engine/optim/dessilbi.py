"""Split linearised Bregman iterations: dense weights train, and a sparse twin of theirs grows from nothing."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from engine.optim.base import Group, Parameters, PenalisedOptimizer, parted, prox
from engine.optim.directions import adams, with_momentum
from engine.penalties.base import Penalty


class SplitBregman(PenalisedOptimizer):
    """Train the weights W beside their sparse twin G, drawn towards each other by ``||W - G||^2 / (2 nu)``.

    ``W <- W - kappa lr (direction + (W - G) / nu)``, ``Z <- Z + (lr / nu) (W - G)`` with the W of before, and
    ``G = kappa prox(Z, strength)``. G begins empty; what matters enters first: the inverse scale space. Its support
    at any time is a structure to train (`supports`). Weights that no penalty acts on just follow the direction.
    Stable where ``kappa lr (L + 1 / nu) < 2``, L the curvature of the loss.
    """

    def gammas(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every parameter with its sparse twin, of the same shape; zero where no penalty acts."""
        for group in self.param_groups:
            yield from zip(group["params"], self._gammas(group), strict=True)

    def supports(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every parameter with the mask of what has entered, of the same shape; true where no penalty acts."""
        for group in self.param_groups:
            masks = zip(self._gammas(group), _penalised(group), strict=True)
            yield from zip(group["params"], ((gamma != 0) | ~acts for gamma, acts in masks), strict=True)

    def _step(self, group: Group) -> None:
        twins = zip(group["params"], self._gammas(group), _penalised(group), strict=True)
        for p, gamma, acts in twins:
            if p.grad is None:
                continue
            apart = (p - gamma) * acts
            self._descend_(p, group)
            p.add_(apart, alpha=-group["kappa"] * group["lr"] / group["nu"])
            self.state[p]["dual"].add_(apart, alpha=group["lr"] / group["nu"])

    def _gammas(self, group: Group) -> list[Tensor]:
        for p in group["params"]:
            if "dual" not in self.state[p]:
                self.state[p]["dual"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        duals = [self.state[p]["dual"] for p in group["params"]]
        return [group["kappa"] * part for part in prox(group, duals, 1.0)]

    @abstractmethod
    def _descend_(self, parameter: Tensor, group: Group) -> None:
        """Move one parameter in place by ``kappa lr`` along the direction of descent."""


def _penalised(group: Group) -> list[Tensor]:
    """Masks of the weights that the group's penalty acts on."""
    parameters, penalty = group["params"], group["penalty"]
    if penalty is None:
        return [torch.zeros_like(p, dtype=torch.bool) for p in parameters]
    return parted(penalty.penalised.to(parameters[0].device), parameters)


@final
class DessiLBI(SplitBregman):
    """Deep structurally splitting linearised Bregman iterations, with momentum.

    For l1 it is the lasso form, for a group norm the group form. As ``nu`` grows it becomes `torch.optim.SGD` at the
    rate ``kappa lr``.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        At least 0: how far the dual Z must go before a weight enters.
    kappa : float
        Above 0: the size of the twin as its dual grows, and of the weights' steps.
    nu : float
        Above 0: how loosely weights and twin are tied.
    momentum, dampening : float
        In [0, 1); the tie is no part of the momentum.
    weight_decay : float
        At least 0; added to the gradient.
    nesterov : bool
    maximize : bool
        Ascend along the gradient.

    References
    ----------
    Fu et al., "DessiLBI: exploring structural sparsity of deep networks via differential inclusion paths", ICML 2020.
    Fu et al., "Exploring structural sparsity of deep networks via inverse scale spaces", TPAMI 2022.
    """

    def __init__(  # noqa: PLR0913 - every argument is a hyper-parameter
        self,
        params: Parameters,
        lr: float = 1e-1,
        *,
        penalty: Penalty | None = None,
        strength: float = 1.0,
        kappa: float = 1.0,
        nu: float = 20.0,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        split = {"penalty": penalty, "strength": strength, "kappa": kappa, "nu": nu}
        momenta = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, {"lr": lr, **split, **momenta, "weight_decay": weight_decay, "maximize": maximize})

    def _descend_(self, parameter: Tensor, group: Group) -> None:
        step = group["kappa"] * group["lr"]
        parameter.add_(with_momentum(parameter, self.state[parameter], group), alpha=-step)


@final
class AdaDessiLBI(SplitBregman):
    """`DessiLBI` with Adam's direction of the loss in place of the gradient; the tie stays outside of Adam's averages.

    As ``nu`` grows it becomes Adam at the rate ``kappa lr``. The authors' code has no Adam form; this one is made as
    their momentum form is.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        At least 0: how far the dual Z must go before a weight enters.
    kappa : float
        Above 0: the size of the twin as its dual grows, and of the weights' steps.
    nu : float
        Above 0: how loosely weights and twin are tied.
    betas : (float, float)
        Of the two averages, each in [0, 1).
    eps : float
        Above 0; added to the root mean square.
    maximize : bool
        Ascend along the gradient.

    References
    ----------
    Fu et al., "DessiLBI: exploring structural sparsity of deep networks via differential inclusion paths", ICML 2020.
    """

    def __init__(  # noqa: PLR0913 - every argument is a hyper-parameter
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        penalty: Penalty | None = None,
        strength: float = 1.0,
        kappa: float = 1.0,
        nu: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        split = {"penalty": penalty, "strength": strength, "kappa": kappa, "nu": nu}
        super().__init__(params, {"lr": lr, **split, "betas": betas, "eps": eps, "maximize": maximize})

    def _descend_(self, parameter: Tensor, group: Group) -> None:
        mean, root = adams(parameter, self.state[parameter], group)
        parameter.addcdiv_(mean, root, value=-group["kappa"] * group["lr"])
