"""The store: the only door to the database. Every method is one transaction and returns frozen copies."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from sqlalchemy import select

from engine.front import Front, ParetoPoint, Trail, Waypoint
from storage import backups, events, jobs, leases, points, schema, space, studies, thinning, uploads, verifying
from storage.database import BUSY_SECONDS, Database
from storage.errors import Conflict, NotFound, SchemaMismatch, Unavailable
from storage.records import (
    Damage,
    Draft,
    Event,
    Job,
    JobState,
    Lease,
    Reclaimed,
    Request,
    Study,
    Thinned,
    Upload,
    Wanted,
)
from storage.uploads import Files


class Store:
    """Jobs, their points and weights, events and uploads, in SQLite or PostgreSQL.

    Threads may share a store; processes open one each.

    Parameters
    ----------
    url : str
        ``sqlite:///path.db`` or ``postgresql://user@host/name``.
    busy_seconds : float
        How long a locked SQLite file is waited for.

    Raises
    ------
    InvalidDatabase
        If `url` is neither. Any method raises `Unavailable` where the database does not answer (`Full` and `ReadOnly`
        where it cannot be written), `SchemaMismatch` where its tables are not there and `Corrupt` where it is damaged.
    """

    def __init__(self, url: str, busy_seconds: float = BUSY_SECONDS) -> None:
        self._database = Database(url, busy_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections; the next use opens new ones."""
        self._database.close()

    def ping(self) -> None:
        """Ask the database for an answer.

        Raises
        ------
        Unavailable
            If there is none.
        """
        with self._database.read() as connection:
            connection.execute(select(1))

    def migrate(self) -> None:
        """Bring the tables to this version, making them where there are none; safe to call from several processes.

        Nothing is written where they are of this version.

        Raises
        ------
        SchemaMismatch
            If the database was made by a newer version.
        """
        if self._is_current():
            return
        with self._database.rebuild() as connection:
            schema.migrate(connection)

    def check_schema(self) -> None:
        """Do nothing where the tables are those of this version.

        Raises
        ------
        SchemaMismatch
            If they are not; the text tells what to run.
        """
        with self._database.read() as connection:
            schema.check(connection)

    def _is_current(self) -> bool:
        try:
            self.check_schema()
        except (SchemaMismatch, Unavailable):
            return False
        return True

    # The database as a whole

    def gc(self, dry_run: bool = False, full: bool = False) -> Reclaimed:
        """Delete what nobody refers to, and give empty pages back to the file system.

        Parameters
        ----------
        dry_run : bool
            Only tell what would be freed.
        full : bool
            Rewrite the tables: gives back all there is, but others wait, and it needs as much room again meanwhile.
        """
        return space.collectable(self._database) if dry_run else space.collect(self._database, full)

    def verify(self) -> tuple[Damage, ...]:
        """Everything stored that is not what was written: all weights and uploads are read."""
        return tuple(verifying.damages(self._database))

    def back_up(self, file: Path, force: bool = False) -> None:
        """Write a SQLite database to one file, while others use it.

        Raises
        ------
        InvalidDatabase
            If this is not SQLite; the text names the command to use.
        Conflict
            If the file exists, without `force`.
        NotFound
            If there is no such database, or no folder for the file.
        """
        backups.back_up(self._database.url, file, force)

    def restore(self, file: Path, force: bool = False) -> None:
        """Make a SQLite database what a backup holds, and bring that to this version.

        Raises
        ------
        InvalidDatabase
            If this is not SQLite; the text names the command to use.
        NotFound, Corrupt, SchemaMismatch
            If the file is not there, not intact or no database of this version or an older one; nothing was changed.
        Conflict
            If the database exists, without `force`, or if a worker is at work in it.
        """
        backups.restore(self._database, file, force)
        self.migrate()

    # Jobs

    def submit(
        self,
        spec: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        name: str = "",
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job.

        Parameters
        ----------
        spec, facts : mapping
            Plain JSON values; floats keep their bits, NaN and infinity included.
        name : str
        tags : iterable of str
            Doubles are dropped, the order is kept.
        idempotency_key : str, optional
            The same key with the same spec returns the job submitted before.

        Raises
        ------
        Conflict
            If the key was used for another spec.
        """
        values = {"spec": dict(spec), "facts": dict(facts), "name": name}
        with self._database.write() as connection:
            return jobs.submit(connection, values, tags, idempotency_key)

    def job(self, job_id: int) -> Job:
        """One job.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        with self._database.read() as connection:
            return jobs.find(connection, job_id)

    def jobs(
        self, state: JobState | str | None = None, tag: str | None = None, before: int | None = None, limit: int = 50
    ) -> tuple[Job, ...]:
        """Jobs, newest first.

        Parameters
        ----------
        state, tag : str, optional
            Only jobs in that state, with that tag.
        before : int, optional
            Only jobs with a smaller id: the last id of the page before.
        limit : int
            How many at most.
        """
        with self._database.read() as connection:
            return jobs.listed(connection, state, tag, before, limit)

    def waiting(self, limit: int = 50, study_id: int | None = None) -> tuple[Job, ...]:
        """Jobs (of one study only) that a worker could claim now: queued, or running with a stale lease; oldest first.

        As in `claim`, jobs whose worker died while asked to stop, or too often, are ended first.
        """
        with self._database.write() as connection:
            leases.settle(connection)
            return jobs.waiting(connection, limit, study_id)

    def delete(self, job_id: int) -> None:
        """Delete a job with its points and events, and the weights that no other job shares; SQLite's file shrinks.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If a worker is running it.
        """
        with self._database.write() as connection:
            jobs.remove(connection, job_id)
        space.give_back(self._database)

    def thin(self, job_id: int, keep: Callable[[Front], Front]) -> Thinned:
        """Delete the points of a job that `keep` leaves out, with their weights; the others keep their indices.

        A job some of whose points are gone cannot go on.

        Parameters
        ----------
        job_id : int
        keep : callable
            The points that stay; given the front without its layers.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If it has not ended, if an unfinished job needs its networks, or if no point would stay.
        """
        with self._database.write() as connection:
            thinned = thinning.thin(connection, job_id, keep)
        space.give_back(self._database)
        return thinned

    def request(self, job_id: int, what: Request, facts: Mapping[str, Any] = MappingProxyType({})) -> Job:
        """Cancel, pause or resume a job.

        A job that a live worker runs gets `Job.wanted` and its worker obeys; any other changes at once.
        A job with ``pause`` asked of it is resumed by taking that back; paused, failed and cancelled jobs go on from
        their trail.

        Parameters
        ----------
        job_id : int
        what : {"cancel", "pause", "resume"}
        facts : mapping, optional
            Added to those of a job that is queued again.

        Returns
        -------
        Job
            As it stands now.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If its state does not allow it, or if it was thinned and is to be resumed.
        """
        with self._database.write() as connection:
            return jobs.request(connection, job_id, what, facts)

    def extend(self, job_id: int, spec: Mapping[str, Any], facts: Mapping[str, Any]) -> Job:
        """Queue a job that ended or is paused again under a new spec; its trail stays.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If it is queued or running, or was thinned.
        """
        with self._database.write() as connection:
            return jobs.extend(connection, job_id, spec, facts)

    # Studies

    def submit_study(
        self, spec: Mapping[str, Any], drafts: Sequence[Draft], *, name: str = "", idempotency_key: str | None = None
    ) -> Study:
        """Queue the jobs of a study: all or none.

        Parameters
        ----------
        spec : mapping
            What was asked for, plain JSON values.
        drafts : sequence of Draft
            Its jobs.
        name : str
        idempotency_key : str, optional
            The same key with the same spec returns the study submitted before.

        Raises
        ------
        Conflict
            If the key was used for another spec.
        """
        with self._database.write() as connection:
            return studies.submit(connection, {"spec": dict(spec), "name": name}, drafts, idempotency_key)

    def study(self, study_id: int) -> Study:
        """One study with its jobs.

        Raises
        ------
        NotFound
            If there is no such study.
        """
        with self._database.read() as connection:
            return studies.find(connection, study_id)

    def studies(self, before: int | None = None, limit: int = 50) -> tuple[Study, ...]:
        """Studies with their jobs, newest first; those `before` an id: the last one of the page before."""
        with self._database.read() as connection:
            return studies.listed(connection, before, limit)

    def request_study(self, study_id: int, what: Request, facts: Mapping[str, Any] = MappingProxyType({})) -> Study:
        """Cancel, pause or resume all jobs of a study whose states allow it, as `request` does.

        Raises
        ------
        NotFound
            If there is no such study.
        Conflict
            If the state of none of its jobs allows it.
        """
        with self._database.write() as connection:
            return studies.request(connection, study_id, what, facts)

    def delete_study(self, study_id: int) -> None:
        """Delete a study with all its jobs, as `delete` does: all or none.

        Raises
        ------
        NotFound
            If there is no such study.
        Conflict
            If a worker is running one of its jobs.
        """
        with self._database.write() as connection:
            studies.remove(connection, study_id)
        space.give_back(self._database)

    # The worker's side

    def claim(
        self, worker: str, lease_seconds: float, job_id: int | None = None, but_not: Collection[int] = ()
    ) -> Lease | None:
        """Take the oldest job that is queued or whose lease has gone stale.

        A stale job whose worker was asked to stop is stopped instead, and one claimed three times in a row without
        a new point has failed.

        Parameters
        ----------
        worker : str
            Names the claimer, to people and to `expire`.
        lease_seconds : float
            How long the lease lasts unless renewed, by the database's clock.
        job_id : int, optional
            Take this job or none.
        but_not : collection of int
            Jobs to leave to others.

        Returns
        -------
        Lease or None
            None where no job is to be had.
        """
        with self._database.write() as connection:
            return leases.claim(connection, worker, lease_seconds, job_id, but_not)

    def renew(self, lease: Lease, lease_seconds: float) -> Wanted:
        """Keep a lease for `lease_seconds` from now.

        Returns
        -------
        {"run", "pause", "cancel"}
            What the worker is asked to do.

        Raises
        ------
        LeaseLost
            If the job has ended or another worker has it.
        """
        with self._database.write() as connection:
            return leases.renew(connection, lease, lease_seconds)

    def release(self, lease: Lease) -> None:
        """Give a job back unfinished: it is queued again, or stopped where that was asked for.

        Raises
        ------
        LeaseLost
            If the job has ended or another worker has it.
        """
        with self._database.write() as connection:
            leases.release(connection, lease)

    def expire(self, worker: str) -> bool:
        """Make the leases of a worker known to be dead stale at once; whether it had any."""
        with self._database.write() as connection:
            return leases.expire(connection, worker)

    def append(self, lease: Lease, waypoint: Waypoint) -> int:
        """Store a point with its weights, buffers, memory and event: all or nothing.

        The same waypoint again is stored once: who lost the answer may ask again.

        Returns
        -------
        int
            The sequence number of the event.

        Raises
        ------
        LeaseLost
            If the job has ended or another worker has it.
        Conflict
            If the job has another point of that index already.
        InvalidArray
            If an array cannot be stored.
        """
        packed = points.pack(waypoint)
        try:
            with self._database.write() as connection:
                return leases.append(connection, lease, packed)
        except Conflict:
            with self._database.read() as connection:
                seq = points.number(connection, lease.job_id, packed)
            if seq is None:
                raise
            return seq

    def finish(
        self, lease: Lease, state: JobState | Literal["completed", "failed", "cancelled"], reason: str = ""
    ) -> None:
        """End a job.

        Parameters
        ----------
        lease : Lease
        state : {"completed", "failed", "cancelled"}
        reason : str
            One sentence for the user.

        Raises
        ------
        LeaseLost
            If the job has ended or another worker has it.
        Conflict
            If `state` is no state to finish in.
        """
        with self._database.write() as connection:
            leases.finish(connection, lease, state, reason)

    def log(self, lease: Lease, text: str) -> int:
        """Write a line to the job's events; its sequence number.

        Raises
        ------
        LeaseLost
            If the job has ended or another worker has it.
        """
        with self._database.write() as connection:
            return leases.log(connection, lease, text)

    def remark(self, job_id: int, text: str) -> int:
        """Write a line to a job's events from outside, without a lease; its sequence number.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        with self._database.write() as connection:
            jobs.find(connection, job_id, lock=True)
            return events.add(connection, job_id, "log", {"text": text})

    # Points

    def front(self, job_id: int, layers: bool = True) -> Front:
        """All points of a job as numbers, in the order of their indices.

        Parameters
        ----------
        job_id : int
        layers : bool
            Read the points' layers too; without them a long front is read several times as fast.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        return self.fronts((job_id,), layers)[job_id]

    def fronts(self, ids: Iterable[int], layers: bool = True) -> dict[int, Front]:
        """The fronts of several jobs, in the order of `ids`, by one query.

        Raises
        ------
        NotFound
            If one of the jobs does not exist.
        """
        wanted = tuple(ids)
        with self._database.read() as connection:
            found = points.fronts(connection, wanted, layers)
        for missing in (i for i in wanted if i not in found):
            raise NotFound(f"there is no job {missing}")
        return {i: found[i] for i in wanted}

    def point(self, job_id: int, index: int) -> ParetoPoint:
        """One point's numbers.

        Raises
        ------
        NotFound
            If there is no such point.
        """
        with self._database.read() as connection:
            return points.point(connection, job_id, index)

    def waypoint(self, job_id: int, index: int) -> Waypoint:
        """One point with its weights, buffers and memory, bit for bit as appended; the arrays are the caller's own.

        Raises
        ------
        NotFound
            If there is no such point.
        Corrupt
            If its stored bytes are damaged.
        """
        with self._database.read() as connection:
            return points.waypoint(connection, job_id, index)

    def trail(self, job_id: int) -> Trail:
        """All waypoints of a job as they stand now; weights are loaded when one is indexed.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        return Trail(self.front(job_id).points, lambda index: self.waypoint(job_id, index))

    # Events

    def events(self, job_id: int | None = None, after: int = 0, limit: int = 1000) -> tuple[Event, ...]:
        """Events of a job (of all jobs without `job_id`) later than `after`, in order.

        Who has seen an event has been shown all earlier ones: reading on after the last one misses none.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        with self._database.read() as connection:
            found = events.read(connection, job_id, after, limit)
            if not found and job_id is not None:
                jobs.find(connection, job_id)
            return found

    def logs(self, job_id: int, after: int = 0, limit: int = 200) -> tuple[Event, ...]:
        """The newest `limit` log lines of a job later than the event `after`, in order.

        Raises
        ------
        NotFound
            If there is no such job.
        """
        with self._database.read() as connection:
            jobs.find(connection, job_id)
            return events.logs(connection, job_id, after, limit)

    def last_seq(self) -> int:
        """The newest event's sequence number, 0 where there was none."""
        with self._database.read() as connection:
            return events.last_seq(connection)

    # Uploads

    def add_upload(self, name: str, payload: bytes, shapes: Mapping[str, Any]) -> Upload:
        """Store a data file; the same content under the same name is found again.

        Parameters
        ----------
        name : str
        payload : bytes
        shapes : mapping
            What is inside, plain JSON values.

        Raises
        ------
        Conflict
            If the name is taken by other content.
        """
        with self._database.write() as connection:
            return uploads.add(connection, name, payload, shapes)

    def uploads(self) -> tuple[Upload, ...]:
        """All uploads by name, without their bytes."""
        with self._database.read() as connection:
            return uploads.listed(connection)

    @property
    def upload_bytes(self) -> Mapping[str, bytes]:
        """The uploads' bytes by name, each read when asked for."""
        return Files(lambda: tuple(upload.name for upload in self.uploads()), self._upload)

    def delete_upload(self, name: str) -> None:
        """Delete an upload.

        Raises
        ------
        NotFound
            If there is no upload of that name.
        """
        with self._database.write() as connection:
            uploads.remove(connection, name)

    def _upload(self, name: str) -> bytes:
        with self._database.read() as connection:
            return uploads.payload(connection, name)
