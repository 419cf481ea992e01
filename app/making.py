"""What needs the engine's heavy parts: checking a job, reading a data file, exporting a network."""

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.backend import Download
from app.documents import Document, plain
from app.errors import Forbidden
from app.schemas import ExtendIn, JobIn, RefitIn, SolveIn, StudyIn
from app.versions import versions
from engine.data import DATASETS, RawData, is_path, parse_upload, to_npz
from engine.errors import InvalidData, InvalidSpec, UnknownName
from engine.export import EXPORTS, export
from engine.front import ParetoPoint, Trail, Waypoint
from engine.networks import NETWORKS
from engine.registry import lookup
from engine.spec import BUDGET, JobSpec, Part, asking, check, example, promised, rebuild
from engine.tracers import Budget
from storage.errors import Conflict
from storage.records import ENDED, Draft, Job, JobState
from storage.store import Store

_NUMBERS = ("loss", "penalty", "lam", "residual", "sparsity", "n_nonzero", "n_params", "effort")
_PACKAGES = ("paretopath", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file in the form that is stored."""

    name: str
    payload: bytes
    shapes: Document


def checked(body: Mapping[str, Any] | JobIn, store: Store, allow_paths: bool) -> tuple[JobSpec, Document]:
    """The spec of a job and the facts about it: it can be traced.

    Raises
    ------
    InvalidSpec, Forbidden, NotFound, Conflict, pydantic.ValidationError
    """
    job = body if isinstance(body, JobIn) else JobIn.model_validate(body)
    return _with_facts(job.spec(), store, allow_paths)


def studied(body: Mapping[str, Any] | StudyIn, store: Store, allow_paths: bool) -> tuple[Document, tuple[Draft, ...]]:
    """What a study asks for, and its jobs, all of which can be traced: those of the first seed first.

    Raises
    ------
    InvalidSpec, Forbidden, NotFound, Conflict, pydantic.ValidationError
    """
    study = body if isinstance(body, StudyIn) else StudyIn.model_validate(body)
    found = [_with_facts(spec, store, allow_paths) for spec in study.specs()]
    drafts = tuple(_draft(replace(spec, seed=seed), facts) for seed in study.each_seed for spec, facts in found)
    return {**study.plain(), "data": drafts[0].spec["data"]}, drafts


def refitted(
    job_id: int, body: Mapping[str, Any] | RefitIn, store: Store, allow_paths: bool
) -> tuple[JobSpec, Document]:
    """The spec of the job that refits the networks of another, and the facts about it; raises as `checked` does."""
    wanted = body if isinstance(body, RefitIn) else RefitIn.model_validate(body)
    source = store.job(job_id)
    spec = wanted.of(job_id, JobSpec.from_dict(source.spec), source.n_points)
    return _with_facts(spec, store, allow_paths)


def extended(job: Job, body: Mapping[str, Any] | ExtendIn, points: tuple[ParetoPoint, ...]) -> tuple[JobSpec, Document]:
    """The spec of a job that goes on, and the facts about it; what it had left undone comes first.

    Raises
    ------
    InvalidSpec, Conflict, pydantic.ValidationError
    """
    wanted = body if isinstance(body, ExtendIn) else ExtendIn.model_validate(body)
    _check_resting(job, "extended")
    spec = JobSpec.from_dict(job.spec)
    goals = wanted.goals(Budget(job.effort, job.seconds), spec.allowed)
    return _asked(job, goals, points, _stages(spec) if job.state == JobState.COMPLETED else spec.over)


def solved(job: Job, body: Mapping[str, Any] | SolveIn, points: tuple[ParetoPoint, ...]) -> tuple[JobSpec, Document]:
    """The spec of a job that is to find one network, and the facts about it; what it had left undone when it ended
    stays so.

    Raises
    ------
    InvalidSpec, Conflict, pydantic.ValidationError
    """
    wanted = body if isinstance(body, SolveIn) else SolveIn.model_validate(body)
    _check_resting(job, "solved for a target")
    spec = JobSpec.from_dict(job.spec)
    return _asked(job, (wanted.goal(),), points, _stages(spec) if job.state in ENDED else spec.over)


def data_file(filename: str, payload: bytes, name: str | None) -> DataFile:
    """A user's file, read and checked; called `name`, or like the file.

    Raises
    ------
    InvalidData, Conflict
    """
    called = name or Path(filename).stem
    if called in DATASETS or is_path(called):
        raise Conflict(f"a data set cannot be called {called!r}, which already means something else")
    raw = parse_upload(filename, payload)
    return DataFile(called, to_npz(raw), _shapes(raw))


def check_format(form: str) -> None:
    """Refuse unknown export formats.

    Raises
    ------
    UnknownName
    """
    lookup("export format", EXPORTS, form)


def exported(job: Job, waypoint: Waypoint, form: str, compact: bool) -> Download:
    """One network as a file, checked against the network before it is handed out.

    Raises
    ------
    ExportFailed
    """
    module = rebuild(JobSpec.from_dict(job.spec), job.facts, waypoint)
    done = export(form, module, example(job.facts), metadata(job, waypoint.point), compact)
    name = f"paretopath-job{job.id}-point{waypoint.point.index}{'-compact' if compact else ''}{done.suffix}"
    return Download(name, done.payload, done.media_type, {fact: str(value) for fact, value in done.facts.items()})


def metadata(job: Job, point: ParetoPoint) -> dict[str, str]:
    """Where a network comes from: written into every exported file that can carry it."""
    spec = json.dumps(plain(job.submitted), sort_keys=True)
    found = {
        "job": job.id,
        "point": point.index,
        "seed": job.spec.get("seed"),
        **({"goals": job.spec["goals"]} if "goals" in job.spec else {}),
        **{name: getattr(point, name) for name in _NUMBERS},
        "metrics": point.metrics,
        "data_digest": job.facts.get("data_digest"),
        "versions": {**{name: version(name) for name in _PACKAGES}, "python": platform.python_version()},
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in plain(found).items()}
    return {**texts, "spec": spec, "spec_digest": hashlib.sha256(spec.encode()).hexdigest()}


def _draft(spec: JobSpec, facts: Document) -> Draft:
    return Draft(spec.to_dict(), facts, spec.name, spec.tags)


def _with_facts(spec: JobSpec, store: Store, allow_paths: bool) -> tuple[JobSpec, Document]:
    uploads = store.upload_bytes
    located = _located(spec, store, allow_paths)
    facts = {**check(located, uploads, _resting(store)), "versions": dict(versions())}
    if facts["follows"] is not None:
        _check_alike(located, facts, store.job(facts["follows"]))
    return located, facts


def _asked(job: Job, goals: tuple[Part, ...], points: tuple[ParetoPoint, ...], over: int) -> tuple[JobSpec, Document]:
    if not points:
        raise InvalidSpec(f"job {job.id} has no points to go on from; resume it, or trace again")
    spec = asking(JobSpec.from_dict(job.spec), goals, points, over)
    unfinished = over == 0 or any(goal.name == BUDGET for goal in goals)
    expected = max(len(points), int(job.facts.get("expected") or 0) if unfinished else 0) + promised(goals)
    return spec, {**job.facts, "versions": dict(versions()), "expected": expected}


def _stages(spec: JobSpec) -> int:
    """The method and the goals so far."""
    return 1 + len(spec.goals)


def _resting(store: Store) -> Callable[[int], Trail]:
    """The trails of jobs on which nobody works."""

    def trail(job_id: int) -> Trail:
        _check_resting(store.job(job_id), "refitted")
        return store.trail(job_id)

    return trail


def _check_resting(job: Job, what: str) -> None:
    if job.state not in ENDED | {JobState.PAUSED}:
        raise Conflict(f"job {job.id} is {job.state}; jobs that have ended or are paused can be {what}")


def _check_alike(spec: JobSpec, facts: Document, source: Job) -> None:
    """Refuse another network or other data than those of the job whose networks are needed."""
    theirs = JobSpec.from_dict(source.spec)
    for what, mine, other in (("network", spec.network, theirs.network), ("data", spec.data, theirs.data)):
        if mine != other:
            raise InvalidSpec(
                f"{what} {mine.name!r} is not as in job {source.id}, whose networks method {spec.method.name!r} needs"
            )
    if facts["data_digest"] != source.facts["data_digest"]:
        raise InvalidData(f"the data {spec.data.name!r} changed since job {source.id} was submitted")


def _located(spec: JobSpec, store: Store, allow_paths: bool) -> JobSpec:
    """The spec with the name of an upload where the data is a file; refuses what is not allowed."""
    if ":" in spec.network.name and spec.network.name not in NETWORKS and not allow_paths:
        raise Forbidden(f"network {spec.network.name!r} is code to import, which this service does not allow")
    name, uploads = spec.data.name, store.upload_bytes
    if name in DATASETS or name in uploads:
        return spec
    if not is_path(name):
        raise UnknownName("data set", name, [*DATASETS, *uploads])
    if not allow_paths:
        raise Forbidden(f"data {name!r} is a file's path, which this service does not allow; upload it instead")
    return replace(spec, data=replace(spec.data, name=_stored(Path(name), store)))


def _stored(path: Path, store: Store) -> str:
    """The name of the upload that holds a file's values: its stem and the start of its SHA-256."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise InvalidData(f"cannot read {str(path)!r}: {error.strerror}") from error
    digest = hashlib.sha256(payload).hexdigest()
    name = re.sub(r"[^\w-]", "_", path.stem)[:80] + f"-{digest[:12]}"
    if name not in store.upload_bytes:
        found = data_file(path.name, payload, name)
        store.add_upload(name, found.payload, found.shapes)
    return name


def _shapes(raw: RawData) -> Document:
    arrays = {name: getattr(raw, name) for name in ("X_train", "y_train", "X_test", "y_test")}
    shapes: Document = {name: list(array.shape) for name, array in arrays.items() if array is not None}
    return {**shapes, "task": raw.task, "classes": list(raw.classes)}
