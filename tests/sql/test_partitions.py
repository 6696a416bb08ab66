"""The log is partitioned by week, ahead of time, and takes every event whatever its clock says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.codec import encode
from celery_journal.journal.events import Event, TaskSent

WEEK = timedelta(days=7)


@pytest.fixture
def migrated(bare: Connection) -> Connection:
    """A connection to a journal of its own, because partitions stay."""
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
    "moment",
    [
        pytest.param(datetime(1960, 1, 1, tzinfo=UTC), id="before the epoch"),
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
        datetime(1960, 1, 1, tzinfo=UTC),
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
