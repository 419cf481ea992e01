"""What callers send: models made from the registries, so that a setting is described once, at its factory."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from itertools import product
from operator import or_
from types import NoneType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from app.wording import part as said_part
from engine.data import settings as data_settings
from engine.errors import EngineError, InvalidSpec, UnknownName
from engine.front import OBJECTIVES, Front
from engine.registry import Parameter, lookup, parameters, summary
from engine.spec import BUDGET, FEWEST_POINTS, MOST_POINTS, JobSpec, Part, registries, shorthand
from engine.tracers import Budget

LARGEST_INTEGER = 2**31 - 1
MOST_JOBS = 100
USUAL_SEEDS = 3
FURTHER_POINTS = 5
_TEXT = r"^[^\x00]*$"
_WHOLE = "expected a name, or an object with a name and params"
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def settings_model(kind: str, name: str) -> type[BaseModel]:
    """The settings of a part as a model: unknown ones are refused, limits enforced."""
    fields: dict[str, Any] = {
        p.name: (p.annotation, Field(... if p.required else p.default, description=p.description or None))
        for p in _settings(kind, name)
    }
    return create_model(f"{_title(name)}Settings", __config__=_CLOSED, **fields)


def described(kind: str) -> list[dict[str, Any]]:
    """Every part of a registry with what it is and the JSON schema of its settings."""
    return [
        {"name": name, "summary": _summary(factory), "schema": settings_model(kind, name).model_json_schema()}
        for name, factory in registries()[kind].items()
    ]


def _summary(factory: Any) -> str:
    return getattr(factory, "description", None) or summary(factory)


def _settings(kind: str, name: str) -> list[Parameter]:
    if kind == "datasets":
        return data_settings(name)
    factory = registries()[kind][name]
    return parameters(getattr(factory, "write", factory))


@dataclass(frozen=True)
class PartOf:
    """Marks a field as a part of the registry `kind`, given as ``{"name", "params"}`` or as a shorthand string.

    Parameters
    ----------
    kind : str
        Key of the registry.
    noun : str
        What one part is called in messages.
    elsewhere : callable, optional
        Tells whether a name that is not registered may still mean something (a file, an upload, an import path).
    """

    kind: str
    noun: str
    elsewhere: Callable[[str], bool] | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler.generate_schema(_parts(self.kind, self.elsewhere is not None))
        whole = core_schema.no_info_after_validator_function(_as_part, inner)
        return core_schema.no_info_before_validator_function(self._expanded, whole)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = ", ".join(registries()[self.kind])
        short = {"type": "string", "minLength": 1, "description": f"Shorthand, NAME or NAME:SETTINGS; known: {names}"}
        return {"anyOf": [short, handler(core)]}

    def _expanded(self, value: Any) -> Any:
        whole = self._from_shorthand(value) if isinstance(value, str) else value
        if isinstance(whole, Mapping) and isinstance(whole.get("name"), str):
            with _explained():
                self._check_names(whole["name"], whole.get("params"))
        return whole

    def _from_shorthand(self, text: str) -> dict[str, Any]:
        name = text.partition(":")[0]
        with _explained():
            if "." not in name:
                self._check_name(name)
            part = shorthand(text)
        return {"name": part.name, "params": dict(part.params)}

    def _check_name(self, name: str) -> None:
        registry = registries()[self.kind]
        if name not in registry and (self.elsewhere is None or not self.elsewhere(name)):
            raise UnknownName(self.noun, name, registry)

    def _check_names(self, name: str, params: Any) -> None:
        self._check_name(name)
        if isinstance(params, Mapping) and (name in registries()[self.kind] or self.kind == "datasets"):
            _check_known(f"setting of {self.noun} {name!r}:", params, [p.name for p in _settings(self.kind, name)])


def _as_part(model: BaseModel) -> Part:
    values = model.model_dump(mode="json", exclude_unset=True)
    return Part(values["name"], values.get("params", {}))


@lru_cache
def _parts(kind: str, is_open: bool) -> Any:
    models = {name: _part_model(kind, name, Literal[name]) for name in registries()[kind]}
    others = {"*": _other_model(kind)} if is_open else {}
    members = [Annotated[model, Tag(name)] for name, model in {**models, **others}.items()]
    return Annotated[reduce(or_, members), Discriminator(lambda value: _tag(value, models), "part", _WHOLE)]


def _tag(value: Any, known: Mapping[str, object]) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    if not isinstance(name, str):
        return None
    return name if name in known else "*"


def _part_model(kind: str, name: str, names: Any) -> type[BaseModel]:
    settings = settings_model(kind, name)
    needed = any(field.is_required() for field in settings.model_fields.values())
    params = (settings, ...) if needed else (settings, Field(default_factory=settings))
    return create_model(f"{_title(kind)}{_title(name)}", __config__=_CLOSED, name=(names, ...), params=params)


def _other_model(kind: str) -> type[BaseModel]:
    name = Annotated[str, Field(min_length=1, max_length=1000)]
    if kind == "datasets":
        return _part_model(kind, "*", name)
    return create_model(f"Other{_title(kind)}", __config__=_CLOSED, name=(name, ...), params=(dict[str, Any], {}))


def _title(name: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"\W|_", name))


def _known_loss(name: str) -> str:
    with _explained():
        lookup("loss", {"auto": None, **registries()["losses"]}, name)
    return name


def _check_known(kind: str, given: Iterable[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise UnknownName(kind, name, known or ["none"])


@contextmanager
def _explained() -> Iterator[None]:
    """Turns the engine's refusal into pydantic's, its sentence kept."""
    try:
        yield
    except EngineError as error:
        raise PydanticCustomError("explained", "{text}", {"text": str(error)}) from error


class Strict(BaseModel):
    """Refuses unknown fields with a sentence that names the known ones."""

    model_config = _CLOSED

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            with _explained():
                _check_known("field", value, list(cls.model_fields))
        return value


class BudgetIn(Strict):
    """When to stop at the latest: passes over the training data, seconds of work."""

    epochs: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)


Ends = Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]], Field(min_length=2, max_length=2)]
Tags = Annotated[list[Annotated[str, Field(min_length=1, max_length=100, pattern=_TEXT)]], Field(max_length=50)]


Network = Annotated[Part, PartOf("networks", "network", elsewhere=lambda name: ":" in name)]
Data = Annotated[Part, PartOf("datasets", "data set", elsewhere=lambda _: True)]
Loss = Annotated[str, AfterValidator(_known_loss)]
Penalty = Annotated[Part, PartOf("penalties", "penalty")]
Method = Annotated[Part, PartOf("methods", "method")]
Seed = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class JobIn(Strict):
    """A job: the body of ``POST /api/v1/jobs`` and of ``paretopath trace --spec``."""

    name: str = Field(default="", max_length=200, pattern=_TEXT)
    network: Network
    data: Data
    loss: Loss = "auto"
    penalty: Penalty = Field(default="l1", validate_default=True)
    method: Method = Field(default="continuation", validate_default=True)
    points: int = Field(default=40, ge=FEWEST_POINTS, le=MOST_POINTS, description="Networks wanted on the front.")
    budget: BudgetIn = BudgetIn()
    seed: Seed = 0
    device: Device = "auto"
    tags: Tags = []

    def spec(self) -> JobSpec:
        """The same as the engine knows it."""
        parts = {k: _plain_part(getattr(self, k)) for k in ("network", "data", "penalty", "method")}
        rest = self.model_dump(mode="json", exclude=set(parts))
        return JobSpec.from_dict({**rest, **parts})


SEVERAL = Field(min_length=1, max_length=MOST_JOBS)
Count = Annotated[int, Field(ge=1, le=MOST_JOBS)]
Seeds = Annotated[
    Annotated[Count, Tag("*")] | Annotated[Annotated[list[Seed], SEVERAL], Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, list | tuple) else "*"),
]


class StudyIn(Strict):
    """Jobs asked for together: the body of ``POST /api/v1/studies`` and of ``paretopath study --spec``.

    There is a job for each seed, network, penalty and method; the rest is that of a job.
    """

    name: str = Field(default="", max_length=200, pattern=_TEXT)
    networks: Annotated[list[Network], SEVERAL]
    data: Data
    loss: Loss = "auto"
    penalties: Annotated[list[Penalty], SEVERAL] = Field(default=["l1"], validate_default=True)
    methods: Annotated[list[Method], SEVERAL] = Field(default=["continuation"], validate_default=True)
    points: int = Field(default=40, ge=FEWEST_POINTS, le=MOST_POINTS, description="Networks wanted on each front.")
    budget: BudgetIn = BudgetIn()
    seeds: Seeds = Field(default=USUAL_SEEDS, description="Which seeds, or how many from 0 on.")
    device: Device = "auto"
    tags: Tags = []

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        with _explained():
            for name in ("networks", "penalties", "methods"):
                _refuse_doubles(name, getattr(self, name))
            _refuse_doubles("seeds", self.each_seed)
            n_jobs = len(self.each_seed) * len(self._products())
            if n_jobs > MOST_JOBS:
                raise InvalidSpec(f"this study has {n_jobs:,} jobs; at most {MOST_JOBS} can be asked for together")
        return self

    @property
    def each_seed(self) -> list[int]:
        """The seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def specs(self) -> list[JobSpec]:
        """One job for each network, penalty and method, with the first seed; networks vary slowest."""
        rest = self.model_dump(mode="json", include={"name", "loss", "points", "budget", "device", "tags"})
        common = {**rest, "data": _plain_part(self.data), "seed": self.each_seed[0]}
        return [
            JobSpec.from_dict({**common, "network": network, "penalty": penalty, "method": method})
            for network, penalty, method in (map(_plain_part, parts) for parts in self._products())
        ]

    def plain(self) -> dict[str, Any]:
        """What is asked for, as plain JSON values."""
        lists = {k: [_plain_part(part) for part in getattr(self, k)] for k in ("networks", "penalties", "methods")}
        rest = self.model_dump(mode="json", exclude={*lists, "data", "seeds"})
        return {**rest, **lists, "data": _plain_part(self.data), "seeds": self.each_seed}

    def _products(self) -> list[tuple[Part, Part, Part]]:
        return list(product(self.networks, self.penalties, self.methods))


