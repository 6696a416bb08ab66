"""Questions to the views: filter, exclude, order, slices (M20, M22-M25, M37, M38, M45, F17)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal import events as kinds
from celery_journal.projections import Avg, ChordCounter, Count, FieldError, GroupResult, Max, Min, Q, QuerySet, Sum, TaskResult, queryset
from celery_journal.projections.fields import CHORD_COUNTER, GROUP_RESULT, TASK_RESULT, View
from celery_journal.projections.managers import Manager, TaskResultManager
from celery_journal.projections.projection import Row
from tests.conftest import empty, new_database

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


@pytest.fixture(scope="module")
def told(embedded_server: str) -> Iterator[Connection]:
    """A journal that nobody here changes: six tasks of which three have ended, a saved group, and two chords."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            record(connection)
            yield connection


def record(connection: Connection) -> None:
    journal, emitter = Journal(), Emitter()

    def tell(kind: type[kinds.Event], stream: str, minute: float = 0, **fields: Any) -> None:
        journal.append(connection, emitter.emit(kind, stream, occurred_at=at(minute), **fields))

    def sent(stream: str, name: str, minute: float, args: bytes = b"[]", kwargs: bytes = b"{}", **fields: Any) -> None:
        tell(kinds.TaskSent, stream, minute, name=name, args=args, kwargs=kwargs, **fields)

    sent("waiting", "billing.charge", 0, args=b'["now", 7]', kwargs=b'{"user_id": 42, "tags": ["a", "b"]}', eta=at(90), queue="slow")
    sent("running", "billing.refund", 1, kwargs=b'{"user_id": "42"}')
    tell(kinds.TaskStarted, "running", 2, worker="w1", pid=11)
    sent("retried", "mail.send", 3)
    tell(kinds.TaskRetried, "retried", 4, attempt=0, worker="w2", pid=12, traceback="Traceback 100% of_it")
    sent("failed", "billing.charge", 5, args=b'["then", 8]', periodic_task_name="nightly")
    tell(kinds.TaskStarted, "failed", 6, worker="w1", pid=11)
    tell(kinds.TaskFailed, "failed", 8, worker="w1", pid=11, traceback="ValueError: no", result=b'{"exc_type": "ValueError"}')
    sent("done", "mail.send", 7)
    tell(
        kinds.TaskSucceeded,
        "done",
        9,
        worker="w2",
        result=b'{"total": 5, "lines": [{"sku": "x"}]}',
        content_type="application/json",
    )
    sent("binary", "Mail_send", 8, args=b"\x80pickled", kwargs=b"\x80", args_content_type="application/x-python-serialize")
    tell(kinds.TaskSucceeded, "binary", 10, worker="w3", result=b"\x80\x00")
    tell(kinds.GroupSaved, "group", 11, members=("done", "failed"), result=b"[]")
    tell(kinds.ChordStarted, "open", 1, size=2, result=b"[]")
    tell(kinds.ChordStarted, "over", 2, size=1, task_id="body")
    tell(kinds.ChordUnlocked, "over", 3, task_id="body")


@pytest.fixture
def tasks(told: Connection) -> TaskResultManager:
    return TaskResult.objects.using(told)


def ids(found: QuerySet[TaskResult]) -> list[str]:
    return [task.task_id for task in found]


EVERY = ["retried", "running", "waiting", "binary", "done", "failed"]


def test_a_list_begins_with_what_has_not_ended_and_then_the_newest(tasks: TaskResultManager) -> None:
    """M20: `date_done` descending with its nulls first, the key between equals."""
    assert ids(tasks.all()) == EVERY


