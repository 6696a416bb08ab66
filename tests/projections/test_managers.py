"""The managers: what django-celery-results' and fulldbresult's do, by facts (M46-M66, F11, F28, F29)."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from celery_journal.journal import Connection, DatabaseUnreachable, Emitter, EventConflict, Journal
from celery_journal.journal import events as kinds
from celery_journal.projections import ChordCounter, GroupResult, NoJournal, TaskResult, TxIsolationWarning, expiry, verify
from celery_journal.projections.managers import GroupResultManager, ResultManager, TaskResultManager

HOUR = timedelta(hours=1)


def ago(**units: float) -> datetime:
    return datetime.now(UTC) - timedelta(**units)


@pytest.fixture
def tasks(connection: Connection) -> TaskResultManager:
    return TaskResult.objects.using(connection)


@pytest.fixture
def groups(connection: Connection) -> GroupResultManager:
    return GroupResult.objects.using(connection)


@pytest.fixture
def tell(connection: Connection, journal: Journal, emitter: Emitter) -> Callable[..., None]:
    def tell(kind: type[kinds.Event], stream: str, **fields: Any) -> None:
        journal.append(connection, emitter.emit(kind, stream, **fields))

    return tell


def told(connection: Connection, stream: str) -> list[str]:
    return [recorded.event.kind for recorded in Journal().read_stream(connection, stream)]


def test_managers_have_the_names_of_the_seed(tasks: TaskResultManager, groups: GroupResultManager) -> None:
    """M46, M60: those of tasks and groups are result managers; a chord has one that finds no more than rows."""
    assert isinstance(tasks, ResultManager)
    assert isinstance(groups, ResultManager)
    assert not isinstance(ChordCounter.objects, ResultManager)


def test_a_manager_lends_its_connections(tasks: TaskResultManager, connection: Connection) -> None:
    """M47, M48, M49: one to write by, one to read from, and what they lead to."""
    with tasks.connection_for_write() as writing, tasks.connection_for_read() as reading:
        assert writing is reading is connection
    assert tasks.current_engine() == "postgresql"
    assert tasks.server_version() == connection.info.server_version


def test_a_task_that_nobody_knows_is_pending_and_not_stored(tasks: TaskResultManager, connection: Connection) -> None:
    """M55: and one that is known is the row."""
    task = tasks.get_task("nobody")

    assert (task.task_id, task.status, task.date_created) == ("nobody", "PENDING", None)
    assert tasks.count() == 0
    tasks.store_result("application/json", "utf-8", "somebody", "1", "SUCCESS")
    assert tasks.get_task("somebody").status == "SUCCESS"


def test_a_group_that_nobody_knows_is_empty_and_not_stored(groups: GroupResultManager) -> None:
    """M62: as with tasks."""
    assert groups.get_group("nobody") == GroupResult(group_id="nobody")
    assert groups.count() == 0


def test_a_result_is_stored_with_all_that_the_seed_names(tasks: TaskResultManager, connection: Connection) -> None:
    """M56: by position up to `worker`; the call is the event of its status, and the row that it makes comes back."""
    started = ago(minutes=5)

    task = tasks.store_result(
        "application/json",
        "utf-8",
        "task",
        '{"total": 5}',
        "SUCCESS",
        None,
        '{"children": []}',
        "nightly",
        "app.add",
        "[1, 2]",
        '{"debug": true}',
        "w1",
        date_started=started,
    )

    assert told(connection, "task") == ["task-started", "task-succeeded"]
    assert task == tasks.get(task_id="task")
    assert (task.status, task.result, task.meta) == ("SUCCESS", b'{"total": 5}', '{"children": []}')
    assert (task.content_type, task.content_encoding) == ("application/json", "utf-8")
    assert (task.periodic_task_name, task.task_name, task.worker) == ("nightly", "app.add", "w1")
    assert (task.task_args, task.task_kwargs) == ("[1, 2]", '{"debug": true}')
    assert task.date_started == started
    assert task.date_done is not None
    assert verify(connection).differences == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("PENDING", "task-progress"),
        ("RECEIVED", "task-received"),
        ("STARTED", "task-started"),
        ("RETRY", "task-retried"),
        ("REJECTED", "task-rejected"),
        ("REVOKED", "task-revoked"),
        ("FAILURE", "task-failed"),
        ("SUCCESS", "task-succeeded"),
        ("IGNORED", "task-ignored"),
        ("PROGRESS", "task-progress"),
    ],
)
def test_a_status_is_its_kind_of_event(status: str, kind: str, tasks: TaskResultManager, connection: Connection) -> None:
    """M56: each of Celery's, and one of the user's own."""
    task = tasks.store_result("application/json", "utf-8", "task", "null", status, traceback="Traceback ...")

    assert task.status == status
    assert told(connection, "task") == [kind]


def test_the_start_of_a_task_is_when_it_says(tasks: TaskResultManager) -> None:
    """M15, M56: STARTED with its own `date_started`."""
    started = ago(minutes=5)

    assert tasks.store_result("", "", "task", None, "STARTED", date_started=started).date_started == started


def test_what_follows_a_retry_is_the_next_attempt(tasks: TaskResultManager) -> None:
    """Else a STARTED after it would be an old one that comes late; and a number that is given is the one meant."""
    told = [tasks.store_result("", "", "task", None, status) for status in ("STARTED", "RETRY", "STARTED", "FAILURE")]

    assert [(task.status, task.retries) for task in told] == [("STARTED", 0), ("RETRY", 0), ("STARTED", 1), ("FAILURE", 1)]
    assert tasks.store_result("", "", "task", None, "STARTED", retries=5).retries == 5


def test_what_is_final_stays(tasks: TaskResultManager) -> None:
    """The row that comes back is what the log makes of it, and not what was said last."""
    tasks.store_result("application/json", "utf-8", "task", "1", "SUCCESS")

    assert tasks.store_result("application/json", "utf-8", "task", "2", "FAILURE").status == "SUCCESS"


def test_an_unknown_field_is_refused(tasks: TaskResultManager) -> None:
    """Nothing is dropped without a word."""
    with pytest.raises(TypeError, match="colour"):
        tasks.store_result("", "", "task", None, "SUCCESS", colour="red")  # type: ignore[call-arg]


def test_a_group_is_stored(groups: GroupResultManager, tasks: TaskResultManager, connection: Connection) -> None:
    """M63: its members are read from what is stored, those of groups inside too, so that its end is known."""
    tasks.store_result("", "", "a", None, "SUCCESS")

    a, b = [["a", None], None], [["b", None], None]
    group = groups.store_group_result("application/json", "utf-8", "group", json.dumps([["group", None], [a, [["inner", None], [b]]]]))

    assert told(connection, "group") == ["group-saved"]
    assert (group.members, group.date_done, group.date_saved is not None) == (("a", "b"), None, True)
    tasks.store_result("", "", "b", None, "FAILURE")
    assert groups.get_group("group").date_done == tasks.get_task("b").date_done


@pytest.mark.parametrize("result", [b"\x80\x05pickled", "5", "[]", '"text"', '[["group", null], [5]]', None])
def test_a_group_that_cannot_be_read_is_stored_all_the_same(result: Any, groups: GroupResultManager) -> None:
    """M63: of any serializer; who is in it is not known then."""
    group = groups.store_group_result("application/x-python-serialize", "binary", "group", result)

    assert group.members is None
    assert group.result == (result.encode() if isinstance(result, str) else result)


@pytest.mark.parametrize("as_text", [True, False], ids=["text", "bytes"])
@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-msgpack"])
def test_base64_of_binary_content_is_the_bytes(
    content_type: str, as_text: bool, tasks: TaskResultManager, groups: GroupResultManager
) -> None:
    """As django-celery-results stores it, arguments included; what is no base64 is what it is."""
    result, args, kwargs = b"\x80\x04K\x05.", b"\x80\x04]K\x01.", b"\x80\x04}."
    given: Any = [base64.b64encode(data) for data in (result, args, kwargs)]
    given = [data.decode() for data in given] if as_text else given

    task = tasks.store_result(content_type, "binary", "task", given[0], "SUCCESS", task_args=given[1], task_kwargs=given[2])
    plain = tasks.store_result(content_type, "binary", "plain", result, "SUCCESS", task_args="(1,)", task_kwargs='{"a": 1}')
    group = groups.store_group_result(content_type, "binary", "group", given[0])

    assert (task.result, task.args, task.kwargs, task.args_content_type) == (result, args, kwargs, content_type)
    assert (plain.result, plain.args, plain.kwargs, plain.args_content_type) == (result, b"(1,)", b'{"a": 1}', None)
    assert group.result == result


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        pytest.param({"result": True}, TypeError, r"^result is what a serializer has made, text or bytes, and not a bool; ", id="result"),
        pytest.param({"meta": {"children": []}}, TypeError, r"^meta is what a serializer has made, .* not a dict; ", id="meta"),
        pytest.param({"task_args": [1]}, TypeError, r"^task_args is what a serializer has made, .* not a list; ", id="args"),
        pytest.param({"task_name": 5}, ValueError, r"^task_name cannot be recorded: [^\n]*$", id="name"),
        pytest.param({"traceback": OSError()}, ValueError, r"^traceback cannot be recorded: [^\n]*$", id="traceback"),
        pytest.param({"status": None}, ValueError, r"^status cannot be recorded: [^\n]*$", id="status"),
        pytest.param({"retries": -1}, ValueError, r"^retries cannot be recorded: [^\n]*$", id="retries"),
        pytest.param({"task_id": 5}, TypeError, r"^task_id is text, and not a int$", id="id"),
    ],
)
def test_what_cannot_be_stored_is_said(fields: dict[str, Any], error: type[Exception], sentence: str, tasks: TaskResultManager) -> None:
    """In one sentence, by the name that the caller gave it, and nothing is recorded."""
    whole: dict[str, Any] = {"task_id": "task", "result": "1", "status": "SUCCESS", **fields}

    with pytest.raises(error, match=sentence):
        tasks.store_result("application/json", "utf-8", **whole)

    assert tasks.count() == 0


def test_an_id_may_be_a_uuid(tasks: TaskResultManager, groups: GroupResultManager) -> None:
    """As Celery takes it."""
    named = UUID(int=7)

    stored = tasks.store_result("", "", named, None, "SUCCESS"), groups.store_group_result("", "", named, "[]")

    assert (stored[0].task_id, stored[1].group_id) == (str(named), str(named))
    assert (tasks.get_task(named).status, groups.get_group(named).result) == ("SUCCESS", b"[]")


def test_a_group_that_no_serializer_has_made_is_refused(groups: GroupResultManager) -> None:
    """As a result."""
    with pytest.raises(TypeError, match=r"^result is what a serializer has made, text or bytes, and not a list; "):
        groups.store_group_result("application/json", "utf-8", "group", [])  # type: ignore[arg-type]


def test_the_database_that_django_calls_default_is_the_current_apps(
    tasks: TaskResultManager, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have no name here, and that is said at once."""
    monkeypatch.setattr("celery_journal.projections.managers.find_database", lambda: tasks.database)

    assert TaskResult.objects.using("default").store_result("", "", "task", None, "SUCCESS", using="default").status == "SUCCESS"
    for model in (TaskResult, GroupResult, ChordCounter):
        with pytest.raises(TypeError, match=r"^it takes an open psycopg\.Connection, not 'other': without one, the journal is"):
            model.objects.using("other")
        with pytest.raises(TypeError, match=r"^it takes an open psycopg\.AsyncConnection, not a Connection: "):
            model.aobjects.using(connection)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not 'other'"):
        tasks.store_result("", "", "task", None, "SUCCESS", using="other")


