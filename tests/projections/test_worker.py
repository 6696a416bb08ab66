"""What the view worker shows: since when each is online, and when it was last heard of."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_journal.journal import Connection, Journal
from celery_journal.journal.workers import WorkerForgotten, WorkerHeartbeat, WorkerOffline, WorkerOnline
from celery_journal.projections import Worker

from .spec import Spec, checked, fact, read_log

NAME = "celery@one"

META = {
    "software": "py-celery",
    "version": "5.7.0",
    "system": "Linux",
    "pool": "prefork",
    "concurrency": 8,
    "queues": ["mail", "celery"],
    "freq": 2.0,
    "active": 3,
    "processed": 70_000_000_000,
}


def meta(**changes: Any) -> bytes:
    return json.dumps({**META, **changes}).encode()


def test_a_worker_shows_what_it_says_of_itself(spec: Spec) -> None:
    """Every field is filled by the last that was heard of it."""
    spec.given(fact(WorkerOnline, NAME, pid=7, meta=meta(active=0)))

    spec.when(fact(WorkerHeartbeat, NAME, 1, pid=7, meta=meta(), source="signal"))

    online, last = read_log(spec.connection)[0].recorded_at, read_log(spec.connection)[-1]
    assert Worker.get(spec.connection, NAME) == Worker(
        worker=NAME,
        alive=True,
        first_seen=online,
        online_since=online,
        last_seen=last.recorded_at,
        clock_offset=last.event.occurred_at - last.recorded_at,
        pid=7,
        source="signal",
        **{**META, "queues": ("celery", "mail")},
    )


def test_the_tasks_of_a_worker_are_those_it_told_last_since_it_came(spec: Spec) -> None:
    """Most heartbeats tell none; who comes anew and tells none has not those of the one before it."""
    spec.given(fact(WorkerOnline, NAME, meta=meta(tasks=["b", "a"])))
    told = spec.when(fact(WorkerHeartbeat, NAME, 1, meta=meta())).worker[NAME]["tasks"]
    changed = spec.when(fact(WorkerHeartbeat, NAME, 2, meta=meta(tasks=["c"]))).worker[NAME]["tasks"]
    too_many = spec.when(fact(WorkerHeartbeat, NAME, 3, meta=meta(tasks=None))).worker[NAME]["tasks"]
    spec.given(fact(WorkerHeartbeat, NAME, 4, meta=meta(tasks=[])))
    none = Worker.get(spec.connection, NAME).tasks

    anew = spec.when(fact(WorkerOnline, NAME, 5, meta=meta())).worker[NAME]["tasks"]

    assert (told, changed, too_many, none, anew) == (["b", "a"], ["c"], None, (), None)


def test_the_tasks_of_a_worker_that_was_not_seen_to_start_are_known(spec: Spec) -> None:
    """As soon as it tells them."""
    spec.given(fact(WorkerHeartbeat, NAME, meta=meta(tasks=["a"])))

    assert spec.when(fact(WorkerHeartbeat, NAME, 1)).worker[NAME]["tasks"] == ["a"]


def test_a_worker_that_said_good_bye_is_offline_until_it_is_heard_of_again(spec: Spec) -> None:
    """Offline is no longer alive, and both end with the next that is heard."""
    spec.given(fact(WorkerOnline, NAME, 0))
    offline = spec.when(fact(WorkerOffline, NAME, 9)).worker[NAME]
    gone = Worker.get(spec.connection, NAME)

    spec.given(fact(WorkerOnline, NAME, 5))

    back = Worker.get(spec.connection, NAME)
    assert offline["offline"]
    assert (gone.alive, gone.offline, back.alive, back.offline) == (False, True, True, False)
    assert back.online_since == back.last_seen
    assert gone.online_since is not None
    assert back.online_since is not None
    assert back.online_since > gone.online_since


def test_a_worker_that_was_not_seen_to_start_is_known(spec: Spec) -> None:
    """A capture that came later knows it by its heartbeats."""
    spec.when(fact(WorkerHeartbeat, NAME))

    worker = Worker.get(spec.connection, NAME)
    assert (worker.alive, worker.online_since) == (True, None)
    assert worker.first_seen is not None


@pytest.mark.parametrize(("freq", "alive"), [pytest.param(2.0, False, id="of two seconds"), pytest.param(10.0, True, id="of ten seconds")])
def test_a_worker_is_alive_until_it_has_missed_four_heartbeats(freq: float, alive: bool, connection: Connection) -> None:
    """Twenty seconds of silence are much or little, according to how often it would be heard."""
    Journal().append(connection, fact(WorkerOnline, NAME, meta=meta(freq=freq)))

    connection.execute("update celery_journal.worker_row set last_seen = last_seen - interval '20 seconds'")

    assert Worker.get(connection, NAME).alive is alive


@pytest.mark.parametrize("offset", [timedelta(minutes=5), timedelta(minutes=-5)], ids=["ahead", "behind"])
def test_a_wrong_clock_is_told_and_does_not_look_like_death(offset: timedelta, connection: Connection) -> None:
    """The database's clock tells who is alive; how far the worker's is off is shown."""
    event = fact(WorkerHeartbeat, NAME, meta=meta(), source="signal")

    Journal().append(connection, event.model_copy(update={"occurred_at": datetime.now(UTC) + offset}))

    worker = Worker.get(connection, NAME)
    assert worker.alive
    assert worker.clock_offset is not None
    assert worker.clock_offset.total_seconds() == pytest.approx(offset.total_seconds(), abs=1)
    checked(connection)


def test_a_broadcast_that_was_long_on_its_way_says_nothing_of_the_clock(connection: Connection) -> None:
    """It may have waited in a queue while the capture was down."""
    Journal().append(connection, fact(WorkerHeartbeat, NAME, meta=meta(), source="broadcast"))

    assert Worker.get(connection, NAME).clock_offset == timedelta(0)


def test_a_forgotten_worker_is_not_shown_and_may_come_back(spec: Spec) -> None:
    """Its facts are in the log; whatever comes later makes a new row."""
    spec.given(fact(WorkerOnline, NAME, pid=1, meta=meta()))

    assert spec.when(fact(WorkerForgotten, NAME)).worker == {}

    row = spec.when(fact(WorkerHeartbeat, NAME, pid=2)).worker[NAME]
    assert (row["pid"], row["online_since"], row["software"]) == (2, None, None)


def test_all_workers_are_shown_by_name(connection: Connection) -> None:
    """As a list of all, or those of some names."""
    Journal().append(connection, *(fact(WorkerOnline, name) for name in ("celery@b", "celery@a", "celery@c")))

    assert [worker.worker for worker in Worker.all(connection)] == ["celery@a", "celery@b", "celery@c"]
    assert set(Worker.get_many(connection, ["celery@b", "celery@z"])) == {"celery@b"}
    with pytest.raises(Worker.DoesNotExist):
        Worker.get(connection, "celery@z")


def test_what_a_worker_says_that_is_no_json_hides_no_worker(spec: Spec) -> None:
    """A row with little in it, and not an error of the whole view."""
    row = spec.when(fact(WorkerOnline, NAME, meta=b"\xff", pid=3)).worker[NAME]

    assert (row["pid"], row["software"], row["queues"]) == (3, None, None)


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param({"concurrency": "eight"}, id="text"),
        pytest.param({"active": 1.5}, id="half a task"),
        pytest.param({"concurrency": 2**40}, id="too many"),
        pytest.param({"queues": {"mail": 1}}, id="queues that are no list"),
        pytest.param({"freq": "often"}, id="a strange frequency"),
        pytest.param({"freq": 1e308}, id="a rare heartbeat"),
        pytest.param({"freq": None, "queues": None}, id="nothing"),
        pytest.param({"tasks": {"mail": 1}}, id="tasks that are no list"),
        pytest.param({"tasks": [None, 1, ["a"]]}, id="tasks that are no names"),
    ],
)
def test_what_one_worker_says_of_itself_does_not_hide_the_others(strange: dict[str, Any], connection: Connection) -> None:
    """Whoever sends events to the broker may say anything: what makes no sense is not shown."""
    Journal().append(connection, fact(WorkerOnline, NAME, meta=meta(**strange)), fact(WorkerOnline, "celery@two", meta=meta()))

    assert [(worker.worker, worker.alive, worker.software) for worker in Worker.all(connection)] == [
        (NAME, True, "py-celery"),
        ("celery@two", True, "py-celery"),
    ]
