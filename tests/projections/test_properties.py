"""The property that everything rests on: live view = rebuilt view = oracle.

For every history, in whatever order it is told, however often, in whatever batches, and by however many writers at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from celery_journal.journal import Connection, Journal
from celery_journal.journal.emitter import identify
from celery_journal.journal.events import (
    KINDS,
    ChordFailed,
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupDeleted,
    GroupExpired,
    GroupSaved,
    TaskErased,
    TaskExpired,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskLost,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    UnknownEvent,
)
from celery_journal.projections import rebuild, verify
from tests.conftest import empty

from .oracle import Views, differences, fold
from .spec import at, at_once, checked, fact, read_log, read_views

TASKS = ("a", "b", "c\0")
GROUPS = ("g", "h")

FORGETTING: tuple[type[Event], ...] = (TaskForgotten, TaskExpired, TaskErased, GroupDeleted, GroupExpired)
ABOUT_TASKS: tuple[type[Event], ...] = (
    TaskSent, TaskReceived, TaskStarted, TaskProgress, TaskRetried, TaskRejected, TaskRevoked, TaskFailed, TaskSucceeded,
    TaskIgnored, TaskForgotten, TaskExpired, TaskErased, TaskLost, TaskReplayed, UnknownEvent,
)  # fmt: skip
ABOUT_GROUPS: tuple[type[Event], ...] = (
    GroupSaved, GroupDeleted, GroupExpired, ChordStarted, ChordSizeSet, ChordPartReturned, ChordUnlocked, ChordFailed,
)  # fmt: skip

PAYLOADS = (b"1", b"[1, 2]", b'{"a": "b"}', b'"\\u0000"', b"NaN", b"\x80\x04K\x01.", b"")
HEADERS = (b'[[["a", null], null]]', b"[]", b'[[["a", null], null], [["b", null], null]]')

#: Few values of each, so that histories meet: in the stream, the attempt, the moment and the place.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["add", "mul\0"]),
    "args": st.sampled_from(PAYLOADS),
    "kwargs": st.sampled_from(PAYLOADS),
    "args_content_type": st.just("application/json"),
    "queue": st.sampled_from(["q", "r"]),
    "root_id": st.sampled_from(TASKS),
    "parent_id": st.sampled_from(TASKS),
    "group_id": st.sampled_from(GROUPS),
    "group_index": st.sampled_from([0, 1]),
    "periodic_task_name": st.just("noon"),
    "worker": st.sampled_from(["v", "w"]),
    "pid": st.integers(1, 3),
    "meta": st.sampled_from(PAYLOADS),
    "result": st.sampled_from(PAYLOADS),
    "content_type": st.sampled_from(["application/json", "application/x-python-serialize"]),
    "content_encoding": st.just("utf-8"),
    "traceback": st.sampled_from(["one", "two\udc80"]),
    "members": st.lists(st.sampled_from(TASKS), unique=True, max_size=3).map(tuple),
    "size": st.integers(0, 3),
    "task_id": st.sampled_from(TASKS),
    "state": st.sampled_from(["PROGRESS", "SUCCESS", "FAILURE"]),
}


@st.composite
def facts(draw: st.DrawFn, kinds: Sequence[type[Event]], number: int, moments: st.SearchStrategy[float]) -> Event:
    kind = draw(st.sampled_from(kinds))
    stream = draw(st.sampled_from(GROUPS if kind in ABOUT_GROUPS else TASKS))
    attempt, moment = draw(st.integers(0, 2)), at(draw(moments))
    fields: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        strategy = st.sampled_from(HEADERS) if (kind, name) == (ChordStarted, "result") else FIELDS.get(name)
        if strategy is not None and (info.is_required() or info.default is None) and (info.is_required() or draw(st.booleans())):
            fields[name] = draw(strategy)
    if kind is UnknownEvent:
        fields |= {"kind": "task-daydreamed", "state": "DREAM"}
    event_id = identify(moment, stream, kind.__name__, attempt, "property", number)
    return kind(event_id=event_id, stream=stream, attempt=attempt, occurred_at=moment, **fields)


@st.composite
def histories(
    draw: st.DrawFn,
    kinds: Sequence[type[Event]] = ABOUT_TASKS + ABOUT_GROUPS,
    moments: st.SearchStrategy[float] | None = None,
    max_size: int = 24,
) -> list[Event]:
    """Facts of many kinds about a few streams, by emitters whose clocks disagree, and no two with the same id."""
    if moments is None:
        moments = st.sampled_from([0.0, 1.0, 1.000001, 2.0, -86400.0])
    size = draw(st.integers(1, max_size))
    return [draw(facts(kinds, number, moments)) for number in range(size)]


@st.composite
def deliveries(draw: st.DrawFn, history: st.SearchStrategy[list[Event]]) -> list[list[Event]]:
    """A history as it may come: in any order, some of it again, in any batches."""
    told = draw(history)
    told = draw(st.permutations(told + draw(st.lists(st.sampled_from(told), max_size=6))))
    return draw(splits(told))


@st.composite
def splits(draw: st.DrawFn, told: Sequence[Event]) -> list[list[Event]]:
    """One at a time, all in one statement, or anything between."""
    how = draw(st.sampled_from(["one by one", "at once", "somehow"]))
    if how != "somehow":
        step = 1 if how == "one by one" else len(told)
        return [list(told[start : start + step]) for start in range(0, len(told), step)]
    ends = sorted(draw(st.sets(st.integers(1, len(told)))) | {len(told)})
    return [list(told[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def examples(number: int) -> settings:
    return settings(deadline=None, max_examples=number, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def shared(database: str) -> Iterator[Connection]:
    """One connection for all examples, which empty the journal themselves."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def views_of(connection: Connection, batches: Sequence[Sequence[Event]]) -> Views:
    """Return the views of an empty journal after these appends."""
    empty(connection)
    for batch in batches:
        Journal().append(connection, *batch)
    return read_views(connection)