@dataclass
class Failing:
    """A journal whose connection breaks a few times: before, or after, the fact is recorded."""

    connection: Connection
    failures: int
    after: bool
    error: Exception
    journal: Journal = field(default_factory=Journal)
    emitter: Emitter = field(default_factory=Emitter)

    def reading(self) -> AbstractContextManager[Connection]:
        return self.whole()

    @contextmanager
    def whole(self) -> Iterator[Connection]:
        yield self.connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        fails, self.failures = self.failures > 0, self.failures - 1
        if fails and not self.after:
            raise self.error
        yield self.connection
        if fails:
            raise self.error


@pytest.mark.parametrize("after", [pytest.param(False, id="before-the-fact"), pytest.param(True, id="after-the-fact")])
@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("gone"), psycopg.errors.SerializationFailure("40001"), DatabaseUnreachable("away")]
)
def test_a_fact_is_told_again_when_the_connection_breaks(
    error: Exception, after: bool, tasks: TaskResultManager, connection: Connection
) -> None:
    """M53: twice unless `exception_retry_count` says otherwise; by the same id, so that it is recorded once."""
    if not after:
        with pytest.raises(type(error)):
            TaskResultManager(tasks.query, Failing(connection, 1, after, error)).store_result(
                "", "", "task", None, "SUCCESS", retries=0, exception_retry_count=0
            )
        assert told(connection, "task") == []

    task = TaskResultManager(tasks.query, Failing(connection, 2, after, error)).store_result("", "", "task", None, "SUCCESS", retries=0)

    assert task.status == "SUCCESS"
    assert told(connection, "task") == ["task-succeeded"]
    with pytest.raises(type(error)):
        TaskResultManager(tasks.query, Failing(connection, 3, after, error)).store_result("", "", "other", None, "SUCCESS", retries=0)
    with pytest.raises(type(error)):
        GroupResultManager(GroupResult.objects.query, Failing(connection, 2, after, error)).store_group_result(
            "", "", "group", "[]", exception_retry_count=1
        )


