"""What came of tasks that were sent again, and how often they ran: the words that ask for it, and what lists and counts make of it."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_journal.consumers.search import parse
from celery_journal.consumers.settlement import settled_in
from celery_journal.journal import Connection
from celery_journal.journal.constraints import MAX_ID_BYTES
from celery_journal.journal.events import (
    OperatorActed,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskReplaced,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.projections import TaskResult, rebuild, verify

from .commanding import Commands
from .lostscene import Log, ago
from .test_cli import as_url

DONE = {"SUCCESS", "IGNORED"}

ERROR: dict[str, Any] = {
    "traceback": "Traceback (most recent call last):\nValueError: no",
    "result": b'{"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}',
    "content_type": "application/json",
    "content_encoding": "utf-8",
}


@pytest.fixture
def url(embedded_database: str) -> str:
    return as_url(embedded_database)


def found(connection: Connection, *words: str) -> set[str]:
    """Return the tasks that the words find."""
    tasks = TaskResult.objects.using(connection).filter(parse(words, datetime.now(UTC)))
    return {row["task_id"] for row in tasks.values("task_id")}


def failed(log: Log, task_id: str, run: str = "r1", **fields: Any) -> None:
    log.tell(TaskFailed, task_id, **{"name": "app.send", "worker": "w1", "run": run, **ERROR, **fields})


def succeeded(log: Log, task_id: str, run: str = "r1", **fields: Any) -> None:
    log.tell(TaskSucceeded, task_id, **{"name": "app.send", "worker": "w1", "run": run, **fields})


def replayed(log: Log, task_id: str, copy: str | None = None) -> None:
    log.tell(TaskReplayed, task_id, task_id=copy, replay="r", source="operator")


def resolved(log: Log, task_id: str, *, so: bool = True) -> None:
    log.tell(OperatorActed, task_id, action="annotate", meta=json.dumps({"resolved": so}).encode(), source="operator")


# Whether it is settled, by the journal and by what Python makes of the same facts

TASKS = st.sampled_from("abcdef")
WHAT = st.sampled_from(["sent", "started", "failed", "revoked", "succeeded", "ignored", "forgotten", "resolved", "unresolved"])
FACTS = st.one_of(
    st.tuples(WHAT, TASKS),
    st.tuples(st.sampled_from(["replayed", "replayed", "replayed", "doubted"]), TASKS, TASKS),
    st.tuples(st.just("replayed"), TASKS, st.none()),
)
ENDS: dict[str, Any] = {"failed": TaskFailed, "revoked": TaskRevoked, "succeeded": TaskSucceeded, "ignored": TaskIgnored}
Fact = tuple[str, str] | tuple[str, str, str | None]


@pytest.fixture(scope="module")
def journal(embedded_database: str) -> Iterator[Log]:
    """One journal for all examples, whose tasks have names of their own."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        yield Log(connection)


numbers = itertools.count()


def tell(log: Log, fact: Fact, prefix: str, place: int) -> None:
    what, task_id = fact[0], prefix + fact[1]
    run = {"worker": "w1", "run": f"{task_id} {place}"}
    match what:
        case "replayed":
            replayed(log, task_id, prefix + fact[2] if len(fact) == 3 and fact[2] else None)
        case "doubted":
            copy = prefix + (fact[2] or "") if len(fact) == 3 else None
            log.tell(OperatorActed, task_id, action="replay-doubted", label="r", task_id=copy, source="operator")
        case "sent":
            log.tell(TaskSent, task_id, name="app.send")
        case "started":
            log.tell(TaskStarted, task_id, name="app.send", **run)
        case "forgotten":
            log.tell(TaskForgotten, task_id)
        case "resolved" | "unresolved":
            resolved(log, task_id, so=what == "resolved")
        case _:
            log.tell(ENDS[what], task_id, name="app.send", **run)


def judged(facts: list[Fact], rows: dict[str, str | None]) -> tuple[dict[str, set[str]], set[str], set[str]]:
    """Return as what each has succeeded, what was sent again, and what of that has failed; `rows` has the states, None of what goes on."""
    edges = [(fact[0], fact[1], fact[2] or fact[1]) for fact in facts if len(fact) == 3]
    heard_to_succeed = {fact[1] for fact in facts if fact[0] in {"succeeded", "ignored"}}
    runs: dict[str, str] = {}
    for what, task_id, *_ in facts:
        if what == "forgotten":
            runs.pop(task_id, None)
        elif what in {"sent", "started", *ENDS}:
            runs[task_id] = what
    copies = defaultdict[str, set[str]](set)
    last: dict[str, str] = {}
    for what, task_id, copy in edges:
        if rows.get(copy) in DONE or (copy not in rows and task_id in rows and copy in heard_to_succeed):
            copies[task_id].add(copy)
        if what == "replayed" or copy in rows:
            last[task_id] = copy
    lost = {
        task_id
        for task_id, copy in last.items()
        if rows.get(copy) is not None
        and rows[copy] not in DONE
        and (runs.get(task_id) in {"failed", "revoked"} if copy == task_id else copy not in last)
    }
    for _ in edges:
        for _, task_id, copy in edges:
            copies[task_id] |= copies[copy]
        lost |= {task_id for task_id, copy in last.items() if copy in lost}
    succeeded_as = {task_id: those for task_id, those in copies.items() if those}
    return succeeded_as, last.keys() | succeeded_as.keys(), lost - succeeded_as.keys()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FACTS, max_size=14))
