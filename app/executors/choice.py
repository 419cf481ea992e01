"""Which executor a service has."""

from app.executors.base import Executor
from app.executors.local import LocalExecutor
from app.executors.ray import RayExecutor
from app.settings import Settings
from storage.store import Store


def executor_of(store: Store, settings: Settings) -> Executor | None:
    """What runs the service's workers; None where others do.

    Raises
    ------
    Lacking
        If it is not installed.
    """
    known = {"local": LocalExecutor, "ray": RayExecutor}
    return known[settings.executor](store, settings) if settings.executor in known else None
