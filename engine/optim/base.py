"""What the penalised optimisers share: groups of parameters with penalties, checked values, closures, state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from engine.penalties.base import Penalty, Step

Group = Mapping[str, Any]
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

AT_LEAST_ZERO = ("lr", "strength", "weight_decay")
POSITIVE = ("delta", "eps", "kappa", "nu")
SHARES = ("momentum", "dampening")


class PenalisedOptimizer(Optimizer, ABC):
    """An optimiser for any training loop, whose groups of parameters may each have a penalty.

    A group's ``penalty`` acts on its parameters as one flat vector, in their order:
    ``L1(layout(module))`` for ``module.parameters()``, with `layout` from `engine.losses`; None leaves the group
    unpenalised. Every other value may differ between groups, too. Parameters without a gradient stay as they are.
    Penalties are kept out of ``state_dict``, as the parameters are: it holds numbers and tensors only.
    ``capturable``, ``foreach``, ``fused`` and ``differentiable`` are not offered.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or groups, as for every `torch.optim.Optimizer`.
    defaults : dict
        Values of groups that have none of their own.

    Raises
    ------
    ValueError
        If a value cannot work, a parameter is complex, or a penalty does not fit its group.
    """

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model anew and returns the loss, which is handed on.

        Raises
        ------
        RuntimeError
            If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if moving(group):
                self._step(group)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As of every optimiser; without the penalties."""
        found = super().state_dict()
        for group in found["param_groups"]:
            del group["penalty"]
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of every optimiser; the penalties stay as they are."""
        penalties = [group["penalty"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, penalty in zip(self.param_groups, penalties, strict=True):
            group["penalty"] = penalty

    @abstractmethod
    def _step(self, group: Group) -> None:
        """Move the parameters of a group that have a gradient."""


def moving(group: Group) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [p for p in group["params"] if p.grad is not None]


def slope(parameter: Tensor, group: Group) -> Tensor:
    """The gradient to descend along; not to be changed."""
    grad = parameter.grad
    if grad is None or grad.is_sparse:
        raise RuntimeError("gradients must be dense; sparse ones are not supported")
    return -grad if group["maximize"] else grad


def flat(parts: Iterable[Tensor]) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def parted(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat vector in the shapes of `like`; the inverse of `flat`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def prox(group: Group, points: Sequence[Tensor], step: Step) -> list[Tensor]:
    """The proximal operator of a group's penalty, `step` times its strength; the points as they are without one.

    Parameters
    ----------
    points : sequence of Tensor
        In the shapes of the group's parameters.
    step : float or Tensor of shape (n_params,)
        Above 0.
    """
    if group["penalty"] is None or group["strength"] == 0:
        return list(points)
    return parted(group["penalty"].prox(flat(points), step * group["strength"]), points)


def _check(group: Group) -> None:
    bounds: list[tuple[Iterable[str], Callable[[float], bool], str]] = [
        (AT_LEAST_ZERO, lambda value: 0 <= value < math.inf, "must be 0 or more"),
        (POSITIVE, lambda value: 0 < value < math.inf, "must be above 0"),
        (SHARES, lambda value: 0 <= value < 1, "must be at least 0 and below 1"),
    ]
    for names, holds, words in bounds:
        for name in names:
            if name in group and not holds(group[name]):
                raise ValueError(f"{name} {group[name]} {words}")
    for beta in group.get("betas", ()):
        if not 0 <= beta < 1:
            raise ValueError(f"betas {group['betas']} must be at least 0 and below 1")
    if group.get("nesterov") and (group["momentum"] == 0 or group["dampening"] != 0):
        raise ValueError("nesterov needs a momentum above 0 and no dampening")
    _check_parameters(group["params"], group["penalty"])


def _check_parameters(parameters: Sequence[Tensor], penalty: Penalty | None) -> None:
    if any(p.is_complex() for p in parameters):
        raise ValueError("complex parameters are not supported")
    if penalty is None:
        return
    here, meant = sum(p.numel() for p in parameters), penalty.penalised.numel()
    if here != meant:
        raise ValueError(f"the penalty is made for {meant:,} weights, its group has {here:,}")
    if len({(p.dtype, p.device) for p in parameters}) > 1:
        raise ValueError("the parameters of a group with a penalty must share one dtype and one device")
