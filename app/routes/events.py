"""What happens to a job: server-sent events (state, point, log), resumable by their numbers, and its log alone."""

from collections.abc import AsyncIterable
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.documents import Document, log_document, plain
from app.problems import NothingMore
from app.routes.asking import AStore, JobId, TheSettings
from storage.errors import NotFound, Unavailable
from storage.records import ENDED, Event
from storage.store import Store

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

Seq = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=2**63 - 1)]
After = Annotated[int, Query(ge=0, le=2**63 - 1, description="As `Last-Event-ID`, for clients that cannot send it.")]


def start(job_id: JobId, store: AStore, last_event_id: Seq = None, after: After = 0) -> int:
    """The number after which to begin; tells a client that has seen all to stop asking."""
    seen = after if last_event_id is None else last_event_id
    if store.job(job_id).state in ENDED and not store.events(job_id, after=seen, limit=1):
        raise NothingMore
    return seen


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(
    job_id: JobId, store: AStore, settings: TheSettings, seen: Annotated[int, Depends(start)]
) -> AsyncIterable[ServerSentEvent]:
    """What happened and happens, until the job has ended; then 204."""
    over = False
    while not over:
        over, news = await to_thread.run_sync(_news, store, job_id, seen)
        for event in news:
            seen = event.seq
            yield ServerSentEvent(data=plain(event.data), event=event.kind, id=str(event.seq))
        if not news:
            await anyio.sleep(settings.poll_seconds)


@router.get("/{job_id}/logs")
def logs(
    job_id: JobId, store: AStore, after: After = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> dict[str, list[Document]]:
    """The newest lines that workers wrote about the job, in order; those of crashed workers are their last words."""
    return {"lines": [log_document(event) for event in store.logs(job_id, after, limit)]}


def _news(store: Store, job_id: int, seen: int) -> tuple[bool, tuple[Event, ...]]:
    """Whether these are the last events, and the events; none while the database does not answer."""
    try:
        ended = store.job(job_id).state in ENDED
        news = store.events(job_id, after=seen)
    except NotFound:
        return True, ()
    except Unavailable:
        return False, ()
    return ended and not news, news
