"""The words by which people find tasks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from kombu.utils import json

from celery_journal.consumers import narrowing, search
from celery_journal.consumers.search import BadQuery, doubts, parse, split
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskFailed, TaskLost, TaskRetried, TaskSent, TaskStarted, TaskSucceeded
from celery_journal.projections import TaskResult, lookups

from .lostscene import Log

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def before(**span: float) -> datetime:
    return NOW - timedelta(**span)


def known(embedded_database: str) -> Iterator[Connection]:
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        log = Log(connection)
        failed = {"traceback": "Traceback (most recent call last):\nTimeoutError: no answer", "attempt": 3}
        log.tell(
            TaskFailed,
            "f1",
            name="billing.charge",
            worker="w3@here",
            queue="mail",
            root_id="r",
            parent_id="p",
            group_id="g",
            periodic_task_name="nightly",
            args=b'["first", {"deep": [1, 2]}]',
            kwargs=b'{"user_id": 42, "who": {"name": "Ann"}}',
            occurred_at=before(hours=3),
            **failed,
        )
        log.tell(TaskStarted, "s1", name="billing.refund", worker="w4@here", occurred_at=before(minutes=61), kwargs=b'{"user_id": "42"}')
        log.tell(TaskSucceeded, "s1", worker="w4@here", occurred_at=before(minutes=60), result=b'{"total": 5, "flag": true}')
        log.tell(TaskRetried, "t1", name="shop.order", worker="w3", attempt=1, occurred_at=before(minutes=10))
        log.tell(TaskSent, "q1", name="shop.order", queue="slow", occurred_at=before(days=2))
        log.tell(TaskLost, "q1", reason="nobody consumes slow")
        yield connection


scene = pytest.fixture(scope="module")(known)


def found(scene: Connection, *words: str) -> set[str]:
    return {row["task_id"] for row in TaskResult.objects.using(scene).filter(parse(words, NOW)).values("task_id")}


FINDING: list[Any] = [
    ("", {"f1", "s1", "t1", "q1"}),
    ("state:FAILURE", {"f1"}),
    ("state:FAILURE,RETRY", {"f1", "t1"}),
    ("status:failure", {"f1"}),
    ("-state:FAILURE", {"s1", "t1", "q1"}),
    ("name:billing.*", {"f1", "s1"}),
    ("name:billing.charge", {"f1"}),
    ("name:billing", set()),
    ("name:billing.charg?", {"f1"}),
    ("task:shop.order,billing.charge", {"f1", "t1", "q1"}),
    ("BILLING", {"f1", "s1"}),
    ("q", {"q1"}),
    ("billing.*", {"f1", "s1"}),
    ("?1", {"f1", "s1", "t1", "q1"}),
    ("illing.*", set()),
    ("id:q1", {"q1"}),
    ("id:?1", {"f1", "s1", "t1", "q1"}),
    ("worker:w3", {"f1", "t1"}),
    ("worker:here", {"f1", "s1"}),
    ("worker:w3@here", {"f1"}),
    ("-worker:w3", {"s1", "q1"}),
    ("queue:slow", {"q1"}),
    ("root:r", {"f1"}),
    ("parent:p", {"f1"}),
    ("group:g", {"f1"}),
    ("periodic:night*", {"f1"}),
    ("error:timeouterror", {"f1"}),
    ("lost:yes", {"q1"}),
    ("lost:no", {"f1", "s1", "t1"}),
    ("retries:3", {"f1"}),
    ("retries:>=1", {"f1", "t1"}),
    ("retries:<1", {"s1", "q1"}),
    ("took:>10s", {"s1"}),
    ("took:<1min", set()),
    ("since:2h", {"s1", "t1"}),
    ("since:1h30min", {"s1", "t1"}),
    ("since:2026-01-31", {"f1", "s1", "t1"}),
    ("since:2026-01-31T11:30", {"t1"}),
    ("since:2026-01-31T12:30+01:00", {"t1"}),
    ("until:2h", {"f1", "q1"}),
    ("until:1d since:1w", {"q1"}),
    ("args.user_id:42", {"f1", "s1"}),
    ("'kwargs.user_id:\"42\"'", {"s1"}),
    ("kwargs.who.name:Ann", {"f1"}),
    ("'kwargs:{\"user_id\":42}'", {"f1"}),
    ("args.0:first", {"f1"}),
    ("args.1:first", set()),
    ("args.1.deep.1:2", {"f1"}),
    ("args.1.deep.0:2", set()),
    ("result.total:5", {"s1"}),
    ("result.flag:true", {"s1"}),
    ("-result.total:5", {"f1", "t1", "q1"}),
    ("state:FAILURE name:billing.* -worker:w4 since:1d args.user_id:42", {"f1"}),
]


@pytest.mark.parametrize(("words", "ids"), FINDING)
def test_words_find_tasks(words: str, ids: set[str], scene: Connection) -> None:
    """M22, M23, M25, F17, F30: each word by itself, with a hyphen, and together."""
    assert found(scene, *split(words)) == ids


@pytest.mark.parametrize(
    "words", [*(words for words, _ in FINDING), "name:*", "name:x*", "nothing", "worker:w9", "-name:*.order -worker:w4", "*"]
)
def test_names_in_the_place_of_patterns_find_the_same(words: str, scene: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where there are more names than are looked through, the patterns stay."""
    condition = parse(split(words), NOW)

    for most in (narrowing.MOST, 1):
        monkeypatch.setattr(narrowing, "MOST", most)
        tasks = TaskResult.objects.using(scene).filter(narrowing.narrowed(condition, scene))
        assert {row["task_id"] for row in tasks.values("task_id")} == found(scene, *split(words))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("colour:red", "there is no colour:; for text with a colon write 'name:*colour:red*'"),
        ("nam:x", "perhaps name:"),
        ("STATE:FAILURE", "perhaps state:"),
        ("state=FAILURE", "'state=FAILURE' means nothing; write state:FAILURE"),
        ("args.user_id=42", "write args.user_id:42"),
        ("state.x:FAILURE", "there is no state.x:"),
        ("state:", "'state:' has no value; write state:FAILURE,RETRY"),
        ("-", "write -worker:w3"),
        ("", "an empty word means nothing"),
        ("since:soon", "'soon' is no moment"),
        ("since:2026-13-01", "'2026-13-01' is no moment"),
        ("since:9999999d", "is before time is reckoned"),
        ("until:99999999999w", "is longer than time is reckoned"),
        ("took:10s", "write took:>10s"),
        ("took:>10", "'10' is no span of time"),
        ("retries:-1", "write retries:2"),
        ("lost:maybe", "write lost:yes or lost:no"),
        ("settled:maybe", "write settled:yes or settled:no"),
        ("overlap:2", "write overlap:yes or overlap:no"),
        ("replayed:maybe", "write replayed:yes, replayed:no or replayed:failed"),
        ("runs:often", "write runs:2 or runs:>2"),
        ("\x1b[2J:x", r"there is no \x1b[2J:"),
    ],
)
def test_a_word_that_means_nothing_says_what_does(word: str, sentence: str) -> None:
    """In one sentence, fit for a terminal."""
    with pytest.raises(BadQuery) as refused:
        parse([word], NOW)

    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()