@pytest.mark.parametrize(
    ("lookups", "found"),
    [
        pytest.param({"status": "SUCCESS"}, {"done", "binary"}, id="exact"),
        pytest.param({"status__exact": "SUCCESS"}, {"done", "binary"}, id="exact-named"),
        pytest.param({"worker": None}, {"waiting"}, id="exact-none"),
        pytest.param({"status": "SUCCESS", "task_name": "mail.send"}, {"done"}, id="two"),
        pytest.param({"status__in": ["FAILURE", "RETRY"]}, {"failed", "retried"}, id="in"),
        pytest.param({"status__in": []}, set(), id="in-nothing"),
        pytest.param({"date_done__gt": at(9)}, {"binary"}, id="gt"),
        pytest.param({"date_done__gte": at(9)}, {"binary", "done"}, id="gte"),
        pytest.param({"date_done__lt": at(9)}, {"failed"}, id="lt"),
        pytest.param({"date_done__lte": at(9)}, {"failed", "done"}, id="lte"),
        pytest.param({"pid": 11}, {"running", "failed"}, id="integer"),
        pytest.param({"pid__in": [11, 12]}, {"running", "failed", "retried"}, id="integers"),
        pytest.param({"pid__gt": 10**30}, set(), id="a-large-integer"),
        pytest.param({"traceback__isnull": False}, {"failed", "retried"}, id="isnull-false"),
        pytest.param({"date_done__isnull": True}, {"waiting", "running", "retried"}, id="isnull-true"),
        pytest.param({"task_name__contains": "ing.ch"}, {"waiting", "failed"}, id="contains"),
        pytest.param({"traceback__contains": "100% of_"}, {"retried"}, id="contains-no-pattern"),
        pytest.param({"task_name__contains": "l_s"}, {"binary"}, id="contains-no-wildcard"),
        pytest.param({"task_name__contains": "MAIL"}, set(), id="contains-its-case"),
        pytest.param({"task_name__icontains": "MAIL"}, {"done", "retried", "binary"}, id="icontains"),
        pytest.param({"task_name__startswith": "billing."}, {"waiting", "running", "failed"}, id="startswith"),
        pytest.param({"task_id__startswith": "re"}, {"retried"}, id="startswith-id"),
        pytest.param({"task_name__istartswith": "MAIL"}, {"done", "retried", "binary"}, id="istartswith"),
        pytest.param({"task_name__glob": "billing.*"}, {"waiting", "running", "failed"}, id="glob"),
        pytest.param({"task_name__glob": "mail?send"}, {"done", "retried"}, id="glob-one"),
        pytest.param({"task_name__glob": "mail_send"}, set(), id="glob-no-wildcard"),
        pytest.param({"task_name__glob": "%"}, set(), id="glob-no-pattern"),
        pytest.param({"run_time__gte": timedelta(minutes=2)}, {"failed"}, id="interval"),
        pytest.param({"eta": at(90)}, {"waiting"}, id="eta"),
        pytest.param({"date_done__within": timedelta(seconds=1)}, set(), id="within"),
        pytest.param({"date_done__older_than": timedelta(0)}, {"done", "failed", "binary"}, id="older-than"),
        pytest.param({"result": b"\x80\x00"}, {"binary"}, id="bytes"),
        pytest.param({"result__contains": b"\x00"}, {"binary"}, id="bytes-contain"),
        pytest.param({"result__contains": '"sku"'}, {"done"}, id="bytes-contain-text"),
        pytest.param({"args__startswith": b"\x80"}, {"binary"}, id="bytes-start"),
        pytest.param({"result_json": {"exc_type": "ValueError"}}, {"failed"}, id="json"),
        pytest.param({"kwargs_json__isnull": True}, {"binary"}, id="json-isnull"),
    ],
)
def test_a_lookup_finds_what_it_says(lookups: dict[str, Any], found: set[str], tasks: TaskResultManager) -> None:
    """M22-M25: each lookup, on each type of field that has it; and its opposite finds all others, those without a value too."""
    assert set(ids(tasks.filter(**lookups))) == found
    assert set(ids(tasks.exclude(**lookups))) == set(EVERY) - found


@pytest.mark.parametrize(
    ("lookup", "path", "found"),
    [
        pytest.param("result__path", {"total": 5}, {"done"}, id="result"),
        pytest.param("result__path", {"total": 5.0}, {"done"}, id="number"),
        pytest.param("result__path", {"total": "5"}, set(), id="text-is-no-number"),
        pytest.param("result__path", {"lines": [{"sku": "x"}]}, {"done"}, id="inside"),
        pytest.param("result__path", {"lines": {0: {"sku": "x"}}}, {"done"}, id="in-a-place-inside"),
        pytest.param("kwargs__path", {"user_id": 42}, {"waiting"}, id="kwargs"),
        pytest.param("kwargs__path", {"tags": ["b"]}, {"waiting"}, id="one-of-a-list"),
        pytest.param("args__path", {1: 7}, {"waiting"}, id="a-place"),
        pytest.param("args__path", {0: "then", 1: 8}, {"failed"}, id="two-places"),
        pytest.param("args__path", {1: 8, 0: "now"}, set(), id="two-places-of-two"),
        pytest.param("args__path", [7], {"waiting"}, id="anywhere"),
        pytest.param("args__0", "now", {"waiting"}, id="key-place"),
        pytest.param("kwargs__user_id", 42, {"waiting"}, id="key-name"),
        pytest.param("kwargs__tags__1", "b", {"waiting"}, id="key-inside"),
        pytest.param("kwargs_json__path", {"user_id": "42"}, {"running"}, id="view-column"),
        pytest.param("kwargs__path", {"user_id": "\0"}, set(), id="nul"),
        pytest.param("kwargs__path", {"user_id": "\ud800"}, set(), id="surrogate"),
        pytest.param("kwargs__path", {"user_id": float("nan")}, set(), id="nan"),
    ],
)
def test_a_path_looks_into_json(lookup: str, path: object, found: set[str], tasks: TaskResultManager) -> None:
    """F17: containment, and a number as a key is a place in a list; what is no JSON contains nothing."""
    assert set(ids(tasks.filter(**{lookup: path}))) == found


