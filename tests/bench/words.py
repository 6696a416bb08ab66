"""Milliseconds of the database for each word of `list`, and for status, errors, queues and workers, at two million tasks (TASKS)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from celery_journal.consumers.errors import error_groups
from celery_journal.consumers.narrowing import narrowed
from celery_journal.consumers.replaced import first_names
from celery_journal.consumers.search import moment, parse
from celery_journal.consumers.settlement import settled_in
from celery_journal.consumers.status import queues_of, status_of
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import Event, OperatorActed, TaskReplayed
from celery_journal.projections import Q, TaskResult, Worker
from tests.bench.load import open_connection

TASKS = int(os.environ.get("TASKS", "2000000"))
REPEATS = 3

#: One task in so many has failed, and one in so many of those was sent again, every other time with success.
FAILING, SENT_AGAIN = 100, 10

#: A task every 1.3 seconds, so that two million are a month. One in a hundred has failed and one in twenty was tried again; one in five
#: hundred was delivered twice, one in five thousand took long; the last two thousand have not ended.
ROWS = b"""
insert into celery_journal.task_result_row (
       task_id, date_created, date_updated, recorded_at, task_name, status, worker, pid, retries, date_done, date_started, started_attempt,
       date_restarted, date_sent, queue, root_id, parent_id, group_id, periodic_task_name, args, kwargs, traceback, result, content_type,
       content_encoding, outcome_position, news_position, asked_at, lost_reason)
select i.id, m.at, m.at + d.took, m.at + d.took, 'app.task_' || n %% 100,
       case when n %% 100 = 0 then 'FAILURE' when n <= 200 then 'STARTED' when n <= 2000 then 'PENDING' else 'SUCCESS' end,
       case when w.has_run then 'w' || n %% 50 || '@host' end, 7, (n %% 20 = 0)::integer,
       case when n %% 100 = 0 or n > 2000 then m.at + d.took end,
       case when w.has_run then m.at + interval '1 second' end, case when w.has_run then (n %% 20 = 0)::integer else -1 end,
       case when n %% 500 = 3 then m.at + interval '2 seconds' end, m.at, 'queue_' || n %% 10,
       i.root, nullif(i.root, i.id), case when n %% 10 = 0 then 'group-' || n / 100 end,
       case when n %% 200 = 0 then 'nightly-' || n %% 1000 end,
       convert_to('[' || n || ', "order"]', 'UTF8'), convert_to('{"user_id": ' || n || ', "amount": "12.50", "currency": "EUR"}', 'UTF8'),
       case when n %% 100 = 0 then E'Traceback (most recent call last):\n'
                                  || repeat(E'  File "/app/billing/tasks.py", line 40, in charge\n', 8)
                                  || case when n %% 1000 = 0 then 'TimeoutError: no answer' else 'ValueError: no ' || n end end,
       case when n %% 100 = 0 then convert_to('{"exc_type": "ValueError", "exc_message": ["no ' || n || '"]}', 'UTF8')
            else convert_to('{"total": ' || n || '}', 'UTF8') end,
       'application/json', 'utf-8', n * 4, n * 4, m.at, case when n between 1001 and 1010 then 'worker gone' end
  from generate_series(1, %(tasks)s) n
       cross join lateral (select md5('task-' || n)::uuid::text as id, md5('task-' || n - n %% 4)::uuid::text as root) i
       cross join lateral (select now() - n * interval '1.3 seconds' as at) m
       cross join lateral (
           select case when n %% 5000 = 1 then interval '20 seconds' else (1000 + n %% 3000) * interval '1 ms' end as took) d
       cross join lateral (select n <= 200 or n > 2000 or n %% 100 = 0 as has_run) w
"""
SENDINGS = b"""
insert into celery_journal.task_attempt_row (task_id, attempt, run, date_sent, sent_recorded_at, queue, run_rank, end_rank, recorded_at)
select md5('task-' || n)::uuid::text, 0, '', m.at, m.at, 'queue_' || n %% 10, 0, -1, m.at
  from generate_series(1, %(tasks)s) n, lateral (select now() - n * interval '1.3 seconds' as at) m
"""
RUNS = b"""
insert into celery_journal.task_attempt_row (
       task_id, attempt, run, date_received, date_started, started_recorded_at, worker, pid, run_rank, end_rank, status, date_done,
       recorded_at)
select md5('task-' || n)::uuid::text, attempt, md5(n || ' ' || attempt || ' ' || run)::uuid::text, m.at, m.at, m.at,
       'w' || n %% 50 || '@host', 7, 2,
       case when n <= 200 then -1 else 11 end,
       case when n > 200 then case when n %% 20 = 0 and attempt = 0 then 'RETRY' when n %% 100 = 0 then 'FAILURE' else 'SUCCESS' end end,
       case when n > 200 then m.at + interval '2 seconds' end, m.at
  from generate_series(1, %(tasks)s) n
       cross join generate_series(0, (n %% 20 = 0)::integer) attempt
       cross join generate_series(0, (n %% 500 = 3)::integer) run
       cross join lateral (select now() - n * interval '1.3 seconds' + (1 + run + 3 * attempt) * interval '1 second' as at) m
 where n <= 200 or n > 2000 or n %% 100 = 0
"""
WORKERS = b"""
insert into celery_journal.worker_row (worker, date_created, last_seen, is_offline, meta)
select 'w' || n || '@host', now(), now(), false, convert_to('{"queues": ["queue_' || n % 10 || '"], "active": 1}', 'UTF8')
  from generate_series(0, 49) n
