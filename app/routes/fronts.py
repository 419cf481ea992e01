"""Fronts: all points, one point, the chosen point, its network as a file, several fronts side by side."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic_core import to_json

from app.choosing import Choice
from app.documents import Document, Orient, as_csv, as_parquet, chosen_points, front_document, point_document
from app.routes.asking import AService, AStore, ComparedObjectives, Index, JobId, Objectives
from app.schemas import LARGEST_INTEGER
from engine.errors import InvalidSpec

router = APIRouter(prefix="/api/v1", tags=["fronts"])

FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
TABLES = {"text/csv": FILE, "application/vnd.apache.parquet": FILE}


@router.get("/jobs/{job_id}/front", response_model=dict[str, Any], responses={200: {"content": TABLES}})
def front(
    job_id: JobId,
    store: AStore,
    objectives: Objectives,
    nondominated: bool = False,
    orient: Orient = "rows",
    format: Literal["json", "csv", "parquet"] = "json",
    layers: Annotated[bool, Query(description="With the sparsity of every layer; rows of JSON only.")] = False,
) -> Response:
    """The front document, or its points as a table."""
    job, found = store.job(job_id), store.front(job_id, layers)
    if format == "json":
        document = front_document(job, found, objectives, nondominated, orient)
        return Response(to_json(document), media_type="application/json")
    points = chosen_points(found, objectives, nondominated)
    if format == "csv":
        return _file(as_csv(points), "text/csv; charset=utf-8", f"front-{job_id}.csv")
    return _file(as_parquet(points), "application/vnd.apache.parquet", f"front-{job_id}.parquet")


@router.get("/jobs/{job_id}/points/{index}")
def point(job_id: JobId, index: Index, store: AStore) -> Document:
    """Everything about one point."""
    return point_document(store.point(job_id, index))


@router.get("/jobs/{job_id}/select")
def select(job_id: JobId, service: AService, objectives: Objectives, choice: Annotated[Choice, Depends()]) -> Document:
    """The one point that fulfils exactly one criterion best."""
    return service.select(job_id, choice, objectives)


@router.get("/jobs/{job_id}/points/{index}/export/{form}", responses={200: {"content": {"*/*": FILE}}})
def export(job_id: JobId, index: Index, form: str, service: AService, compact: bool = False) -> Response:
    """One network as a file; ``X-Paretopath-…`` headers say what was measured.

    With `compact` neurons, channels, input features and attention heads that its zeros make superfluous are left out.
    """
    download = service.export(job_id, index, form, compact)
    response = _file(download.payload, download.media_type, download.filename)
    for name, value in download.facts.items():
        response.headers[header(name)] = value.encode("ascii", "replace").decode()
    return response


@router.get("/compare")
def compare(
    jobs: Annotated[str, Query(max_length=2000, examples=["1,2,3"])], objectives: ComparedObjectives, service: AService
) -> Document:
    """Fronts of several jobs on one scale: figures of merit, what seeds attain, and what it took."""
    return service.compare(job_ids(jobs), objectives)


def job_ids(text: str) -> list[int]:
    """Numbers with commas between.

    Raises
    ------
    InvalidSpec
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdecimal() and int(part) <= LARGEST_INTEGER):
            raise InvalidSpec(f"jobs {text!r} cannot be read; expected job numbers such as 1,2,3")
    return [int(part) for part in parts]


def header(fact: str) -> str:
    """The header that carries a fact about an export: ``max_difference`` in ``X-Paretopath-Max-Difference``."""
    return "X-Paretopath-" + "-".join(word.capitalize() for word in fact.split("_"))


def _file(payload: bytes, media_type: str, name: str) -> Response:
    return Response(payload, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