def test_what_can_be_gone_through_once_is_asked_for_twice(tasks: TaskResultManager) -> None:
    """A generator is kept as a list."""
    failed = tasks.filter(status__in=(state for state in ("FAILURE",)))

    assert ids(failed) == ids(failed) == ["failed"]


def test_conditions_are_put_together(tasks: TaskResultManager) -> None:
    """`&`, `|` and `~`, nested; an empty one says nothing."""
    mail, billing = Q(task_name__startswith="mail"), Q(task_name__startswith="billing")

    assert set(ids(tasks.filter(mail | billing))) == set(EVERY) - {"binary"}
    assert set(ids(tasks.filter((mail | billing) & Q(status="SUCCESS")))) == {"done"}
    assert set(ids(tasks.filter(~(mail | billing)))) == {"binary"}
    assert set(ids(tasks.filter(mail | ~Q(worker="w1"), status="SUCCESS"))) == {"done", "binary"}
    assert set(ids(tasks.filter(~~mail))) == {"done", "retried"}
    assert set(ids(tasks.filter(Q(), Q() | mail, mail & ~Q()))) == {"done", "retried"}
    assert repr(~(mail | billing)) == "~Q(task_name__startswith='mail' or task_name__startswith='billing')"


def test_a_condition_of_thousands_of_parts_is_answered(tasks: TaskResultManager) -> None:
    """A program may make them one by one."""
    condition = Q()
    for number in range(3000):
        condition |= Q(task_id=f"task-{number}")

    assert ids(tasks.filter(condition | Q(task_id="done"))) == ["done"]


def test_each_step_leaves_the_set_before_as_it_was(tasks: TaskResultManager) -> None:
    """M23: sets are made from sets, and asked when they are needed."""
    every = tasks.filter(task_name__startswith="billing")
    ended = every.exclude(date_done=None).order_by("task_id")

    assert len(every) == 3
    assert ids(ended) == ["failed"]
    assert ids(every.all()) == ["running", "waiting", "failed"]
    assert ids(every.none()) == []


@pytest.mark.parametrize(
    ("order", "found"),
    [
        pytest.param(["task_id"], ["binary", "done", "failed", "retried", "running", "waiting"], id="ascending"),
        pytest.param(["-task_id"], ["waiting", "running", "retried", "failed", "done", "binary"], id="descending"),
        pytest.param(["date_done"], ["failed", "done", "binary", "retried", "running", "waiting"], id="nulls-last"),
        pytest.param(["-worker", "task_name"], ["waiting", "binary", "done", "retried", "failed", "running"], id="two"),
        pytest.param(["-run_time", "-task"], ["running", "waiting", "done", "retried", "binary", "failed"], id="reckoned-and-alias"),
    ],
)
def test_rows_come_in_the_order_asked_for(order: list[str], found: list[str], tasks: TaskResultManager) -> None:
    """M23: by any field, either way, the key between equals."""
    got = ids(tasks.order_by(*order))

    assert got == found if "-run_time" not in order else got[-1] == "failed"


