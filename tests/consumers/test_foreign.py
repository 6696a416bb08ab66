"""The past in other result backends is taken over: what `AsyncResult` said there, it says of the journal."""

from __future__ import annotations

import json
import pickle
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.app.task import Context

from celery_journal.consumers.transfer.foreign import Source, Taken, take
from celery_journal.consumers.transfer.past import OPEN_CHORD, ForeignError
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskFailed, TaskStarted
from celery_journal.projections import GroupResult, TaskResult, verify
from tests.conftest import require

from .scene import ROOT, recorded
from .workers import available

UNFINISHED = "it is PROGRESS, and nothing says since when; import again when it has ended"


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what is taken over is the same in all."""
    return embedded_database


def taken(connection: Connection, source: Source, url: str, **options: Any) -> Taken:
    """Take everything, and return what that was."""
    steps = list(take(connection, Journal(), source, url, **options))
    return steps[-1] if steps else Taken()


def fill(app: Celery) -> None:
    """Store a past, as a worker would."""
    backend: Any = app.backend

    def request(task_id: str) -> Context:
        children = [app.AsyncResult("child")]
        where = {"routing_key": "mail"}
        return Context(
            id=task_id, task="shop.add", args=(1, 2), kwargs={"a": 1}, hostname="w1", _children=children, delivery_info=where, retries=1
        )

    backend.mark_as_done("fine", {"total": 5}, request=request("fine"))
    backend.mark_as_failure("failed", ValueError("no such shop"), "Traceback ...", request=request("failed"))
    backend.store_result("halfway", {"current": 3}, "PROGRESS", request=request("halfway"))
    app.GroupResult("group", [app.AsyncResult("fine"), app.AsyncResult("failed")]).save()


def check(app: Celery) -> None:
    """Compare with what `fill` has stored."""
    fine, failed = app.AsyncResult("fine"), app.AsyncResult("failed")
    assert (fine.get(timeout=5), fine.state, fine.name, fine.worker) == ({"total": 5}, "SUCCESS", "shop.add", "w1")
    assert [child.id for child in fine.children] == ["child"]
    assert (datetime.now(UTC) - fine.date_done).total_seconds() < 60
    with pytest.raises(ValueError, match="no such shop"):
        failed.get(timeout=5)
    assert failed.traceback == "Traceback ..."
    group = app.GroupResult.restore("group")
    assert [result.id for result in group.results] == ["fine", "failed"]


def old_app(url: str, **conf: Any) -> Celery:
    app = Celery("old", backend=url, set_as_current=False)
    app.conf.update(result_extended=True, **conf)
    return app


def test_the_tables_of_sqlalchemy_are_taken_over(connection: Connection, app: Celery, tmp_path: Path, dsn: str) -> None:
    """With their source; and once more there is nothing new."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    fill(old_app(url))

    first, second = taken(connection, "sqlalchemy", url), taken(connection, "sqlalchemy", url)

    assert (first.tasks, first.groups, first.known) == (2, 1, 0)
    assert [(one.id, one.why) for one in first.untaken] == [("halfway", UNFINISHED)]
    assert (second.tasks, second.groups, second.known) == (0, 0, 3)
    check(app)
    assert [place.event.source for place in recorded(dsn, "fine")] == ["sqlalchemy"]
    row = TaskResult.get(connection, "fine")
    assert (row.task_args, row.task_kwargs, row.queue, row.retries) == ("[1, 2]", '{"a": 1}', "mail", 1)
    assert verify(connection).differences == []


def test_the_pickles_of_an_older_celery_need_to_be_accepted(connection: Connection, app: Celery, tmp_path: Path) -> None:
    """Its tables hold pickles, whatever the serializer was."""
    with sqlite3.connect(tmp_path / "results.db") as old:
        old.execute("create table celery_taskmeta (id integer primary key, task_id, status, result, date_done datetime, traceback)")
        row = ("fine", "SUCCESS", pickle.dumps({"total": 5}), "2026-01-01 10:00:00.000000")
        old.execute("insert into celery_taskmeta (task_id, status, result, date_done) values (?, ?, ?, ?)", row)
    old.close()
    url = f"sqlite:///{tmp_path / 'results.db'}"

    refused = taken(connection, "sqlalchemy", url)
    accepted = taken(connection, "sqlalchemy", url, accept=frozenset({"json", "pickle"}))

    assert [(one.id, one.why) for one in refused.untaken] == [
        ("fine", "it is pickle: say --accept pickle, if you trust whoever could write there")
    ]
    assert (refused.tasks, accepted.tasks) == (0, 1)
    assert app.AsyncResult("fine").get(timeout=5) == {"total": 5}
    assert TaskResult.get(connection, "fine").date_done == datetime(2026, 1, 1, 10, tzinfo=UTC)


