"""Directions of descent for one parameter: momentum and Adam's; what they remember stands in the optimiser's state."""

from typing import Any

import torch
from torch import Tensor

from engine.optim.base import Group, slope


def with_momentum(parameter: Tensor, state: dict[str, Any], group: Group) -> Tensor:
    """The gradient with weight decay and momentum, as `torch.optim.SGD` has them; not to be changed.

    References
    ----------
    Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.
    """
    grad = slope(parameter, group)
    if group["weight_decay"]:
        grad = grad.add(parameter, alpha=group["weight_decay"])
    if not group["momentum"]:
        return grad
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = grad.clone()
    else:
        state["momentum_buffer"].mul_(group["momentum"]).add_(grad, alpha=1 - group["dampening"])
    buffer: Tensor = state["momentum_buffer"]
    return grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer


def averaged(parameter: Tensor, state: dict[str, Any], group: Group) -> Tensor:
    """The running average of the gradients, from zero; not to be changed."""
    grad = slope(parameter, group)
    if not group["momentum"]:
        return grad
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    buffer: Tensor = state["momentum_buffer"]
    return buffer.lerp_(grad, 1 - group["momentum"])


def adams(parameter: Tensor, state: dict[str, Any], group: Group) -> tuple[Tensor, Tensor]:
    """Adam's mean of the gradient and the root mean square that it is divided by, both bias-corrected.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, Algorithm 1.
    """
    grad, (beta, beta_square) = slope(parameter, group), group["betas"]
    if not state.get("step"):
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    state["step"] += 1
    mean = state["exp_avg"].lerp_(grad, 1 - beta)
    square = state["exp_avg_sq"].mul_(beta_square).addcmul_(grad, grad, value=1 - beta_square)
    root = square.div(1 - beta_square ** state["step"]).sqrt_().add_(group["eps"])
    return mean / (1 - beta ** state["step"]), root