def test_a_slice_is_a_limit(tasks: TaskResultManager) -> None:
    """M23: lazily, and slices of slices; a row by its place."""
    assert ids(tasks.all()[:2]) == EVERY[:2]
    assert ids(tasks.all()[1:4]) == EVERY[1:4]
    assert ids(tasks.all()[1:5][1:2]) == EVERY[2:3]
    assert ids(tasks.all()[1:3][1:9]) == EVERY[2:3]
    assert ids(tasks.all()[4:]) == EVERY[4:]
    assert ids(tasks.all()[5:2]) == []
    assert tasks.all()[2].task_id == EVERY[2]
    assert tasks.all()[1:3][1].task_id == EVERY[2]
    assert tasks.all()[2:4].count() == 2
    assert not tasks.all()[9:].exists()
    with pytest.raises(IndexError, match="no row 9"):
        tasks.all()[9]
    with pytest.raises(IndexError):
        tasks.all()[1:3][2]


@pytest.mark.parametrize("place", [-1, slice(-2, None), slice(None, -1), slice(None, None, 2)])
def test_a_slice_from_the_end_is_refused(place: Any, tasks: TaskResultManager) -> None:
    """It would have to read everything; the sentence says what to do."""
    with pytest.raises(ValueError, match="counts from the first row"):
        tasks.all()[place]


def test_a_slice_cannot_be_filtered_or_ordered(tasks: TaskResultManager) -> None:
    """As in Django: whether before or after the slice would be anybody's guess."""
    with pytest.raises(TypeError, match="filter first"):
        tasks.all()[:3].filter(status="SUCCESS")
    with pytest.raises(TypeError, match="order first"):
        tasks.all()[:3].order_by("task_id")


def test_one_row_is_got(tasks: TaskResultManager) -> None:
    """M24: `get`, and an error of the model's own where there is none, or more than one."""
    assert tasks.get(task_id="done").task_name == "mail.send"
    assert tasks.get(pk="done", status="SUCCESS").task_id == "done"
    assert tasks.filter(status="RETRY").get().task_id == "retried"
    with pytest.raises(TaskResult.DoesNotExist, match="no row with Q\\(task_id='nobody'"):
        tasks.get(task_id="nobody")
    with pytest.raises(TaskResult.MultipleObjectsReturned, match="more than one"):
        tasks.get(task_name="mail.send")
    assert not issubclass(TaskResult.MultipleObjectsReturned, GroupResult.MultipleObjectsReturned)


def test_rows_are_counted(tasks: TaskResultManager) -> None:
    """`count`, `exists`, `first`, and the truth of a set."""
    nobody = tasks.filter(task_name="nobody")

    assert (tasks.count(), tasks.filter(status="SUCCESS").count(), nobody.count()) == (6, 2, 0)
    assert (tasks.exists(), nobody.exists(), bool(tasks.all()), bool(nobody)) == (True, False, True, False)
    assert (tasks.first(), nobody.first()) == (tasks.get(task_id="retried"), None)


def test_some_fields_are_read_alone(tasks: TaskResultManager) -> None:
    """`values`: under the names asked for, aliases and columns of the view too; all of the model's unless any is named."""
    assert list(tasks.filter(pk="done").values("task", "state", "result_json", "task_kwargs")) == [
        {"task": "mail.send", "state": "SUCCESS", "result_json": {"total": 5, "lines": [{"sku": "x"}]}, "task_kwargs": "{}"}
    ]
    assert tasks.values("task_id").first() == {"task_id": "retried"}
    assert tasks.filter(pk="done").values().get().keys() == TaskResult.model_fields.keys()
    assert list(tasks.order_by("task_id").values("task_id")[:1]) == [{"task_id": "binary"}]


