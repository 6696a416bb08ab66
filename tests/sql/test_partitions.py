"""The log is partitioned by week, ahead of time, and takes every event whatever its clock says."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.codec import encode
from celery_journal.journal.events import Event, TaskSent

WEEK = timedelta(days=7)


@pytest.fixture
def migrated(bare: Connection) -> Connection:
    """A connection to a journal of its own, because partitions stay; in a week that does not end before the test does."""
    if (left := (monday(bare) + WEEK - datetime.now(UTC)).total_seconds()) < 30:
        time.sleep(left)
    migrate(bare)
    return bare


def monday(connection: Connection) -> datetime:
    """Return when this week began, by the database's clock."""
    (moment,) = connection.execute("select date_trunc('week', clock_timestamp(), 'UTC')").fetchone() or (None,)
    assert isinstance(moment, datetime)
    return moment.astimezone(UTC)


def partition_of(connection: Connection, event: Event) -> str:
    """Return where the event landed."""
    query = b"select tableoid::regclass::text from celery_journal.event where event_id = %s"
    (name,) = connection.execute(query, (event.event_id,)).fetchone() or ("",)
    return str(name).removeprefix("celery_journal.")


def partitions(connection: Connection) -> set[str]:
    query = b"select inhrelid::regclass::text from pg_inherits where inhparent = 'celery_journal.event'::regclass"
    return {name.removeprefix("celery_journal.") for (name,) in connection.execute(query)}


def create_partitions(connection: Connection, weeks: int) -> set[str]:
    return {name for (name,) in connection.execute("select celery_journal.create_partitions(%s)", (weeks,))}


def named(day: datetime) -> str:
    return f"event_{day:%Y_%m_%d}"


@pytest.mark.parametrize("week", [-1, 0, 1, 8])
def test_a_week_has_its_partition(week: int, migrated: Connection, emitter: Emitter) -> None:
    """From the last week to the eighth to come, events land in the partition of their week, first and last moment included."""
    first_day = monday(migrated) + week * WEEK
    first = emitter.emit(TaskSent, "first", occurred_at=first_day)
    last = emitter.emit(TaskSent, "last", occurred_at=first_day + WEEK - timedelta(microseconds=1))

    Journal().append(migrated, first, last)

    assert [partition_of(migrated, event) for event in (first, last)] == [named(first_day)] * 2


@pytest.mark.parametrize(
    "first_day",
    [
        pytest.param(datetime(2030, 12, 30, tzinfo=UTC), id="the turn of a year"),
        pytest.param(datetime(2031, 12, 29, tzinfo=UTC), id="a year's first days in the last week"),
        pytest.param(datetime(2032, 2, 23, tzinfo=UTC), id="a leap day"),
        pytest.param(datetime(2031, 3, 24, tzinfo=UTC), id="an hour less"),
        pytest.param(datetime(2031, 10, 20, tzinfo=UTC), id="an hour more"),
    ],
)
def test_weeks_meet_at_every_turn(first_day: datetime, migrated: Connection, emitter: Emitter) -> None:
    """Whatever the session takes for midnight: no moment is in two partitions, and none between them."""
    migrated.execute(b"set time zone 'Europe/Berlin'")
    weeks = [first_day + n * WEEK for n in (-1, 0, 1)]

    for week in weeks:
        migrated.execute(b"select celery_journal.create_partition(%s)", (week,))

    events = [
        (named(week), emitter.emit(TaskSent, f"{week} {offset}", occurred_at=week + offset))
        for week in weeks
        for offset in (timedelta(0), timedelta(hours=1), WEEK - timedelta(hours=1), WEEK - timedelta(microseconds=1))
    ]
    Journal().append(migrated, *[event for _, event in events])
    assert [partition_of(migrated, event) for _, event in events] == [name for name, _ in events]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), id="clock never set"),
        pytest.param(datetime(2199, 1, 1, tzinfo=UTC), id="clock of the next century"),
        pytest.param(datetime(9999, 12, 30, tzinfo=UTC), id="end of time"),
    ],
)
def test_an_event_of_a_clock_that_is_years_off_is_recorded(moment: datetime, migrated: Connection, emitter: Emitter) -> None:
    """It lands in the default partition, and is read like any other."""
    event = emitter.emit(TaskSent, "task-1", occurred_at=moment)

    Journal().append(migrated, event)

    assert partition_of(migrated, event) == "event_default"
    assert [recorded.event for recorded in Journal().read_stream(migrated, "task-1")] == [event]


