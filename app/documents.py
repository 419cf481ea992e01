"""The documents handed out, the same from REST and from the command line: plain values, NaN and infinity as null."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

from app.errors import Lacking
from engine.errors import InvalidSpec
from engine.front import OBJECTIVES, Front, ParetoPoint
from storage.records import ENDED, Event, Job, JobState, Study, Thinned, Upload

Document = dict[str, Any]
Orient = Literal["rows", "columns"]
COLUMNS = (
    *("index", "parent", "sweep", "loss", "penalty", "lam", "residual"),
    *("n_nonzero", "n_params", "sparsity", "effort", "seconds"),
)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value.isoformat() if isinstance(value, datetime) else value


def job_document(job: Job) -> Document:
    """Everything about a job but its points."""
    document = {
        "id": job.id,
        "name": job.name,
        "state": str(job.state),
        "wanted": job.wanted,
        "reason": job.reason,
        "tags": job.tags,
        "spec": job.submitted,
        "goals": job.spec.get("goals", ()),
        "over": job.spec.get("over", 0),
        "facts": job.facts,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "attempts": job.attempts,
        "worker": job.worker,
        "study": job.study_id,
        "thinned": job.n_thinned,
        "progress": progress(job),
    }
    return dict(plain(document))


def study_document(study: Study, jobs: bool = True) -> Document:
    """Everything about a study but the points of its jobs."""
    document = {
        "id": study.id,
        "name": study.name,
        "state": str(study.state),
        "spec": study.spec,
        "created_at": study.created_at,
        "progress": study_progress(study),
        **({"jobs": [job_document(job) for job in study.jobs]} if jobs else {}),
    }
    return dict(plain(document))


def study_progress(study: Study) -> Document:
    """How far the jobs of a study are together: how many are in which state, points, and what it took so far."""
    found = [progress(job) for job in study.jobs]
    return {
        "jobs": len(study.jobs),
        "states": dict(Counter(str(job.state) for job in study.jobs)),
        "points": sum(job.n_points for job in study.jobs),
        "expected": sum(each["expected"] or each["points"] for each in found),
        "effort": sum(job.effort for job in study.jobs),
        "seconds": sum(job.seconds for job in study.jobs),
    }


def progress(job: Job) -> Document:
    """How far a job is: points and effort so far, points per second of work, an estimate of the seconds left."""
    promised = job.facts.get("expected")
    expected = job.n_points if job.state == JobState.COMPLETED else promised and max(promised, job.n_points)
    rate = job.n_points / job.seconds if job.seconds > 0 else None
    left = (expected - job.n_points) / rate if expected and rate else None
    over = 0.0 if job.state in ENDED else left
    return {"points": job.n_points, "expected": expected, "effort": job.effort, "rate": rate, "remaining_seconds": over}


def front_document(
    job: Job,
    front: Front,
    objectives: Sequence[str] = OBJECTIVES,
    nondominated: bool = False,
    orient: Orient = "rows",
) -> Document:
    """The front document ``{"job", "points", "hypervolume"}``; rows have layers where the front was read with them."""
    points = chosen_points(front, objectives, nondominated)
    return {
        "job": job_document(job),
        "points": plain(columns(points)) if orient == "columns" else point_documents(points),
        "hypervolume": hypervolume_document(front, objectives),
    }


def chosen_points(front: Front, objectives: Sequence[str], nondominated: bool) -> tuple[ParetoPoint, ...]:
    """All points, or those that no other point beats in `objectives`."""
    check_objectives(front, objectives)
    return front.non_dominated(objectives).points if nondominated else front.points


def check_objectives(front: Front, objectives: Sequence[str]) -> None:
    """Refuse unknown objectives, and more or fewer than two of them.

    Raises
    ------
    InvalidSpec
    """
    if len(objectives) != 2 or objectives[0] == objectives[1]:
        raise InvalidSpec(f"objectives {','.join(objectives)!r} must be two different names, such as penalty,loss")
    for point in front.points[:1]:
        for name in objectives:
            point.value(name)


def point_document(point: ParetoPoint) -> Document:
    """Everything about one point."""
    return dict(plain(point.to_dict()))


def point_documents(points: Sequence[ParetoPoint]) -> list[Document]:
    """Many points as documents, without layers where none of them has any."""
    numbers = zip(*(_finite(map(attrgetter(name), points)) for name in COLUMNS), strict=True)
    metrics = [dict(zip(p.metrics, _finite(p.metrics.values()), strict=True)) for p in points]
    documents = [
        {**dict(zip(COLUMNS, values, strict=True)), "metrics": measured}
        for values, measured in zip(numbers, metrics, strict=True)
    ]
    if not any(point.layers for point in points):
        return documents
    layers = ([asdict(layer) for layer in point.layers] for point in points)
    return [{**document, "layers": plain(each)} for document, each in zip(documents, layers, strict=True)]


def _finite(values: Iterable[float | None]) -> list[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in values]


def hypervolume_document(front: Front, objectives: Sequence[str] = OBJECTIVES) -> Document:
    """The area a front dominates, with the reference it is measured from: the front's own worst values."""
    best = front.non_dominated(objectives)
    worst, value = worst_values(best, objectives), best.hypervolume(objectives=objectives)
    return dict(plain({"objectives": objectives, "reference": worst, "value": value}))


def worst_values(front: Front, objectives: Sequence[str]) -> list[float] | None:
    """The worst value of every objective, in its own unit; None for an empty front."""
    if not len(front):
        return None
    worst = front.values(objectives).argmax(axis=0)
    return [front.points[place].value(name) for place, name in zip(worst, objectives, strict=True)]


def event_document(event: Event) -> Document:
    """One event of a job."""
    return dict(plain({"seq": event.seq, "kind": event.kind, "data": event.data, "at": event.at}))


def thinned_document(thinned: Thinned) -> Document:
    """A job that was thinned, how many points went and how many bytes of weights with them."""
    return {"job": job_document(thinned.job), "dropped": thinned.n_dropped, "bytes": thinned.n_bytes}


def log_document(event: Event) -> Document:
    """One line of a job's log."""
    return {"seq": event.seq, "at": event.at.isoformat(), "text": str(event.data["text"])}


def upload_document(upload: Upload) -> Document:
    """One uploaded data set, without its values."""
    fields = ("name", "digest", "size", "shapes", "created_at")
    return dict(plain({name: getattr(upload, name) for name in fields}))


def columns(points: Sequence[ParetoPoint]) -> dict[str, list[Any]]:
    """Points as a table: one list per number, metrics included, None where a point has no such metric."""
    metrics = list(dict.fromkeys(name for p in points for name in p.metrics))
    table: dict[str, list[Any]] = {name: [getattr(p, name) for p in points] for name in COLUMNS}
    return {**table, **{name: [p.metrics.get(name) for p in points] for name in metrics}}


def as_csv(points: Sequence[ParetoPoint]) -> bytes:
    """The table of points as CSV."""
    table = columns(points)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode()


def as_parquet(points: Sequence[ParetoPoint]) -> bytes:
    """The table of points as Parquet.

    Raises
    ------
    Lacking
        If pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise Lacking("parquet needs pyarrow, which is not installed; known to work: json, csv") from error
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns(points)), sink)
    return sink.getvalue()