def test_a_set_shows_its_first_rows(tasks: TaskResultManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django's does."""
    assert repr(tasks.filter(status="SUCCESS")) == "<QuerySet [<Task: binary (SUCCESS)>, <Task: done (SUCCESS)>]>"
    monkeypatch.setattr(queryset, "SHOWN", 1)
    assert repr(tasks.all()) == "<QuerySet [<Task: retried (RETRY)>, ...]>"


@pytest.mark.parametrize("manager", [TaskResult.objects, GroupResult.objects, ChordCounter.objects, ChordCounter.all_objects])
def test_every_model_is_asked_in_every_order(manager: Manager[Row], told: Connection) -> None:
    """M17, M33, M36: each field can be read, ordered by, and looked up by each lookup that it has."""
    rows = manager.using(told)
    samples: dict[str, object] = {
        "text": "x",
        "texts": "x",
        "bytes": b"x",
        "json": {"a": 1},
        "integer": 1,
        "boolean": True,
        "moment": NOON,
        "interval": timedelta(1),
    }
    for name, field in rows.query.view.fields.items():
        assert len(list(rows.order_by(f"-{name}").values(name))) == rows.count()
        for lookup in field.lookups:
            sample = samples[field.type]
            values = {"isnull": True, "in": [sample], "within": timedelta(1), "older_than": timedelta(1), "path": {"a": {0: 1}}}
            value = values.get(lookup, sample)
            assert rows.filter(**{f"{name}__{lookup}": value}).count() <= rows.count()


@pytest.mark.parametrize(
    ("model", "view"),
    [
        pytest.param(TaskResult, TASK_RESULT, id="task"),
        pytest.param(GroupResult, GROUP_RESULT, id="group"),
        pytest.param(ChordCounter, CHORD_COUNTER, id="chord"),
    ],
)
def test_every_field_of_a_model_and_column_of_its_view_is_known(model: type[Row], view: View, told: Connection) -> None:
    """A new one has to be entered, or nobody could ask for it."""
    columns = {column.name for column in told.execute(f"select * from celery_journal.{view.name} limit 0".encode()).description or ()}

    assert set(model.model_fields) <= set(view.fields)
    assert columns <= set(view.fields)
    assert set(view.aliases.values()) <= set(view.fields)


def test_a_group_is_found_by_its_date(told: Connection) -> None:
    """M37, M38: its `date_done` is reckoned from its members, and its list begins with the last that was saved."""
    groups = GroupResult.objects.using(told)

    assert [group.group_id for group in groups.filter(date_done__gte=at(9)).order_by("-date_done")] == ["group"]
    assert groups.filter(date_done__gt=at(9)).count() == 0
    assert groups.filter(members__contains="failed").get().date_done == at(9)
    with pytest.raises(GroupResult.DoesNotExist):
        groups.get(group_id="nobody")


def test_a_finished_chord_is_hidden(told: Connection) -> None:
    """M45: as its row is gone with django-celery-results; `all_objects` has it."""
    chords, every = ChordCounter.objects.using(told), ChordCounter.all_objects.using(told)

    assert [chord.group_id for chord in chords.all()] == ["open"]
    assert chords.get(group_id="open").sub_tasks == "[]"
    with pytest.raises(ChordCounter.DoesNotExist):
        chords.get(group_id="over")
    assert every.get(group_id="over").state == "unlocked"
    assert every.count() == 2


@pytest.mark.parametrize(
    ("lookups", "text"),
    [
        pytest.param({"tsk_name": 1}, r"task_result has no field 'tsk_name'; its fields are task_name, ", id="field"),
        pytest.param({"task_name__contians": "x"}, r"has no lookup 'contians'; its lookups are contains, icontains, ", id="lookup"),
        pytest.param({"pid__contains": 1}, r"task_result.pid has no lookup 'contains'; its lookups are exact, in, ", id="lookup-of-type"),
        pytest.param({"task_name__in__lower": 1}, r"has no lookup 'in__lower'", id="two-lookups"),
        pytest.param({"task_name": 5}, r"task_name is compared with text, not with 5", id="text"),
        pytest.param({"task_name__in": "abc"}, r"takes a list of values, not 'abc'", id="in"),
        pytest.param({"task_name__in": 5}, r"takes a list of values, not 5", id="in-number"),
        pytest.param({"pid": "x"}, r"pid is compared with a whole number, not with 'x'", id="integer"),
        pytest.param({"pid": True}, r"pid is compared with a whole number", id="bool"),
        pytest.param({"date_done__gte": NOON.replace(tzinfo=None)}, r"needs to know the time zone of 2026-01-01 12:00:00", id="naive"),
        pytest.param({"date_done__gte": "2026-01-01"}, r"is compared with an aware datetime", id="moment"),
        pytest.param({"date_done__within": 5}, r"takes a timedelta, not 5", id="within"),
        pytest.param({"run_time__gt": 5}, r"is compared with a timedelta", id="interval"),
        pytest.param({"result": 5}, r"is compared with bytes or text", id="bytes"),
        pytest.param({"traceback__isnull": 0}, r"traceback__isnull is True or False, not 0", id="isnull"),
        pytest.param({"args__first": 1}, r"task_result.args has no lookup 'first'", id="key-of-a-list"),
        pytest.param({"kwargs__user_id__gt": 1}, r"task_result.kwargs has no lookup 'user_id__gt'", id="key-with-lookup"),
        pytest.param({"result__total": 5}, r"task_result.result has no lookup 'total'", id="key-of-a-result"),
        pytest.param({"kwargs__path": {"a": timedelta(1)}}, r"is compared with what JSON can hold", id="json-timedelta"),
        pytest.param({"kwargs__path": {"a": object()}}, r"is compared with what JSON can hold", id="json"),
    ],
)
def test_what_does_not_exist_is_said(lookups: dict[str, Any], text: str, tasks: TaskResultManager) -> None:
    """An unknown field, lookup or kind of value is one sentence, where it is written and not where it is asked."""
    with pytest.raises(FieldError, match=text):
        tasks.filter(**lookups)
    with pytest.raises(FieldError, match=text):
        tasks.filter(Q(status="SUCCESS") | ~Q(**lookups))


def test_an_unknown_order_or_value_is_said(tasks: TaskResultManager) -> None:
    """The same for what is ordered by and what is read."""
    with pytest.raises(FieldError, match="no field 'date_doen'; its fields are date_done, "):
        tasks.order_by("-date_doen")
    with pytest.raises(FieldError, match="no field 'nothing'"):
        tasks.values("nothing")


HOSTILE = [
    "'; drop table celery_journal.task_result_row; --",
    "\\\"'",
    "%s",
    "%(limit)s",
    "{condition}",
    "$1",
    "a\0b",
    "\ud800",
    "%' or '1'='1",
]

#: The lookups that take text.
OF_TEXT = {"exact", "in", "contains", "icontains", "startswith", "istartswith", "glob", "path"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_is_never_sql(text: str, told: Connection, tasks: TaskResultManager) -> None:
    """In every lookup of every type that takes text, what is looked for is looked for, and nothing else happens."""
    for view, manager in ((TASK_RESULT, tasks), (GROUP_RESULT, GroupResult.objects), (CHORD_COUNTER, ChordCounter.all_objects)):
        rows = manager.using(told)
        for name, field in view.fields.items():
            if field.type in {"text", "texts", "bytes", "json"}:
                for lookup in OF_TEXT & set(field.lookups):
                    value = {"in": [text], "path": {text: [text], "x": {0: text}}}.get(lookup, text)
                    assert rows.filter(**{f"{name}__{lookup}": value}).count() == 0

    assert tasks.count() == 6


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_is_never_sql(text: str, tasks: TaskResultManager) -> None:
    """Where a field, a lookup or an order is named, there is only what the tables have."""
    for ask in (
        lambda: tasks.filter(**{text: 1}),
        lambda: tasks.filter(**{f"task_name__{text}": 1}),
        lambda: tasks.filter(**{f"kwargs__{text}": 1}),
        lambda: tasks.order_by(text),
        lambda: tasks.order_by(f"task_id {text}"),
        lambda: tasks.values(text),
    ):
        with pytest.raises(FieldError):
            ask()


def test_what_postgresql_cannot_hold_is_found_again(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A name with NUL is recorded escaped, and looked for the same way."""
    journal.append(connection, emitter.emit(kinds.TaskSent, "a\0b", name="\ud800"))
    tasks = TaskResult.objects.using(connection)

    assert tasks.filter(task_id="a\0b", task_name="\ud800").count() == 1
    assert tasks.filter(task_id__in=["a\0b"], task_name__contains="\ud800").exists()


@pytest.fixture
def many(connection: Connection, journal: Journal, emitter: Emitter) -> Iterator[TaskResultManager]:
    """Two and a half pages of tasks."""
    journal.append(connection, *(emitter.emit(kinds.TaskSent, f"task-{number:04}") for number in range(2500)))
    yield TaskResult.objects.using(connection)
    empty(connection)


def test_a_loop_reads_page_by_page(many: TaskResultManager, connection: Connection) -> None:
    """Flat memory: the rows stay with the server, in a cursor that goes when the loop is over."""
    names = connection.execute
    rows = iter(many.order_by("task_id"))

    assert next(rows).task_id == "task-0000"
    assert names(b"select count(*) from pg_cursors where name like 'rows_%%'", ()).fetchone() == (1,)
    assert sum(1 for _ in rows) == 2499
    assert names(b"select count(*) from pg_cursors").fetchone() == (0,)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_what_a_loop_did_before_it_was_left_stands(
    many: TaskResultManager, connection: Connection, journal: Journal, emitter: Emitter, dsn: str
) -> None:
    """A loop is a transaction of its connection, and to leave it early is no failure."""
    for task in many.all():
        journal.append(connection, emitter.emit(kinds.TaskSucceeded, task.task_id))
        break

    with psycopg.connect(dsn) as another:
        assert TaskResult.objects.using(another).filter(status="SUCCESS").count() == 1
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_loop_asks_anew_and_a_list_is_kept(many: TaskResultManager, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A set that was read whole is not read twice; `all()` makes one that asks again."""
    found = many.filter(status="SUCCESS")

    assert [task.task_id for task in found] == []
    journal.append(connection, emitter.emit(kinds.TaskSucceeded, "task-0001"))
    assert [task.task_id for task in found] == ["task-0001"]
    assert len(found) == 1
    journal.append(connection, emitter.emit(kinds.TaskSucceeded, "task-0002"))
    assert len(list(found)) == 1
    assert (found[0].task_id, bool(found), repr(found)) == ("task-0001", True, "<QuerySet [<Task: task-0001 (SUCCESS)>]>")
    assert len(found.all()) == 2


def test_a_list_is_one_question(many: TaskResultManager, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """`list()` asks how long a set is first, and that is the reading of it."""
    asked: list[object] = []
    execute = psycopg.Cursor.execute

    def noting(self: psycopg.Cursor[Any], query: Any, *rest: Any) -> object:
        asked.append(query)
        return execute(self, query, *rest)

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)

    assert len(list(many.all())) == 2500
    assert len(asked) == 1


def test_a_set_is_read_in_a_transaction_of_the_callers(many: TaskResultManager, connection: Connection) -> None:
    """The caller's transaction goes on after it."""
    with connection.transaction():
        connection.execute("create temporary table mine (id integer)")
        assert sum(1 for _ in many.all()) == 2500
        connection.execute("select * from mine")


def test_fields_are_read_as_tuples(tasks: TaskResultManager) -> None:
    """`values_list`: plain, with names, and of one field the values themselves; under the names asked for, and sliced and filtered."""
    done = tasks.filter(status="SUCCESS").order_by("task_id")

    assert list(done.values_list("pk", "state")) == [("binary", "SUCCESS"), ("done", "SUCCESS")]
    assert list(done.values_list("task_id", flat=True)) == ["binary", "done"]
    assert [row.task for row in done.values_list("task", "worker", named=True)] == ["Mail_send", "mail.send"]
    assert done.values_list("task_id", flat=True)[1:].get() == "done"
    assert done.values_list("task_id", flat=True).filter(worker="w2").first() == "done"
    assert done.values_list("task_args", flat=True).last() == "[]"
    assert len(done.values_list().get(task_id="done")) == len(TaskResult.model_fields)
    assert repr(done.values_list("task_id", flat=True)) == "<QuerySet ['binary', 'done']>"


@pytest.mark.parametrize("asked", [{"flat": True}, {"flat": True, "names": ("task_id", "status")}, {"flat": True, "named": True}])
def test_only_one_field_is_flat(asked: dict[str, Any], tasks: TaskResultManager) -> None:
    """As Django has it."""
    names = asked.pop("names", ())

    with pytest.raises(TypeError, match="flat is for one field"):
        tasks.values_list(*names, **asked)


@pytest.mark.parametrize("order", [[], ["date_done"], ["-status", "worker"], ["task_id"], ["-task_id"], ["-pk", "status"]])
def test_the_last_row_is_the_last_of_the_list(order: list[str], tasks: TaskResultManager) -> None:
    """Whatever the order, with what has no date at its place; None of nothing, and not of a slice."""
    ordered = tasks.order_by(*order) if order else tasks.all()

    assert ordered.last() == list(ordered)[-1]
    assert ordered.filter(status="SUCCESS").last() == list(ordered.filter(status="SUCCESS"))[-1]
    assert tasks.none().last() is None
    with pytest.raises(TypeError, match="a slice cannot be read from its end"):
        ordered[:2].last()


def test_what_is_the_same_is_left_out(tasks: TaskResultManager) -> None:
    """`distinct`, of `values` and `values_list`: in the order asked for, counted, sliced, and before or after what is read."""
    assert list(tasks.values_list("status", flat=True).distinct()) == ["FAILURE", "PENDING", "RETRY", "STARTED", "SUCCESS"]
    assert list(tasks.distinct().values_list("status", flat=True).order_by("-status")[:2]) == ["SUCCESS", "STARTED"]
    assert list(tasks.values("worker").distinct().exclude(worker=None)) == [{"worker": "w1"}, {"worker": "w2"}, {"worker": "w3"}]
    assert tasks.values("task").distinct().count() == 4
    assert tasks.values("task").distinct()[1:3].count() == 2
    assert tasks.values("task").distinct().exists()
    assert tasks.values_list("state", flat=True).distinct().last() == "SUCCESS"
    assert len(tasks.distinct()) == len(EVERY)
    assert list(tasks.values_list("result_json", flat=True).distinct().filter(task_id="done")) == [{"total": 5, "lines": [{"sku": "x"}]}]
    with pytest.raises(TypeError, match="of a slice nothing is left out"):
        tasks.values("task")[:2].distinct()
    with pytest.raises(FieldError, match="distinct rows of status have no worker to be put in the order of"):
        list(tasks.order_by("worker").values("status").distinct())


def test_rows_are_reckoned_with(tasks: TaskResultManager) -> None:
    """`aggregate`: dates, durations, numbers and texts, under Django's names or one's own; of nothing it is None, or 0."""
    took = timedelta(minutes=2)

    assert tasks.aggregate(Min("date_done"), Max("date_done")) == {"date_done__min": at(8), "date_done__max": at(10)}
    assert tasks.aggregate(Count("worker")) == {"worker__count": 5}
    assert tasks.aggregate(
        tasks=Count("*"), ran=Count("worker"), workers=Count("worker", distinct=True), last=Max("task_name"), most=Max("retries")
    ) == {"tasks": 6, "ran": 5, "workers": 3, "last": "mail.send", "most": 0}
    assert tasks.filter(task_id="failed").aggregate(Avg("run_time"), Sum("run_time"), Max("run_time")) == {
        "run_time__avg": took,
        "run_time__sum": took,
        "run_time__max": took,
    }
    assert tasks.aggregate(Sum("pid"), Avg("pid")) == {"pid__sum": 34, "pid__avg": 34 / 3}
    assert tasks.none().aggregate(Count("pk"), Max("date_done"), Sum("pid")) == {"pk__count": 0, "date_done__max": None, "pid__sum": None}
    assert tasks.order_by("date_created")[:2].aggregate(Max("date_created"), tasks=Count("*")) == {"date_created__max": at(1), "tasks": 2}
    assert tasks.values("status").distinct().aggregate(states=Count("status")) == {"states": 5}
    assert tasks.aggregate() == {}


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        pytest.param(Avg("date_done"), FieldError, "Avg is not reckoned of task_result.date_done, which is a date", id="mean-date"),
        pytest.param(Sum("task_name"), FieldError, "Sum is not reckoned of task_result.task_name, which is text", id="sum-of-text"),
        pytest.param(Max("result"), FieldError, "Max is not reckoned of task_result.result, which is bytes", id="most-bytes"),
        pytest.param(Count("wroker"), FieldError, "has no field 'wroker'; its fields are worker", id="unknown"),
        pytest.param(Max("*"), FieldError, "has no field '\\*'", id="most-rows"),
        pytest.param(Count("*"), TypeError, 'needs a name: aggregate\\(total=Count\\("\\*"\\)\\)', id="nameless"),
        pytest.param("date_done", TypeError, "'date_done' is none of Count, Min, Max, Avg and Sum", id="text"),
    ],
)
def test_what_cannot_be_reckoned_is_said(asked: Any, error: type[Exception], text: str, tasks: TaskResultManager) -> None:
    """In one sentence."""
    with pytest.raises(error, match=text):
        tasks.aggregate(asked)


def test_of_distinct_rows_only_what_they_have_is_reckoned(tasks: TaskResultManager) -> None:
    """The fields that they were asked for by."""
    with pytest.raises(FieldError, match="distinct rows of status have no date_done; name it in values\\(\\) as well"):
        tasks.values("status").distinct().aggregate(Max("date_done"))


def test_an_iterator_reads_in_chunks_and_keeps_nothing(many: TaskResultManager, connection: Connection) -> None:
    """Of a set, of a manager and of a slice."""
    kept = many.all()
    length = len(kept)
    rows = kept.iterator(chunk_size=2)

    assert next(rows).task_id
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert len(list(rows)) == length - 1
    assert len(list(many.iterator())) == length
    assert len(list(many.all()[:3].iterator(2))) == 3
