"""The Celery app of the demo and its tasks: what a user's own `tasks.py` looks like."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_init

#: The environment variable that tells the worker where the demo lives.
DIRECTORY = "CELERY_JOURNAL_DEMO"

#: Values that other result stores lose, change or refuse.
UNUSUAL: dict[str, Any] = {
    "nothing": None,
    "NUL": "before\0after",
    "half an emoji": "\N{SEEDLING} \ud83c",
    "terminal codes": "\x1b[2J\x1b[31mred\x07",
    "large integer": 2**100,
    "nested": {"a": [{"b": [[], {}, None]}, 1.5]},
    "bytes": b"\x00\xff\xfe",
    "time": datetime(1970, 1, 1, tzinfo=UTC),
}

app = Celery("demo")


def configure(directory: Path) -> None:
    """Have the app keep everything in the directory: its messages, and its results in the embedded journal."""
    queue, control = directory / "queue", directory / "control"
    for folder in (queue, control):
        folder.mkdir(exist_ok=True)
    app.conf.update(
        result_backend=f"journal+embedded://{directory / 'journal'}",
        result_extended=True,
        task_track_started=True,
        broker_url="filesystem://",
        broker_transport="celery_journal.consumers.demo.broker:Transport",
        broker_transport_options={
            "data_folder_in": str(queue),
            "data_folder_out": str(queue),
            "control_folder": str(control),
            "polling_interval": 0.02,
        },
        broker_connection_retry_on_startup=True,
    )


@worker_init.connect(weak=False)
def end_with_the_demo(**_signal: Any) -> None:
    """End the worker and its children when the demo is gone, however it ended: our standard input is closed then."""

    def wait() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    if DIRECTORY in os.environ:
        threading.Thread(target=wait, daemon=True).start()


if DIRECTORY in os.environ:
    configure(Path(os.environ[DIRECTORY]))


@app.task(name="add")
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y


@app.task(name="divide")
def divide(x: int, y: int) -> float:
    """Fail, when y is 0."""
    return x / y


@app.task(name="flaky", bind=True, max_retries=2)
def flaky(self: Any) -> str:
    """Fail twice, and succeed at the third attempt."""
    if self.request.retries < self.max_retries:
        raise self.retry(exc=ConnectionError("no answer"), countdown=0.3)
    return "answered at last"


@app.task(name="crawl", bind=True)
def crawl(self: Any, pages: int) -> str:
    """Report PROGRESS after each page."""
    for page in range(1, pages + 1):
        self.update_state(state="PROGRESS", meta={"page": page, "of": pages})
    return f"{pages} pages"


@app.task(name="pause")
def pause(seconds: float) -> None:
    """Take a while, so that there is time to revoke it."""
    time.sleep(seconds)


@app.task(name="unusual")
def unusual(which: str) -> Any:
    """Return a value that is hard to store."""
    return UNUSUAL[which]


@app.task(name="square")
def square(x: int) -> int:
    """Be one of many."""
    return x * x


@app.task(name="total")
def total(numbers: list[int]) -> int:
    """Be the body of a chord."""
    return sum(numbers)
