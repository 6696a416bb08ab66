"""Questions to the views use the indexes that were made for them (M20, M67-M74, F17)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from celery_journal.consumers.narrowing import narrowed
from celery_journal.consumers.search import parse
from celery_journal.journal import Connection, migrate
from celery_journal.projections import ChordCounter, GroupResult, Q, QuerySet, TaskResult
from celery_journal.projections.managers import TaskResultManager
from tests.conftest import new_database

#: Rows as a journal of some weeks has them: most have succeeded, few have failed or are under way.
FILL = b"""
insert into celery_journal.task_result_row (task_id, date_created, date_updated, recorded_at, task_name, status, worker, retries, date_done,
                                            periodic_task_name, root_id, parent_id, group_id, kwargs)
select 'task-' || n, moment, moment, moment, 'app.task_' || n % 100,
       case n % 1000 when 0 then 'FAILURE' when 1 then 'STARTED' else 'SUCCESS' end,
       'worker-' || n % 500, 0, case when n % 1000 <> 1 then moment end, case when n % 200 = 0 then 'nightly-' || n % 1000 end,
       'task-' || n - n % 4, case when n % 4 > 0 then 'task-' || n - n % 4 end, case when n % 10 = 0 then 'group-' || n / 100 end,
       convert_to('{"user_id": ' || n || '}', 'UTF8')
  from generate_series(1, 20000) n, lateral (select now() - n * interval '1 minute' as moment) m
"""
FILL_GROUPS = b"""
insert into celery_journal.group_result_row (group_id, date_created, saved_rank, saved_at, members)
select 'group-' || n, now() - n * interval '1 minute', 0, now() - n * interval '1 minute', array['task-' || n]
  from generate_series(1, 5000) n
"""
FILL_CHORDS = b"""
insert into celery_journal.chord_counter_row (group_id, date_created, started_rank, size_rank, size, asked_body_task_id)
select 'chord-' || n, now(), 0, 0, 2, 'body-' || n from generate_series(1, 5000) n
"""

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def full(embedded_server: str) -> Iterator[Connection]:
    """A journal of 20,000 tasks and 5,000 groups, whose statistics are up to date."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            connection.execute(FILL)
            connection.execute(FILL_GROUPS)
            connection.execute(FILL_CHORDS)
            connection.execute("vacuum analyze")
            yield connection


def indexes(connection: Connection, found: QuerySet[Any]) -> set[str]:
    """Return how the table of the view is read: the indexes, or `Seq Scan`."""
    statement, parameters = found.query.rows("celery_journal")
    ((explained,),) = connection.execute(SQL("explain (format json) ") + statement, parameters).fetchall()
    return set(ways(explained[0]["Plan"]))


