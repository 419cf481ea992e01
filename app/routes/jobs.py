"""Jobs: submit, list, look at, steer, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response

from app.documents import Document
from app.routes.asking import AnExecutor, AService, AStore, JobId
from app.schemas import LARGEST_INTEGER, ExtendIn, JobIn, RefitIn, SolveIn, ThinIn
from storage.records import JobState, Request

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

Key = Annotated[str | None, Header(min_length=1, max_length=200)]


@router.post("", status_code=201)
def submit(
    body: JobIn, response: Response, service: AService, executor: AnExecutor, idempotency_key: Key = None
) -> Document:
    """Check a job and queue it; the same `Idempotency-Key` twice gives the same job."""
    return _queued(service.submit(body, idempotency_key), response, executor)


@router.get("")
def listed(
    service: AService,
    state: JobState | None = None,
    tag: Annotated[str | None, Query(max_length=100)] = None,
    cursor: Annotated[int | None, Query(ge=1, le=LARGEST_INTEGER, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """Jobs, newest first; `next` is the cursor of the following page."""
    jobs = service.jobs(state, tag, limit, before=cursor)
    return {"jobs": jobs, "next": jobs[-1]["id"] if len(jobs) == limit else None}


@router.get("/{job_id}")
def one(job_id: JobId, service: AService) -> Document:
    """One job with its progress."""
    return service.job(job_id)


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, service: AService, executor: AnExecutor) -> Document:
    """End the job; its points stay."""
    return _requested(job_id, "cancel", service, executor)


@router.post("/{job_id}/pause")
def pause(job_id: JobId, service: AService, executor: AnExecutor) -> Document:
    """Stop working on the job until it is resumed."""
    return _requested(job_id, "pause", service, executor)


@router.post("/{job_id}/resume")
def resume(job_id: JobId, service: AService, executor: AnExecutor) -> Document:
    """Go on from the last point."""
    return _requested(job_id, "resume", service, executor)


@router.post("/{job_id}/refit", status_code=201)
def refit(
    job_id: JobId,
    response: Response,
    service: AService,
    executor: AnExecutor,
    body: Annotated[RefitIn | None, Body()] = None,
    idempotency_key: Key = None,
) -> Document:
    """Queue a job that trains the nonzero weights of this job's networks without the penalty."""
    return _queued(service.refit(job_id, body or RefitIn(), idempotency_key), response, executor)


@router.post("/{job_id}/thin")
def thin(job_id: JobId, body: ThinIn, service: AService) -> Document:
    """Delete points of a job that has ended, with their weights; it cannot go on afterwards."""
    return service.thin(job_id, body)


@router.post("/{job_id}/extend")
def extend(job_id: JobId, body: ExtendIn, response: Response, service: AService, executor: AnExecutor) -> Document:
    """Queue the job again for more points, a sparser end, a finer stretch or with more budget; its points stay."""
    return _queued(service.extend(job_id, body), response, executor)


@router.post("/{job_id}/solve")
def solve(job_id: JobId, body: SolveIn, response: Response, service: AService, executor: AnExecutor) -> Document:
    """Queue the job again for a network of a given size, strength or loss; its points stay."""
    return _queued(service.solve(job_id, body), response, executor)


@router.delete("/{job_id}", status_code=204)
def delete(job_id: JobId, store: AStore) -> None:
    """Delete the job, its points and all its weights."""
    store.delete(job_id)


def _queued(job: Document, response: Response, executor: AnExecutor) -> Document:
    response.headers["Location"] = f"/api/v1/jobs/{job['id']}"
    if executor is not None:
        executor.launch(job["id"])
    return job


def _requested(job_id: int, what: Request, service: AService, executor: AnExecutor) -> Document:
    job = service.request(job_id, what)
    if executor is not None and what == "resume":
        executor.launch(job_id)
    elif executor is not None and job["state"] == JobState.RUNNING:
        executor.stop(job_id)
    return job