def test_partitions_are_created_once(migrated: Connection) -> None:
    """More weeks ahead are created, and no week twice."""
    before, this_week = partitions(migrated), monday(migrated)

    created = [create_partitions(migrated, 10) for _ in range(2)]

    assert created == [{named(this_week + 9 * WEEK), named(this_week + 10 * WEEK)}, set()]
    assert partitions(migrated) == before | created[0]


def test_partitions_are_created_by_many_at_once(migrated: Connection) -> None:
    """Every coming week is there afterwards, created by one of them, and none of them fails."""
    before, this_week, dsn = partitions(migrated), monday(migrated), migrated.info.dsn

    def create(_: int) -> set[str]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return create_partitions(connection, 16)

    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(create, range(8)))

    assert sorted(name for names in created for name in names) == sorted(named(this_week + n * WEEK) for n in range(9, 17))
    assert partitions(migrated) == before.union(*created)


def test_partitions_are_created_while_events_are_appended(migrated: Connection, emitter: Emitter) -> None:
    """No append fails, and every event is recorded."""
    dsn, this_week = migrated.info.dsn, monday(migrated)

    def append(writer: int) -> int:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return sum(Journal().append(connection, emitter.emit(TaskSent, f"task-{writer}-{n}")) for n in range(40))

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(append, writer) for writer in range(4)]
        created = create_partitions(migrated, 16)
        recorded = sum(writer.result(60) for writer in writers)

    assert recorded == 160
    assert named(this_week + 16 * WEEK) in created


def test_a_week_that_the_default_partition_has_begun_stays_there(migrated: Connection, emitter: Emitter) -> None:
    """Its events stay, later ones of that week join them, and the other weeks get their partitions."""
    this_week = monday(migrated)
    early = emitter.emit(TaskSent, "task-1", occurred_at=this_week + 10 * WEEK)
    late = emitter.emit(TaskSent, "task-1", occurred_at=this_week + 10 * WEEK + timedelta(days=1))
    Journal().append(migrated, early)

    created = create_partitions(migrated, 11)

    Journal().append(migrated, late)
    assert created == {named(this_week + 9 * WEEK), named(this_week + 11 * WEEK)}
    assert [partition_of(migrated, event) for event in (early, late)] == ["event_default"] * 2
    assert [recorded.event for recorded in Journal().read_stream(migrated, "task-1")] == [early, late]


def move_week(connection: Connection, first_day: datetime) -> int | None:
    (moved,) = connection.execute("select celery_journal.move_week(%s)", (first_day,)).fetchone() or (None,)
    return None if moved is None else int(moved)


def in_order(connection: Connection) -> list[Any]:
    """Return the whole log but what is told of its own maintenance, every column of it."""
    return connection.execute(
        "select e.* from celery_journal.event e where e.stream <> 'maintenance' order by e.transaction, e.position"
    ).fetchall()


def test_a_week_that_a_clock_has_taken_gets_its_partition_and_nothing_else_changes(migrated: Connection, emitter: Emitter) -> None:
    """Its events are the same in every column, the log stays guarded, later events join them, and it is recorded who moved them."""
    week = monday(migrated) + 13 * WEEK
    moments = [
        week,
        week + WEEK - timedelta(microseconds=1),
        week - timedelta(microseconds=1),
        week + WEEK,
        datetime(9999, 12, 30, tzinfo=UTC),
    ]
    events = [emitter.emit(TaskSent, "task-1", occurred_at=moment) for moment in moments]
    Journal().append(migrated, *events)
    before, views = in_order(migrated), migrated.execute(b"select * from celery_journal.task_result").fetchall()

    moved = [move_week(migrated, week) for _ in range(2)]

    later = emitter.emit(TaskSent, "task-1", occurred_at=week + timedelta(days=1))
    assert moved == [2, None]
    assert in_order(migrated) == before
    assert migrated.execute(b"select * from celery_journal.task_result").fetchall() == views
    assert Journal().append(migrated, *events, later) == 1
    assert [partition_of(migrated, event) for event in (*events, later)] == [named(week)] * 2 + ["event_default"] * 3 + [named(week)]
    for table in ("event_default", named(week)):
        with pytest.raises(psycopg.errors.RestrictViolation):
            migrated.execute(f"delete from celery_journal.{table}".encode())
    told = [event.event.model_dump()["reason"] for event in Journal().read_stream(migrated, "maintenance")]
    assert told == [
        f"delete of event_default by {migrated.info.user}",
        f"2 events moved from event_default to {named(week)} by {migrated.info.user}",
    ]


