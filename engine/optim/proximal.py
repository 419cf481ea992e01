"""Proximal gradient steps: minimise ``loss + strength * penalty``; weights become exactly zero."""

from typing import final

import torch

from engine.optim.base import Group, Parameters, PenalisedOptimizer, flat, moving, prox
from engine.optim.directions import adams, with_momentum
from engine.penalties.base import Penalty, Step


@final
class ProxSGD(PenalisedOptimizer):
    """Stochastic gradient descent with momentum, followed by the proximal operator of the same step size.

    Without a penalty it is `torch.optim.SGD`.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        Of the penalty, at least 0.
    momentum, dampening : float
        In [0, 1).
    weight_decay : float
        At least 0; added to the gradient.
    nesterov : bool
    maximize : bool
        Ascend along the gradient; the penalty still shrinks.

    References
    ----------
    Duchi, Singer, "Efficient online and batch learning using forward backward splitting", JMLR 10, 2009.
    """

    def __init__(  # noqa: PLR0913 - every argument is a hyper-parameter
        self,
        params: Parameters,
        lr: float = 1e-2,
        *,
        penalty: Penalty | None = None,
        strength: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        momenta = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        penalised = {"penalty": penalty, "strength": strength}
        super().__init__(params, {"lr": lr, **penalised, **momenta, "weight_decay": weight_decay, "maximize": maximize})

    def _step(self, group: Group) -> None:
        for p in moving(group):
            p.add_(with_momentum(p, self.state[p], group), alpha=-group["lr"])
        _shrink(group, group["lr"])


@final
class ProxAdam(PenalisedOptimizer):
    """Adam's step, followed by the proximal operator in Adam's own metric.

    With the bias-corrected mean m and root mean square d (`eps` added), in every coordinate the step size h = lr / d
    serves both: ``theta = prox(theta - h m, h strength)``. So a minimiser of the penalised loss is left where it is
    from the first step on. The authors' code multiplies the gradient step alone with the bias corrections.
    A weight that never had a gradient is shrunk by ``lr strength / eps`` at a time. Without a penalty it is
    `torch.optim.AdamW`.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        Of the penalty, at least 0.
    betas : (float, float)
        Of the two averages, each in [0, 1).
    eps : float
        Least metric, above 0; larger than Adam's usual 1e-8 for the sake of weights without a gradient.
    weight_decay : float
        At least 0; decoupled.
    maximize : bool
        Ascend along the gradient; the penalty still shrinks.

    References
    ----------
    Yun, Lozano, Yang, "Adaptive proximal gradient methods for structured neural networks" (ProxGEN), NeurIPS 2021.
    Deleu, Bengio, "Structured sparsity inducing adaptive optimizers for deep learning", arXiv 2102.03869, 2021,
    Algorithm 1.
    """

    def __init__(  # noqa: PLR0913 - every argument is a hyper-parameter
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        penalty: Penalty | None = None,
        strength: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        penalised = {"penalty": penalty, "strength": strength}
        adam = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **penalised, **adam, "maximize": maximize})

    def _step(self, group: Group) -> None:
        steps = {p: torch.full_like(p, group["lr"]) for p in group["params"] if p.grad is None}
        for p in moving(group):
            mean, root = adams(p, self.state[p], group)
            steps[p] = root.reciprocal_().mul_(group["lr"])
            p.mul_(1 - group["lr"] * group["weight_decay"]).addcmul_(mean, steps[p], value=-1)
        _shrink(group, flat(steps[p] for p in group["params"]))


def _shrink(group: Group, step: Step) -> None:
    """Apply the proximal operator to the parameters that have moved; a step of no length shrinks nothing."""
    if group["lr"] == 0:
        return
    for p, shrunk in zip(group["params"], prox(group, group["params"], step), strict=True):
        if p.grad is not None and shrunk is not p:
            p.copy_(shrunk)