def test_what_may_be_wrong_with_words_that_found_nothing_is_said() -> None:
    """A state that Celery does not have, and a moment that is still to come; whatever else may be right."""
    words = ["-status:failed,SUCCESS,fail*,PROGRESS", "since:2026-01-31T13:00", "since:2h", "name:FAILED", "FAILED", "until:2030-01-01"]

    assert list(doubts(words, NOW)) == [
        "failed is none of Celery's states; perhaps you mean FAILURE",
        "PROGRESS is none of Celery's states; they are FAILURE, IGNORED, PENDING, RECEIVED, REJECTED, RETRY, REVOKED, STARTED, SUCCESS",
        "since:2026-01-31T13:00 is in the future: it is 2026-01-31T12:00 now, in UTC",
    ]


def test_a_quotation_mark_that_is_missing_is_told() -> None:
    """Where words come as one text, as of `replay --filter`."""
    assert split("name:'a task' state:FAILURE") == ["name:a task", "state:FAILURE"]
    with pytest.raises(BadQuery, match="a quotation mark is missing"):
        split("name:'a task")


INJECTIONS = [
    "'; drop table celery_journal.task_result_row; --",
    "\\",
    "%s %(x)s %%",
    "{condition} {0}",
    "$1",
    "x' or '1'='1",
    "\0",
    "\ud800",
    "[" * 10_000,
    '{"\\u0000": "\\ud800"}',
    "9" * 5000,
    "1e999",
    "NaN",
]


