"""Single appends, event and views in one, as a ratio to a plain INSERT of the same rows into a log without views."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from celery_journal.journal import Emitter, Journal
from celery_journal.sql import DEFAULT_SCHEMA
from tests.bench.load import PLAIN_SCHEMA, create_plain_log, lives, open_connection

SECONDS = 3.0
REPEATS = 5
SCHEMAS = (DEFAULT_SCHEMA, PLAIN_SCHEMA)
CONTEXT = multiprocessing.get_context("fork")


def run(dsn: str) -> None:
    """Single appends, event and views in one, as a ratio to a plain INSERT of the same rows into a log without views."""
    with open_connection(dsn) as connection:
        create_plain_log(connection)
    for writers in (1, 16):
        ratios = []
        for _ in range(REPEATS):
            ours, plain = (appends(dsn, Journal(schema=schema, everything_durable=True), writers) for schema in SCHEMAS)
            ratios.append(ours / plain)
            print(f"  {writers:2} writers, durable: {ours:7,.0f} events/s, plain {plain:7,.0f}, ratio {ours / plain:.2f}", flush=True)
        print(f"  {writers:2} writers, durable: median ratio {statistics.median(ratios):.2f}")


def appends(dsn: str, journal: Journal, writers: int) -> float:
    """Return the events a second that so many processes append together."""
    rates: Queue[float] = CONTEXT.Queue()
    barrier = CONTEXT.Barrier(writers)
    processes = [CONTEXT.Process(target=_write, args=(dsn, journal, rates, barrier)) for _ in range(writers)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def _write(dsn: str, journal: Journal, rates: Queue[float], barrier: Barrier) -> None:
    events = list(lives(Emitter(), int(1500 * SECONDS)))
    with open_connection(dsn) as connection:
        barrier.wait()
        began, appended = time.perf_counter(), 0
        for event in events:
            journal.append(connection, event)
            appended += 1
            if time.perf_counter() - began > SECONDS:
                break
        rates.put(appended / (time.perf_counter() - began))
