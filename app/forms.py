"""Form fields from JSON schemas: the registries describe themselves once, the browser asks for exactly that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNLIMITED = 1e9
ANOTHER_JOB = "job"
KINDS = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text"}


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a form.

    Parameters
    ----------
    name, label : str
    help : str
        What it means, its limits, and how to type a list.
    kind : str
        ``integer, number, boolean, text, choice`` or, for lists, ``integers, numbers, texts``.
    default : str
        As typed into the form; empty where there is none.
    required : bool
    minimum, maximum : float or None
        Inclusive limits.
    choices : tuple of str
    """

    name: str
    label: str
    help: str
    kind: str
    default: str
    required: bool
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


def fields(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields of an object's JSON schema (as pydantic writes it), in order."""
    required = frozenset(schema.get("required", ()))
    definitions = schema.get("$defs", {})
    return tuple(
        _field(name, _resolved(entry, definitions), name in required)
        for name, entry in schema.get("properties", {}).items()
    )


def stands_alone(schema: Mapping[str, Any]) -> bool:
    """Whether these settings can be asked for in a form of a new job: none of them needs another job."""
    return ANOTHER_JOB not in schema.get("required", ())


def typed(value: object) -> str:
    """A value as a person would type it into a field: lists with commas, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(typed, value)) if isinstance(value, list | tuple) else str(value)


def _resolved(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` with its reference, and its one alternative to null, folded in."""
    found = {**_referred(entry, definitions), **entry}
    alternatives = [x for x in found.get("anyOf", ()) if x.get("type") != "null"]
    return {**_referred(alternatives[0], definitions), **alternatives[0], **entry} if alternatives else found


def _referred(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference: str = entry.get("$ref", "")
    return definitions[reference.rsplit("/", 1)[-1]] if reference else {}


def _field(name: str, entry: Mapping[str, Any], required: bool) -> Field:
    limits = _limits(entry.get("items", entry))
    return Field(
        name=name,
        label=name.replace("_", " ").capitalize(),
        help=_help(entry, limits),
        kind=_kind(entry),
        default=typed(entry.get("default")),
        required=required,
        minimum=limits.get("minimum"),
        maximum=limits.get("maximum"),
        choices=_choices(entry),
    )


def _kind(entry: Mapping[str, Any]) -> str:
    if entry.get("type") == "array":
        return _kind(entry.get("items") or {"type": "string"}) + "s"
    return "choice" if _choices(entry) else KINDS.get(entry.get("type", "string"), "text")


def _choices(entry: Mapping[str, Any]) -> tuple[str, ...]:
    known = entry.get("enum", [entry["const"]] if "const" in entry else [])
    return tuple(typed(x) for x in known)


def _limits(entry: Mapping[str, Any]) -> dict[str, float]:
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    return {name: entry[name] for name in names if name in entry}


def _help(entry: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    lists = "separate by commas" if entry.get("type") == "array" else ""
    meaning = entry.get("description", "").replace("``", "").rstrip(".")
    said = [x[:1].upper() + x[1:] for x in (meaning, _said(limits), lists) if x]
    return "".join(f"{x}. " for x in said).strip()


def _said(limits: Mapping[str, float]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    known = {name: limits[name] for name in words if name in limits and abs(limits[name]) < UNLIMITED}
    return ", ".join(f"{words[name]} {limit:,}" for name, limit in known.items())
