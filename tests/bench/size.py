"""Bytes an event on disk, with every index."""

from __future__ import annotations

from celery_journal.journal import Emitter, Journal
from tests.bench.load import lives, open_connection

TASKS = 25_000

SIZES = b"""
select sum(pg_relation_size(t.relid)), sum(pg_indexes_size(t.relid)), sum(pg_total_relation_size(t.relid))
  from pg_partition_tree('celery_journal.event') t
"""


def run(dsn: str) -> None:
    """Bytes an event on disk, with every index."""
    events = TASKS * 4
    with open_connection(dsn) as connection:
        Journal().append(connection, *lives(Emitter(), TASKS))
        heap, indexes, total = connection.execute(SIZES).fetchone() or (0, 0, 0)
        (view,) = connection.execute(b"select pg_total_relation_size('celery_journal.task_result_row')").fetchone() or (0,)
        (runs,) = connection.execute(b"select pg_total_relation_size('celery_journal.task_attempt_row')").fetchone() or (0,)
    print(f"  log: {total / events:.0f} bytes an event ({heap / events:.0f} rows, {indexes / events:.0f} indexes)")
    print(f"  view task_result: {view / TASKS:.0f} bytes a task with its indexes, where each task has four events")
    print(f"  view task_attempt: {runs / TASKS / 2:.0f} bytes a run with its indexes, where each task has two runs")
