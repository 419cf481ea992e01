"""The service: ``uvicorn --factory app.api:served`` or ``paretopath serve``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import to_thread
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from app import problems
from app.executors.base import Executor
from app.executors.choice import executor_of
from app.guards import Guard
from app.metrics import Measured, StoreCollector
from app.routes import datasets, events, fronts, jobs, operations, pages, registries, studies
from app.service import Service, prepare
from app.settings import Settings
from storage.store import Store


def create_app(settings: Settings, executor: Executor | None = None) -> FastAPI:
    """The application; its database is opened, and SQLite's migrated, when it starts.

    Parameters
    ----------
    settings : Settings
    executor : Executor, optional
        One that may be at work already; made from the settings by default.

    Raises
    ------
    ExposureRefused
        If other machines could reach it without a token.
    Lacking
        If its executor is not installed.
    """
    settings.check_exposure()
    app = FastAPI(
        title="paretopath",
        version=version("paretopath"),
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    _equip(app, settings, executor)
    problems.install(app)
    for part in (jobs, events, fronts, studies, datasets, registries, operations, pages):
        app.include_router(part.router)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Measured, registry=app.state.metrics)
    return app


def served() -> FastAPI:
    """The application with settings from the environment."""
    return create_app(Settings())


def _equip(app: FastAPI, settings: Settings, executor: Executor | None) -> None:
    store = Store(settings.url)
    app.state.settings = settings
    app.state.store = store
    app.state.service = Service(store, settings.allow_paths, settings.poll_seconds)
    app.state.executor = executor or executor_of(store, settings)
    app.state.metrics = CollectorRegistry()
    app.state.metrics.register(StoreCollector(store))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    await to_thread.run_sync(prepare, app.state.store, app.state.settings)
    executor = app.state.executor
    if executor is not None:
        executor.start()
    try:
        yield
    finally:
        if executor is not None:
            await to_thread.run_sync(executor.close)
        app.state.store.close()
