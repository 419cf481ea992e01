"""Workers as tasks of a Ray cluster: a task a job, which starts a worker process on its node and waits for it.

Ray places tasks and tells of lost nodes. Whether a job goes on is decided by the database alone, so Ray retries
nothing: where a task is lost, the job's lease is ended and a new task started, as for a local worker.
"""

import os
from types import ModuleType
from typing import Any, final

import structlog

from app.errors import Lacking, Refused
from app.executors.base import Executor
from app.executors.runs import Outcome, Run
from app.executors.tasks import work
from app.settings import Settings
from storage.store import Store

log = structlog.get_logger(__name__)

MOST_TASKS = 50
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


@final
class RayTask(Run):
    """A task on the cluster.

    Parameters
    ----------
    job_id : int
    name : str
    ray : module
    reference
        Ray's handle of the task's result.
    """

    def __init__(self, job_id: int, name: str, ray: ModuleType, reference: Any) -> None:
        super().__init__(job_id, name)
        self._ray, self._reference = ray, reference

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on or waits for a node."""
        try:
            ready, _ = self._ray.wait([self._reference], timeout=0)
            return Outcome(*self._ray.get(self._reference)) if ready else None
        except failures(self._ray) as error:
            return Outcome(None, _first_line(error))

    def ask(self) -> None:
        """Take it from the queue, or interrupt it."""
        self._cancel(force=False)

    def kill(self) -> None:
        """Kill its process; the worker ends with it."""
        self._cancel(force=True)

    def _cancel(self, force: bool) -> None:
        try:
            self._ray.cancel(self._reference, force=force)
        except failures(self._ray) as error:
            log.warning("task not cancelled", job_id=self.job_id, error=_first_line(error))


@final
class RayExecutor(Executor):
    """Runs workers on a Ray cluster that is there already.

    Parameters
    ----------
    store : Store
    settings : Settings

    Raises
    ------
    Lacking
        If Ray is not installed.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store, settings)
        self._ray = _imported()
        self._task = self._ray.remote(work)

    def slots(self) -> int:
        """As many tasks as may run or wait for nodes at a time."""
        return self._settings.slots or MOST_TASKS

    def close(self) -> None:
        """End the tasks and leave the cluster."""
        super().close()
        self._ray.shutdown()

    def _begin(self, job_id: int, name: str) -> RayTask:
        settings = self._settings
        try:
            self._join()
            task = self._task.options(name=f"paretopath job {job_id}", max_retries=0, **self._needs())
            given = settings.for_worker(settings.threads or 1)
            return RayTask(job_id, name, self._ray, task.remote(job_id, name, given, settings.grace_seconds))
        except failures(self._ray) as error:
            self._leave_if_idle()
            where = f"the Ray cluster at PARETOPATH_RAY_ADDRESS={settings.ray_address}"
            raise Refused(f"{where} does not answer: {_first_line(error)}") from error

    def _join(self) -> None:
        if not self._ray.is_initialized():
            self._ray.init(address=self._settings.ray_address, log_to_driver=False)

    def _leave_if_idle(self) -> None:
        """Forget a connection that may be broken, so that the next task makes a new one."""
        if not self._runs:
            self._ray.shutdown()

    def _needs(self) -> dict[str, float]:
        """What a task takes up on its node."""
        gpus = self._settings.ray_gpus
        n_gpus = float(self._ray.cluster_resources().get("GPU", 0) > 0) if gpus is None else gpus
        memory = self._settings.max_memory_bytes
        return {"num_cpus": self._settings.threads or 1, "num_gpus": n_gpus, **({"memory": memory} if memory else {})}


def failures(ray: ModuleType) -> tuple[type[Exception], ...]:
    """What Ray raises where a task failed, or the cluster is not there; its client lets gRPC's own errors through."""
    import grpc

    return (ray.exceptions.RayError, grpc.RpcError, ConnectionError, RuntimeError, ValueError)


def _imported() -> ModuleType:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import grpc  # noqa: F401 (Ray's client needs it)
        import ray
    except ImportError as error:
        raise Lacking("PARETOPATH_EXECUTOR=ray needs Ray: pip install 'paretopath[ray]'") from error
    return ray  # type: ignore[no-any-return]


def _first_line(error: BaseException) -> str:
    details = getattr(error, "details", None)
    text = str(details()) if callable(details) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
