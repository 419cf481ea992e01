"""What the service asks of whatever runs its workers: one worker process a job, supervised by one thread.

Every round the thread ends the leases of workers that are gone, stops those that outlive their grace time, and starts
workers on waiting jobs while slots are free. The database stays the only truth about jobs: whoever starts a worker on
a job, the worker must claim it there.
"""

import threading
import time
from abc import ABC, abstractmethod

import structlog

from app.errors import AppError
from app.executors.runs import NOT_HAD, Outcome, Run, worker_name
from app.settings import Settings
from storage.errors import NotFound, StorageError
from storage.records import Job, JobState
from storage.store import Store

log = structlog.get_logger(__name__)

LONGEST_REST_SECONDS = 3600.0
LOOK_SECONDS = 0.05


class Executor(ABC):
    """Starts workers and supervises them.

    Parameters
    ----------
    store : Store
    settings : Settings
    study_id : int, optional
        Leave all jobs but those of this study to others.
    """

    def __init__(self, store: Store, settings: Settings, study_id: int | None = None) -> None:
        self._store, self._settings, self._study_id = store, settings, study_id
        self._runs: list[Run] = []
        self._resting: dict[int, tuple[float, float]] = {}
        self._news = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._supervise, name="executor", daemon=True)

    @abstractmethod
    def slots(self) -> int:
        """How many jobs can run at a time."""

    @abstractmethod
    def _begin(self, job_id: int, name: str) -> Run:
        """Start a worker."""

    def start(self) -> None:
        """Begin to supervise, unless that was begun already."""
        if not self.is_at_work:
            self._thread.start()

    @property
    def is_at_work(self) -> bool:
        """Whether it supervises."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ask the workers to give their jobs back, and wait for them."""
        self._stopping = True
        self._news.set()
        self._thread.join()

    def launch(self, job_id: int) -> None:
        """Look for waiting jobs now rather than at the next round; the oldest goes first."""
        log.info("job waits for a slot", job_id=job_id)
        self._resting.pop(job_id, None)
        self._news.set()

    def stop(self, job_id: int) -> None:
        """Begin the grace time of the job's worker, which has been asked to stop through the database, now."""
        log.info("job is to stop", job_id=job_id)
        self._news.set()

    def _supervise(self) -> None:
        while not self._stopping:
            self._news.wait(self._settings.poll_seconds)
            self._news.clear()
            try:
                self._round()
            except (StorageError, AppError) as error:
                log.warning("the executor waits", error=str(error))
            except Exception:
                log.exception("the executor could not finish a round; it goes on with the next")
        self._end_all()

    def _round(self) -> None:
        self._bury()
        self._kill_overdue()
        for job in self._waiting() if self._n_free() else ():
            if self._n_free() > 0:
                self._launch(job)

    def _bury(self) -> None:
        for run in tuple(self._runs):
            outcome = run.outcome()
            if outcome is not None:
                held = self._store.expire(run.name)
                self._rest(run.job_id, 0.0 if held or outcome.status == 0 else self._settings.lease_seconds)
                self._note(run, outcome)
                self._runs.remove(run)
                log.info("worker ended", job_id=run.job_id, worker=run.name, status=outcome.status)

    def _note(self, run: Run, outcome: Outcome) -> None:
        """Tell of a death that nobody wanted, in the job's log, too."""
        if outcome.status in (0, NOT_HAD) or run.unwanted_since is not None:
            return
        log.warning("worker died", job_id=run.job_id, worker=run.name, outcome=str(outcome))
        try:
            self._store.remark(run.job_id, f"worker {run.name} {outcome}")
        except NotFound:
            log.info("the worker's job was deleted", job_id=run.job_id)

    def _rest(self, job_id: int, seconds: float) -> None:
        """Leave a job alone whose worker could not even begin, each time twice as long."""
        _, before = self._resting.pop(job_id, (0.0, 0.0))
        if seconds:
            length = min(max(seconds, 2 * before), LONGEST_REST_SECONDS)
            self._resting[job_id] = (time.monotonic() + length, length)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for run in self._runs:
            run.unwanted_since = (run.unwanted_since or now) if self._unwanted(run) else None
            if run.unwanted_since is not None and now - run.unwanted_since > self._settings.grace_seconds:
                log.warning("worker killed after its grace time", job_id=run.job_id, worker=run.name)
                run.kill()

    def _unwanted(self, run: Run) -> bool:
        try:
            job = self._store.job(run.job_id)
        except NotFound:
            return True
        return job.wanted != "run" or job.state not in (JobState.QUEUED, JobState.RUNNING)

    def _waiting(self) -> list[Job]:
        mine = {run.job_id for run in self._runs}
        mine |= {job_id for job_id, (until, _) in self._resting.items() if until > time.monotonic()}
        return [job for job in self._store.waiting(study_id=self._study_id) if job.id not in mine]

    def _n_free(self) -> int:
        return self.slots() - len(self._runs)

    def _launch(self, job: Job) -> None:
        run = self._begin(job.id, worker_name())
        self._runs.append(run)
        log.info("worker started", job_id=run.job_id, worker=run.name)

    def _end_all(self) -> None:
        for run in self._runs:
            run.ask()
        until = time.monotonic() + self._settings.grace_seconds
        while time.monotonic() < until and any(run.outcome() is None for run in self._runs):
            time.sleep(LOOK_SECONDS)
        for run in self._runs:
            run.kill()
            self._expire(run)

    def _expire(self, run: Run) -> None:
        try:
            self._store.expire(run.name)
        except StorageError as error:
            log.warning("the lease of a stopped worker goes stale by itself", job_id=run.job_id, error=str(error))
