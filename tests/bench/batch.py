"""Large batches: one statement with unnest, against COPY into a temporary table and an INSERT from there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.codec import COLUMNS, encode
from celery_journal.journal.events import Event
from tests.bench.load import lives, open_connection

REPEATS = 5


def run(dsn: str) -> None:
    """Large batches: one statement with unnest, against COPY into a temporary table and an INSERT from there."""
    emitter, journal = Emitter(), Journal()
    with open_connection(dsn) as connection:
        connection.execute(b"create temporary table incoming (like celery_journal.event including defaults)")
        for tasks in (5, 25, 250, 1250):
            ratios = []
            for _ in range(REPEATS):
                first, second = list(lives(emitter, tasks)), list(lives(emitter, tasks))
                unnest = _rate(len(first), lambda events=first: journal.append(connection, *events))
                copy = _rate(len(second), lambda events=second: _copy(connection, events))
                ratios.append(unnest / copy)
            median = statistics.median(ratios)
            print(f"  {tasks * 4:5} events a batch: unnest {unnest:7,.0f} events/s, COPY {copy:7,.0f}, median ratio {median:.2f}")


def _rate(events: int, append: object) -> float:
    began = time.perf_counter()
    append()  # type: ignore[operator]
    return events / (time.perf_counter() - began)


def _copy(connection: Connection, events: Sequence[Event]) -> None:
    columns = ", ".join(COLUMNS)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(b"truncate incoming")
        with cursor.copy(f"copy incoming ({columns}) from stdin".encode()) as copy:
            for event in events:
                row = encode(event)
                copy.write_row([row[column] for column in COLUMNS])
        cursor.execute(
            f"insert into celery_journal.event ({columns}) select {columns} from incoming "
            "on conflict (event_id, stream) do nothing".encode()
        )