def without_positions(views: Views) -> Views:
    parts = {key: {**row, "position": None} for key, row in views.chord_part.items()}
    return Views(views.task_result, views.group_result, views.chord_counter, parts)


@examples(150)
@given(batches=deliveries(histories()))
def test_the_live_view_is_what_the_oracle_says(shared: Connection, batches: list[list[Event]]) -> None:
    """Any order, any duplication, any batching: live view = oracle = what a fold of the whole log gives."""
    found = views_of(shared, batches)

    event(f"rows: {len(found.task_result) + len(found.group_result) + len(found.chord_counter)}")
    assert differences(fold(read_log(shared)), found) == []
    assert [str(difference) for difference in verify(shared).differences] == []


@examples(30)
@given(batches=deliveries(histories(max_size=60)), seed=st.randoms(use_true_random=False))
def test_the_live_view_is_what_the_oracle_says_with_eight_writers(
    database: str, shared: Connection, batches: list[list[Event]], seed: random.Random
) -> None:
    """Eight connections append at the same moment, each its share of the batches in an order of its own."""
    empty(shared)
    shares: list[list[list[Event]]] = [[] for _ in range(8)]
    for batch in batches:
        seed.choice(shares).append(batch)

    at_once(database, [_append_all(share) for share in shares])

    checked(shared)


@examples(20)
@given(batches=deliveries(histories(max_size=40)), chunk=st.sampled_from([1, 3, 50_000]))
def test_the_rebuilt_view_is_the_live_view(shared: Connection, batches: list[list[Event]], chunk: int) -> None:
    """A rebuild, whatever its chunks are, shows what was shown before."""
    before = views_of(shared, batches)

    rebuild(shared, chunk=chunk)

    assert differences(before, read_views(shared)) == []
    checked(shared)