def test_this_week_gets_its_partition_back(migrated: Connection, emitter: Emitter) -> None:
    """Also while what is recorded of that is of the same week."""
    week = monday(migrated)
    migrated.execute(f"drop table celery_journal.{named(week)}".encode())
    event = emitter.emit(TaskSent, "task-1")
    Journal().append(migrated, event)

    assert (move_week(migrated, week) or 0) >= 1

    assert partition_of(migrated, event) == named(week)
    assert migrated.execute(b"select count(*) from celery_journal.event_default").fetchone() == (0,)


def test_a_week_moves_while_events_are_appended_and_read(migrated: Connection, emitter: Emitter) -> None:
    """Writers lose nothing, and no reader ever misses what was there before."""
    dsn, week = migrated.info.dsn, monday(migrated) + 13 * WEEK
    Journal().append(migrated, *(emitter.emit(TaskSent, f"old-{n}", occurred_at=week + timedelta(minutes=n)) for n in range(2000)))
    over = threading.Event()

    def append(writer: int) -> int:
        recorded = 0
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not over.is_set():
                moment = week + timedelta(hours=1 + recorded % 100)
                recorded += Journal().append(connection, emitter.emit(TaskSent, f"task-{writer}-{recorded}", occurred_at=moment))
        return recorded

    def read() -> set[int]:
        seen = set()
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not over.is_set():
                query = b"select count(*) from celery_journal.event where stream like 'old-%'"
                seen |= {count for (count,) in connection.execute(query)}
        return seen

    with ThreadPoolExecutor(4) as threads:
        writers, readers = [threads.submit(append, writer) for writer in range(2)], [threads.submit(read) for _ in range(2)]
        try:
            moved = until_moved(migrated, week)
        finally:
            over.set()
        recorded = sum(writer.result(60) for writer in writers)
        seen = set.union(*(reader.result(60) for reader in readers))

    assert moved >= 2000
    assert seen <= {2000}
    assert migrated.execute("select count(*) from celery_journal.event where stream <> 'maintenance'").fetchone() == (2000 + recorded,)
    assert migrated.execute(b"select count(*) from celery_journal.event_default").fetchone() == (0,)


def until_moved(connection: Connection, week: datetime) -> int:
    """Move the week, as often as that takes beside busy writers."""
    for _ in range(50):
        try:
            return move_week(connection, week) or 0
        except psycopg.errors.LockNotAvailable:
            continue
    raise AssertionError("the lock was never to be had")


@pytest.mark.parametrize("moment", [datetime(1970, 1, 5, tzinfo=UTC), datetime(9999, 12, 27, tzinfo=UTC)])
def test_a_week_of_impossible_years_gets_no_partition(moment: datetime, migrated: Connection) -> None:
    """Whoever reads the log without a time looks into each."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="two years ago until 61 weeks ahead"):
        move_week(migrated, moment)


def test_a_fact_told_again_after_its_partition_came_is_recorded_once(migrated: Connection, emitter: Emitter) -> None:
    """A later partition does not make a second place for an event of the default partition."""
    event = emitter.emit(TaskSent, "task-1", occurred_at=monday(migrated) + 10 * WEEK)
    Journal().append(migrated, event)
    create_partitions(migrated, 11)

    new = Journal().append(migrated, event)

    assert new == 0


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Kiritimati"])
def test_weeks_begin_at_the_same_moment_in_every_zone(zone: str, migrated: Connection) -> None:
    """A session's zone, with its summer time, moves no week: what it creates is what a session in UTC would have."""
    this_week = monday(migrated)
    migrated.execute("select set_config('timezone', %s, false)", (zone,))

    created = create_partitions(migrated, 60)

    migrated.execute("set timezone = 'UTC'")
    assert created == {named(this_week + n * WEEK) for n in range(9, 61)}
    assert create_partitions(migrated, 60) == set()
    assert lower_bounds(migrated) == {(named(this_week + n * WEEK), this_week + n * WEEK) for n in range(-1, 61)}


def lower_bounds(connection: Connection) -> set[tuple[str, datetime]]:
    """Return where each partition begins, as its first event id says it."""
    query = b"""
        select c.relname, substring(pg_get_expr(c.relpartbound, c.oid) from $$FROM \\('([^']+)'$$)
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'celery_journal.event'::regclass and c.relname <> 'event_default'"""
    return {(name, datetime.fromtimestamp(int(bound.replace("-", "")[:12], 16) / 1000, UTC)) for name, bound in connection.execute(query)}


def make_room(connection: Connection, *events: Event) -> set[str]:
    return set(Journal().make_room(connection, [event.event_id for event in events]))