class RefitIn(Strict):
    """What may be said about a refit: the body of ``POST /api/v1/jobs/{id}/refit``; the rest is the job's own."""

    epochs: int | None = Field(default=None, ge=1, le=LARGEST_INTEGER, description="Passes over the data per network.")
    name: str | None = Field(default=None, max_length=200, pattern=_TEXT, description="Names the job by default.")
    tags: Tags | None = Field(default=None, description="The job's own by default.")
    seed: int | None = Field(default=None, ge=0, le=LARGEST_INTEGER, description="The job's own by default.")

    def of(self, job_id: int, spec: JobSpec, n_points: int) -> JobSpec:
        """The spec that refits the networks of a job."""
        params = {"job": job_id} if self.epochs is None else {"job": job_id, "epochs": self.epochs}
        return replace(
            spec,
            method=Part("refit", params),
            points=min(max(n_points, FEWEST_POINTS), MOST_POINTS),
            budget=Budget(),
            goals=(),
            over=0,
            seed=spec.seed if self.seed is None else self.seed,
            name=f"refit of {spec.name or f'job {job_id}'}"[:200] if self.name is None else self.name,
            tags=spec.tags if self.tags is None else tuple(self.tags),
        )


class ThinIn(Strict):
    """Which points of a job stay: the body of ``POST /api/v1/jobs/{id}/thin``; exactly one rule."""

    keep: int | None = Field(default=None, ge=2, le=LARGEST_INTEGER, description="So many well-spread points.")
    nondominated: bool = Field(default=False, description="All points that no other beats.")
    objectives: list[str] = Field(default=list(OBJECTIVES), min_length=2, max_length=2)

    @model_validator(mode="after")
    def _one_rule(self) -> "ThinIn":
        with _explained():
            if (self.keep is None) != self.nondominated:
                raise InvalidSpec("exactly one of keep and nondominated is needed")
        return self

    def kept(self, front: Front) -> Front:
        """The points that stay."""
        if self.keep is None:
            return front.non_dominated(self.objectives)
        return front.spread(self.keep, self.objectives)