def test_it_is_judged_as_python_judges_the_same_facts(journal: Log, facts: list[Fact]) -> None:
    """Whatever was sent again as what, in a circle or under its own id, in doubt, forgotten, resolved and not."""
    prefix = f"{next(numbers)}-"
    for place, fact in enumerate(facts):
        tell(journal, fact, prefix, place)
    tasks = TaskResult.objects.using(journal.connection).filter(task_id__startswith=prefix)
    rows = {row["task_id"].removeprefix(prefix): row["status"] if row["date_done"] else None for row in tasks.values()}
    succeeded_as, again, lost = judged(facts, rows)
    notes = {fact[1]: fact[0] for fact in facts if fact[0] in {"resolved", "unresolved"}}
    noted = {task_id for task_id, note in notes.items() if note == "resolved"}

    those = [prefix + one for one in "abcdef"]
    why = {key.removeprefix(prefix): words for key, words in settled_in(journal.connection, those).items()}
    words = ("replayed:yes", "replayed:failed", "settled:yes", "replayed:no", "settled:no")
    sets = [{one.removeprefix(prefix) for one in found(journal.connection, f"id:{prefix}*", word)} for word in words]

    assert why.keys() == noted | succeeded_as.keys()
    assert all(words == "resolved" for key, words in why.items() if key in noted)
    assert all(words.split()[2].removeprefix(prefix)[0] in succeeded_as[key] for key, words in why.items() if key not in noted)
    there = rows.keys()
    assert sets == [again & there, lost & there, why.keys() & there, there - again, there - why.keys()]


def test_the_longest_ids_can_be_sent_again(log: Log) -> None:
    """No index takes both of them in one entry."""
    first, second = ("".join(uuid4().hex for _ in range(80))[:MAX_ID_BYTES] for _ in range(2))
    failed(log, first)
    replayed(log, first, second)
    log.tell(OperatorActed, first, action="replay-doubted", label="r", task_id=second, source="operator")
    succeeded(log, second)

    assert settled_in(log.connection, [first]) == {first: f"replayed as {second}, which has succeeded"}


# How often it ran


def test_runs_are_counted_whatever_began_them(log: Log) -> None:
    """A first try, another one, and one that was delivered twice; what has not begun has run never."""
    log.sent("waits")
    log.received("received")
    for task_id in ("once", "retried", "doubled"):
        log.started(task_id)
    log.tell(TaskRetried, "retried", worker="w1", run="r1")
    log.started("retried", run="r2", attempt=1)
    log.started("doubled", worker="w2", run="r2")

    assert found(log.connection, "runs:0") == {"waits", "received"}
    assert found(log.connection, "runs:1") == {"once"}
    assert (
        found(log.connection, "runs:>1") == found(log.connection, "runs:2") == found(log.connection, "runs:>=2") == {"retried", "doubled"}
    )
    assert found(log.connection, "runs:<=1") == found(log.connection, "runs:<2") == found(log.connection, "-runs:>1")
    assert found(log.connection, "runs:>2") == set()
    assert {row["runs"] for row in TaskResult.objects.using(log.connection).values("runs")} == {0, 1, 2}


Span = tuple[str, int, float, float | None, str]

#: The attempt, when it began and ended in seconds (None where that is not known), and how.
DOUBLED: list[Any] = [
    pytest.param([("w1", 0, 0, 10, "SUCCESS"), ("w2", 0, 5, 20, "SUCCESS")], True, id="delivered twice"),
    pytest.param([("w1", 0, 0, 10, "SUCCESS"), ("w2", 0, 5, None, "")], True, id="the second goes on"),
    pytest.param([("w1", 0, 0, 30, "SUCCESS"), ("w2", 0, 5, 20, "SUCCESS")], True, id="one inside the other"),
    pytest.param([("w1", 0, 0, 10, "RETRY"), ("w2", 0, 5, 20, "RETRY"), ("w1", 1, 30, 40, "SUCCESS")], True, id="in an earlier attempt"),
    pytest.param([("w1", 0, 0, 30, "FAILURE"), ("w2", 0, 5, 10, "RETRY"), ("w2", 1, 11, 12, "SUCCESS")], True, id="with the next attempt"),
    pytest.param([("w1", 0, 0, 10, "FAILURE"), ("w2", 0, 15, 20, "SUCCESS")], False, id="one after the other"),
    pytest.param([("w1", 0, 0, None, ""), ("w2", 0, 5, 20, "SUCCESS")], False, id="killed"),
    pytest.param([("w1", 0, 0, 10, "RETRY"), ("w2", 1, 9, 20, "SUCCESS")], False, id="the next attempt begins before the end is told"),
    pytest.param([("w1", 0, 0, 10, "REPLACED"), ("w2", 0, 9, 20, "SUCCESS")], False, id="what took its place begins before"),
    pytest.param([("w1", 0, 0, 10, "SUCCESS")], False, id="ran once"),
]