def test_a_mistake_is_not_told_again(tasks: TaskResultManager, connection: Connection) -> None:
    """M53: only what may pass is tried again."""
    failing = Failing(connection, 1, False, EventConflict([]))

    with pytest.raises(EventConflict):
        TaskResultManager(tasks.query, failing).store_result("", "", "task", None, "SUCCESS", retries=0)
    assert failing.failures == 0


def test_a_transaction_of_the_callers_own_is_theirs(tasks: TaskResultManager, connection: Connection, dsn: str) -> None:
    """`using` is another connection to the same journal: what is stored by it is undone with its transaction."""
    with psycopg.connect(dsn) as mine:
        assert tasks.store_result("", "", "task", None, "SUCCESS", using=mine).status == "SUCCESS"
        mine.rollback()

    assert told(connection, "task") == []


def test_what_ended_long_ago_is_expired(tasks: TaskResultManager, tell: Callable[..., None]) -> None:
    """M50, M57: after a number of seconds or a timedelta; None is never, and what has not ended does not expire."""
    tell(kinds.TaskSucceeded, "old", occurred_at=ago(hours=2))
    tell(kinds.TaskSucceeded, "young", occurred_at=ago(minutes=30))
    tell(kinds.TaskStarted, "running", occurred_at=ago(hours=3))

    assert [task.task_id for task in tasks.get_all_expired(HOUR)] == ["old"]
    assert [task.task_id for task in tasks.get_all_expired(3600)] == ["old"]
    assert tasks.get_all_expired(1.5).filter(status="SUCCESS").count() == 2
    assert tasks.get_all_expired(None).count() == 0