@examples(20)
@given(batches=deliveries(histories(max_size=30)), later=histories(max_size=10), data=st.data())
def test_facts_after_a_rebuild_fold_as_before(
    shared: Connection, batches: list[list[Event]], later: list[Event], data: st.DataObject
) -> None:
    """The rebuilt tables have every register, not only what the views show."""
    views_of(shared, batches)
    rebuild(shared)
    renamed = [told.model_copy(update={"event_id": uuid4()}) for told in later]

    for batch in data.draw(splits(renamed)):
        Journal().append(shared, *batch)

    checked(shared)


@examples(60)
@given(history=histories(), data=st.data())
def test_a_history_folds_as_any_split_of_it(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """fold(history) is the fold of its parts, one after the other."""
    whole = views_of(shared, [history])
    split = views_of(shared, data.draw(splits(history)))

    assert differences(without_positions(whole), without_positions(split)) == []


@examples(60)
@given(history=histories(), data=st.data())
def test_to_be_told_twice_changes_nothing(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """The same events again, in any order and any batches, are not new and change no view."""
    before = views_of(shared, [history])
    batches = data.draw(deliveries(st.just(history)))

    assert [Journal().append(shared, *batch) for batch in batches] == [0] * len(batches)
    assert differences(before, read_views(shared)) == []


@examples(60)
@given(
    history=histories(
        kinds=[kind for kind in ABOUT_TASKS + ABOUT_GROUPS if kind not in FORGETTING and kind is not ChordPartReturned],
        moments=st.floats(0, 1000).map(lambda second: round(second, 6)),
    ),
    data=st.data(),
)
def test_the_order_does_not_matter(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """As long as nobody forgets and no two clocks agree, a history shows the same in whatever order it is told."""
    history = list({told.occurred_at: told for told in history}.values())
    in_order = views_of(shared, [history])
    shuffled = views_of(shared, data.draw(splits(data.draw(st.permutations(history)))))

    assert differences(in_order, shuffled) == []


@examples(40)
@given(batches=deliveries(histories([kind for kind in ABOUT_TASKS + ABOUT_GROUPS if kind is not ChordPartReturned])), data=st.data())
def test_purging_what_was_forgotten_changes_nothing(shared: Connection, batches: list[list[Event]], data: st.DataObject) -> None:
    """purge_forgotten() at any moment changes no view, now or later."""
    empty(shared)
    for batch in batches:
        Journal().append(shared, *batch)
        if data.draw(st.booleans()):
            shared.execute("select celery_journal.purge_forgotten()")

    checked(shared)


def test_every_kind_is_in_the_histories() -> None:
    """A new kind must have a place here: about tasks, about groups, or known not to fold."""
    never_fold = {"worker-online", "worker-heartbeat", "worker-offline", "operator-acted"}
    never_fold |= {kind for kind in KINDS if kind.startswith("periodic-task-")}
    assert {kind for kind, model in KINDS.items() if model in ABOUT_TASKS + ABOUT_GROUPS} | never_fold == KINDS.keys()


def _append_all(batches: Sequence[Sequence[Event]]) -> Callable[[Connection], None]:
    def job(connection: Connection) -> None:
        for batch in batches:
            Journal().append(connection, *batch)

    return job


STREAM_OF_A_TASK = pytest.param(
    "t", [TaskForgotten, TaskStarted, TaskSucceeded, TaskSent, TaskFailed], id="task"
)
STREAM_OF_A_GROUP = pytest.param("g", [GroupDeleted, GroupExpired, GroupSaved], id="group")
STREAM_OF_A_CHORD = pytest.param("g", [GroupExpired, ChordStarted, ChordSizeSet, ChordUnlocked, ChordPartReturned], id="chord")


@pytest.mark.parametrize(("stream", "kinds"), [STREAM_OF_A_TASK, STREAM_OF_A_GROUP, STREAM_OF_A_CHORD])
def test_forgetting_while_others_write_the_same_stream(
    dsn: str, connection: Connection, stream: str, kinds: Sequence[type[Event]]
) -> None:
    """Ten writers forget and tell of one stream, in transactions that overlap, some of which are rolled back.

    What the forgetting hides is decided by the place in the log, which nobody knows before all of them have committed.
    """

    def writer(number: int) -> Callable[[Connection], None]:
        chance = random.Random(number)

        def told() -> Event:
            kind = chance.choice(kinds)
            fields: dict[str, Any] = {"task_id": f"p{chance.randrange(4)}", "state": "SUCCESS"} if kind is ChordPartReturned else {}
            fields |= {"size": chance.randrange(9)} if kind in {ChordStarted, ChordSizeSet} else {}
            return fact(kind, stream, chance.randrange(100), attempt=chance.randrange(3), **fields)

        def job(own: Connection) -> None:
            for _ in range(25):
                with suppress(_RolledBack), own.transaction():
                    time.sleep(chance.random() * 0.004)
                    for _ in range(chance.randrange(1, 3)):
                        Journal().append(own, *(told() for _ in range(chance.choice([1, 1, 1, 2, 4]))))
                        time.sleep(chance.random() * 0.002)
                    if chance.random() < 0.1:
                        raise _RolledBack

        return job

    for _ in range(3):
        at_once(dsn, [writer(number) for number in range(10)])
        checked(connection)

    before = read_views(connection)
    rebuild(connection)
    assert differences(before, checked(connection)) == []


class _RolledBack(Exception):
    pass


def test_batches_about_the_same_rows_in_different_orders_do_not_deadlock(dsn: str, connection: Connection) -> None:
    """Each append takes the rows in the order of their keys, whatever the order of its events."""
    names = [f"t{number}" for number in range(40)]

    def writer(number: int) -> Callable[[Connection], None]:
        chance = random.Random(number)

        def job(own: Connection) -> None:
            for _ in range(12):
                streams = chance.sample(names, len(names))
                kinds = [TaskStarted, TaskSucceeded, GroupSaved, ChordSizeSet]
                batch = [fact(chance.choice(kinds), stream, chance.randrange(9)) for stream in streams]
                batch += [fact(ChordPartReturned, "g", task_id=stream, state="SUCCESS") for stream in streams]
                Journal().append(own, *batch)

        return job

    at_once(dsn, [writer(number) for number in range(6)])

    checked(connection)


def test_batches_that_forget_do_not_deadlock(dsn: str, connection: Connection) -> None:
    """Forgetting takes its rows in the same order as everything else: `b` is not locked before `a`."""

    def blocked(number: int) -> None:
        for _ in range(400):
            waiting = connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
            if waiting == (number,):
                return
            time.sleep(0.01)
        raise AssertionError(f"never {number} waited")

    def holds_a(own: Connection) -> None:
        with own.transaction():
            Journal().append(own, fact(TaskStarted, "a"))
            holding.append(True)
            blocked(2)

    def wants_a_then_b(own: Connection) -> None:
        while not holding:
            time.sleep(0.01)
        Journal().append(own, fact(TaskStarted, "a"), fact(TaskStarted, "b"))

    def forgets_b_and_wants_a(own: Connection) -> None:
        blocked_by_one()
        Journal().append(own, fact(TaskForgotten, "b"), fact(TaskStarted, "a"))

    def blocked_by_one() -> None:
        with psycopg.connect(dsn, autocommit=True) as other:
            while other.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone() != (1,):
                time.sleep(0.01)

    holding: list[bool] = []
    at_once(dsn, [holds_a, wants_a_then_b, forgets_b_and_wants_a])

    checked(connection)


def test_the_same_batch_from_two_sides_in_different_orders_does_not_deadlock(dsn: str, connection: Connection) -> None:
    """Two captures of the same broker events tell the same facts, each in the order it heard them."""
    for run in range(8):
        batch = [fact(TaskStarted, f"{run}-{number}") for number in range(400)]

        recorded = at_once(dsn, [_append(batch), _append(batch[::-1])])

        assert sum(recorded) == len(batch)
    checked(connection)


def _append(batch: Sequence[Event]) -> Callable[[Connection], int]:
    return lambda connection: Journal().append(connection, *batch)
