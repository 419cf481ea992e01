"""What routes need from the application and from requests."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from app.comparing import COMPARED
from app.executors.base import Executor
from app.schemas import LARGEST_INTEGER
from app.service import Service
from app.settings import Settings
from engine.front import OBJECTIVES
from storage.store import Store


def store_of(request: Request) -> Store:
    """The application's store."""
    store: Store = request.app.state.store
    return store


def service_of(request: Request) -> Service:
    """The application's service."""
    service: Service = request.app.state.service
    return service


def settings_of(request: Request) -> Settings:
    """The application's settings."""
    settings: Settings = request.app.state.settings
    return settings


def executor_of(request: Request) -> Executor | None:
    """Whatever runs workers for this application."""
    executor: Executor | None = request.app.state.executor
    return executor


Names = Annotated[str, Query(max_length=200, description="Two names, with a comma.")]


def names(objectives: Names = "") -> list[str]:
    """The objectives asked for."""
    return _split(objectives) or list(OBJECTIVES)


def compared_names(objectives: Names = "") -> list[str]:
    """The objectives in which fronts of several jobs are compared."""
    return _split(objectives) or list(COMPARED)


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


AStore = Annotated[Store, Depends(store_of)]
AService = Annotated[Service, Depends(service_of)]
TheSettings = Annotated[Settings, Depends(settings_of)]
AnExecutor = Annotated[Executor | None, Depends(executor_of)]
Objectives = Annotated[list[str], Depends(names)]
ComparedObjectives = Annotated[list[str], Depends(compared_names)]
JobId = Annotated[int, Path(ge=0, le=LARGEST_INTEGER)]
Index = Annotated[int, Path(ge=0, le=LARGEST_INTEGER)]
