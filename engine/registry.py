"""Registries are plain dicts from a name to a factory; the factory's keyword-only parameters are the user's settings.

Their annotations, defaults and docstrings are the one source of the schemas, forms and tables shown to users.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from operator import ge, gt, le, lt
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import InvalidSpec, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class OneOf:
    """In ``Annotated[str, OneOf(REGISTRY)]``: the setting names a part of that registry."""

    registry: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting of a registered part: its annotation (with any ``Annotated`` limits), default and meaning."""

    name: str
    annotation: Any
    default: Any
    required: bool
    description: str


def parameters(factory: Callable[..., object]) -> list[Parameter]:
    """The user's settings of `factory`: its keyword-only parameters, in order."""
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    described = _descriptions(inspect.getdoc(factory) or "")
    return [
        Parameter(p.name, _resolved(hints[p.name]), p.default, p.default is p.empty, described.get(p.name, ""))
        for p in inspect.signature(factory).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]


def summary(factory: Callable[..., object]) -> str:
    """The first line of the factory's docstring."""
    return (inspect.getdoc(factory) or "").split("\n", 1)[0]


def lookup(kind: str, registry: Mapping[str, T], name: str) -> T:
    """The part called `name`.

    Raises
    ------
    UnknownName
        Naming what is known.
    """
    if name not in registry:
        raise UnknownName(kind, name, registry)
    return registry[name]


def checked_settings(kind: str, name: str, known: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings, lists as tuples where those are meant.

    Raises
    ------
    UnknownName
        If the part has no such setting.
    InvalidSpec
        If a needed setting is missing, or a value is not of the setting's type or outside its limits.
    """
    by_name = {p.name: p for p in known}
    for setting in given:
        if setting not in by_name:
            raise UnknownName(f"setting of {kind} {name!r}:", setting, by_name or ["none"])
    for parameter in known:
        if parameter.required and parameter.name not in given:
            raise InvalidSpec(f"{kind} {name!r} needs the setting {parameter.name!r}")
    return {key: _checked(f"{kind} {name!r}", by_name[key], value) for key, value in given.items()}


def _checked(part: str, parameter: Parameter, value: Any) -> Any:
    if not fits(parameter.annotation, value):
        raise InvalidSpec(f"{part}: {parameter.name} {value!r} is not {_words(parameter.annotation)}")
    return tuple(value) if isinstance(value, list) else value


def fits(annotation: Any, value: Any) -> bool:
    """Whether a plain value is of the annotated type and within its limits; lists fit where tuples are meant."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fits(inner[0], value) and all(_within(limit, value) for limit in inner[1:])
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, UnionType):
        return any(fits(option, value) for option in inner)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(inner[0], item) for item in value)
    if annotation is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    return (value is None) if annotation is NoneType else type(value) is annotation


def _within(limit: Any, value: Any) -> bool:
    bounds: dict[str, Callable[[Any, Any], bool]] = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return all(holds(value, getattr(limit, name)) for name, holds in bounds.items() if hasattr(limit, name))


def _words(annotation: Any) -> str:
    """An annotation as a user reads it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        limits = [f"{word} {getattr(x, name)}" for x in inner[1:] for name, word in signs.items() if hasattr(x, name)]
        return " ".join([_words(inner[0]), " and ".join(limits)]).strip()
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_words(option) for option in inner)
    if origin is tuple:
        return f"a list, each {_words(inner[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    return names.get(annotation, str(annotation))


def extend(registry: dict[str, Any], group: str) -> None:
    """Add the parts that installed packages offer under the entry point `group`."""
    for entry in entry_points(group=group):
        registry.setdefault(entry.name, _loaded(entry))


def _loaded(entry: EntryPoint) -> Any:
    """The part an entry point names; where it cannot be loaded, one that says so when it is used."""
    try:
        return entry.load()
    except Exception as error:  # noqa: BLE001 - a stranger's package may raise anything, and must not stop the others
        reason = f"{entry.name!r} of entry point {entry.value!r} could not be loaded: {error}"

    def broken(*_: object) -> NoReturn:
        raise InvalidSpec(reason)

    broken.__doc__ = f"Not usable: {reason}."
    return broken


def _resolved(annotation: Any) -> Any:
    """A choice from a registry as the literal of its present names; other annotations as they are."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, OneOf):
            optional = NoneType in get_args(get_args(annotation)[0])
            return Literal[(*extra.registry, *([None] if optional else []))]
    return annotation


def _descriptions(doc: str) -> dict[str, str]:
    """Meaning of each parameter in a numpy-style docstring, on one line."""
    body = re.search(r"Parameters\n-+\n(.*?)(?=\n\n?\S[^\n]*\n-{3,}|\Z)", doc, re.DOTALL)
    entries = re.findall(r"^(\w+) : [^\n]*\n((?:[ \t]+[^\n]*\n?)+)", body.group(1) if body else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