@pytest.mark.parametrize("weeks_ago", [2, 30, 104])
def test_the_past_gets_partitions_when_it_is_imported(weeks_ago: int, migrated: Connection, emitter: Emitter) -> None:
    """A week, from its first moment to its last, whatever the zone of the session; those between stay without."""
    first_day = monday(migrated) - weeks_ago * WEEK
    first = emitter.emit(TaskSent, "first", occurred_at=first_day)
    last = emitter.emit(TaskSent, "last", occurred_at=first_day + WEEK - timedelta(microseconds=1))
    migrated.execute("set timezone = 'Europe/Berlin'")

    created = [make_room(migrated, first, last) for _ in range(2)]

    Journal().append(migrated, first, last)
    assert created == [{named(first_day)}, set()]
    assert [partition_of(migrated, event) for event in (first, last)] == [named(first_day)] * 2
    assert (named(first_day), first_day) in lower_bounds(migrated)


def test_what_is_restored_lands_in_the_partition_of_its_week(migrated: Connection, emitter: Emitter) -> None:
    """An import asks for it itself."""
    event = emitter.emit(TaskSent, "task-1", occurred_at=monday(migrated) - 20 * WEEK)

    Journal().restore(migrated, [encode(event)])

    assert partition_of(migrated, event) == named(monday(migrated) - 20 * WEEK)


def test_neither_the_distant_past_nor_the_future_gets_partitions(migrated: Connection, emitter: Emitter) -> None:
    """A journal of a hundred partitions is read at once, one of thousands is not, and clocks may be years off."""
    moments = [
        monday(migrated) - 105 * WEEK,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2199, 1, 1, tzinfo=UTC),
    ]
    events = [emitter.emit(TaskSent, "task-1", occurred_at=moment) for moment in moments]

    created = make_room(migrated, *events)

    Journal().append(migrated, *events)
    assert created == set()
    assert {partition_of(migrated, event) for event in events} == {"event_default"}


def test_a_past_week_that_the_default_partition_has_begun_stays_there(migrated: Connection, emitter: Emitter) -> None:
    """An import that goes on where an earlier version of this package began it."""
    early, late = (emitter.emit(TaskSent, "task-1", occurred_at=monday(migrated) - 5 * WEEK + timedelta(days=day)) for day in (0, 1))
    Journal().append(migrated, early)

    created = make_room(migrated, early, late)

    Journal().append(migrated, late)
    assert created == set()
    assert [partition_of(migrated, event) for event in (early, late)] == ["event_default"] * 2


def test_partitions_are_not_created_without_bound(migrated: Connection) -> None:
    """Each is locked by whoever reads a stream."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="at most 61 weeks ahead, and not for 62"):
        create_partitions(migrated, 62)


@pytest.fixture
def two_years(migrated: Connection) -> Connection:
    """A log that has been kept for two years."""
    for weeks_ago in range(2, 105):
        migrated.execute("select celery_journal.create_partition(%s)", (monday(migrated) - weeks_ago * WEEK,))
    return migrated


def locks(connection: Connection) -> int:
    """Return how many locks the transaction holds on the log: the parent, the partitions, their indexes."""
    query = b"""
        select count(*) from pg_locks l join pg_class c on c.oid = l.relation
         where l.pid = pg_backend_pid() and c.relnamespace = 'celery_journal'::regnamespace"""
    (count,) = connection.execute(query).fetchone() or (0,)
    return int(count)


def test_a_stream_is_read_with_few_locks(two_years: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty sessions at once stay within the locks that a server has by default: 64 for each of a hundred."""
    counted = []
    execute = psycopg.Cursor.execute

    def counting(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        if b"from celery_journal.event e" not in query:
            return execute(cursor, query, *args, **kwargs)
        with two_years.transaction():
            execute(cursor, query, *args, **kwargs)
            counted.append(locks(two_years))
        return cursor

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    for _ in range(8):  # a statement that is prepared has a plan for any values by then
        Journal().read_stream(two_years, "task-1")
        Journal().known(two_years, ["task-1", "task-2"])

    assert len(counted) == 8 * 2 * 12
    assert 0 < max(counted) * 80 <= 64 * 100


def test_a_stream_of_two_years_is_read_as_a_whole(two_years: Connection, emitter: Emitter) -> None:
    """In the order of the log, whatever the clocks said: what is years off, and both sides of every partition's bound."""
    bounds = [monday(two_years) - weeks_ago * WEEK for weeks_ago in range(-10, 106)]
    moments = [moment for bound in bounds for moment in (bound, bound - timedelta(milliseconds=1))]
    moments += [datetime(1970, 1, 1, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)]
    events = [emitter.emit(TaskSent, "task-1", occurred_at=moment) for moment in moments]

    Journal().append(two_years, *events)

    assert [recorded.event for recorded in Journal().read_stream(two_years, "task-1")] == events
    assert Journal().known(two_years, ["task-1", "task-2"]) == {"task-1"}
