"""The property that everything rests on: live view = rebuilt view = oracle.

For every history, in whatever order it is told, however often, in whatever batches, and by however many writers at once.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.emitter import identify
from celery_journal.journal.events import (
    KINDS,
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupDeleted,
    GroupExpired,
    GroupSaved,
    TaskEvent,
    TaskFailed,
    TaskForgotten,
    TaskProgress,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerForgotten, WorkerHeartbeat, WorkerOffline, WorkerOnline
from celery_journal.projections import rebuild, verify
from tests.conftest import empty
from tests.strategies import histories

from .oracle import Row, Views, differences, fold
from .spec import at, at_once, checked, fact, read_log, read_views, until_waiting

#: A rebuild gives way to whoever holds a lock for longer than some milliseconds, also on a busy machine.
pytestmark = pytest.mark.timeout(900)

FORGETTING = {"task-forgotten", "task-expired", "task-erased", "group-deleted", "group-expired", "worker-forgotten"}
NEVER_FOLD = {"operator-acted"}

#: Of these the order of the log decides.
BY_POSITION = {"chord-part-returned", "task-lost", "worker-online", "worker-heartbeat", "worker-offline"}

#: What says when and where a fact was recorded, or is reckoned from that.
OF_THE_LOG = {"position", "recorded_at", "sent_recorded_at", "queue_wait", "first_seen", "last_seen", "online_since", "clock_offset"}


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
    if not told:
        return []
    if how != "somehow":
        step = 1 if how == "one by one" else len(told)
        return [list(told[start : start + step]) for start in range(0, len(told), step)]
    ends = sorted(draw(st.sets(st.integers(1, len(told)))) | {len(told)})
    return [list(told[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def examples(number: int) -> settings:
    """So many examples, times CELERY_JOURNAL_TEST_EFFORT."""
    number *= int(os.environ.get("CELERY_JOURNAL_TEST_EFFORT", "1"))
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


def without_the_log(views: Views) -> Views:
    """Return the views without what depends on the moment of the recording."""
    tables: list[dict[Any, Row]] = [getattr(views, view.name) for view in fields(Views)]
    return Views(*({key: {name: row[name] for name in row if name not in OF_THE_LOG} for key, row in table.items()} for table in tables))


@examples(60)
@given(batches=deliveries(histories(min_size=1, max_size=16)))
def test_the_live_view_is_what_the_oracle_says(shared: Connection, batches: list[list[Event]]) -> None:
    """Any order, any duplication, any batching: live view = oracle = what a fold of the whole log gives."""
    found = views_of(shared, batches)

    assert differences(fold(read_log(shared)), found) == []
    assert [str(difference) for difference in verify(shared).differences] == []


@examples(20)
@given(batches=deliveries(histories(min_size=1, max_size=40)), seed=st.randoms(use_true_random=False))
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


@examples(12)
@given(batches=deliveries(histories(min_size=1, max_size=24)), chunk=st.sampled_from([1, 3, 50_000]))
def test_the_rebuilt_view_is_the_live_view(shared: Connection, batches: list[list[Event]], chunk: int) -> None:
    """A rebuild, whatever its chunks are, shows what was shown before."""
    before = views_of(shared, batches)

    rebuild(shared, chunk=chunk)

    assert differences(before, read_views(shared)) == []
    checked(shared)


@examples(12)
@given(batches=deliveries(histories(min_size=1, max_size=30)), later=histories(min_size=1, max_size=10), data=st.data())
def test_facts_after_a_rebuild_fold_as_before(
    shared: Connection, batches: list[list[Event]], later: list[Event], data: st.DataObject
) -> None:
    """The rebuilt tables have every register, not only what the views show."""
    views_of(shared, batches)
    rebuild(shared)
    others = [
        told.model_copy(update={"event_id": identify(told.occurred_at, told.stream, told.kind, told.attempt, "later", number)})
        for number, told in enumerate(later)
    ]

    for batch in data.draw(splits(others)):
        Journal().append(shared, *batch)

    checked(shared)


@examples(25)
@given(history=histories(min_size=1, max_size=16), data=st.data())
def test_a_history_folds_as_any_split_of_it(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """fold(history) is the fold of its parts, one after the other."""
    whole = views_of(shared, [history])
    split = views_of(shared, data.draw(splits(history)))

    assert differences(without_the_log(whole), without_the_log(split)) == []


@examples(25)
@given(history=histories(min_size=1, max_size=16), data=st.data())
def test_to_be_told_twice_changes_nothing(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """The same events again, in any order and any batches, are not new and change no view."""
    before = views_of(shared, [history])
    batches = data.draw(deliveries(st.just(history)))

    assert [Journal().append(shared, *batch) for batch in batches] == [0] * len(batches)
    assert differences(before, read_views(shared)) == []


@examples(25)
@given(history=histories(min_size=1, max_size=16), data=st.data())
def test_the_order_does_not_matter(shared: Connection, history: list[Event], data: st.DataObject) -> None:
    """As long as nobody forgets and no two clocks agree, a history shows the same in whatever order it is told."""
    lasting = [told for told in history if told.kind not in FORGETTING | BY_POSITION]
    seconds = data.draw(st.permutations(range(len(lasting))))
    lasting = [
        told.model_copy(update={"occurred_at": at(second), "ordered_at": None}) for told, second in zip(lasting, seconds, strict=True)
    ]

    in_order = views_of(shared, [lasting])
    shuffled = views_of(shared, data.draw(splits(data.draw(st.permutations(lasting)))))

    assert differences(without_the_log(in_order), without_the_log(shuffled)) == []


@examples(30)
@given(
    clocks=st.lists(st.integers(-100, 100), min_size=1, max_size=8),
    kind=st.sampled_from([TaskProgress, TaskFailed, TaskSent, GroupSaved]),
    data=st.data(),
)
def test_what_an_emitter_told_last_stands_whatever_its_clock(
    shared: Connection, clocks: list[int], kind: type[Event], data: st.DataObject
) -> None:
    """In whatever order and batches it arrives, and with every date as the clock said it."""
    emitter = Emitter()
    state: dict[str, Any] = {"state": "PROGRESS"} if kind is TaskProgress else {}
    name = "args" if kind is TaskSent else "result"
    payloads: list[dict[str, Any]] = [{name: str(number).encode(), **state} for number in range(len(clocks))]
    told = [emitter.emit(kind, "s", occurred_at=at(clock), **fields) for clock, fields in zip(clocks, payloads, strict=True)]

    views = views_of(shared, data.draw(deliveries(st.just(told))))

    (row,) = (views.group_result if kind is GroupSaved else views.task_result).values()
    assert row[name] == str(len(clocks) - 1).encode()
    assert row["date_created"] == at(min(clocks))
    assert row.get("date_done") == (at(clocks[-1]) if kind is TaskFailed else None)
    checked(shared)


@examples(25)
@given(batches=deliveries(histories(min_size=1, max_size=16)), data=st.data())
def test_purging_what_was_forgotten_changes_nothing(shared: Connection, batches: list[list[Event]], data: st.DataObject) -> None:
    """purge_forgotten() at any moment changes no view, now or later."""
    empty(shared)
    for batch in batches:
        Journal().append(shared, *batch)
        for _ in range(data.draw(st.sampled_from([0, 1, 2, 2]))):
            shared.execute("select celery_journal.purge_forgotten()")

    checked(shared)


def test_every_kind_that_folds_is_in_the_histories() -> None:
    """A new kind must have a place in the histories, or be known not to fold."""
    met: set[str] = set()

    @settings(max_examples=300, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(history=histories(min_size=8))
    def meet(history: list[Event]) -> None:
        met.update(told.kind for told in history)

    meet()

    assert met == KINDS.keys() - NEVER_FOLD - {kind for kind in KINDS if kind.startswith(("periodic-task-", "replay-"))}


def _append_all(batches: Sequence[Sequence[Event]]) -> Callable[[Connection], None]:
    def job(connection: Connection) -> None:
        for batch in batches:
            Journal().append(connection, *batch)

    return job


OF_A_TASK = (TaskForgotten, TaskStarted, TaskSucceeded, TaskSent, TaskFailed)
OF_A_GROUP = (GroupDeleted, GroupExpired, GroupSaved)
OF_A_CHORD = (GroupExpired, ChordStarted, ChordSizeSet, ChordUnlocked, ChordPartReturned)
OF_A_WORKER = (WorkerForgotten, WorkerOnline, WorkerHeartbeat, WorkerOffline)


@pytest.mark.parametrize(
    ("kinds", "appends"),
    [
        pytest.param(OF_A_TASK, 2, id="task"),
        pytest.param(OF_A_GROUP, 2, id="group"),
        pytest.param(OF_A_WORKER, 2, id="worker"),
        pytest.param(OF_A_CHORD, 1, id="chord"),  # two appends could take its rows in two tables in any order
    ],
)
def test_forgetting_while_others_write_the_same_stream(
    dsn: str, connection: Connection, kinds: Sequence[type[Event]], appends: int
) -> None:
    """Ten writers forget and tell of one stream, in transactions that overlap, some of which are rolled back.

    What a forgetting hides is decided by its place in the log, which it has long before it commits.
    """

    def writer(number: int) -> Callable[[Connection], None]:
        chance = random.Random(number)

        def told() -> Event:
            kind = chance.choice(kinds)
            fields: dict[str, Any] = {"task_id": f"p{chance.randrange(4)}", "state": "SUCCESS"} if kind is ChordPartReturned else {}
            fields |= {"size": chance.randrange(9)} if kind in {ChordStarted, ChordSizeSet} else {}
            fields |= {"run": chance.choice([None, "r1", "r2"])} if issubclass(kind, TaskEvent) else {}
            return fact(kind, "s", chance.randrange(100), attempt=chance.randrange(3), **fields)

        def job(own: Connection) -> None:
            for _ in range(25):
                with suppress(_RolledBack), own.transaction():
                    time.sleep(chance.random() * 0.004)
                    for _ in range(chance.randint(1, appends)):
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
                kinds: list[type[Event]] = [TaskStarted, TaskSucceeded, GroupSaved, ChordSizeSet]
                batch: list[Event] = [fact(chance.choice(kinds), stream, chance.randrange(9)) for stream in streams]
                batch += [fact(ChordPartReturned, "g", task_id=stream, state="SUCCESS") for stream in streams]
                Journal().append(own, *batch)

        return job

    at_once(dsn, [writer(number) for number in range(6)])

    checked(connection)


def test_batches_that_forget_do_not_deadlock(dsn: str, connection: Connection) -> None:
    """Forgetting takes its rows in the same order as everything else: `b` is not locked before `a`."""

    held = threading.Event()

    def holds_a(own: Connection) -> None:
        with own.transaction():
            Journal().append(own, fact(TaskStarted, "a"))
            held.set()
            until_waiting(own, 2)

    def wants_a_then_b(own: Connection) -> None:
        held.wait(10)
        Journal().append(own, fact(TaskStarted, "a"), fact(TaskStarted, "b"))

    def forgets_b_and_wants_a(own: Connection) -> None:
        until_waiting(own, 1)
        Journal().append(own, fact(TaskForgotten, "b"), fact(TaskStarted, "a"))

    at_once(dsn, [holds_a, wants_a_then_b, forgets_b_and_wants_a])

    checked(connection)


def test_purging_while_others_write_does_not_deadlock(dsn: str, connection: Connection) -> None:
    """Purging takes its rows in the order in which every append takes them, and no writer is its victim."""
    names = [f"t{number}" for number in range(40)]
    over = threading.Event()

    def writer(number: int) -> Callable[[Connection], None]:
        chance = random.Random(number)

        def job(own: Connection) -> None:
            kinds: list[type[Event]] = [TaskStarted, TaskForgotten, GroupSaved, GroupExpired, ChordStarted]
            for _ in range(40):
                chosen = chance.choice(kinds)
                Journal().append(own, *(fact(chosen, stream, chance.randrange(9)) for stream in chance.sample(names, 30)))

        return job

    def purger(own: Connection) -> None:
        while not over.is_set():
            own.execute("select celery_journal.purge_forgotten()")

    def all_writers(own: Connection) -> None:
        try:
            at_once(dsn, [writer(number) for number in range(4)])
        finally:
            over.set()

    at_once(dsn, [purger, all_writers])

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
