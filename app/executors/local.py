"""Workers as child processes of the service: one per GPU, or as many as there are slots.

One thread supervises them. Every round it ends the leases of dead children, kills those that outlive their grace
time, and starts children on waiting jobs while slots are free. A child reads a pipe from its parent and ends with it.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
import torch

from app.settings import Settings
from app.worker import worker_name
from storage.errors import NotFound, StorageError
from storage.records import Job
from storage.store import Store

log = structlog.get_logger(__name__)


@dataclass
class Child:
    """A worker process, the slot it fills and since when it has been asked to stop."""

    job_id: int
    name: str
    device: str
    process: subprocess.Popen[bytes]
    asked_at: float | None = field(default=None)


class LocalExecutor:
    """Supervises worker processes.

    Parameters
    ----------
    store : Store
    settings : Settings
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._devices = devices(settings.slots)
        self._children: list[Child] = []
        self._news = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._supervise, name="local executor", daemon=True)

    def start(self) -> None:
        """Begin to supervise."""
        self._thread.start()

    def close(self) -> None:
        """Ask the children to give their jobs back, and wait for them."""
        self._stopping = True
        self._news.set()
        self._thread.join()

    def launch(self, job_id: int) -> None:
        """Look for waiting jobs now rather than at the next round; the oldest goes first."""
        log.info("job waits for a slot", job_id=job_id)
        self._news.set()

    def stop(self, job_id: int) -> None:
        """Start the grace time of the job's child."""
        for child in self._children:
            if child.job_id == job_id:
                child.asked_at = child.asked_at or time.monotonic()
        self._news.set()

    def slots(self) -> int:
        """Number of devices."""
        return len(self._devices)

    def pids(self) -> dict[int, int]:
        """Process of each running job."""
        return {child.job_id: child.process.pid for child in self._children}

    def _supervise(self) -> None:
        while not self._stopping:
            self._news.wait(self._settings.poll_seconds)
            self._news.clear()
            try:
                self._round()
            except StorageError as error:
                log.warning("the executor waits for the database", error=str(error))
        self._end_all()

    def _round(self) -> None:
        self._bury()
        self._kill_overdue()
        for job in self._waiting() if self._free() else ():
            if self._free():
                self._spawn(job.id, self._free()[0])

    def _bury(self) -> None:
        for child in [c for c in self._children if c.process.poll() is not None]:
            self._store.expire(child.name)
            self._children.remove(child)
            _close(child)
            log.info("worker ended", job_id=child.job_id, worker=child.name, status=child.process.returncode)

    def _kill_overdue(self) -> None:
        for child in self._children:
            if child.asked_at is None and self._unwanted(child):
                child.asked_at = time.monotonic()
            if child.asked_at is not None and time.monotonic() - child.asked_at > self._settings.grace_seconds:
                log.warning("worker killed after its grace time", job_id=child.job_id, worker=child.name)
                child.process.kill()

    def _unwanted(self, child: Child) -> bool:
        try:
            return self._store.job(child.job_id).wanted != "run"
        except NotFound:
            return True

    def _waiting(self) -> list[Job]:
        mine = {child.job_id for child in self._children}
        return [job for job in self._store.waiting() if job.id not in mine]

    def _free(self) -> list[str]:
        taken = {child.device for child in self._children}
        return [device for device in self._devices if device not in taken]

    def _spawn(self, job_id: int, device: str) -> None:
        name = worker_name()
        command = [sys.executable, "-m", "app", "worker", "--job", str(job_id), "--name", name, "--until-stdin-closes"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=self._environment(device), start_new_session=True
        )
        self._children.append(Child(job_id, name, device, process))
        log.info("worker started", job_id=job_id, worker=name, pid=process.pid, device=device)

    def _environment(self, device: str) -> Mapping[str, str]:
        settings = self._settings
        threads = settings.threads or max(1, (os.cpu_count() or 1) // len(self._devices))
        own = {
            "PARETOPATH_DATABASE_URL": settings.url,
            "PARETOPATH_DATA_DIR": str(settings.data_dir),
            "PARETOPATH_THREADS": str(threads),
            "PARETOPATH_LEASE_SECONDS": str(settings.lease_seconds),
            "PARETOPATH_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
            "PARETOPATH_GRACE_SECONDS": str(settings.grace_seconds),
        }
        kind, _, index = device.partition("#")[0].partition(":")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index else [""]
        gpu = {"CUDA_VISIBLE_DEVICES": visible[int(index)] if any(visible) else index} if kind == "cuda" else {}
        return {**os.environ, **own, **gpu}

    def _end_all(self) -> None:
        for child in self._children:
            child.process.terminate()
        until = time.monotonic() + self._settings.grace_seconds
        for child in self._children:
            self._end(child, until)

    def _end(self, child: Child, until: float) -> None:
        try:
            child.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        _close(child)
        self._store.expire(child.name)


def _close(child: Child) -> None:
    if child.process.stdin is not None:
        child.process.stdin.close()


def devices(slots: int | None) -> list[str]:
    """A name for each slot: the GPUs in turn, or this machine's CPU."""
    n_gpus = torch.cuda.device_count()
    count = slots or max(1, n_gpus)
    return [f"cuda:{i % n_gpus}#{i}" if n_gpus else f"cpu#{i}" for i in range(count)]
