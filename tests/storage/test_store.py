"""The store's contract, over SQLite and a real PostgreSQL: jobs, points, weights, events, uploads."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, update

from engine.front import Layer, ParetoPoint, Waypoint
from storage import (
    Conflict,
    Corrupt,
    InvalidArray,
    InvalidDatabase,
    JobState,
    NotFound,
    Store,
    Unavailable,
    tables,
    weights,
)
from storage.database import Database
from tests.storage.examples import FACTS, SPEC, a_point, a_waypoint, claimed, plain, stored, submitted

HUGE = 10**30

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
MAYBE = st.none() | FLOATS
COUNTS = st.integers(0, 2**40)
LAYERS = st.builds(Layer, st.text(max_size=9), st.tuples(COUNTS, COUNTS), COUNTS, COUNTS, COUNTS)
NUMBERS = st.fixed_dictionaries(
    {
        "parent": st.none() | st.integers(0, 9),
        "sweep": st.integers(0, 9),
        "loss": FLOATS,
        "penalty": FLOATS,
        "lam": MAYBE,
        "residual": MAYBE,
        "n_nonzero": COUNTS,
        "n_params": st.integers(1, 2**40),
        "effort": FLOATS,
        "seconds": FLOATS,
        "metrics": st.dictionaries(st.text(max_size=9), FLOATS, max_size=4),
        "layers": st.lists(LAYERS, max_size=3).map(tuple),
    }
)


def count(database: Database, table: object) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def assert_same_arrays(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


# Jobs


def test_a_submitted_job_is_queued_as_given(store: Store) -> None:
    job = store.submit(SPEC, FACTS, name="small", tags=["b", "a", "b"])
    assert (job.state, job.wanted, job.worker, job.reason) == (JobState.QUEUED, "run", None, "")
    assert (job.spec, job.facts, job.name, job.tags) == (SPEC, FACTS, "small", ("b", "a"))
    assert (job.n_points, job.effort, job.seconds, job.attempts, job.stale) == (0, 0.0, 0.0, 0, False)
    assert (job.started_at, job.ended_at) == (None, None)
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert store.job(job.id) == job


def test_specs_keep_their_bits(store: Store) -> None:
    spec = {
        "tiny": 5e-324,
        "third": 1 / 3,
        "minus": -0.0,
        "none": None,
        "inf": math.inf,
        "nan": math.nan,
        "text": "é\0",
    }
    assert json.dumps(dict(store.submit(spec, {}).spec)) == json.dumps(spec)


def test_text_that_no_database_holds_is_replaced(store: Store) -> None:
    lease = claimed(store, "w\0", name="a\0\ud800é", tags=["\0"], idempotency_key="\0")
    assert (lease.job.name, lease.job.tags, lease.job.worker) == ("a??é", ("?",), "w?")
    assert store.jobs(tag="\0")[0].id == store.submit(SPEC, FACTS, idempotency_key="\0").id == lease.job_id
    store.log(lease, "\0\ud800")
    assert store.events(lease.job_id)[-1].data == {"text": "\0\ud800"}
    store.finish(lease, "failed", "\0")
    store.add_upload("\0", b"", {})
    assert store.upload_bytes["\0"] == b""


@pytest.mark.parametrize("job_id", [0, -1, 10**9, HUGE, -HUGE])
def test_unknown_jobs_are_not_found(store: Store, job_id: int) -> None:
    asking: list[Callable[[], object]] = [
        lambda: store.job(job_id),
        lambda: store.front(job_id),
        lambda: store.trail(job_id),
        lambda: store.events(job_id),
        lambda: store.delete(job_id),
        lambda: store.request(job_id, "cancel"),
        lambda: store.extend(job_id, SPEC, FACTS),
    ]
    for ask in asking:
        with pytest.raises(NotFound, match=f"no job {job_id}"):
            ask()


def test_jobs_are_listed_newest_first_in_pages(store: Store) -> None:
    ids = [submitted(store).id for _ in range(5)]
    first = store.jobs(limit=2)
    assert [job.id for job in first] == [ids[4], ids[3]]
    assert [job.id for job in store.jobs(before=first[-1].id, limit=2)] == [ids[2], ids[1]]
    assert [job.id for job in store.jobs(before=ids[0])] == []
    assert len(store.jobs(before=HUGE)) == 5
    assert store.jobs(before=-HUGE) == ()


def test_jobs_are_listed_by_state_and_tag(store: Store) -> None:
    first = submitted(store, tags=["night", "mlp"])
    second = claimed(store, tags=["night"]).job
    assert [job.id for job in store.jobs(tag="night")] == [second.id, first.id]
    assert [job.id for job in store.jobs(tag="mlp")] == [first.id]
    assert [job.id for job in store.jobs(state="running")] == [second.id]
    assert [job.id for job in store.jobs(JobState.QUEUED, "night")] == [first.id]
    assert store.jobs(tag='night", "mlp') == ()
    assert store.jobs(tag="nigh%") == ()


def test_the_same_idempotency_key_is_the_same_job(store: Store) -> None:
    job = store.submit(SPEC, FACTS, idempotency_key="k")
    assert store.submit(dict(reversed(SPEC.items())), FACTS, idempotency_key="k") == job
    assert submitted(store).id != submitted(store).id
    with pytest.raises(Conflict, match=f"'k' was used for job {job.id}"):
        store.submit({**SPEC, "seed": 1}, FACTS, idempotency_key="k")
    assert len(store.jobs()) == 3


def test_the_same_idempotency_key_at_the_same_time(store: Store, together: Callable) -> None:
    found = together(*[lambda: store.submit(SPEC, FACTS, idempotency_key="k").id] * 4)
    assert len(set(found)) == 1
    assert len(store.jobs()) == 1


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "mysql://h/n", "postgresql+psycopg2://h/n", "postgres://h/n", "words", ""],
)
def test_addresses_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(InvalidDatabase, match=r"sqlite:///path.db and postgresql://user@host/name work"):
        Store(url)


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/store.db", f"postgresql:///name?host={tmp_path}"):
        with Store(url) as store, pytest.raises(Unavailable, match="the database does not answer"):
            store.ping()


def test_a_database_that_answers(store: Store) -> None:
    store.ping()
    store.check_schema()


# Points and weights


def test_a_waypoint_comes_back_as_appended(store: Store) -> None:
    lease = claimed(store)
    waypoints = [a_waypoint(index) for index in range(4)]
    for waypoint in waypoints:
        store.append(lease, waypoint)
    for index, waypoint in enumerate(waypoints):
        found = store.waypoint(lease.job_id, index)
        assert found.point == waypoint.point == store.point(lease.job_id, index)
        assert_same_arrays({"theta": found.theta}, {"theta": waypoint.theta})
        assert_same_arrays(found.buffers, waypoint.buffers)
        assert_same_arrays(found.memory, waypoint.memory)
        assert found.theta.flags.writeable
    assert store.front(lease.job_id).points == tuple(w.point for w in waypoints)


@pytest.mark.slow
@given(st.lists(NUMBERS, min_size=1, max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_keeps_its_bits(store: Store, values: list[dict]) -> None:
    lease = claimed(store)
    expected = [ParetoPoint(index, **numbers) for index, numbers in enumerate(values)]
    for point in expected:
        store.append(lease, Waypoint(point, np.zeros(2, np.float32)))
    wanted = [plain(point) for point in expected]
    assert [plain(point) for point in store.front(lease.job_id)] == wanted
    assert [plain(waypoint.point) for waypoint in store.trail(lease.job_id)] == wanted
    shown = [event.data for event in store.events(lease.job_id) if event.kind == "point"]
    assert [json.dumps(data) for data in shown] == wanted
    assert [type(v) for v in shown[0].values()] == [type(v) for v in expected[0].to_dict().values()]


def test_numpy_numbers_are_stored_as_plain_ones(store: Store) -> None:
    lease = claimed(store)
    numbers = {
        "loss": np.float32(0.1),
        "n_nonzero": np.int64(3),
        "metrics": {"l1": np.float32(0.1)},
        "parent": np.int32(2),
    }
    store.append(lease, a_waypoint(0, **numbers))
    found = store.point(lease.job_id, 0)
    assert (found.loss, found.n_nonzero, found.metrics, found.parent) == (
        float(np.float32(0.1)),
        3,
        {"l1": float(np.float32(0.1))},
        2,
    )
    assert type(found.n_nonzero) is int


def test_a_point_moves_the_jobs_progress(store: Store) -> None:
    lease = stored(store, 3)
    job = store.job(lease.job_id)
    assert (job.n_points, job.effort, job.seconds) == (3, a_point(2).effort, a_point(2).seconds)


def test_an_index_is_stored_once(store: Store, database: Database) -> None:
    lease = stored(store, 2)
    before, events = store.front(lease.job_id), store.events(lease.job_id)
    with pytest.raises(Conflict, match=f"job {lease.job_id} has a point 1 already"):
        store.append(lease, a_waypoint(1, loss=9.0))
    assert (store.front(lease.job_id), store.events(lease.job_id)) == (before, events)
    assert store.job(lease.job_id).n_points == 2


def test_an_array_that_cannot_be_stored_changes_nothing(store: Store) -> None:
    lease = claimed(store)
    with pytest.raises(InvalidArray, match="'state' of type object"):
        store.append(lease, Waypoint(a_point(), np.zeros(2), memory={"state": np.array([{}])}))
    assert store.job(lease.job_id).n_points == 0


@pytest.mark.parametrize("index", [2, -1, HUGE])
def test_unknown_points_are_not_found(store: Store, index: int) -> None:
    job_id = stored(store, 2).job_id
    for ask in (store.point, store.waypoint):
        with pytest.raises(NotFound, match=f"job {job_id} has no point {index}"):
            ask(job_id, index)


def test_fronts_of_several_jobs(store: Store) -> None:
    ids = [stored(store, n).job_id for n in (2, 0, 1)]
    found = store.fronts(reversed(ids))
    assert list(found) == ids[::-1]
    assert [len(found[i]) for i in ids] == [2, 0, 1]
    assert found[ids[0]] == store.front(ids[0])
    assert store.fronts([]) == {}
    with pytest.raises(NotFound, match="no job 99999999"):
        store.fronts([ids[0], 99999999])


def test_fronts_without_layers(store: Store) -> None:
    job_id = stored(store, 2).job_id
    assert [point.layers for point in store.front(job_id, layers=False)] == [(), ()]
    assert store.front(job_id, layers=False).values(("loss", "test_accuracy")).tolist() == (
        store.front(job_id).values(("loss", "test_accuracy")).tolist()
    )


def test_a_front_reads_one_table_and_no_weights(store: Store) -> None:
    job_id = stored(store, 3).job_id
    said: list[str] = []
    engine = store._database._reader
    listener = (engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    event.listen(*listener)
    assert len(store.front(job_id)) == 3
    event.remove(*listener)
    queries = [text for text in said if "SELECT" in text]
    assert len(queries) == 1
    assert "points" in queries[0]
    assert not any(word in queries[0] for word in ("weights", "blobs", "payload"))


@pytest.mark.slow
def test_a_front_of_ten_thousand_points(store: Store, database: Database) -> None:
    from storage import points

    job_id = submitted(store).id
    expected = [a_point(index, lam=None if index % 7 == 0 else 1.0 / index) for index in range(10_000)]
    rows = [{"job_id": job_id, **points.pack(Waypoint(p, np.zeros(1))).numbers} for p in expected]
    with database.write() as connection:
        connection.execute(tables.points.insert(), rows)
    assert store.front(job_id).points == tuple(expected)
    assert store.trail(job_id)[-3:].points == tuple(expected[-3:])


def test_a_trail_loads_weights_when_indexed(store: Store, database: Database) -> None:
    lease = stored(store, 4)
    trail = store.trail(lease.job_id)
    store.append(lease, a_waypoint(4))
    assert len(trail) == 4
    assert [point.index for point in trail.points] == [0, 1, 2, 3]
    with database.write() as connection:
        w = tables.weights.c
        damaged = select(w.theta).where(w.job_id == lease.job_id, w.index == 1).scalar_subquery()
        payload = weights.encode(np.zeros(8))
        connection.execute(update(tables.blobs).where(tables.blobs.c.digest == damaged).values(payload=payload))
    assert trail[-1].theta.tobytes() == a_waypoint(3).theta.tobytes()
    assert [waypoint.point.index for waypoint in trail[2:]] == [2, 3]
    assert len(trail[:2]) == 2
    with pytest.raises(Corrupt):
        trail[1]
    with pytest.raises(IndexError):
        trail[4]


@pytest.mark.parametrize("payload", [b"", b"garbage", weights.encode(np.zeros(8, np.float32))])
def test_damaged_weights_are_never_handed_out(store: Store, database: Database, payload: bytes) -> None:
    job_id = stored(store, 2).job_id
    with database.write() as connection:
        connection.execute(update(tables.blobs).values(payload=payload))
    with pytest.raises(Corrupt):
        store.waypoint(job_id, 1)
    assert len(store.front(job_id)) == 2


def test_equal_weights_are_stored_once(store: Store, database: Database) -> None:
    lease = claimed(store)
    for index in range(3):
        store.append(lease, Waypoint(a_point(index), np.ones(4, np.float32)))
    assert count(database, tables.weights) == 3
    assert count(database, tables.blobs) == 2


def test_deleting_a_job_frees_what_nobody_shares(store: Store, database: Database) -> None:
    alone, shared = np.ones(4, np.float32), np.zeros(4, np.float32)
    first, second = claimed(store), claimed(store)
    store.append(first, Waypoint(a_point(0), alone))
    store.append(first, Waypoint(a_point(1), shared))
    store.append(second, Waypoint(a_point(0), shared))
    store.finish(first, "completed")
    store.delete(first.job_id)
    assert count(database, tables.blobs) == 2
    assert store.waypoint(second.job_id, 0).theta.tobytes() == shared.tobytes()
    store.finish(second, "completed")
    store.delete(second.job_id)
    for table in tables.metadata.sorted_tables:
        assert count(database, table) == (1 if table is tables.counter else 0)


def test_deleted_ids_are_not_used_again(store: Store) -> None:
    job = submitted(store)
    store.delete(job.id)
    assert submitted(store).id > job.id


@pytest.mark.slow
def test_jobs_that_share_weights_come_and_go_at_the_same_time(
    store: Store, database: Database, together: Callable
) -> None:
    def work() -> int:
        for _ in range(6):
            lease = claimed(store)
            for index in range(3):
                store.append(lease, Waypoint(a_point(index), np.full(4, index), memory={"m": np.full(4, 2 - index)}))
            store.finish(lease, "completed")
            assert [w.theta[0] for w in store.trail(lease.job_id)] == [0, 1, 2]
            store.delete(lease.job_id)
        return lease.job_id

    together(*[work] * 4)
    assert count(database, tables.blobs) == 0


# Events


def test_events_tell_a_jobs_story_in_order(store: Store) -> None:
    lease = claimed(store)
    point = store.append(lease, a_waypoint(0))
    line = store.log(lease, "step halved")
    store.request(lease.job_id, "pause")
    store.release(lease)
    events = store.events(lease.job_id)
    assert [event.kind for event in events] == ["state", "state", "point", "log", "state", "state"]
    assert [event.data.get("state") for event in events] == ["queued", "running", None, None, "running", "paused"]
    assert [event.data.get("wanted") for event in events] == ["run", "run", None, None, "pause", "run"]
    assert (events[2].seq, events[2].data) == (point, a_point(0).to_dict())
    assert (events[3].seq, events[3].data) == (line, {"text": "step halved"})
    assert events[5].data["reason"] == "paused on request"
    assert sorted(events, key=lambda e: e.seq) == list(events)
    assert store.last_seq() == events[-1].seq
    assert all(event.at.tzinfo is UTC and event.job_id == lease.job_id for event in events)


def test_events_go_on_after_the_last_one_seen(store: Store) -> None:
    job_id = stored(store, 5).job_id
    everything = store.events(job_id)
    for place, seen in enumerate(everything):
        assert store.events(job_id, after=seen.seq) == everything[place + 1 :]
    assert store.events(job_id, limit=2) == everything[:2]
    assert store.events(job_id, after=HUGE) == ()
    assert store.events(job_id, after=-HUGE) == everything


def test_events_of_all_jobs(store: Store) -> None:
    first, second = stored(store, 1), stored(store, 1)
    events = store.events(after=0)
    assert {event.job_id for event in events} == {first.job_id, second.job_id}
    assert [e for e in events if e.job_id == first.job_id] == list(store.events(first.job_id))


def test_numbers_of_deleted_events_are_not_used_again(store: Store) -> None:
    job = submitted(store)
    last = store.last_seq()
    store.delete(job.id)
    assert store.last_seq() == last
    assert store.events(submitted(store).id)[0].seq == last + 1


@pytest.mark.slow
def test_a_reader_misses_nothing_that_commits_late(store: Store, together: Callable) -> None:
    leases = [claimed(store) for _ in range(3)]
    start, n = store.last_seq(), 25

    def write(lease: object) -> Callable[[], None]:
        return lambda: [store.log(lease, str(i)) for i in range(n)] and None

    def read() -> list[int]:
        seen: list[int] = []
        while len(seen) < n * len(leases):
            seen.extend(event.seq for event in store.events(after=seen[-1] if seen else start, limit=7))
        return seen

    *_, seen = together(*map(write, leases), read)
    assert seen == list(range(start + 1, start + 1 + n * len(leases)))


def test_an_event_that_is_not_committed_holds_back_later_ones(
    store: Store, database: Database, together: Callable
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from storage import events

    first, second = claimed(store), claimed(store)
    before = store.last_seq()
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            early = events.add(connection, first.job_id, "log", {"text": "early"})
            late = pool.submit(store.log, second, "late")
            assert store.events(after=before) == ()
        assert (early, late.result()) == (before + 1, before + 2)
    assert [event.data["text"] for event in store.events(after=before)] == ["early", "late"]


# Uploads


def test_uploads_are_listed_without_their_bytes(store: Store) -> None:
    shapes = {"X": [3, 2], "y": [3]}
    upload = store.add_upload("wine.csv", b"1,2\n", shapes)
    assert (upload.name, upload.size, upload.shapes) == ("wine.csv", 4, shapes)
    store.add_upload("a.npz", b"", {})
    assert [found.name for found in store.uploads()] == ["a.npz", "wine.csv"]
    assert store.uploads()[1] == upload
    assert store.add_upload("wine.csv", b"1,2\n", shapes) == upload
    with pytest.raises(Conflict, match=r"'wine.csv' with other content"):
        store.add_upload("wine.csv", b"2,1\n", shapes)


def test_upload_bytes_is_a_lazy_mapping(store: Store) -> None:
    files = store.upload_bytes
    payload = bytes(range(256)) * 100
    store.add_upload("b", payload, {})
    store.add_upload("a", b"a", {})
    assert list(files) == ["a", "b"]
    assert (len(files), "a" in files, "c" in files) == (2, True, False)
    assert (files["b"], files.get("c")) == (payload, None)
    with pytest.raises(KeyError):
        files["c"]
    store.delete_upload("b")
    assert dict(files) == {"a": b"a"}
    with pytest.raises(NotFound, match="no upload 'b'"):
        store.delete_upload("b")


def test_damaged_uploads_are_never_handed_out(store: Store, database: Database) -> None:
    store.add_upload("a", b"a", {})
    with database.write() as connection:
        connection.execute(update(tables.uploads).values(payload=b"b"))
    with pytest.raises(Corrupt, match="upload 'a'"):
        store.upload_bytes["a"]