def test_what_is_expired_leaves_the_view_and_stays_in_the_log(
    tasks: TaskResultManager, tell: Callable[..., None], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M51, M58: in batches, by an event each; failures are no exception."""
    monkeypatch.setattr(expiry, "BATCH", 2)
    for number in range(5):
        tell(kinds.TaskFailed, f"old-{number}", occurred_at=ago(hours=2))
    tell(kinds.TaskSucceeded, "young", occurred_at=ago(minutes=30))

    assert tasks.delete_expired(None) == 0
    assert tasks.delete_expired(HOUR) == 5
    assert tasks.delete_expired(3600) == 0
    assert [task.task_id for task in tasks.all()] == ["young"]
    assert told(connection, "old-1") == ["task-failed", "task-expired"]
    assert verify(connection).differences == []


def test_an_old_group_expires_unless_its_chord_is_open(groups: GroupResultManager, tell: Callable[..., None]) -> None:
    """M64, M65: by the date it was saved."""
    for name in ("old", "chord"):
        tell(kinds.GroupSaved, name, occurred_at=ago(hours=2), members=("a",))
    tell(kinds.GroupSaved, "young", members=("a",))
    tell(kinds.ChordStarted, "chord", size=1, occurred_at=ago(hours=2))

    assert {group.group_id for group in groups.get_all_expired(HOUR)} == {"old", "chord"}
    assert groups.delete_expired(HOUR) == 1
    assert {group.group_id for group in groups.all()} == {"young", "chord"}


@pytest.mark.parametrize("year", [1970, 9999])
def test_what_an_impossible_clock_tells_expires_by_when_it_was_recorded(
    year: int, tasks: TaskResultManager, groups: GroupResultManager, tell: Callable[..., None], connection: Connection
) -> None:
    """Neither at once nor never, and both ways to ask agree."""
    tell(kinds.TaskSucceeded, "task", occurred_at=datetime(year, 1, 1, tzinfo=UTC))
    tell(kinds.GroupSaved, "group", occurred_at=datetime(year, 1, 1, tzinfo=UTC), members=("a",))
    young = [
        tasks.get_all_expired(HOUR).count(),
        groups.get_all_expired(HOUR).count(),
        tasks.delete_expired(HOUR),
        groups.delete_expired(HOUR),
    ]
    for table in ("task_result_row", "group_result_row"):
        connection.execute(f"update celery_journal.{table} set recorded_at = now() - interval '2 hours'".encode())

    assert young == [0, 0, 0, 0]
    assert [task.task_id for task in tasks.get_all_expired(HOUR)] == ["task"]
    assert [group.group_id for group in groups.get_all_expired(HOUR)] == ["group"]
    assert (tasks.delete_expired(HOUR), groups.delete_expired(HOUR)) == (1, 1)


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_polling_in_a_transaction_that_cannot_see_is_warned_of(level: psycopg.IsolationLevel, dsn: str) -> None:
    """M52, M54, M59, M61, M66: the second time that the same thing is not there."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = level
        tasks, groups = TaskResult.objects.using(connection), GroupResult.objects.using(connection)
        with warnings.catch_warnings(record=True) as none:
            warnings.simplefilter("always")
            tasks.get_task("task")
            tasks.get_task("another")
            groups.get_group("group")
        assert none == []
        assert (tasks._last_id, groups._last_id) == ("another", "group")
        with pytest.warns(TxIsolationWarning, match="use read committed"):
            tasks.get_task("another")
        with pytest.warns(TxIsolationWarning, match=str(level.name).lower().replace("_", " ")):
            groups.get_group("group")


def test_nothing_is_warned_of_where_polling_works(tasks: TaskResultManager) -> None:
    """M52: read committed sees what others commit."""
    tasks.get_task("task")
    tasks.get_task("task")
    tasks.warn_if_repeatable_read()


def test_what_is_stale_is_a_set(tasks: TaskResultManager, tell: Callable[..., None]) -> None:
    """F11: lazy; the oldest first; a task counts from its eta; which states are acceptable can be said."""
    tell(kinds.TaskSent, "young")
    tell(kinds.TaskSent, "queued", name="app.send", occurred_at=ago(hours=2))
    tell(kinds.TaskStarted, "running", occurred_at=ago(hours=3))
    tell(kinds.TaskSent, "later", occurred_at=ago(hours=4), eta=ago(minutes=10))
    tell(kinds.TaskSent, "late", occurred_at=ago(hours=4), eta=ago(minutes=70))
    tell(kinds.TaskSucceeded, "done", occurred_at=ago(hours=5))

    stale = tasks.get_stale_tasks(HOUR)

    assert [task.task_id for task in stale] == ["late", "running", "queued"]
    assert stale.filter(task_name="app.send").get().task_id == "queued"
    assert [task.task_id for task in tasks.get_stale_tasks(HOUR, ["STARTED", "SUCCESS"])] == ["late", "queued"]
    assert [task.task_id for task in tasks.get_stale_tasks(HOUR, [])] == ["done", "late", "running", "queued"]


def test_a_task_has_the_names_of_fulldbresult(tasks: TaskResultManager, tell: Callable[..., None]) -> None:
    """F07, F28, F29: `task`, `hostname`, `date_submitted`, `result_repr`; eta, expires and routing_key can be asked for."""
    sent, eta, expires = ago(minutes=3), ago(minutes=2), ago(minutes=1)
    tell(kinds.TaskSent, "task", name="app.add", queue="mail", occurred_at=sent, eta=eta, expires=expires)
    tell(kinds.TaskSucceeded, "task", worker="w1", result=b'{"total": null}')

    task = tasks.get(task_id="task")

    assert (task.task, task.hostname, task.date_submitted, task.result_repr) == ("app.add", "w1", sent, "{'total': None}")
    assert tasks.filter(eta=eta, expires=expires, hostname="w1", date_submitted=sent).values("eta", "expires").get() == {
        "eta": eta,
        "expires": expires,
    }
    assert tasks.filter(routing_key="mail").exists()
    assert TaskResult(task_id="x").result_repr is None
    assert TaskResult(task_id="x", result=b"text").result_repr == "text"
    assert TaskResult(task_id="x", result=b"\x80").result_repr == "gA=="


@pytest.mark.parametrize("length", [1, 255, 2000])
def test_an_id_may_be_as_long_as_an_index_holds(length: int, tasks: TaskResultManager, groups: GroupResultManager) -> None:
    """M75, M02, M27: 255 is no limit here, as django-celery-results has it on MySQL."""
    name = "ü" * length if length < 2000 else "x" * length

    assert tasks.store_result("", "", name, None, "SUCCESS").task_id == name
    assert tasks.get(task_id=name).status == "SUCCESS"
    assert tasks.filter(task_id__startswith=name[:-1]).count() == 1
    assert groups.store_group_result("", "", name, "[]").group_id == name


def test_without_a_journal_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projections know no Celery; the consumers' models do."""
    monkeypatch.setattr("celery_journal.projections.managers.find_database", None)

    with pytest.raises(NoJournal, match=r"say \.using\(connection\), or import the models from celery_journal.consumers.models"):
        TaskResult.objects.all()