class ExtendIn(Strict):
    """How a job is to go on: the body of ``POST /api/v1/jobs/{id}/extend``."""

    points: int | None = Field(
        default=None, ge=1, le=MOST_POINTS, description="How many more points: in the widest gaps, or where said."
    )
    between: Ends | None = Field(default=None, description="The two points between which `points` more are wanted.")
    end: float | None = Field(
        default=None, gt=0, lt=1, description=f"Sparsity to go on to; with {FURTHER_POINTS} points by default."
    )
    epochs: float | None = Field(default=None, gt=0, description="More passes over the data for the job's method.")
    seconds: float | None = Field(default=None, gt=0, description="More seconds of work for the job's method.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        with _explained():
            if not self.model_dump(exclude_none=True):
                raise InvalidSpec("say what more is wanted: points, points between two, end, epochs or seconds")
            if self.between is not None and (self.points is None or self.end is not None):
                raise InvalidSpec(f"between {self.between} needs points, how many more, and no end")
        return self

    def goals(self, spent: Budget, allowed: Budget) -> tuple[Part, ...]:
        """What is asked of a job that has spent so much of what it was allowed.

        Raises
        ------
        InvalidSpec
            If it has no such budget, or another is used up too.
        """
        further = tuple(self._further(name, spent, allowed) for name in ("epochs", "seconds"))
        raised = {name: value for name, value in further if value is not None}
        return (*([Part(BUDGET, raised)] if raised else []), *self._points())

    def _points(self) -> Iterator[Part]:
        if self.end is not None:
            yield Part("sparser", {"end": self.end, "points": self.points or FURTHER_POINTS})
        elif self.points is not None:
            where = {} if self.between is None else {"between": self.between}
            yield Part("fill", {"points": self.points, **where})

    def _further(self, name: str, spent: Budget, allowed: Budget) -> tuple[str, float | None]:
        """Where a budget ends that begins where the job stands."""
        more, most, used = getattr(self, name), getattr(allowed, name), getattr(spent, name)
        if more is not None and most is None:
            raise InvalidSpec(f"{name} {more:g}: this job has no budget of {name} to raise; give points or end")
        given = {k for k in ("epochs", "seconds") if getattr(self, k) is not None}
        if given and more is None and most is not None and used >= most:
            raise InvalidSpec(f"the budget of {most:g} {name} is used up as well; give {name}, too")
        return name, None if more is None else used + more


TARGETS = {"nonzeros": "count", "sparsity": "least", "lam": "lam", "loss": "most"}


class SolveIn(Strict):
    """Which network is wanted: the body of ``POST /api/v1/jobs/{id}/solve``, exactly one of these."""

    nonzeros: int | None = Field(default=None, ge=1, le=LARGEST_INTEGER, description="Exactly so many nonzero weights.")
    sparsity: float | None = Field(default=None, gt=0, lt=1, description="At least this share of zeros.")
    lam: float | None = Field(default=None, gt=0, description="Stationary at this strength of the penalty.")
    loss: float | None = Field(default=None, gt=0, description="At most this training loss.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = self.model_dump(exclude_none=True)
        with _explained():
            if len(given) != 1:
                raise InvalidSpec(f"give exactly one of {', '.join(TARGETS)}, not {', '.join(given) or 'none'}")
        return self

    def goal(self) -> Part:
        """The same as the engine knows it."""
        ((name, value),) = self.model_dump(exclude_none=True).items()
        return Part("strength" if name == "lam" else name, {TARGETS[name]: value})


def _refuse_doubles(name: str, entries: Sequence[Any]) -> None:
    for i, entry in enumerate(entries):
        if entry in entries[:i]:
            said = said_part(_plain_part(entry)) if isinstance(entry, Part) else entry
            raise InvalidSpec(f"{name} has {said} more than once")


def _plain_part(part: Part) -> dict[str, Any]:
    return {"name": part.name, "params": dict(part.params)}


def sentence(error: ErrorDetails) -> str:
    """One validation error as a sentence that names the place, what is wrong and the offending value."""
    place = ".".join(str(x) for x in error["loc"] if x not in ("body", "query", "path", "header", "*"))
    message = error["msg"][:1].lower() + error["msg"][1:]
    given = error.get("input")
    shown = f", not {given!r:.100}" if _short(given) and error["type"] not in ("explained", "missing") else ""
    return f"{place}: {message}{shown}" if place else f"{message}{shown}"


def refusal(error: ValidationError) -> str:
    """The first thing wrong, and how many more there are."""
    return summary_of([sentence(e) for e in error.errors(include_url=False)])


def summary_of(sentences: list[str]) -> str:
    """The first sentence, and how many more there are."""
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more)" if more else "")


def _short(value: object) -> bool:
    return value == [] or not isinstance(value, dict | list | NoneType)