def test_what_the_log_does_not_take_is_named_and_the_rest_taken_over(connection: Connection, tmp_path: Path) -> None:
    """An id that is too long, a result that is too large; the same in a dry run."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    old, long = old_app(url), "z" * 200  # what that table can hold
    for task_id, result in ((long, 1), ("large", "x" * 5000), ("fine", 1)):
        old.backend.mark_as_done(task_id, result)
    journal = Journal(max_payload_bytes=4000, max_id_length=100)

    for dry_run in (True, False):
        (*_, found) = take(connection, journal, "sqlalchemy", url, dry_run=dry_run)

        assert (found.tasks, sorted(one.id for one in found.untaken)) == (1, ["large", long])
        assert "task_id_max_length is 100" in next(one.why for one in found.untaken if one.id == long)
    assert TaskResult.get(connection, "fine").status == "SUCCESS"


def test_what_was_taken_over_before_stands(connection: Connection, tmp_path: Path, dsn: str) -> None:
    """What has not ended is read again each time; that it is read in another way now must not keep the rest out."""
    url = f"sqlite:///{tmp_path / 'results.db'}"
    with sqlite3.connect(tmp_path / "results.db") as old:
        old.execute("create table celery_taskmeta (id integer primary key, task_id, status, result, date_done datetime, traceback, worker)")
        insert = "insert into celery_taskmeta (task_id, status, date_done, worker) values (?, ?, '2026-01-01 10:00:00.000000', ?)"
        old.execute(insert, ("halfway", "STARTED", "w1"))
        old.commit()
        taken(connection, "sqlalchemy", url)
        old.execute("update celery_taskmeta set worker = 'w2'")
        old.execute(insert, ("later", "SUCCESS", "w1"))
    old.close()

    assert taken(connection, "sqlalchemy", url).tasks == 2

    assert [place.event.model_dump()["worker"] for place in recorded(dsn, "halfway")] == ["w1"]
    assert TaskResult.get(connection, "later").status == "SUCCESS"


def test_arguments_that_only_a_pickle_holds_are_known_as_one(connection: Connection, app: Celery, tmp_path: Path) -> None:
    """Both of them, or whoever reads them would take the one for JSON."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    request = Context(id="t", task="shop.add", args=({1, 2},), kwargs={"a": 1})
    old = old_app(url, result_serializer="pickle", accept_content=["pickle"])
    old.backend.mark_as_done("t", 1, request=request)

    taken(connection, "sqlalchemy", url, serializer="pickle", accept=frozenset({"json", "pickle"}))

    result = app.AsyncResult("t")
    assert (result.args, result.kwargs) == (({1, 2},), {"a": 1})


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_django_celery_results_is_taken_over(connection: Connection, app: Celery, tmp_path: Path, serializer: str) -> None:
    """Its own code has made the tables and their rows; the start of a task is known there, and what its arguments look like."""
    file = tmp_path / "django.db"
    subprocess.run([sys.executable, "-m", "tests.consumers.djangoresults", str(file), serializer], cwd=ROOT, check=True)

    with sqlite3.connect(file) as old:
        old.execute("insert into django_celery_results_chordcounter (group_id, sub_tasks, count) values ('chord', '[]', 1)")
    old.close()

    first = taken(connection, "django-celery-results", f"sqlite:///{file}", accept=frozenset({"json", serializer}))
    second = taken(connection, "django-celery-results", f"sqlite:///{file}", accept=frozenset({"json", serializer}))

    assert (first.tasks, first.groups, [(one.id, one.why) for one in first.untaken]) == (3, 1, [("chord", OPEN_CHORD)])
    assert (second.tasks, second.groups, second.known) == (1, 0, 3)  # what has not ended may have gone on
    check(app)
    assert app.AsyncResult("halfway").info == {"current": 3}
    row = TaskResult.get(connection, "fine")
    assert row.date_started is not None
    assert row.date_done is not None
    assert row.date_started <= row.date_done
    assert (app.AsyncResult("fine").args, app.AsyncResult("fine").kwargs) == ([1, 2], {"a": 1})
    assert verify(connection).differences == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Celery's, of redis-py
