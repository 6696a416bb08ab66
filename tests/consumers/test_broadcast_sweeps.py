"""What a capture does besides: it marks what is lost, and completes the chords of its app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery

from celery_journal.journal import Connection
from tests.conftest import require

from .broadcasting import Station
from .lostscene import Log
from .scene import ROOT, Mailbox, kinds, until, url_of
from .workers import available

QUICK = {"CELERY_JOURNAL_SWEEP_INTERVAL": "0.2", "CELERY_JOURNAL_LOST_GRACE": "0.5", "CELERY_JOURNAL_HEARTBEAT_INTERVAL": "0"}

NewApp = Callable[..., Celery]


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """The process until the end of the block, when it is asked to end and does."""
    try:
        yield
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said


@contextmanager
def capturing_for_app(url: str, mailbox: Mailbox) -> Iterator[None]:
    """`celery -A proj journal capture` during the block."""
    conf = {**mailbox.conf, "result_backend": url}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    command = [sys.executable, "-m", "celery", "-A", "tests.consumers.tasks", "journal", "capture"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment, **QUICK, "SCENE_CONF": json.dumps(conf)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with ending(process):
        yield


def lose(connection: Connection) -> None:
    """Have a worker begin a task, and go."""
    log = Log(connection)
    log.online()
    log.started()
    log.offline()


def test_a_capture_of_a_broker_marks_what_is_lost(connection: Connection, dsn: str, tmp_path: Path) -> None:
    """F02: it knows the journal, and no app."""
    require("RabbitMQ", available("rabbitmq"))
    station = Station("rabbitmq", dsn, tmp_path)
    lose(connection)
    try:
        with ending(station.start(**QUICK)):
            until(lambda: "task-lost" in kinds(dsn, "t"))
    finally:
        station.close()


def test_a_capture_of_an_app_marks_what_is_lost(connection: Connection, dsn: str, mailbox: Mailbox) -> None:
    """F02: with the journal, the broker and the options of the app."""
    lose(connection)

    with capturing_for_app(url_of(dsn), mailbox):
        until(lambda: "task-lost" in kinds(dsn, "t"))


def test_a_capture_of_an_app_completes_its_chords(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """F06: the members have ended, and whoever was to send the body has died."""
    app = make_app(**mailbox.conf)
    app.backend.apply_chord(("g", [app.AsyncResult("m0")]), app.signature("scene.sum", task_id="body"))
    app.backend.set_chord_size("g", 1)
    app.backend.store_result("m0", 7, "SUCCESS")
    assert mailbox.sent() == []

    with capturing_for_app(url_of(dsn), mailbox):
        until(lambda: "chord-unlocked" in kinds(dsn, "g"))

    assert [message.args[0] for message in mailbox.sent()] == [[7]]