@pytest.mark.parametrize(("runs", "doubled"), DOUBLED)
@pytest.mark.parametrize("order", [1, -1], ids=["as it was", "backwards"])
def test_doubled_work_is_found(log: Log, runs: list[Span], doubled: bool, order: int) -> None:
    """One run began while another, of which the end is known, was at work."""
    kinds: dict[str, Any] = {"SUCCESS": TaskSucceeded, "FAILURE": TaskFailed, "RETRY": TaskRetried, "REPLACED": TaskReplaced}
    for number, (worker, attempt, began, ended, state) in list(enumerate(runs))[::order]:
        told: dict[str, Any] = {"worker": worker, "run": f"r{number}", "attempt": attempt, "name": "app.send"}
        log.tell(TaskStarted, "t", occurred_at=ago(100 - began), **told)
        if ended is not None:
            log.tell(kinds[state], "t", occurred_at=ago(100 - ended), **told)
    log.sent("other")

    assert found(log.connection, "overlap:yes") == ({"t"} if doubled else set())
    assert found(log.connection, "overlap:no") == {"t", "other"} - found(log.connection, "overlap:yes")
    assert not verify(log.connection).differences
    rebuild(log.connection, ["task_result"])
    assert found(log.connection, "overlap:yes") == ({"t"} if doubled else set())


# What lists and counts make of it


@pytest.fixture
def evening(log: Log) -> Log:
    """Four tasks have failed: one was sent again with success, one without, one is resolved, and of one nobody knows."""
    for task_id in ("again", "again-in-vain", "noted", "open"):
        failed(log, task_id)
    replayed(log, "again", "copy")
    succeeded(log, "copy")
    replayed(log, "again-in-vain", "vain")
    failed(log, "vain")
    resolved(log, "noted")
    return log


def test_a_list_marks_what_is_settled(evening: Log, commands: Commands, url: str) -> None:
    """It is not left out; JSON says why."""
    plain, as_json, left = (commands.run("list", *words, dsn=url) for words in ([], ["--json"], ["settled:no", "state:FAILURE", "--json"]))

    states = {line.split("\t")[1]: line.split("\t")[4] for line in plain.out.splitlines()}
    assert {state: {task_id for task_id in states if states[task_id] == state} for state in set(states.values())} == {
        "FAILURE (settled)": {"again", "noted"},
        "FAILURE": {"again-in-vain", "vain", "open"},
        "SUCCESS": {"copy"},
    }
    why = {one["task_id"]: one["settled"] for one in json.loads(as_json.out)}
    assert {task_id: words for task_id, words in why.items() if words} == {
        "again": "replayed as copy, which has succeeded",
        "noted": "resolved",
    }
    assert {one["task_id"] for one in json.loads(left.out)} == {"again-in-vain", "vain", "open"}
    assert found(evening.connection, "replayed:failed") == {"again-in-vain"}


def test_stats_count_what_is_settled_apart(evening: Log, commands: Commands, url: str) -> None:
    """And not in the rate: three of four have failed for good, beside the copy that has succeeded."""
    (tally,) = json.loads(commands.run("stats", "--json", dsn=url).out)
    (error,) = json.loads(commands.run("stats", "--by", "error", "--json", dsn=url).out)

    assert (tally["tasks"], tally["succeeded"], tally["failed"], tally["settled"], tally["failure_rate"]) == (6, 1, 3, 2, 0.75)
    assert (error["tasks"], error["failed"], error["settled"], error["failure_rate"]) == (5, 3, 2, 1.0)


def test_errors_count_what_is_not_settled(evening: Log, commands: Commands, url: str) -> None:
    """Unless they are asked for."""

    def counts(*words: str) -> list[int]:
        return [group["count"] for group in json.loads(commands.run("errors", *words, "--json", dsn=url).out)]

    assert (counts(), counts("--settled"), counts("settled:yes"), counts("resolved:yes"), counts("resolved:no")) == (
        [3],
        [5],
        [2],
        [1],
        [4],
    )


def test_the_status_says_what_has_failed_and_is_settled(evening: Log, commands: Commands, url: str) -> None:
    """Of the last hour."""
    said = json.loads(commands.run("status", "--json", dsn=url).out)["last_hour"]
    text = commands.run("status", dsn=url).out

    assert (said["ended"], said["failed"], said["settled"], [group["count"] for group in said["errors"]]) == (6, 3, 2, [3])
    assert "in the last hour: 6 ended, 3 of them failed; 2 more failed and are settled\n  3 ValueError: no\n" in text
