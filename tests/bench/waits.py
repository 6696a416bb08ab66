"""How long an append waits while a rebuild or a migration goes on, beside nobody, an idle transaction or a long reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, Timer

import psycopg

from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.projections import rebuild
from tests.bench.load import life, lives, open_connection

TASKS = 5_000
WRITERS = 3
ROUNDS = 2

#: Seconds that somebody stands in the way, and that are measured without anybody.
BESIDE = 4.0

#: Of those who wait for a lock on anything of the journal, how long the one has that has waited longest, in milliseconds.
WAITING = b"""
select coalesce(max(extract(epoch from clock_timestamp() - l.waitstart)), 0)::double precision * 1000
  from pg_locks l
       join pg_stat_activity a on a.pid = l.pid
 where not l.granted and a.application_name = 'writer'"""


def run(dsn: str) -> None:
    """How long an append waits while a rebuild or a migration goes on, beside nobody, an idle transaction or a long reader."""
    with open_connection(dsn) as connection:
        Journal().append(connection, *lives(Emitter(), TASKS))
    works: dict[str, Callable[[Connection], object]] = {"rebuild": rebuild, "migrate": migrate}
    beside: dict[str, bytes | None] = {"nobody": None, "an idle transaction": b"idle", "a long reader": b"reader"}
    cases: dict[str, tuple[Callable[[Connection], object] | None, bytes | None]] = {"nothing": (None, None)}
    cases |= {f"{work} beside {who}": (works[work], beside[who]) for work in works for who in beside}
    appends: dict[str, list[float]] = {name: [] for name in cases}
    locked: dict[str, float] = dict.fromkeys(cases, 0.0)
    for _ in range(ROUNDS):
        for name, (work, who) in cases.items():
            times, longest = _measured(dsn, work, who)
            appends[name] += times
            locked[name] = max(locked[name], longest)
    for name, times in appends.items():
        times.sort()
        print(
            f"  {name:36} {len(times):7,} appends   p50 {times[len(times) // 2]:6.1f}   p99.9 {times[-1 - len(times) // 1000]:6.1f}   "
            f"max {times[-1]:6.1f} ms   longest wait for a lock {locked[name]:5.1f} ms",
            flush=True,
        )


def _measured(dsn: str, work: Callable[[Connection], object] | None, who: bytes | None) -> tuple[list[float], float]:
    """Return how long each append took, in milliseconds, and the longest wait for a lock that was seen."""
    times: list[float] = []
    longest, done = [0.0], Event()

    def write() -> None:
        emitter, journal = Emitter(), Journal()
        with psycopg.connect(dsn, autocommit=True, application_name="writer") as connection:
            while not done.is_set():
                for event in life(emitter):
                    began = time.perf_counter()
                    journal.append(connection, event)
                    times.append((time.perf_counter() - began) * 1000)

    def watch() -> None:
        with open_connection(dsn) as connection:
            while not done.wait(0.002):
                (waited,) = connection.execute(WAITING).fetchone() or (0.0,)
                longest[0] = max(longest[0], waited)

    threads = [Thread(target=write) for _ in range(WRITERS)] + [Thread(target=watch)]
    for thread in threads:
        thread.start()
    with _in_the_way(dsn, who):
        if work is None:
            time.sleep(BESIDE)
        else:
            with open_connection(dsn) as connection:
                work(connection)
    done.set()
    for thread in threads:
        thread.join()
    return times, longest[0]


@contextmanager
def _in_the_way(dsn: str, who: bytes | None) -> Iterator[None]:
    """A transaction that has written to the log and does nothing more, or reads it, and ends after a while."""
    if who is None:
        yield
        return
    with psycopg.connect(dsn) as connection:
        if who == b"idle":
            Journal().append(connection, *life(Emitter()))
        else:
            connection.execute(b"select count(*) from celery_journal.event")
            connection.execute(b"select count(*) from celery_journal.task_result")
        leaving = Timer(BESIDE, connection.rollback)
        leaving.start()
        yield
        leaving.join()
