"""Tracing in the foreground: in this process, or watching a service do it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from app import logs, terminal
from app.backend import Backend
from app.documents import Document
from app.executors.runs import worker_name
from app.limits import limit_memory
from app.service import Service, open_store
from app.settings import Settings
from app.worker import Wish, Worker
from engine.front import OBJECTIVES
from storage.store import Store

Points = Iterator[Mapping[str, Any]]
Submit = Callable[[Backend], Document]


def here(settings: Settings, submit: Submit, as_json: bool) -> str:
    """Submit a job and trace it in this process, through the service's store and worker; its state at the end."""
    logs.configure(logging.CRITICAL)
    with open_store(settings) as store:
        service = Service(store, allow_paths=True, poll_seconds=settings.poll_seconds)
        job = submit(service)
        return _watched(service, job, _points(store, service, settings, job), as_json)


def there(backend: Backend, submit: Submit, as_json: bool) -> str:
    """Have a service trace a job; its state at the end. Ctrl-C cancels the job."""
    job = submit(backend)
    return _watched(backend, job, _followed(backend, job), as_json)


def worker_of(store: Store, settings: Settings, name: str | None = None, on_interrupt: Wish = Wish.RELEASE) -> Worker:
    """A worker as the settings want it; its memory limit is that of this process from now on."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.max_memory_bytes is not None:
        limit_memory(settings.max_memory_bytes)
    return Worker(
        store,
        name or worker_name(),
        settings.lease_seconds,
        settings.heartbeat_seconds,
        finishing_seconds=settings.grace_seconds / 2,
        patience_seconds=settings.patience_seconds,
        on_interrupt=on_interrupt,
    )


def _points(store: Store, service: Service, settings: Settings, job: Document) -> Points:
    """The job's points from a worker of our own, or from whoever was faster to claim it."""
    worker = worker_of(store, settings, on_interrupt=Wish.CANCEL)
    lease = worker.claim(job["id"])
    if lease is None:
        return _followed(service, job)
    return (point.to_dict() for point in worker.work(lease))


def _followed(backend: Backend, job: Document) -> Points:
    """The points beyond those that the job had."""
    points = (event["data"] for event in backend.follow(job["id"]) if event["kind"] == "point")
    return (point for point in points if point["index"] >= job["progress"]["points"])


def _watched(backend: Backend, job: Document, points: Points, as_json: bool) -> str:
    try:
        terminal.watch(points, job["progress"]["expected"], job["progress"]["points"])
    except KeyboardInterrupt:
        backend.request(job["id"], "cancel")
        terminal.warn(f"cancelling job {job['id']}")
    document = backend.front(job["id"], OBJECTIVES)
    terminal.print_front(document, as_json)
    state: str = document["job"]["state"]
    if state != "completed":
        terminal.warn(f"{terminal.summary(document)}; look at its points with: paretopath front {job['id']}")
    return state
