"""What can go wrong in the engine.

::

    EngineError
    ├── InvalidSpec        a value in a job that cannot work, refused at the door
    │   ├── UnknownName    a name no registry knows; names those it does
    │   ├── NotCompactable a network whose code cannot be made smaller
    │   └── InvalidData    data that cannot be trained on: NaN, empty, wrong labels, not a data file
    ├── Diverged           the loss became NaN or infinite while tracing
    └── ExportFailed       an exported network does not answer like the original
"""

from collections.abc import Iterable


class EngineError(Exception):
    """Base of all intended errors; its text is one sentence fit for a user."""


class InvalidSpec(EngineError):
    """A value that cannot work; the text names the value and what is known to work."""


class UnknownName(InvalidSpec):
    """A name that is not in a registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class InvalidData(InvalidSpec):
    """Data that cannot be trained on."""


class NotCompactable(InvalidSpec):
    """A network that cannot be made smaller, though it can be exported as it is; the text says what works."""


class Diverged(EngineError):
    """The loss became NaN or infinite."""


class ExportFailed(EngineError):
    """An exported network does not answer like the original."""
