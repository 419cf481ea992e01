"""A worker: claims a job, goes along its path, stores every waypoint.

While it computes, a thread renews the lease and reads what the users want. A wish or a lost lease interrupts the
computation at the next Python instruction, so that it takes effect within one corrector step; a signal to stop leaves
it some time to finish the point. Storing is never interrupted.
"""

import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import TypeVar

import structlog
import torch

from app.executors.runs import worker_name
from app.limits import shortage
from app.obstacles import obstacle
from app.patience import Patience, PatientStore
from app.versions import versions
from engine.errors import EngineError, InvalidData
from engine.front import ParetoPoint, Waypoint
from engine.spec import JobSpec, build
from engine.tracers import Tracer
from storage.errors import Corrupt, LeaseLost, NotFound, StorageError, Unavailable
from storage.records import Job, JobState, Lease
from storage.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")

ALARM, TIMEOUT = signal.SIGUSR1, signal.SIGALRM


class Wish(StrEnum):
    """Why to stop before the end."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RELEASE = "release"
    LOST = "lost"


class Interrupted(Exception):
    """Raised in the main thread where a wish meets the computation."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        self.wish = wish


class Interruptions:
    """Lets a signal stop the computation, and only the computation.

    To be used in the main thread. `wish` may be called from any thread and again: the first one counts.

    Parameters
    ----------
    signals : iterable of (Signals, Wish)
        What signals from outside mean.
    within : Interruptions, optional
        Told of signals from outside too: those in whose stretch these are used.
    finishing_seconds : float
        How long a first signal to give the job back leaves to the stretch it meets.
    """

    def __init__(
        self,
        signals: Iterable[tuple[signal.Signals, Wish]] = (),
        within: "Interruptions | None" = None,
        finishing_seconds: float = 0.0,
    ) -> None:
        self._signals = dict(signals)
        self._within = within
        self._finishing = finishing_seconds
        self._computing = False
        self._wish: Wish | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruptions":
        for number in (ALARM, TIMEOUT, *self._signals):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def wish(self, wish: Wish) -> None:
        """Ask the main thread to stop."""
        self._wish = self._wish or wish
        signal.pthread_kill(threading.main_thread().ident or 0, ALARM)

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each computed interruptibly."""
        while True:
            with self.computing():
                item = next(items, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def sleep(self, seconds: float) -> None:
        """Wait interruptibly."""
        with self.computing():
            time.sleep(seconds)

    @contextmanager
    def computing(self) -> Generator[None]:
        """A stretch in which wishes raise `Interrupted`, pending ones at once."""
        before = self._computing
        try:
            self._computing = True
            self.check()
            yield
        finally:
            self._computing = before

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        wish = self._signals.get(signal.Signals(number))
        leave = wish is Wish.RELEASE and self._wish is None and self._finishing > 0
        self._note(wish)
        if leave:
            signal.setitimer(signal.ITIMER_REAL, self._finishing)
        elif self._computing:
            self.check()

    def _note(self, wish: Wish | None) -> None:
        self._wish = self._wish or wish
        if self._within is not None:
            self._within._note(wish)

    def check(self) -> None:
        """Raise `Interrupted` if there is a wish."""
        if self._wish is not None:
            raise Interrupted(self._wish)


_END = object()


class Heartbeat:
    """A thread that renews a lease and passes on what it learns, until it is stopped."""

    def __init__(self, store: Store, lease: Lease, interruptions: Interruptions, every: float, lasting: float) -> None:
        self._store, self._lease, self._interruptions = store, lease, interruptions
        self._every, self._lasting = every, lasting
        self._stopped = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._every):
            wish = self._renewed()
            if wish is not None and not self._stopped.is_set():
                self._interruptions.wish(wish)

    def _renewed(self) -> Wish | None:
        try:
            wanted = self._store.renew(self._lease, self._lasting)
        except LeaseLost:
            return Wish.LOST
        except StorageError as error:
            self._warn(error)
            return None
        self._warned = False
        return None if wanted == "run" else Wish(wanted)

    def _warn(self, error: StorageError) -> None:
        """Once for each time that the database does not answer."""
        if not self._warned:
            log.warning("lease not renewed", job_id=self._lease.job_id, error=str(error))
        self._warned = True


@dataclass(frozen=True)
class Worker:
    """Works on jobs of a store, in the main thread of its process.

    Parameters
    ----------
    store : Store
    name : str
        Unique; what the store knows the worker by.
    lease_seconds, heartbeat_seconds : float
        A lease lasts so long and is renewed so often.
    finishing_seconds : float
        How long a signal to give the job back leaves to the point at hand.
    on_interrupt : Wish
        What Ctrl-C means: give the job back, or cancel it.
    patience_seconds : float
        How long a database that does not answer is waited for at a time.
    """

    store: Store
    name: str = field(default_factory=worker_name)
    lease_seconds: float = 20.0
    heartbeat_seconds: float = 0.5
    finishing_seconds: float = 0.0
    on_interrupt: Wish = Wish.RELEASE
    patience_seconds: float = 600.0
    _left: set[int] = field(default_factory=set, init=False)

    def claim(self, job_id: int | None = None) -> Lease | None:
        """The right to work on `job_id`, or on the oldest waiting job; None if there is nothing to do.

        Jobs that this installation must not work on are left to others, while that is so; their logs say why.
        """
        while (lease := self.store.claim(self.name, self.lease_seconds, job_id, self._left)) is not None:
            reason = obstacle(lease.job)
            if not reason:
                return lease
            self._leave(lease, reason)
        self._look_again()
        return None

    def work(self, lease: Lease, within: Interruptions | None = None) -> Iterator[ParetoPoint]:
        """The points of the job, each as soon as it is stored; the job's end is stored too."""
        with structlog.contextvars.bound_contextvars(job_id=lease.job_id, worker=self.name):
            log.info("job claimed", attempt=lease.job.attempts, points=lease.job.n_points)
            try:
                yield from self._until_interrupted(lease, within)
            except LeaseLost as error:
                log.warning("lease lost", error=str(error))

    def pull(self, poll_seconds: float = 1.0, until_idle: bool = False, max_jobs: int | None = None) -> None:
        """Work on one job after the other.

        Parameters
        ----------
        poll_seconds : float
            How often to look for a job where there is none.
        until_idle : bool
            End where there is none, instead of looking again.
        max_jobs : int, optional
            End after so many jobs. A signal to stop ends it at any time.
        """
        n_jobs = 0
        with Interruptions(self._signals()) as interruptions:
            try:
                while max_jobs is None or n_jobs < max_jobs:
                    interruptions.check()
                    lease = self._claim_when_possible(interruptions, poll_seconds)
                    if lease is not None:
                        self._finish(lease, interruptions)
                        n_jobs += 1
                    elif until_idle:
                        break
                    else:
                        interruptions.sleep(poll_seconds)
            except Interrupted:
                log.info("worker stopped")

    def _finish(self, lease: Lease, interruptions: Interruptions) -> None:
        for _ in self.work(lease, interruptions):
            pass

    def _leave(self, lease: Lease, reason: str) -> None:
        log.warning("job left to others", job_id=lease.job_id, reason=reason)
        self.store.log(lease, f"worker {self.name} leaves this job to others: {reason}")
        self.store.release(lease)
        self._left.add(lease.job_id)

    def _look_again(self) -> None:
        """Forget the jobs left to others that have been deleted, or queued anew by an installation like this one."""
        for job_id in tuple(self._left):
            try:
                left = obstacle(self.store.job(job_id))
            except NotFound:
                left = ""
            if not left:
                self._left.discard(job_id)

    def _claim_when_possible(self, interruptions: Interruptions, poll_seconds: float) -> Lease | None:
        """What `claim` finds, once the database answers."""
        while True:
            try:
                return self.claim()
            except Unavailable as error:
                log.warning("waiting for the database", error=str(error))
                interruptions.sleep(poll_seconds)

    def _signals(self) -> tuple[tuple[signal.Signals, Wish], ...]:
        return (signal.SIGTERM, Wish.RELEASE), (signal.SIGINT, self.on_interrupt)

    def _until_interrupted(self, lease: Lease, within: Interruptions | None) -> Iterator[ParetoPoint]:
        with Interruptions(self._signals(), within, self.finishing_seconds) as interruptions:
            store = PatientStore(self.store, Patience(self.patience_seconds, interruptions.sleep))
            try:
                store.log(lease, self._greeting(lease.job))
                state, reason = yield from self._outcome(store, lease, interruptions)
                store.finish(lease, state, reason)
                log.info("job ended", state=str(state), reason=reason)
            except Interrupted as interrupted:
                self._stop(lease, interrupted.wish)
            except Unavailable as error:
                self._give_up(lease, f"{error}; the worker waited for {self.patience_seconds:g} seconds")

    def _outcome(
        self, store: PatientStore, lease: Lease, interruptions: Interruptions
    ) -> Generator[ParetoPoint, None, tuple[JobState, str]]:
        """Go along the path; how the job ended, and why."""
        try:
            with Heartbeat(self.store, lease, interruptions, self.heartbeat_seconds, self.lease_seconds):
                ended = yield from self._trace(store, lease, interruptions)
        except (Interrupted, LeaseLost, Unavailable):
            raise
        except (EngineError, Corrupt) as error:
            return JobState.FAILED, str(error)
        except NotFound as error:
            return JobState.FAILED, f"{error}, which this job needs"
        except Exception as error:
            log.exception("job failed")
            store.log(lease, traceback.format_exc())
            return JobState.FAILED, shortage(error) or f"{type(error).__name__}: {_first_line(error)}"
        return JobState.COMPLETED, ended

    def _trace(
        self, store: PatientStore, lease: Lease, interruptions: Interruptions
    ) -> Generator[ParetoPoint, None, str]:
        with interruptions.computing():
            tracer, path = _path(store, lease)
        for waypoint in interruptions.each(path):
            store.append(lease, waypoint)
            log.info("point stored", index=waypoint.point.index, loss=waypoint.point.loss)
            yield waypoint.point
        return tracer.ended

    def _stop(self, lease: Lease, wish: Wish) -> None:
        """Do what was wished, or what is wanted since the job was to pause: that may have been taken back.

        Where the database does not answer, whoever finds the stale lease does it.
        """
        log.info("job interrupted", wish=str(wish))
        try:
            if wish in {Wish.RELEASE, Wish.PAUSE}:
                self.store.release(lease)
            elif wish is Wish.CANCEL:
                self.store.finish(lease, JobState.CANCELLED, "cancelled on request")
        except Unavailable as error:
            log.warning("job left to its lease", error=str(error))

    def _greeting(self, job: Job) -> str:
        found = ", ".join(f"{name} {number}" for name, number in versions().items())
        going = f"goes on after {job.n_points} points" if job.n_points else "begins"
        return f"worker {self.name} {going} ({found}, {torch.get_num_threads()} threads)"

    def _give_up(self, lease: Lease, reason: str) -> None:
        """Fail the job where that can be written; else its lease goes stale and another worker tries."""
        log.error("job failed", reason=reason)
        try:
            self.store.finish(lease, JobState.FAILED, reason)
        except Unavailable as error:
            log.warning("job left to its lease", error=str(error))


def _path(store: PatientStore, lease: Lease) -> tuple[Tracer, Iterator[Waypoint]]:
    job = lease.job
    experiment = build(JobSpec.from_dict(job.spec), store.upload_bytes, store.trail)
    if experiment.dataset.digest != job.facts["data_digest"]:
        raise InvalidData(f"the data {experiment.dataset.name!r} changed since the job was submitted")
    return experiment.tracer, experiment.tracer.trace(experiment.problem, store.trail(job.id))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or "no message"