@pytest.mark.parametrize("injection", INJECTIONS, ids=lambda text: ascii(text[:20]))
def test_a_value_is_never_sql(injection: str, scene: Connection) -> None:
    """M22: of every word, and in every name inside arguments and results, it is compared with or refused."""
    words = [*(f"{name}:{injection}" for name in search.WORDS), injection]
    words += [f"{key}.{place}:{value}" for key in ("args", "kwargs", "result") for place, value in ((injection, "1"), ("a.0", injection))]
    for word in (*words, *(f"-{word}" for word in words)):
        try:
            condition = parse([word], NOW)
        except BadQuery:
            continue
        list(TaskResult.objects.using(scene).filter(condition).values("task_id"))

    assert found(scene) == {"f1", "s1", "t1", "q1"}


TYPED = {
    "uuid": UUID("2f1c6c3a-0000-4000-8000-0000000000ab"),
    "number": UUID(int=int("1" * 32, 16)),
    "amount": Decimal("19.90"),
    "count": Decimal(7),
    "day": date(2026, 5, 4),
    "at": time(10, 30),
    "naive": datetime(2026, 5, 4, 10),  # noqa: DTZ001  users have them
    "due": datetime(2026, 5, 4, 10, 0, 0, 5000, UTC),
    "there": datetime(2026, 5, 4, 10, tzinfo=timezone(timedelta(hours=2))),
}


@pytest.fixture(scope="module")
def typed(embedded_database: str) -> Iterator[Connection]:
    """Each value as the argument of a task, by place, by name and inside, and as a result; and the text that it is written as."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        log = Log(connection)
        for name, value in TYPED.items():
            for task_id, written in ((name, value), (f"{name}-text", str(value))):
                args, kwargs = json.dumps([written]).encode(), json.dumps({"it": written, "order": {"its": [written]}}).encode()
                log.tell(TaskSent, task_id, name="shop.typed", args=args, kwargs=kwargs)
                log.tell(TaskSucceeded, task_id, result=json.dumps({"it": written}).encode(), content_type="application/json")
        yield connection


SPELLED: list[Any] = [
    ("2f1c6c3a-0000-4000-8000-0000000000ab", {"uuid", "uuid-text"}),
    ("2F1C6C3A-0000-4000-8000-0000000000AB", {"uuid"}),
    ("2f1c6c3a0000400080000000000000ab", {"uuid"}),
    ("1" * 32, {"number"}),
    ("19.90", {"amount", "amount-text"}),
    ("19.9", set()),
    ("7", {"count", "count-text"}),
    ("2026-05-04", {"day", "day-text"}),
    ("20260504", set()),
    ("10:30", {"at"}),
    ("10:30:00", {"at", "at-text"}),
    ("2026-05-04T10:00", {"naive"}),
    ("2026-05-04T10:00:00.005", {"due"}),
    ("2026-05-04T10:00:00.005Z", {"due"}),
    ("2026-05-04T10:00:00+02:00", {"there"}),
    ('"2026-05-04"', {"day-text"}),
]


@pytest.mark.parametrize(("value", "ids"), SPELLED)
@pytest.mark.parametrize("where", ["args.0", "args", "kwargs.it", "args.it", "kwargs.order.its.0", "result.it"])
def test_a_value_whose_type_json_has_not_is_found_as_its_text_is(where: str, value: str, ids: set[str], typed: Connection) -> None:
    """A UUID, a Decimal, a date, a time or a moment, as kombu stores it; and what must not be so is all the others."""
    assert found(typed, "name:shop.typed", f"{where}:{value}") == ids
    everything = {one for name in TYPED for one in (name, f"{name}-text")}
    assert found(typed, "name:shop.typed", f"-{where}:{value}") == everything - ids


@pytest.mark.parametrize("name", TYPED)
def test_python_finds_it_by_the_value(name: str, typed: Connection) -> None:
    """The value itself, in a path or after the name of its argument; its text is another value."""
    tasks, value = TaskResult.objects.using(typed).filter(task_name="shop.typed"), TYPED[name]

    for asked in (
        {"args__0": value},
        {"args__path": {0: value}},
        {"args__path": [value]},
        {"args__path": value},
        {"kwargs__it": value},
        {"kwargs__order__its__0": value},
        {"kwargs__path": {"order": {"its": [value]}}},
        {"result__path": {"it": value}},
    ):
        assert [task.task_id for task in tasks.filter(**asked)] == [name]
    assert [task.task_id for task in tasks.filter(kwargs__it=str(value))] == [f"{name}-text"]


@pytest.mark.parametrize("value", [*TYPED.values(), b"text", b"\xff"])
def test_what_is_looked_for_is_what_kombu_writes(value: object) -> None:
    """On every version of it: what it changes, nobody would find."""
    assert lookups.as_json("kwargs__path", {"a": [value]}) == json.dumps({"a": [value]}).encode()