def test_redis_is_taken_over(connection: Connection, app: Celery) -> None:
    """Of what has not ended it does not say since when, so that is named and left."""
    require("Redis", available("redis"))
    prefix = f"old{uuid4().hex[:8]}*["
    old = old_app("redis://127.0.0.1:6379/0", result_backend_transport_options={"global_keyprefix": prefix}, result_expires=60)
    fill(old)
    old.backend.client.set(f"{prefix}_celery-task-meta-broken", b"{", ex=60)
    for key, parts in (("s", 2), ("t", 0), ("c", "claim")):
        old.backend.client.set(f"{prefix}_celery-taskset-meta-chord.{key}", parts, ex=60)
    old.backend.client.zadd(f"{prefix}_celery-taskset-meta-chord.j", {"part": 1})
    old.backend.client.expire(f"{prefix}_celery-taskset-meta-chord.j", 60)

    first, second = (taken(connection, "redis", "redis://127.0.0.1:6379/0", key_prefix=prefix) for _ in range(2))

    old.backend.result_consumer.stop()
    old.backend.result_consumer.subscribed_to.clear()  # or a result that goes later connects once more
    old.backend.client.connection_pool.disconnect()
    old.close()
    assert (first.tasks, first.groups, first.known) == (2, 1, 0)
    assert sorted((one.id, one.why.partition(":")[0]) for one in first.untaken) == [
        ("broken", "it cannot be read"),
        ("chord", OPEN_CHORD),
        ("halfway", UNFINISHED),
    ]
    assert (second.tasks, second.groups, second.known) == (0, 0, 3)
    check(app)
    assert GroupResult.get(connection, "group").members == ("fine", "failed")


def test_moments_without_a_zone_are_in_that_of_the_old_app(connection: Connection, tmp_path: Path) -> None:
    """SQLite and MySQL keep the hours of the setting `timezone`, and nothing that says so; stamps come along."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    request = Context(id="t", task="add", stamped_headers=["order"], stamps={"order": ["7"]})
    old_app(url, timezone="Asia/Tokyo").backend.mark_as_done("t", 1, request=request)

    taken(connection, "sqlalchemy", url, zone=ZoneInfo("Asia/Tokyo"))

    row = TaskResult.get(connection, "t")
    assert row.date_done is not None
    assert abs(datetime.now(UTC) - row.date_done) < timedelta(minutes=1)
    assert json.loads(row.meta or "") == {"children": [], "stamps": {"order": ["7"]}, "stamped_headers": ["order"]}


def test_what_the_journal_knows_itself_stays(connection: Connection, tmp_path: Path, dsn: str) -> None:
    """Of a task that ended here, nothing is taken over; one that only began here ends as it is told."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    fill(old_app(url))
    emitter = Emitter()
    ended = emitter.emit(TaskFailed, "fine", name="shop.add", worker="here")
    Journal().append(connection, ended, emitter.emit(TaskStarted, "failed", attempt=1, worker="here"))

    taken(connection, "sqlalchemy", url)

    assert [place.event.event_id for place in recorded(dsn, "fine")] == [ended.event_id]
    assert TaskResult.get(connection, "failed").status == "FAILURE"


def test_a_dry_run_records_nothing(connection: Connection, tmp_path: Path) -> None:
    """And counts the same."""
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    fill(old_app(url))

    counted = taken(connection, "sqlalchemy", url, dry_run=True)

    assert (counted.tasks, counted.groups) == (2, 1)
    assert TaskResult.get_many(connection, ["fine", "failed"]) == {}


@pytest.mark.parametrize(
    ("source", "url", "sentence"),
    [
        pytest.param("sqlalchemy", "sqlite://", "has no table celery_taskmeta or celery_tasksetmeta", id="empty"),
        pytest.param("sqlalchemy", "nonsense", "the URL cannot be read", id="unreadable"),
        pytest.param("sqlalchemy", "mysql+nobody://u:secret@h/d", "there is no driver for mysql\\+nobody://", id="driver"),
        pytest.param("django-celery-results", "postgresql://u:secret@127.0.0.1:1/d", "the database of the old results fails", id="down"),
        pytest.param("redis", "redis://127.0.0.1:1/0", "Redis fails", id="redis down"),
        pytest.param("redis", "nonsense", "the URL cannot be read", id="redis unreadable"),
        pytest.param("redis", "redis://127.0.0.1:6379/0?colour=secret", "the URL cannot be read", id="redis option"),
        pytest.param("redis", "rediss://127.0.0.1:1/0?ssl_cert_reqs=CERT_NONE", "Error 111 connecting", id="redis as Celery writes it"),
        pytest.param("sqlalchemy", "postgresql://u:secret@127.0.0.1:port/d", "the URL cannot be read", id="port"),
    ],
)
def test_where_nothing_can_be_read_one_sentence_says_why(connection: Connection, source: Any, url: str, sentence: str) -> None:
    """Without the password."""
    with pytest.raises(ForeignError, match=sentence) as caught:
        taken(connection, source, url)

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_serializer_is_refused(connection: Connection) -> None:
    """With those that exist."""
    with pytest.raises(ForeignError, match=r"there is no serializer 'jason'; there are .*json"):
        taken(connection, "redis", "redis://127.0.0.1/0", serializer="jason")
