"""From plain values to a problem and a tracer, and back from stored weights to a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, get_origin

import torch
from torch import Tensor, nn

from engine.cleanup import Cleanup
from engine.criteria import LOSSES, Criterion
from engine.data import DATASETS, Dataset, is_path, load, settings
from engine.errors import InvalidSpec, UnknownName
from engine.export import EXPORTS
from engine.front import ParetoPoint, Trail, Waypoint
from engine.goals import GOALS, Asked, Goal
from engine.layout import layout
from engine.losses import NetworkLoss
from engine.multiply_adds import uses
from engine.networks import NETWORKS, resolve
from engine.penalties import PENALTIES
from engine.problem import Problem
from engine.registry import Parameter, checked_settings, lookup, parameters
from engine.tracers import TRACERS, Budget, Tracer

Trails = Callable[[int], Trail]

FEWEST_POINTS, MOST_POINTS = 2, 10_000
MOST_WEIGHTS = 10**9
BUDGET, LATER = "budget", frozenset({"goals", "over"})


@dataclass(frozen=True)
class Part:
    """A registered part by name, with the user's settings."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSpec:
    """A job as plain values: what to trace, how, and how far.

    Parameters
    ----------
    network, data : Part
    loss : str
        A registered loss, or "auto": cross entropy for classes and characters, squared error for numbers.
    penalty, method : Part
    points : int
        Points the front is to have.
    budget : Budget
    seed : int
        Of the network's start weights and the order of mini-batches.
    device : str
        "auto", "cpu", "cuda" or "cuda:INDEX".
    name : str
    tags : tuple of str
    goals : tuple of Part
        What was asked of the job once it had points, in that order; a goal ``budget`` has the method go on.
    over : int
        How many of the method, which comes first, and the goals are over and not gone into again.
    """

    network: Part
    data: Part
    loss: str = "auto"
    penalty: Part = field(default_factory=lambda: Part("l1"))
    method: Part = field(default_factory=lambda: Part("continuation"))
    points: int = 40
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    device: str = "auto"
    name: str = ""
    tags: tuple[str, ...] = ()
    goals: tuple[Part, ...] = ()
    over: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; without goals as long as there are none."""
        values = {**asdict(self), "tags": list(self.tags), "goals": [asdict(goal) for goal in self.goals]}
        return values if self.goals else {k: v for k, v in values.items() if k not in LATER}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; missing fields take their defaults."""
        parts = {name: Part(**values[name]) for name in ("network", "data", "penalty", "method") if name in values}
        budget = {"budget": Budget(**values["budget"])} if values.get("budget") else {}
        rest = {k: v for k, v in values.items() if k not in {*parts, "budget", "tags", "goals"}}
        goals = tuple(Part(**goal) for goal in values.get("goals", ()))
        return cls(**{**rest, **parts, **budget, "tags": tuple(values.get("tags", ())), "goals": goals})

    @property
    def allowed(self) -> Budget:
        """The budget, with what was asked for later."""
        later = {k: v for goal in self.goals if goal.name == BUDGET for k, v in goal.params.items()}
        return replace(self.budget, **later)


@dataclass(frozen=True)
class Experiment:
    """A job's spec brought to life."""

    problem: Problem
    tracer: Tracer
    dataset: Dataset


def registries() -> dict[str, Mapping[str, Any]]:
    """All registries by the name users see."""
    return {
        "networks": NETWORKS,
        "datasets": DATASETS,
        "losses": LOSSES,
        "penalties": PENALTIES,
        "methods": TRACERS,
        "exports": EXPORTS,
    }


def shorthand(text: str) -> Part:
    """A part from ``NAME``, ``NAME:VALUES`` or ``NAME:VALUES,setting=value``.

    Bare values fill the part's first setting: ``mlp:20,20,activation=tanh``. The name may be a path to a data file
    or ``package.module:factory``.

    Raises
    ------
    InvalidSpec
        If bare values are given to a part that takes none.
    """
    name, values = _split_name(text)
    tokens = [token.strip() for token in values.split(",") if token.strip()]
    named = dict(token.split("=", 1) for token in tokens if "=" in token)
    bare = [_plain(token) for token in tokens if "=" not in token]
    params = {key.strip(): _plain(value) for key, value in named.items()}
    return Part(name, {**_first_setting(name, bare), **params} if bare else params)


