"""What the store hands out: frozen copies, never live rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

Wanted = Literal["run", "pause", "cancel"]
Request = Literal["cancel", "pause", "resume"]
Kind = Literal["state", "point", "log"]


class JobState(StrEnum):
    """Where a job stands; the last three are ends, from which `resume` or `extend` may lead back to `QUEUED`."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ASKED_LATER = frozenset({"goals", "over"})
MOST_TELLING = (JobState.RUNNING, JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read.

    Parameters
    ----------
    id : int
        From 1, never used again after a job is deleted.
    state : JobState
    spec, facts : mapping
        Plain JSON values; the spec with what was asked of the job later.
    name : str
    tags : tuple of str
    reason : str
        Why it ended or paused, one sentence; empty before.
    created_at, started_at, ended_at : datetime or None
        Aware, UTC, by the database's clock.
    attempts : int
        Claims since the last new point.
    n_points : int
    n_thinned : int
        Points that were thinned out; where there are any, the job cannot go on.
    effort, seconds : float
        Of the newest point: full passes over the data, seconds of work.
    wanted : {"run", "pause", "cancel"}
        What the running worker is asked to do.
    worker : str or None
        Who runs it.
    stale : bool
        Running, but its worker has stopped renewing the lease.
    study_id : int or None
        The study that asked for it.
    """

    id: int
    state: JobState
    spec: Mapping[str, Any]
    facts: Mapping[str, Any]
    name: str
    tags: tuple[str, ...]
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempts: int
    n_points: int
    n_thinned: int
    effort: float
    seconds: float
    wanted: Wanted
    worker: str | None
    stale: bool
    study_id: int | None

    @property
    def submitted(self) -> Mapping[str, Any]:
        """The spec as submitted: without what was asked later."""
        return {name: value for name, value in self.spec.items() if name not in ASKED_LATER}


@dataclass(frozen=True, slots=True)
class Draft:
    """A job to be queued.

    Parameters
    ----------
    spec, facts : mapping
        Plain JSON values; floats keep their bits, NaN and infinity included.
    name : str
    tags : tuple of str
        Doubles are dropped, the order is kept.
    """

    spec: Mapping[str, Any]
    facts: Mapping[str, Any]
    name: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """Jobs that were asked for together, as they stood when they were read.

    Parameters
    ----------
    id : int
        From 1, never used again after a study is deleted.
    name : str
    spec : mapping
        As submitted, plain JSON values.
    created_at : datetime
        Aware, UTC, by the database's clock.
    jobs : tuple of Job
        Those that were not deleted one by one, in the order of their ids.
    """

    id: int
    name: str
    spec: Mapping[str, Any]
    created_at: datetime
    jobs: tuple[Job, ...]

    @property
    def state(self) -> JobState:
        """The first of running, queued, paused, failed, cancelled and completed that one of the jobs is in."""
        states = {job.state for job in self.jobs}
        return next((state for state in MOST_TELLING if state in states), JobState.COMPLETED)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job until it goes stale and another worker takes it.

    Parameters
    ----------
    job_id : int
    worker : str
    fence : int
        Raised at every claim; a write with an older one is refused.
    job : Job
        The job as claimed.
    """

    job_id: int
    worker: str
    fence: int
    job: Job


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job.

    Parameters
    ----------
    seq : int
        Increases over the whole database in the order in which events become visible.
    job_id : int
    kind : {"state", "point", "log"}
    data : mapping
        ``state``: state, wanted, reason. ``point``: `ParetoPoint.to_dict`. ``log``: text.
    at : datetime
        Aware, UTC, by the database's clock.
    """

    seq: int
    job_id: int
    kind: Kind
    data: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded data file, without its bytes.

    Parameters
    ----------
    name : str
    digest : str
        SHA-256, hexadecimal.
    size : int
        Bytes.
    shapes : mapping
        What is inside, as the uploader described it.
    created_at : datetime
    """

    name: str
    digest: str
    size: int
    shapes: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Thinned:
    """What thinning a job did.

    Parameters
    ----------
    job : Job
        As it stands now.
    n_dropped : int
        Points that are gone with their weights.
    n_bytes : int
        What their weights took, as far as no other point shares them.
    """

    job: Job
    n_dropped: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What collecting garbage freed, or would free.

    Parameters
    ----------
    n_blobs : int
        Stored arrays that no point refers to.
    n_bytes : int
        What they take, as stored.
    disk_bytes : int
        By how much the database shrinks on disk; an estimate where nothing was done yet.
    """

    n_blobs: int
    n_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Something stored that is not what was written.

    Parameters
    ----------
    what : str
        Whose it is, such as ``point 3 of job 1`` or ``upload 'mine'``.
    why : str
        What is wrong with it, one sentence.
    """

    what: str
    why: str
