"""How fast a capture drains a backlog of Celery's broadcast from RabbitMQ, and the most memory that it takes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from tests.consumers.broadcasting import Foreigner, Station, counted
from tests.consumers.workers import available

EVENTS = 200_000

#: A worker that has little to do sends each event by itself, a busy one up to 24 in a message.
GROUPS = (1, 24)


def run(dsn: str) -> None:
    """How fast a capture drains a backlog of Celery's broadcast from RabbitMQ, and the most memory that it takes."""
    if not available("rabbitmq"):
        print("  not run: there is no RabbitMQ on this machine")
        return
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as folder:
            station = Station("rabbitmq", dsn, Path(folder))
            station.declare()
            try:
                worker = Foreigner(f"celery@{group}")
                for _ in range(EVENTS // 30_000 + 1):
                    station.publish(worker.lives(10_000), group)
                _drain(station, dsn, group)
            finally:
                station.close()


def _drain(station: Station, dsn: str, group: int) -> None:
    before, total = counted(dsn), (EVENTS // 30_000 + 1) * 30_000
    process = station.start("--once")
    peak, first, began, ended, used = 0, 0, 0.0, 0.0, 0.0
    while process.poll() is None:
        recorded = counted(dsn) - before
        if recorded and not first:
            began, first = time.perf_counter(), recorded
        if recorded < total:
            ended = time.perf_counter()
        try:
            looked = psutil.Process(process.pid)
            peak = max(peak, looked.memory_info().rss)
            used = sum(looked.cpu_times()[:2])
        except psutil.Error:
            break
        time.sleep(0.2)
    said, _ = process.communicate()
    assert counted(dsn) - before == total, said
    rate = (total - first) / (ended - began)
    print(f"  {total:,} events, {group:2} a message: {rate:7,.0f} events/s, {used / total * 1e6:.0f} us of CPU an event, {peak >> 20} MB")
