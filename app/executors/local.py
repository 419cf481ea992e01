"""Workers as child processes of the service: one per GPU, or as many as there are slots."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

from app.executors.base import Executor
from app.executors.processes import WorkerProcess, load
from app.settings import Settings
from storage.store import Store

DRIVERS = ("nvidia*", "nvhost*", "kfd", "dxg")
"""Under ``/dev``, of the GPUs that torch calls CUDA's."""


@final
class LocalExecutor(Executor):
    """Runs workers on this machine.

    Parameters
    ----------
    store : Store
    settings : Settings
    study_id : int, optional
        Work on the jobs of this study only, in the foreground: what the workers log is not shown.
    """

    def __init__(self, store: Store, settings: Settings, study_id: int | None = None) -> None:
        super().__init__(store, settings, study_id)
        self._devices = devices(settings.slots)
        self._taken: dict[str, str] = {}

    def start(self) -> None:
        """Begin to supervise, and to load what workers need."""
        load()
        super().start()

    def slots(self) -> int:
        """Number of devices."""
        return len(self._devices)

    def pids(self) -> dict[int, int]:
        """Process of each running job."""
        return {run.job_id: run.pid for run in self._runs if isinstance(run, WorkerProcess)}

    def _begin(self, job_id: int, name: str) -> WorkerProcess:
        names = {run.name for run in self._runs}
        self._taken = {worker: device for worker, device in self._taken.items() if worker in names}
        self._taken[name] = next(device for device in self._devices if device not in self._taken.values())
        environment = self._environment(self._taken[name])
        return WorkerProcess(job_id, name, environment, shown=self._study_id is None)

    def _environment(self, device: str) -> Mapping[str, str]:
        threads = self._settings.threads or max(1, (os.cpu_count() or 1) // len(self._devices))
        kind, _, index = device.partition("#")[0].partition(":")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index else [""]
        gpu = {"CUDA_VISIBLE_DEVICES": visible[int(index)] if any(visible) else index} if kind == "cuda" else {}
        return {**os.environ, **self._settings.for_worker(threads), **gpu}


def devices(slots: int | None) -> list[str]:
    """A name for each slot: the GPUs in turn, or this machine's CPU."""
    n_gpus = gpus()
    count = slots or max(1, n_gpus)
    return [f"cuda:{i % n_gpus}#{i}" if n_gpus else f"cpu#{i}" for i in range(count)]


def gpus() -> int:
    """How many GPUs there are; torch, which takes seconds to import, is asked only where there is a driver."""
    if not any(any(Path("/dev").glob(name)) for name in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()
