"""What users ask for, answered from the store: the one implementation behind the routes and the command line."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.backend import Download
from app.choosing import Choice, choose
from app.comparing import COMPARED, COUNTERS, Compared, compare_document, compared
from app.documents import (
    Document,
    check_objectives,
    event_document,
    front_document,
    job_document,
    point_document,
    study_document,
    thinned_document,
    upload_document,
)
from app.lineages import lineage
from app.settings import Settings
from app.versions import versions
from engine.errors import InvalidSpec
from engine.front import OBJECTIVES, Front
from storage.records import ENDED, Request
from storage.store import Store

if TYPE_CHECKING:
    from app.schemas import ExtendIn, JobIn, RefitIn, SolveIn, StudyIn, ThinIn
    from engine.front import ParetoPoint
    from engine.spec import JobSpec
    from storage.records import Job


@dataclass(frozen=True)
class Service:
    """Jobs, fronts and data sets of one store.

    The engine's heavy parts are imported when first needed, so that looking at a front is quick.

    Parameters
    ----------
    store : Store
    allow_paths : bool
        Whether files may be named as data and import paths as networks.
    poll_seconds : float
        How often `follow` looks for news.
    """

    store: Store
    allow_paths: bool = False
    poll_seconds: float = 0.25

    def submit(self, body: "Mapping[str, Any] | JobIn", key: str | None = None) -> Document:
        """Check a job and store it; twice the same `key` gives the same job.

        Raises
        ------
        InvalidSpec, Forbidden, Conflict
            And then nothing is stored.
        """
        from app.making import checked

        return self._stored(*checked(body, self.store, self.allow_paths), key)

    def refit(self, job_id: int, body: "Mapping[str, Any] | RefitIn", key: str | None = None) -> Document:
        """Store a job that refits the networks of another; twice the same `key` gives the same job.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If it is queued or running.
        InvalidSpec, Forbidden
            If it has no points, or can no longer be traced.
        """
        from app.making import refitted

        return self._stored(*refitted(job_id, body, self.store, self.allow_paths), key)

    def extend(self, job_id: int, body: "Mapping[str, Any] | ExtendIn") -> Document:
        """Queue a job again for more points, a sparser end, a finer stretch or with more budget; its points stay.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If it is queued or running.
        InvalidSpec
            If it has no points, or what is asked for cannot be had; then nothing changes.
        """
        from app.making import extended

        return self._asked(job_id, lambda job, points: extended(job, body, points))

    def solve(self, job_id: int, body: "Mapping[str, Any] | SolveIn") -> Document:
        """Queue a job again for a network of a given size, strength or loss; raises as `extend` does."""
        from app.making import solved

        return self._asked(job_id, lambda job, points: solved(job, body, points))

    def job(self, job_id: int) -> Document:
        """One job."""
        return job_document(self.store.job(job_id))

    def jobs(
        self, state: str | None = None, tag: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[Document]:
        """The newest jobs, or the newest of those `before` a job."""
        return [job_document(job) for job in self.store.jobs(state=state, tag=tag, before=before, limit=limit)]

    def request(self, job_id: int, what: Request) -> Document:
        """Cancel, pause or resume a job."""
        return job_document(self.store.request(job_id, what, {"versions": dict(versions())}))

    def thin(self, job_id: int, body: "Mapping[str, Any] | ThinIn") -> Document:
        """Delete points of a job that has ended.

        Raises
        ------
        NotFound
            If there is no such job.
        Conflict
            If it has not ended, or an unfinished job needs its networks.
        InvalidSpec
        """
        from app.schemas import ThinIn

        wanted = body if isinstance(body, ThinIn) else ThinIn.model_validate(body)

        def keep(front: Front) -> Front:
            check_objectives(front, wanted.objectives)
            return wanted.kept(front)

        return thinned_document(self.store.thin(job_id, keep))

    def front(self, job_id: int, objectives: Sequence[str] = OBJECTIVES, nondominated: bool = False) -> Document:
        """The front document."""
        return front_document(self.store.job(job_id), self.store.front(job_id, layers=False), objectives, nondominated)

    def select(self, job_id: int, choice: Choice, objectives: Sequence[str] = OBJECTIVES) -> Document:
        """The point that `choice` picks."""
        chosen = choose(self.store.front(job_id, layers=False), choice, objectives)
        return point_document(self.store.point(job_id, chosen.index))

    def compare(self, job_ids: Sequence[int], objectives: Sequence[str] = COMPARED) -> Document:
        """Several fronts on one scale."""
        return compare_document(self.compared(job_ids, objectives))

    def compared(self, job_ids: Sequence[int], objectives: Sequence[str] = COMPARED) -> Compared:
        """Several fronts, checked that they are on one scale.

        Raises
        ------
        NotFound, InvalidSpec
        """
        found = [lineage(self.store, self.store.job(job_id)) for job_id in dict.fromkeys(job_ids)]
        fronts = self.store.fronts(dict.fromkeys(job_ids), layers=not COUNTERS.keys().isdisjoint(objectives))
        return compared(found, fronts, objectives)

    def submit_study(self, body: "Mapping[str, Any] | StudyIn", key: str | None = None) -> Document:
        """Check all jobs of a study and store them; twice the same `key` gives the same study.

        Raises
        ------
        InvalidSpec, Forbidden, NotFound, Conflict
            And then nothing is stored.
        """
        from app.making import studied

        spec, drafts = studied(body, self.store, self.allow_paths)
        return study_document(self.store.submit_study(spec, drafts, name=spec["name"], idempotency_key=key))

    def study(self, study_id: int) -> Document:
        """One study with its jobs."""
        return study_document(self.store.study(study_id))

    def studies(self, limit: int = 50, before: int | None = None) -> list[Document]:
        """The newest studies, or the newest of those `before` one, without their jobs."""
        return [study_document(study, jobs=False) for study in self.store.studies(before, limit)]

    def request_study(self, study_id: int, what: Request) -> Document:
        """Cancel, pause or resume all jobs of a study whose states allow it."""
        return study_document(self.store.request_study(study_id, what, {"versions": dict(versions())}))

    def study_front(self, study_id: int, objectives: Sequence[str] = COMPARED) -> Document:
        """The fronts of a study's jobs on one scale."""
        study = self.store.study(study_id)
        compared_jobs = self.compare([job.id for job in study.jobs], objectives)
        return {"study": study_document(study, jobs=False), **compared_jobs}

    def export(self, job_id: int, index: int, form: str, compact: bool = False) -> Download:
        """One network as a file, checked against the network before it is handed out.

        Parameters
        ----------
        compact : bool
            Whether neurons, channels, features and heads that its zeros make superfluous are left out.

        Raises
        ------
        UnknownName, NotFound, ExportFailed
        """
        from app.making import check_format, exported

        check_format(form)
        return exported(self.store.job(job_id), self.store.waypoint(job_id, index), form, compact)

    def upload(self, filename: str, payload: bytes, name: str | None = None) -> Document:
        """Store a data file's values under `name`, the file's stem by default.

        Raises
        ------
        InvalidData, Conflict
        """
        from app.making import data_file

        found = data_file(filename, payload, name)
        return upload_document(self.store.add_upload(found.name, found.payload, found.shapes))

    def add_dataset(self, path: Path, name: str | None = None) -> Document:
        """Store a data file's values.

        Raises
        ------
        InvalidSpec
            If the file cannot be read.
        """
        return self.upload(path.name, read(path), name)

    def datasets(self) -> list[Document]:
        """The uploaded data sets."""
        return [upload_document(upload) for upload in self.store.uploads()]

    def follow(self, job_id: int) -> Iterator[Document]:
        """Events of a job from its beginning until it has ended."""
        seq = 0
        while True:
            over = self.store.job(job_id).state in ENDED
            events = self.store.events(job_id, after=seq)
            yield from map(event_document, events)
            if over and not events:
                return
            seq = events[-1].seq if events else seq
            time.sleep(0 if events else self.poll_seconds)

    def close(self) -> None:
        """Let go of connections."""
        self.store.close()

    def _asked(
        self, job_id: int, ask: "Callable[[Job, tuple[ParetoPoint, ...]], tuple[JobSpec, Document]]"
    ) -> Document:
        spec, facts = ask(self.store.job(job_id), self.store.front(job_id, layers=False).points)
        return job_document(self.store.extend(job_id, spec.to_dict(), facts))

    def _stored(self, spec: "JobSpec", facts: Document, key: str | None) -> Document:
        job = self.store.submit(spec.to_dict(), facts, name=spec.name, tags=spec.tags, idempotency_key=key)
        return job_document(job)


def open_store(settings: Settings) -> Store:
    """The store of `settings`; SQLite is brought up to date, another database must be already.

    Raises
    ------
    SchemaMismatch, InvalidDatabase, Unavailable
    """
    store = Store(settings.url)
    prepare(store, settings)
    return store


def prepare(store: Store, settings: Settings) -> None:
    """Bring SQLite up to date; another database must be already.

    Raises
    ------
    SchemaMismatch, Unavailable
    """
    if settings.url.startswith("sqlite"):
        store.migrate()
    store.check_schema()


def read(path: Path) -> bytes:
    """The bytes of a user's file.

    Raises
    ------
    InvalidSpec
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"cannot read {str(path)!r}: {error.strerror}") from error
