"""The rebuild's events a second, as a ratio to the Python oracle's and to the least that SQL could do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from psycopg.rows import dict_row

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.codec import decode
from celery_journal.projections import rebuild, verify
from tests.bench.load import lives, open_connection
from tests.projections import oracle

TASKS = 50_000
REPEATS = 3

READ = b"select e.*, e.transaction::text::bigint as transaction from celery_journal.event e"
LEAST = b"""
create table celery_journal.least as
select distinct on (stream) * from celery_journal.event order by stream, attempt desc, occurred_at desc, position desc;
alter table celery_journal.least add primary key (stream);
"""


def run(dsn: str) -> None:
    """The rebuild's events a second, as a ratio to the Python oracle's and to the least that SQL could do."""
    with open_connection(dsn) as connection:
        Journal().append(connection, *lives(Emitter(), TASKS))
        connection.execute(b"analyze celery_journal.event")
        events = TASKS * 4
        oracles, leasts = [], []
        for _ in range(REPEATS):
            ours = _rate(events, lambda: rebuild(connection, ["task_result"]))
            python = _rate(events, lambda: _oracle(connection))
            least = _rate(events, lambda: connection.execute(LEAST))
            connection.execute(b"drop table celery_journal.least")
            oracles.append(ours / python)
            leasts.append(ours / least)
            print(f"  rebuild {ours:9,.0f} events/s, oracle {python:9,.0f}, DISTINCT ON and its key {least:9,.0f}", flush=True)
        print(f"  median ratio to the oracle {statistics.median(oracles):.1f}, to DISTINCT ON and its key {statistics.median(leasts):.2f}")
        verification = verify(connection)
        print(f"  verify: {verification.rows:,} rows compared, {len(verification.differences)} differ")


def _rate(events: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return events / (time.perf_counter() - began)


def _oracle(connection: Connection) -> None:
    with connection.cursor(row_factory=dict_row) as cursor:
        oracle.fold(decode(row) for row in cursor.execute(READ))