def ways(plan: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in plan or plan["Node Type"] == "Seq Scan":
        yield plan.get("Index Name", plan["Node Type"])
    for child in plan.get("Plans", ()):
        yield from ways(child)


Ask = Callable[[TaskResultManager], QuerySet[TaskResult]]

QUESTIONS: list[tuple[str, Ask, str]] = [
    ("the-list", lambda tasks: tasks.all()[:50], "date_done"),
    ("the-list-further-on", lambda tasks: tasks.all()[50:100], "date_done"),
    ("task-name", lambda tasks: tasks.filter(task_name="app.task_7")[:50], "task_name"),
    ("status", lambda tasks: tasks.filter(status="FAILURE")[:50], "status"),
    ("some-states", lambda tasks: tasks.filter(status__in=["FAILURE", "STARTED"]), "status"),
    ("worker", lambda tasks: tasks.filter(worker="worker-7")[:50], "worker"),
    ("created-since", lambda tasks: tasks.filter(date_created__within=HOUR), "date_created"),
    ("created-last", lambda tasks: tasks.order_by("-date_created")[:50], "date_created"),
    ("done-since", lambda tasks: tasks.filter(date_done__within=HOUR), "date_done"),
    ("done-last", lambda tasks: tasks.filter(status="SUCCESS").order_by("-date_done")[:10], "date_done"),
    ("periodic-task-name", lambda tasks: tasks.filter(periodic_task_name="nightly-200")[:50], "periodic_task_name"),
    ("group", lambda tasks: tasks.filter(group_id="group-7"), "group_id"),
    ("expired", lambda tasks: tasks.get_all_expired(timedelta(days=13, hours=12)), "date_done"),
    ("key", lambda tasks: tasks.filter(task_id="task-7"), "pkey"),
    ("keys", lambda tasks: tasks.filter(task_id__in=["task-7", "task-8"]), "pkey"),
    ("beginning-of-the-key", lambda tasks: tasks.filter(task_id__startswith="task-777"), "pkey"),
]


@pytest.mark.parametrize(("ask", "index"), [pytest.param(ask, index, id=name) for name, ask, index in QUESTIONS])
def test_a_question_uses_the_index_that_was_made_for_it(ask: Ask, index: str, full: Connection) -> None:
    """M20, M67-M72: by name, state, worker, dates, periodic name; and the list as it is without being asked for anything."""
    assert indexes(full, ask(TaskResult.objects.using(full))) == {f"task_result_row_{index}"}


def test_a_question_without_an_index_would_be_noticed(full: Connection) -> None:
    """The plans are looked at for what they read."""
    assert indexes(full, TaskResult.objects.using(full).filter(pid=7).order_by("pid")) == {"Seq Scan"}


def test_the_stale_are_found_by_the_index_of_what_has_not_ended(full: Connection) -> None:
    """F11: and the eta of each in the runs of that task alone."""
    stale = TaskResult.objects.using(full).get_stale_tasks(HOUR)

    assert indexes(full, stale) - {"task_attempt_row_pkey", "Seq Scan"} == {"task_result_row_open"}
    assert 0 < stale.count() <= 20


def test_a_name_is_found_by_its_index_also_where_another_task_has_it_now(full: Connection) -> None:
    """The log, which is empty here, tells whose it was; those are looked up by their keys."""
    question = TaskResult.objects.using(full).filter(Q(task_name="app.task_7") | Q(replaced_name="app.task_7"))

    assert indexes(full, question) - {"Seq Scan"} == {"task_result_row_task_name", "task_result_row_pkey"}
    assert question.count() == 200


@pytest.mark.parametrize(
    ("words", "index"),
    [
        pytest.param("runs:>1", "again", id="what ran again"),
        pytest.param("retries:>2", "again", id="what was tried again"),
        pytest.param("overlap:yes", "again", id="doubled work"),
        pytest.param("took:>1h", "long", id="what took long"),
        pytest.param("error:nothing", "failed", id="errors"),
        pytest.param("lost:yes", "open", id="what is lost"),
        pytest.param("hidden:yes", "pkey", id="what is hidden"),
        pytest.param("settled:yes", "pkey", id="what is settled"),
        pytest.param("replayed:failed", "pkey", id="what was sent again in vain"),
        pytest.param("settled:no", "date_done", id="what is not settled"),
    ],
)
def test_words_that_find_little_do_not_look_at_all_tasks(words: str, index: str, full: Connection) -> None:
    """What few tasks are has an index in the order of lists, or is looked up by its keys."""
    found = TaskResult.objects.using(full).filter(parse([words], datetime.now(UTC)))[:50]

    assert {name for name in indexes(full, found) if name.startswith("task_result_row_")} == {f"task_result_row_{index}"}


@pytest.mark.parametrize("word", ["name:nobody.*", "nothing", "worker:nobody"])
def test_a_pattern_that_nothing_is_like_is_not_looked_for(word: str, full: Connection) -> None:
    """By the names that there are, which the index leads through."""
    condition = narrowed(parse([word], datetime.now(UTC)), full)
    statement, parameters = TaskResult.objects.using(full).filter(condition)[:50].query.rows("celery_journal")

    plan = "\n".join(line for (line,) in full.execute(SQL("explain ") + statement, parameters))

    assert not re.search("Seq Scan on task_result_row|using task_result_row_date_done", plan)


def test_a_canvas_is_found_by_its_root(full: Connection) -> None:
    """The root itself by its key, as it is not in the index of those below it."""
    tasks = TaskResult.objects.using(full)

    assert indexes(full, tasks.filter(root_id="task-400")) == {"task_result_row_root_id", "task_result_row_pkey"}
    assert {task.task_id for task in tasks.filter(root_id="task-400")} == {"task-400", "task-401", "task-402", "task-403"}
    assert tasks.exclude(root_id="task-400").count() == 19_996


def test_a_chord_is_found_by_its_body(full: Connection) -> None:
    """Whoever has the id of a body that never ran has nothing else."""
    chords = ChordCounter.all_objects.using(full).filter(body_task_id="body-7")

    assert "chord_counter_row_body_of" in indexes(full, chords)  # its parts, of which there are none here, are read as they stand
    assert chords.get().group_id == "chord-7"


@pytest.mark.parametrize("order", ["-date_created", "-date_saved"])
def test_groups_are_listed_by_an_index(order: str, full: Connection) -> None:
    """M73, M74: by the first save and by the last, which is what django-celery-results calls `date_done`; ours has no index."""
    used = indexes(full, GroupResult.objects.using(full).order_by(order)[:10])

    assert used - {"task_result_row_pkey"} == {f"group_result_row_{order.removeprefix('-')}"}


def test_an_index_of_ones_own_makes_json_quick(full: Connection) -> None:
    """F17: opt-in, because it costs every write: `create index ... using gin (celery_journal.json_or_null(kwargs) jsonb_path_ops)`."""
    tasks = TaskResult.objects.using(full)
    question = tasks.filter(Q(kwargs__path={"user_id": 777}) | Q(kwargs__path={"user_id": "777"}))
    before = indexes(full, question)
    full.execute("create index mine on celery_journal.task_result_row using gin (celery_journal.json_or_null(kwargs) jsonb_path_ops)")
    try:
        full.execute("analyze celery_journal.task_result_row")

        assert before == {"Seq Scan"}
        assert indexes(full, question) == {"mine"}
        assert question.get().task_id == "task-777"
    finally:
        full.execute("drop index celery_journal.mine")