"""

INDEXES = b"""
select i.indexname, i.indexdef
  from pg_indexes i
 where i.schemaname = 'celery_journal' and i.tablename = 'task_result_row' and i.indexname !~ 'pkey'
"""

#: What is found often, seldom and never.
ASKED = (
    "",
    "state:FAILURE",
    "state:REVOKED",
    "-state:SUCCESS",
    "name:app.task_7",
    "name:app.*_7",
    "name:nobody.*",
    "task_7",
    "nothing",
    "id:c4ca4238*",
    "worker:w3",
    "worker:w99",
    "queue:queue_3",
    "queue:none",
    "since:2h",
    "until:1d",
    "until:20d",
    "args.0:7777",
    "result.total:7777",
    "error:TimeoutError",
    "error:nothing",
    "took:>10s",
    "took:>1h",
    "retries:>0",
    "retries:>2",
    "lost:yes",
    "lost:no",
    "resolved:yes",
    "resolved:no",
    "hidden:yes",
    "replayed:yes",
    "replayed:no",
    "replayed:failed",
    "settled:yes",
    "settled:no",
    "state:FAILURE settled:no",
    "runs:>1",
    "runs:>5",
    "runs:1",
    "runs:0",
    "overlap:yes",
    "overlap:no",
    "overlap:yes retries:>2",
    "root:x",
    "parent:x",
    "group:group-77",
    "periodic:nightly-200",
    "periodic:x",
)


class Timed(psycopg.Cursor[Any]):
    """A cursor that adds up the seconds for which the database is waited for."""

    spent = 0.0

    def execute(self, *args: Any, **kwargs: Any) -> Timed:
        """Execute the statement, and read what it finds."""
        began = time.perf_counter()
        super().execute(*args, **kwargs)
        Timed.spent += time.perf_counter() - began
        return self


def run(dsn: str) -> None:
    """Milliseconds of the database for each word of `list`, and for status, errors, queues and workers, at two million tasks (TASKS)."""
    with open_connection(dsn) as connection:
        began = time.perf_counter()
        _fill(connection)
        count = TASKS // FAILING // SENT_AGAIN
        print(f"  {TASKS:,} tasks, of which {count:,} were sent again, in {time.perf_counter() - began:.0f} s", flush=True)
    commands: list[tuple[str, Callable[[Connection], object]]] = [
        ("status", status_of),
        ("queues", queues_of),
        ("workers", Worker.all),
        ("errors", lambda connection: error_groups(connection, _ago("1d"), datetime.now(UTC), Q(settled=False, hidden=False))),
    ]
    for name, command in commands:
        _tell(dsn, name, command)
    for words in ASKED:
        _tell(dsn, f"list {words}", partial(_list, words))


def _ago(span: str) -> datetime:
    return moment(span, datetime.now(UTC))


def _list(words: str, connection: Connection) -> Sequence[object]:
    """Read what `list` reads."""
    condition = parse(words.split(), datetime.now(UTC))
    condition = condition if "hidden" in words else condition & Q(hidden=False)
    rows = list(TaskResult.objects.using(connection).filter(narrowed(condition, connection))[:51])
    settled_in(connection, [row.task_id for row in rows if row.status != "SUCCESS"])
    first_names(connection, [row.task_id for row in rows])
    return rows


def _tell(dsn: str, name: str, command: Callable[[Connection], object]) -> None:
    """Print the least milliseconds, and those of the first time, when everything is planned; waited for, and of the processor."""
    with psycopg.connect(dsn, autocommit=True, cursor_factory=Timed) as connection:
        spent, used = [], []
        for _ in range(REPEATS):
            Timed.spent, before = 0.0, _used(connection)
            found = command(connection)
            spent.append(1000 * Timed.spent)
            used.append(_used(connection) - before)
        count = f"{len(found):4} found" if isinstance(found, Sequence) else ""
        least = f"{min(spent[1:]):9.1f} ms, of the processor {min(used[1:]):9.1f} ms"
        print(f"  {name:30} {least}; at first {spent[0]:9.1f} ms, {used[0]:9.1f} ms  {count}", flush=True)


def _used(connection: Connection) -> float:
    """Return the milliseconds that the server's process for this connection has had, which other load on the machine does not lengthen."""
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e6


def _fill(connection: Connection) -> None:
    """Put the rows where the fold would put them: to append eight million events takes an hour."""
    # Indexes are quicker made of what is there.
    indexes = connection.execute(INDEXES).fetchall()
    for name, _ in indexes:
        connection.execute(f"drop index celery_journal.{name}".encode())
    for statement in (ROWS, SENDINGS, RUNS):
        connection.execute(statement, {"tasks": TASKS})
    connection.execute(WORKERS)
    for _, definition in indexes:
        connection.execute(definition.encode())
    ids = [one for (one,) in connection.execute(b"select md5('task-' || n)::uuid::text from generate_series(1, %s) n", (TASKS,))]
    emitter = Emitter()
    facts: list[Event] = []
    for number in range(TASKS // FAILING // SENT_AGAIN):
        failed = ids[FAILING * (number * SENT_AGAIN + 1) - 1]
        copy = ids[FAILING * (number * SENT_AGAIN + 1) - 2 + number % 2]
        facts.append(emitter.emit(TaskReplayed, failed, task_id=copy, replay="r", source="operator"))
        if number % 50 == 0:
            marks = b'{"resolved": true, "hidden": true}'
            facts.append(emitter.emit(OperatorActed, failed, action="annotate", meta=marks, source="operator"))
    for start in range(0, len(facts), 1000):
        Journal().append(connection, *facts[start : start + 1000])
    connection.execute(b"vacuum analyze")
