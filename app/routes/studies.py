"""Studies: jobs asked for, looked at, steered and deleted together."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from app.documents import Document
from app.routes.asking import AnExecutor, AService, AStore, ComparedObjectives
from app.schemas import LARGEST_INTEGER, StudyIn
from storage.records import JobState, Request

router = APIRouter(prefix="/api/v1/studies", tags=["studies"])

Key = Annotated[str | None, Header(min_length=1, max_length=200)]
StudyId = Annotated[int, Path(ge=0, le=LARGEST_INTEGER)]


@router.post("", status_code=201)
def submit(
    body: StudyIn, response: Response, service: AService, executor: AnExecutor, idempotency_key: Key = None
) -> Document:
    """Check the jobs of a study and queue all or none; the same `Idempotency-Key` twice gives the same study."""
    study = service.submit_study(body, idempotency_key)
    response.headers["Location"] = f"/api/v1/studies/{study['id']}"
    _launch(study, executor)
    return study


@router.get("")
def listed(
    service: AService,
    cursor: Annotated[int | None, Query(ge=1, le=LARGEST_INTEGER, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """Studies without their jobs, newest first; `next` is the cursor of the following page."""
    studies = service.studies(limit, before=cursor)
    return {"studies": studies, "next": studies[-1]["id"] if len(studies) == limit else None}


@router.get("/{study_id}")
def one(study_id: StudyId, service: AService) -> Document:
    """One study with its jobs and their progress."""
    return service.study(study_id)


@router.get("/{study_id}/front")
def front(study_id: StudyId, objectives: ComparedObjectives, service: AService) -> Document:
    """The fronts of the study's jobs on one scale, in groups of seeds with what these attain."""
    return service.study_front(study_id, objectives)


@router.post("/{study_id}/cancel")
def cancel(study_id: StudyId, service: AService, executor: AnExecutor) -> Document:
    """End the jobs; their points stay."""
    return _requested(study_id, "cancel", service, executor)


@router.post("/{study_id}/pause")
def pause(study_id: StudyId, service: AService, executor: AnExecutor) -> Document:
    """Stop working on the jobs until they are resumed."""
    return _requested(study_id, "pause", service, executor)


@router.post("/{study_id}/resume")
def resume(study_id: StudyId, service: AService, executor: AnExecutor) -> Document:
    """Let paused, failed and cancelled jobs go on from their last points."""
    return _requested(study_id, "resume", service, executor)


@router.delete("/{study_id}", status_code=204)
def delete(study_id: StudyId, store: AStore) -> None:
    """Delete the study with its jobs, their points and all their weights."""
    store.delete_study(study_id)


def _requested(study_id: int, what: Request, service: AService, executor: AnExecutor) -> Document:
    study = service.request_study(study_id, what)
    if what == "resume":
        _launch(study, executor)
    elif executor is not None:
        for job in _in_state(study, JobState.RUNNING):
            executor.stop(job)
    return study


def _launch(study: Document, executor: AnExecutor) -> None:
    if executor is not None:
        for job in _in_state(study, JobState.QUEUED):
            executor.launch(job)


def _in_state(study: Document, state: JobState) -> list[int]:
    return [job["id"] for job in study["jobs"] if job["state"] == state]
