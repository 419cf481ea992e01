"""Every kind of setting becomes a field that asks for exactly that."""

from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, Field

from app.forms import fields, stands_alone, typed


class Nested(BaseModel):
    depth: int = 1


class Settings(BaseModel):
    units: tuple[Annotated[int, Ge(1)], ...] = Field((20, 20), description="Units of each layer.")
    rate: Annotated[float, Gt(0), Le(1)]
    activation: Literal["relu", "tanh"] = "tanh"
    bias: bool = True
    limit: Annotated[int, Ge(1)] | None = Field(None, description="At most so many; ``none`` is all.")
    only: Literal["one"] = "one"
    title: str = ""
    names: list[str] = []
    nested: Nested | None = None


FIELDS = {field.name: field for field in fields(Settings.model_json_schema())}


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("units", "integers", "20, 20"),
        ("rate", "number", ""),
        ("activation", "choice", "tanh"),
        ("bias", "boolean", "true"),
        ("limit", "integer", ""),
        ("only", "choice", "one"),
        ("title", "text", ""),
        ("names", "texts", ""),
    ],
)
def test_kind_and_default(name: str, kind: str, default: str) -> None:
    assert (FIELDS[name].kind, FIELDS[name].default) == (kind, default)


def test_limits_meaning_and_manner_are_said() -> None:
    assert FIELDS["units"].help == "Units of each layer. At least 1. Separate by commas."
    assert FIELDS["rate"].help == "At most 1, above 0." or FIELDS["rate"].help == "Above 0, at most 1."
    assert FIELDS["limit"].help == "At most so many; none is all. At least 1."


def test_inclusive_limits_reach_the_input() -> None:
    assert (FIELDS["limit"].minimum, FIELDS["rate"].minimum, FIELDS["rate"].maximum) == (1, None, 1)


def test_only_settings_without_a_default_are_required() -> None:
    assert [name for name, field in FIELDS.items() if field.required] == ["rate"]


def test_choices_are_listed() -> None:
    assert FIELDS["activation"].choices == ("relu", "tanh")


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, ""), (True, "true"), (False, "false"), ([1, 2], "1, 2"), ((), ""), (0.5, "0.5"), ("x", "x")],
)
def test_values_are_typed_as_a_person_would(value: object, said: str) -> None:
    assert typed(value) == said


def test_settings_that_need_another_job_do_not_stand_alone() -> None:
    class Follower(BaseModel):
        job: int
        rate: float = 1.0

    assert stands_alone(Settings.model_json_schema())
    assert not stands_alone(Follower.model_json_schema())
