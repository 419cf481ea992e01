"""One worker process: what executors know of it. Imports nothing heavy, as it is needed on every node of a cluster."""

import os
import secrets
import signal
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass

NOT_HAD = 3
"""Exit status of a worker that did not get the job it was started on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a worker process ended.

    Parameters
    ----------
    status : int or None
        Its exit status, below zero the number of a signal; None where it was lost with its machine.
    words : str
        The last lines that it wrote, or what is known instead.
    """

    status: int | None
    words: str = ""

    def __str__(self) -> str:
        last = f"; the last that is known of it:\n{self.words}" if self.words else ""
        return f"{self._manner()}{last}"

    def _manner(self) -> str:
        if self.status is None:
            return "was lost"
        if self.status >= 0:
            return f"ended with exit status {self.status}"
        hint = ", as where a machine runs out of memory" if self.status == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-self.status).name}{hint}"


class Run(ABC):
    """A worker process started on one job.

    Parameters
    ----------
    job_id : int
    name : str
        What the store knows the worker by.
    """

    def __init__(self, job_id: int, name: str) -> None:
        self.job_id, self.name = job_id, name
        self.unwanted_since: float | None = None

    @abstractmethod
    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""

    @abstractmethod
    def ask(self) -> None:
        """Ask it to give the job back and end."""

    @abstractmethod
    def kill(self) -> None:
        """End it."""


def worker_name() -> str:
    """A name that no other worker has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