def check(spec: JobSpec, uploads: Mapping[str, bytes], trails: Trails | None = None) -> dict[str, Any]:
    """Facts about a job that can be traced.

    Parameters
    ----------
    uploads : mapping of str to bytes
        Uploaded data sets by name.
    trails : callable, optional
        What another job has found, by its number, for methods that go on from there; no weights are loaded.

    Raises
    ------
    InvalidSpec
        If a value cannot work, or the parts do not fit together.
    """
    tracer = _tracer(spec)
    dataset = load(spec.data.name, spec.data.params, uploads)
    name, criterion = _criterion(spec, dataset)
    n_outputs = criterion.check(dataset)
    module = _network(spec, dataset.input_shape, n_outputs)
    _check_fit(spec, module, dataset, n_outputs)
    _penalty(spec, module)
    _device(spec.device)
    tracer.check(layout(module))
    _follow(tracer, trails, module)
    return {
        "input_shape": list(dataset.input_shape),
        "n_outputs": n_outputs,
        "task": dataset.task,
        "classes": list(dataset.classes),
        "n_params": sum(p.numel() for p in module.parameters()),
        "n_train": len(dataset.X_train),
        "n_validation": len(dataset.X_validation),
        "n_test": len(dataset.X_test),
        "loss": name,
        "data_digest": dataset.digest,
        "expected": tracer.expected,
        "follows": tracer.follows,
    }


def build(spec: JobSpec, uploads: Mapping[str, bytes], trails: Trails | None = None) -> Experiment:
    """The problem and the tracer that a spec describes; raises as `check` does."""
    dataset = load(spec.data.name, spec.data.params, uploads)
    _, criterion = _criterion(spec, dataset)
    n_outputs = criterion.check(dataset)
    module = _network(spec, dataset.input_shape, n_outputs)
    _check_fit(spec, module, dataset, n_outputs)
    penalty = _penalty(spec, module)
    tracer = _tracer(spec)
    tracer.check(layout(module))
    _follow(tracer, trails, module)
    loss = NetworkLoss(module, dataset, criterion, _device(spec.device))
    cleanup = Cleanup(module, penalty)
    problem = Problem(loss, penalty, cleanup if tracer.cleanup and cleanup.n_units else None)
    return Experiment(problem, tracer, dataset)


def asking(spec: JobSpec, goals: Sequence[Part], points: Sequence[ParetoPoint], over: int) -> JobSpec:
    """The spec of a job of which more is asked.

    Parameters
    ----------
    goals : sequence of Part
    points : sequence of ParetoPoint
        All that the job has.
    over : int
        As in `JobSpec`.

    Raises
    ------
    InvalidSpec
        If the goals are unknown, or impossible with these points.
    """
    for goal in filter(None, map(_goal, goals)):
        goal.check(points)
    return replace(spec, goals=(*spec.goals, *goals), over=over)


def promised(goals: Sequence[Part]) -> int:
    """How many points these goals store at most."""
    return sum(goal.expected for goal in map(_goal, goals) if goal)


def example(facts: Mapping[str, Any]) -> Tensor:
    """Two samples of the form of a job's data, shape (2, *input_shape), at random but always the same.

    Parameters
    ----------
    facts : mapping
        What `check` said of the job.
    """
    shape, generator = (2, *facts["input_shape"]), torch.Generator().manual_seed(0)
    if facts["task"] == "language":
        return torch.randint(int(facts["n_outputs"]), shape, generator=generator)
    return torch.randn(shape, generator=generator)


def rebuild(spec: JobSpec, facts: Mapping[str, Any], waypoint: Waypoint) -> nn.Module:
    """The network of a stored point, in eval mode, on the CPU.

    Parameters
    ----------
    facts : mapping
        What `check` said of the job.
    """
    module = _network(spec, tuple(facts["input_shape"]), int(facts["n_outputs"]))
    flat = torch.from_numpy(waypoint.theta.copy())
    with torch.no_grad():
        for block, parameter in zip(layout(module), module.parameters(), strict=True):
            parameter.copy_(flat[block.start : block.stop].view(block.shape))
        for name, buffer in module.named_buffers():
            buffer.copy_(torch.from_numpy(waypoint.buffers[name].copy()))
    return module.eval()


