"""What the command line asks for, answered by the database here (`Service`) or by a server (`Remote`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.choosing import Choice
from app.documents import Document
from storage.records import Request


@dataclass(frozen=True, slots=True)
class Download:
    """An exported network: a file with what was measured about it."""

    filename: str
    payload: bytes
    media_type: str
    facts: Mapping[str, str]


class Backend(Protocol):
    """Jobs, fronts and data sets as documents."""

    def submit(self, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store a job; twice the same `key` gives the same job."""

    def refit(self, job_id: int, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store a job that refits the networks of another; twice the same `key` gives the same job."""

    def extend(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Queue a job again for more points, a sparser end, a finer stretch or with more budget."""

    def solve(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Queue a job again for a network of a given size, strength or loss."""

    def job(self, job_id: int) -> Document:
        """One job."""

    def jobs(self, state: str | None = None, tag: str | None = None, limit: int = 50) -> list[Document]:
        """The newest jobs."""

    def request(self, job_id: int, what: Request) -> Document:
        """Cancel, pause or resume a job."""

    def thin(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Delete points of a job that has ended."""

    def front(self, job_id: int, objectives: Sequence[str], nondominated: bool = False) -> Document:
        """The front document."""

    def select(self, job_id: int, choice: Choice, objectives: Sequence[str]) -> Document:
        """The point that `choice` picks."""

    def export(self, job_id: int, index: int, form: str, compact: bool = False) -> Download:
        """One network as a file, without what its zeros make superfluous where `compact`."""

    def compare(self, job_ids: Sequence[int], objectives: Sequence[str]) -> Document:
        """Several fronts on one scale."""

    def submit_study(self, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store the jobs of a study; twice the same `key` gives the same study."""

    def study(self, study_id: int) -> Document:
        """One study with its jobs."""

    def studies(self, limit: int = 50) -> list[Document]:
        """The newest studies, without their jobs."""

    def request_study(self, study_id: int, what: Request) -> Document:
        """Cancel, pause or resume all jobs of a study whose states allow it."""

    def study_front(self, study_id: int, objectives: Sequence[str]) -> Document:
        """The fronts of a study's jobs on one scale."""

    def add_dataset(self, path: Path, name: str | None = None) -> Document:
        """Upload a data file."""

    def datasets(self) -> list[Document]:
        """The uploaded data sets."""

    def close(self) -> None:
        """Let go of connections."""

    def follow(self, job_id: int) -> Iterator[Document]:
        """Events of a job from its beginning until it has ended."""
