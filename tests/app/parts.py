"""Networks that misbehave, named by jobs as import paths."""

import os
import signal
import threading
import time

import torch
from torch import Tensor, nn


class Faulty(nn.Module):
    """A linear network that goes wrong after some evaluations in training."""

    def __init__(self, n_inputs: int, n_outputs: int, after: int, fault: str) -> None:
        super().__init__()
        self.inner = nn.Linear(n_inputs, n_outputs)
        self.left, self.fault = after, fault

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left > 0:
            return self.inner(x)
        if self.fault == "crash":
            raise RuntimeError("the network broke\nin its second line")
        if self.fault == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return self.inner(x)
        if self.fault == "slow":
            time.sleep(0.002)
            return self.inner(x)
        if self.fault == "abort":
            os.abort()
        if self.fault == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            threading.Event().wait()
        if self.fault == "hoard":
            return self.inner(x) + torch.empty(2**36).sum()
        return self.inner(x) * torch.nan


class Branching(nn.Module):
    """A linear network whose code looks at the size of the batch."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_inputs, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if len(x.shape) == 2 and x.shape[0] > 0 else x


def branching(input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """A network whose code cannot be followed."""
    return Branching(input_shape[0], n_outputs)


def faulty(input_shape: tuple[int, ...], n_outputs: int, *, after: int = 50, fault: str = "nan") -> nn.Module:
    """A network that breaks."""
    return Faulty(input_shape[0], n_outputs, after, fault)
