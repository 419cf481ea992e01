"""A running service, asked over HTTP."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from app.backend import Download
from app.choosing import Choice
from app.documents import Document
from app.errors import DAMAGED_TYPE, Refused
from engine.errors import InvalidSpec
from storage.errors import Corrupt
from storage.records import Request

PREFIX = "x-paretopath-"
PATIENCE = httpx2.Timeout(120.0, connect=10.0)
RECONNECTIONS, RECONNECT_SECONDS = 60, 1.0
NO_CONTENT = 204


class Remote:
    """A service as a `Backend`.

    Parameters
    ----------
    url : str
        ``http://host:port``.
    token : str, optional
        Sent as a bearer token.
    reconnect_seconds : float
        How long to wait before each new try to follow a job.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        base = url.rstrip("/") + "/api/v1"
        self._client = httpx2.Client(base_url=base, headers=headers, timeout=PATIENCE, transport=transport)
        self._url, self._reconnect_seconds = url, reconnect_seconds

    def submit(self, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store a job; twice the same `key` gives the same job."""
        return self._document("POST", "/jobs", json=body, headers=_keyed(key))

    def refit(self, job_id: int, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store a job that refits the networks of another; twice the same `key` gives the same job."""
        return self._document("POST", f"/jobs/{job_id}/refit", json=body, headers=_keyed(key))

    def extend(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Queue a job again for more points, a sparser end, a finer stretch or with more budget."""
        return self._document("POST", f"/jobs/{job_id}/extend", json=body)

    def solve(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Queue a job again for a network of a given size, strength or loss."""
        return self._document("POST", f"/jobs/{job_id}/solve", json=body)

    def job(self, job_id: int) -> Document:
        """One job."""
        return self._document("GET", f"/jobs/{job_id}")

    def jobs(self, state: str | None = None, tag: str | None = None, limit: int = 50) -> list[Document]:
        """The newest jobs."""
        given = {"state": state, "tag": tag, "limit": limit}
        found: list[Document] = self._document("GET", "/jobs", params=_given(given))["jobs"]
        return found

    def request(self, job_id: int, what: Request) -> Document:
        """Cancel, pause or resume a job."""
        return self._document("POST", f"/jobs/{job_id}/{what}")

    def thin(self, job_id: int, body: Mapping[str, Any]) -> Document:
        """Delete points of a job that has ended."""
        return self._document("POST", f"/jobs/{job_id}/thin", json=body)

    def front(self, job_id: int, objectives: Sequence[str], nondominated: bool = False) -> Document:
        """The front document."""
        params = {"objectives": ",".join(objectives), "nondominated": nondominated}
        return self._document("GET", f"/jobs/{job_id}/front", params=params)

    def select(self, job_id: int, choice: Choice, objectives: Sequence[str]) -> Document:
        """The point that `choice` picks."""
        given = {**vars(choice), "objectives": ",".join(objectives), "knee": choice.knee or None}
        return self._document("GET", f"/jobs/{job_id}/select", params=_given(given))

    def export(self, job_id: int, index: int, form: str, compact: bool = False) -> Download:
        """One network as a file, without what its zeros make superfluous where `compact`."""
        answer = self._answer("GET", f"/jobs/{job_id}/points/{index}/export/{form}", params={"compact": compact})
        facts = {k.removeprefix(PREFIX).replace("-", "_"): v for k, v in answer.headers.items() if k.startswith(PREFIX)}
        name = answer.headers["content-disposition"].partition("filename=")[2].strip('"')
        return Download(name, answer.content, answer.headers["content-type"], facts)

    def compare(self, job_ids: Sequence[int], objectives: Sequence[str]) -> Document:
        """Several fronts on one scale."""
        params = {"jobs": ",".join(map(str, job_ids)), "objectives": ",".join(objectives)}
        return self._document("GET", "/compare", params=params)

    def submit_study(self, body: Mapping[str, Any], key: str | None = None) -> Document:
        """Store the jobs of a study; twice the same `key` gives the same study."""
        return self._document("POST", "/studies", json=body, headers=_keyed(key))

    def study(self, study_id: int) -> Document:
        """One study with its jobs."""
        return self._document("GET", f"/studies/{study_id}")

    def studies(self, limit: int = 50) -> list[Document]:
        """The newest studies, without their jobs."""
        found: list[Document] = self._document("GET", "/studies", params={"limit": limit})["studies"]
        return found

    def request_study(self, study_id: int, what: Request) -> Document:
        """Cancel, pause or resume all jobs of a study whose states allow it."""
        return self._document("POST", f"/studies/{study_id}/{what}")

    def study_front(self, study_id: int, objectives: Sequence[str]) -> Document:
        """The fronts of a study's jobs on one scale."""
        return self._document("GET", f"/studies/{study_id}/front", params={"objectives": ",".join(objectives)})

    def add_dataset(self, path: Path, name: str | None = None) -> Document:
        """Upload a data file."""
        try:
            with path.open("rb") as file:
                given = {"name": name} if name else {}
                return self._document("POST", "/datasets", files={"file": (path.name, file)}, data=given)
        except OSError as error:
            raise InvalidSpec(f"cannot read {str(path)!r}: {error.strerror}") from error

    def datasets(self) -> list[Document]:
        """The uploaded data sets."""
        found: list[Document] = self._document("GET", "/datasets")["uploads"]
        return found

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def follow(self, job_id: int, after: int = 0) -> Iterator[Document]:
        """Events of a job later than `after` until it has ended; takes up a stream that was closed where it was.

        A service that goes away is waited for, for a minute.
        """
        seq, tried = after, 0
        while True:
            try:
                for event in self._stream(job_id, seq):
                    if event is None:
                        return
                    seq, tried = event["seq"], 0
                    yield event
            except httpx2.TransportError as error:
                tried += 1
                if tried > RECONNECTIONS:
                    raise Refused(f"no answer from {self._url}: {error}") from error
                time.sleep(self._reconnect_seconds)

    def _stream(self, job_id: int, after: int) -> Iterator[Document | None]:
        """The events that come by one connection; None where the job has ended and all were seen."""
        with self._client.stream("GET", f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(after)}) as answer:
            if answer.status_code == NO_CONTENT:
                yield None
                return
            self._check(answer)
            yield from _events(answer.iter_lines())

    def _document(self, method: str, path: str, **options: Any) -> Document:
        document: Document = self._answer(method, path, **options).json()
        return document

    def _answer(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            return self._check(self._client.request(method, path, **options))
        except httpx2.TransportError as error:
            raise Refused(f"no answer from {self._url}: {error}") from error

    def _check(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.is_error:
            answer.read()
            raise _error(answer)
        return answer


def _error(answer: httpx2.Response) -> Refused | Corrupt:
    try:
        document = answer.json()
        return Corrupt(document["detail"]) if document["type"] == DAMAGED_TYPE else Refused(str(document["detail"]))
    except (ValueError, KeyError, TypeError):
        return Refused(f"the server answered {answer.status_code} {answer.reason_phrase}")


def _keyed(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _events(lines: Iterator[str]) -> Iterator[Document]:
    """Documents of server-sent events; comments and keep-alives are dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield {"seq": int(fields["id"]), "kind": fields["event"], "data": json.loads(fields["data"])}
            fields = {}
