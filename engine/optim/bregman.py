"""Linearised Bregman iterations: weights enter one by one, and no strength shrinks those that have entered."""

from abc import abstractmethod
from typing import final

from torch import Tensor

from engine.optim.base import Group, Parameters, PenalisedOptimizer, flat, moving, parted, prox
from engine.optim.directions import adams, averaged
from engine.penalties.base import Penalty


class Bregman(PenalisedOptimizer):
    """Descend on a dual vector v; the weights are its image ``prox(delta v, delta strength)``.

    For l1 a weight is zero as long as ``|v| <= strength``. At every step v - theta / delta is a subgradient of
    ``strength * penalty`` at theta, and without a penalty the dual is the weights, over delta. Weights that start at
    zero everywhere stay there: begin with few, but not none.
    """

    def _step(self, group: Group) -> None:
        self._begin(group)
        for p in moving(group):
            self._descend_(self.state[p]["dual"], p, group)
        points = [group["delta"] * self.state[p]["dual"] for p in group["params"]]
        for p, image in zip(group["params"], prox(group, points, group["delta"]), strict=True):
            if p.grad is not None:
                p.copy_(image)

    def _begin(self, group: Group) -> None:
        """The duals of the weights as they are, where there are none yet."""
        parameters = group["params"]
        if all("dual" in self.state[p] for p in parameters):
            return
        theta, strength = flat(parameters), group["strength"]
        dual = theta / group["delta"]
        if group["penalty"] is not None:
            dual += strength * group["penalty"].subgradient(theta)
        for p, part in zip(parameters, parted(dual, parameters), strict=True):
            self.state[p]["dual"] = part.clone()

    @abstractmethod
    def _descend_(self, dual: Tensor, parameter: Tensor, group: Group) -> None:
        """Move the dual of one parameter in place."""


@final
class LinBreg(Bregman):
    """Linearised Bregman iterations, with momentum where asked for: ``v <- v - lr m``.

    m is the gradient, or its average ``m <- momentum m + (1 - momentum) gradient``. Without a penalty it is stochastic
    gradient descent at the rate ``delta lr``.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        At least 0: how far a dual must go before its weight enters.
    delta : float
        Above 0: how far a weight moves as its dual does.
    momentum : float
        In [0, 1).
    maximize : bool
        Ascend along the gradient.

    References
    ----------
    Bungert, Roith, Tenbrinck, Burger, "A Bregman learning framework for sparse neural networks", JMLR 23, 2022.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-1,
        *,
        penalty: Penalty | None = None,
        strength: float = 1e-1,
        delta: float = 1.0,
        momentum: float = 0.0,
        maximize: bool = False,
    ) -> None:
        penalised = {"penalty": penalty, "strength": strength, "delta": delta}
        super().__init__(params, {"lr": lr, **penalised, "momentum": momentum, "maximize": maximize})

    def _descend_(self, dual: Tensor, parameter: Tensor, group: Group) -> None:
        dual.add_(averaged(parameter, self.state[parameter], group), alpha=-group["lr"])


@final
class AdaBreg(Bregman):
    """Linearised Bregman iterations along Adam's direction; without a penalty and with a delta of 1 it is Adam.

    Parameters
    ----------
    params : iterable
    lr : float
        Step size, at least 0.
    penalty : Penalty, optional
        Of all parameters of the group as one flat vector.
    strength : float
        At least 0: how far a dual must go before its weight enters.
    delta : float
        Above 0: how far a weight moves as its dual does.
    betas : (float, float)
        Of the two averages, each in [0, 1).
    eps : float
        Above 0; added to the root mean square.
    maximize : bool
        Ascend along the gradient.

    References
    ----------
    Bungert, Roith, Tenbrinck, Burger, "A Bregman learning framework for sparse neural networks", JMLR 23, 2022.
    """

    def __init__(  # noqa: PLR0913 - every argument is a hyper-parameter
        self,
        params: Parameters,
        lr: float = 1e-3,
        *,
        penalty: Penalty | None = None,
        strength: float = 1e-1,
        delta: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        penalised = {"penalty": penalty, "strength": strength, "delta": delta}
        super().__init__(params, {"lr": lr, **penalised, "betas": betas, "eps": eps, "maximize": maximize})

    def _descend_(self, dual: Tensor, parameter: Tensor, group: Group) -> None:
        mean, root = adams(parameter, self.state[parameter], group)
        dual.addcdiv_(mean, root, value=-group["lr"])
