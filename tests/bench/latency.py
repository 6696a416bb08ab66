"""`add.delay().get()` through a worker, with this backend and with Celery's Redis backend, taking turns."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from celery import group

from tests.consumers.scene import url_of
from tests.consumers.workers import Worker, available, working

WARM = 20

REDIS = "redis://127.0.0.1:6379/8"


def run(dsn: str) -> None:
    """Measure the round trip of a task and of a group of ten, in milliseconds, over the Redis broker."""
    if not available("redis"):
        print("not run: no Redis on this machine")
        return
    os.environ["CELERY_JOURNAL_SPOOL"] = ""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as workers:
        backends = {"journal": url_of(dsn), "redis": REDIS}
        started = {name: workers.enter_context(working("redis", url, dsn, Path(folder))) for name, url in backends.items()}
        for title, once, rounds in (("one task", _task, 400), ("a group of ten", _group, 60)):
            times: dict[str, list[float]] = {name: [] for name in started}
            for turn in range(rounds + WARM):
                for name, worker in started.items():
                    began = time.perf_counter()
                    once(worker)
                    if turn >= WARM:
                        times[name].append((time.perf_counter() - began) * 1000)
            _report(title, times)


def _task(worker: Worker) -> None:
    assert worker.send("add", 2, 3).get(timeout=30) == 5


def _group(worker: Worker) -> None:
    tasks = group([worker.signature("add", number, 1) for number in range(10)], app=worker.app)
    assert tasks.apply_async().get(timeout=30) == list(range(1, 11))


def _report(title: str, times: dict[str, list[float]]) -> None:
    for name, values in times.items():
        print(f"{title:16} {name:8} median {statistics.median(values):6.1f} ms   p99 {statistics.quantiles(values, n=100)[98]:6.1f} ms")
    ratio = statistics.median(times["journal"]) / statistics.median(times["redis"])
    print(f"{title:16} journal to redis, median: {ratio:.2f}")
