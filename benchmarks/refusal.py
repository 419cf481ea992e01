"""What cannot run is said in a line, not with a traceback."""

from collections.abc import Callable
from functools import wraps

from engine.errors import EngineError


def in_a_line(program: Callable[[], None]) -> Callable[[], None]:
    """The same program, ending with the message of what the engine refuses."""

    @wraps(program)
    def run() -> None:
        try:
            program()
        except EngineError as error:
            raise SystemExit(str(error)) from None

    return run