def weight_uses(spec: JobSpec, facts: Mapping[str, Any]) -> dict[str, float]:
    """How often a sample multiplies each weight of a job's networks (`engine.multiply_adds.uses`); computes nothing.

    Parameters
    ----------
    facts : mapping
        What `check` said of the job.

    Raises
    ------
    InvalidSpec
        If the network's code does not run without values.
    """
    module = _outline(spec, tuple(facts["input_shape"]), int(facts["n_outputs"]))
    try:
        return uses(module.eval(), example(facts).to("meta"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvalidSpec(f"the multiply-adds of network {spec.network.name!r} cannot be counted: {error}") from error


def _tracer(spec: JobSpec) -> Tracer:
    if not FEWEST_POINTS <= spec.points <= MOST_POINTS:
        raise InvalidSpec(f"points {spec.points} is outside {FEWEST_POINTS} to {MOST_POINTS:,}")
    factory = lookup("method", TRACERS, spec.method.name)
    method = factory(spec.points, spec.seed, spec.allowed, **_settings("method", factory, spec.method))
    return Asked(method, [_goal(goal) for goal in spec.goals], spec.over, spec.seed) if spec.goals else method


def _goal(part: Part) -> Goal | None:
    """A goal; None where the method is to go on."""
    if part.name == BUDGET:
        return None
    factory = lookup("goal", {**GOALS, BUDGET: None}, part.name)
    return factory(**_settings("goal", factory, part)) if factory else None


def _follow(tracer: Tracer, trails: Trails | None, module: nn.Module) -> None:
    """Hand over what another job has found, where the method goes on from there."""
    if tracer.follows is None:
        return
    if trails is None:
        raise InvalidSpec(f"the networks of job {tracer.follows} are not at hand")
    source = trails(tracer.follows)
    tracer.follow(source)
    here, there = sum(p.numel() for p in module.parameters()), source.points[0].n_params
    if here != there:
        raise InvalidSpec(f"the networks of job {tracer.follows} have {there:,} weights, this one has {here:,}")


def _criterion(spec: JobSpec, dataset: Dataset) -> tuple[str, Criterion]:
    usual = "squared_error" if dataset.task == "regression" else "cross_entropy"
    name = usual if spec.loss == "auto" else spec.loss
    return name, lookup("loss", {**LOSSES, "auto": LOSSES[usual]}, name)()


def _network(spec: JobSpec, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    n_params = sum(p.numel() for p in _outline(spec, input_shape, n_outputs).parameters())
    if n_params > MOST_WEIGHTS:
        raise InvalidSpec(
            f"network {spec.network.name!r} has {n_params:,} weights; at most {MOST_WEIGHTS:,} are traced"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return _made(spec, input_shape, n_outputs)


def _outline(spec: JobSpec, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return _made(spec, input_shape, n_outputs)


def _made(spec: JobSpec, input_shape: tuple[int, ...], n_outputs: int) -> nn.Module:
    factory = resolve(spec.network.name)
    return factory(input_shape, n_outputs, **_settings("network", factory, spec.network))


def _penalty(spec: JobSpec, module: nn.Module) -> Any:
    factory = lookup("penalty", PENALTIES, spec.penalty.name)
    return factory(layout(module), **_settings("penalty", factory, spec.penalty))


def _settings(kind: str, factory: Callable[..., object], part: Part) -> dict[str, Any]:
    return checked_settings(kind, part.name, parameters(factory), part.params)


def _check_fit(spec: JobSpec, module: nn.Module, dataset: Dataset, n_outputs: int) -> None:
    """Whether the network takes the data and answers with as many outputs as the loss needs."""
    samples = torch.from_numpy(dataset.X_train[:2])
    try:
        with torch.no_grad():
            answer = module.eval()(samples)
    except (RuntimeError, ValueError, IndexError) as error:
        shape = "x".join(map(str, dataset.input_shape))
        raise InvalidSpec(
            f"network {spec.network.name!r} does not take data {dataset.name!r} of shape {shape}: {error}"
        ) from error
    if not isinstance(answer, torch.Tensor):
        raise InvalidSpec(f"network {spec.network.name!r} answers with a {type(answer).__name__}, not with a tensor")
    if tuple(answer.shape) != (len(samples), *dataset.output_shape[:-1], n_outputs):
        each = f" for each of {dataset.input_shape[0]} characters" if dataset.task == "language" else ""
        raise InvalidSpec(
            f"network {spec.network.name!r} answers with shape {tuple(answer.shape[1:])}, "
            f"data {dataset.name!r} needs {n_outputs} outputs{each}"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {"cpu": None, **{f"cuda:{i}": None for i in range(torch.cuda.device_count())}}
    known = {**found, "cuda": None} if len(found) > 1 else found
    if name not in known:
        raise UnknownName("device", name, ["auto", *known])
    return torch.device(name)


def _split_name(text: str) -> tuple[str, str]:
    name, _, rest = text.partition(":")
    if "." in name and not is_path(name):
        factory, _, values = rest.partition(":")
        return f"{name}:{factory}" if factory else name, values
    return name.strip(), rest


def _first_setting(name: str, bare: list[Any]) -> dict[str, Any]:
    """Bare values as the part's first setting."""
    known = _known_settings(name)
    if not known:
        raise InvalidSpec(f"{name!r} takes no values, was given {', '.join(map(str, bare))}")
    several = get_origin(known[0].annotation) is tuple
    if not several and len(bare) > 1:
        raise InvalidSpec(f"{name!r} takes one value for {known[0].name!r}, was given {', '.join(map(str, bare))}")
    return {known[0].name: bare if several else bare[0]}


def _known_settings(name: str) -> list[Parameter]:
    for registry in (NETWORKS, PENALTIES, TRACERS):
        if name in registry:
            return parameters(registry[name])
    return settings(name) if name in DATASETS or is_path(name) else []


def _plain(text: str) -> Any:
    """A number, truth value or null where the text reads as one."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text.strip()
