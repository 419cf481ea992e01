"""Studies in the foreground: worker processes side by side on this machine, or watching a service run them."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app import logs, terminal
from app.backend import Backend
from app.comparing import COMPARED
from app.documents import Document
from app.executors.local import LocalExecutor, gpus
from app.service import Service, open_store
from app.settings import Settings
from storage.records import JobState
from storage.store import Store

UNDER_WAY = frozenset({JobState.QUEUED, JobState.RUNNING})


def here(settings: Settings, body: Mapping[str, Any], workers: int | None, as_json: bool) -> str:
    """Submit a study and run its jobs in so many worker processes at a time; its state at the end."""
    logs.configure(logging.WARNING)
    with open_store(settings) as store:
        service = Service(store, allow_paths=True, poll_seconds=settings.poll_seconds)
        study = service.submit_study(body)
        count = workers or settings.slots or side_by_side(len(study["jobs"]))
        with working(store, settings, study["id"], count):
            return _watched(service, study, settings.poll_seconds, as_json)


def there(backend: Backend, body: Mapping[str, Any], poll_seconds: float, as_json: bool) -> str:
    """Have a service run a study; its state at the end. Ctrl-C cancels the study."""
    return _watched(backend, backend.submit_study(body), poll_seconds, as_json)


@contextmanager
def working(store: Store, settings: Settings, study_id: int, workers: int) -> Iterator[None]:
    """So many worker processes at a time on the jobs of one study, as long as the block lasts."""
    executor = LocalExecutor(store, settings.model_copy(update={"slots": workers}), study_id)
    executor.start()
    try:
        yield
    finally:
        executor.close()


def side_by_side(n_jobs: int) -> int:
    """How many of so many jobs to run at a time: one on each GPU, or on each core."""
    return min(n_jobs, gpus() or os.cpu_count() or 1)


def standings(backend: Backend, study_id: int, poll_seconds: float) -> Iterator[Document]:
    """The study as it stands, again and again, until none of its jobs is queued or running."""
    while True:
        study = backend.study(study_id)
        yield study
        if study["state"] not in UNDER_WAY:
            return
        time.sleep(poll_seconds)


def _watched(backend: Backend, study: Document, poll_seconds: float, as_json: bool) -> str:
    try:
        terminal.watch_study(standings(backend, study["id"], poll_seconds))
    except KeyboardInterrupt:
        terminal.warn(f"cancelling study {study['id']}")
        backend.request_study(study["id"], "cancel")
        terminal.watch_study(standings(backend, study["id"], poll_seconds))
    document = backend.study_front(study["id"], COMPARED)
    terminal.print_comparison(document, as_json)
    _say_how_it_ended(document, as_json)
    state: str = document["study"]["state"]
    return state


def _say_how_it_ended(document: Document, as_json: bool) -> None:
    if not as_json:
        terminal.say(terminal.study_summary(document["study"]))
    for entry in document["fronts"]:
        if entry["job"]["state"] != JobState.COMPLETED:
            terminal.warn(terminal.standing(entry["job"]))
