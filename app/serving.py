"""Running the service in the foreground."""

import gc
import socket
from typing import TYPE_CHECKING

import uvicorn

from app import terminal
from app.errors import AddressTaken
from app.executors.base import Executor
from app.executors.choice import executor_of
from app.service import Service, open_store
from app.settings import Settings
from storage.store import Store

if TYPE_CHECKING:
    from fastapi import FastAPI

DEMONSTRATION = {
    "name": "demonstration",
    "network": "mlp:32",
    "data": "digits",
    "points": 40,
    "tags": ["demonstration"],
}


def serve(settings: Settings, demo: bool = False) -> None:
    """Listen until a signal to stop comes.

    Raises
    ------
    ExposureRefused, AddressTaken
    """
    settings.check_exposure()
    with _listener(settings) as listener, open_store(settings) as store:
        app = _application(settings, _at_work(store, settings))
        if demo:
            demonstrate(settings)
        terminal.say(f"paretopath is at {_address(listener)} (stop it with Ctrl-C)")
        _leave_alone_what_is_loaded()
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def _at_work(store: Store, settings: Settings) -> Executor | None:
    """The executor, which lets workers start beside the application: both take seconds."""
    executor = executor_of(store, settings)
    if executor is not None:
        executor.start()
    return executor


def _application(settings: Settings, executor: Executor | None) -> "FastAPI":
    from app.api import create_app

    return create_app(settings, executor)


def demonstrate(settings: Settings) -> None:
    """Queue the demonstration job where there is no job yet."""
    with open_store(settings) as store:
        if not store.jobs(limit=1):
            Service(store).submit(DEMONSTRATION)


def _leave_alone_what_is_loaded() -> None:
    """Spare modules the garbage collector: a long front sets it off, and what is loaded outweighs the front."""
    gc.collect()
    gc.freeze()


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise AddressTaken(f"cannot listen on {where}: {error.strerror}; try another --port, such as 0") from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
