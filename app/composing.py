"""The body of a job from what was typed on the command line."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.schemas import JobIn
from engine.errors import InvalidSpec
from engine.spec import shorthand

PARTS = ("network", "data", "penalty", "method", "budget")
COMMON_PARTS = ("data", "budget")


def compose(
    spec: str | None, given: Mapping[str, Any], settings: Sequence[str], parts: Sequence[str] = PARTS
) -> dict[str, Any]:
    """A body: the file `spec` (``-`` is standard input), then options, then ``part.setting=value``.

    Parameters
    ----------
    parts : sequence of str
        Those that settings may be given for: all of a job, or what the jobs of a study have in common.

    Raises
    ------
    InvalidSpec
        If a piece cannot be read.
    """
    body = _loaded(spec) if spec is not None else {}
    body.update({name: value for name, value in given.items() if value not in (None, [])})
    for setting in settings:
        _set(body, setting, parts)
    return body


def seeds(text: str | None) -> int | list[int] | None:
    """How many seeds, or which: ``5``, ``0,7,8``; None where nothing was typed.

    Raises
    ------
    InvalidSpec
        If that cannot be read.
    """
    if text is None:
        return None
    numbers = [part.strip() for part in text.rstrip(",").split(",")]
    if not all(number.isascii() and number.isdecimal() for number in numbers):
        raise InvalidSpec(f"seeds {text!r} cannot be read; expected how many, such as 5, or which, such as 0,7,8")
    return [int(number) for number in numbers] if "," in text else int(numbers[0])


def _loaded(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        body = json.loads(text)
    except OSError as error:
        raise InvalidSpec(f"cannot read {path!r}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSpec(f"{path!r} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidSpec(f'{path!r} holds {text.strip()[:40]!r}; expected a job, {{"network": …, "data": …}}')
    return body


def _set(body: dict[str, Any], setting: str, parts: Sequence[str]) -> None:
    place, equals, value = setting.partition("=")
    part, dot, name = place.partition(".")
    if not (equals and dot and name) or part not in parts:
        known = ", ".join(f"{part}.…" for part in parts)
        raise InvalidSpec(f"setting {setting!r} cannot be read; an example is data.validation=0.2; known: {known}")
    whole = _as_mapping(part, body.get(part, _default(part)))
    target = whole if part == "budget" else whole.setdefault("params", {})
    target[name] = _value(value)
    body[part] = whole


def _as_mapping(part: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {**value, "params": dict(value.get("params", {}))} if part != "budget" else dict(value)
    if not isinstance(value, str):
        raise InvalidSpec(f"settings of {part} need a {part}: give --{part} too")
    found = shorthand(value)
    return {"name": found.name, "params": dict(found.params)}


def _default(part: str) -> Any:
    field = JobIn.model_fields[part]
    return None if field.is_required() else {} if part == "budget" else field.default


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [_value(x) for x in text.split(",")] if "," in text else text
