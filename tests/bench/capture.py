"""What capture costs: each signal's handler by itself, and `apply_async` with each way of tracking what is published, taking turns."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import Celery, signals
from celery.app.task import Context
from celery.exceptions import Ignore
from celery.worker.request import Request
from kombu.message import Message
from kombu.serialization import dumps

from tests.consumers.scene import Mailbox, new_app, url_of
from tests.consumers.workers import available

ROUNDS = 3000

#: Messages of one turn: long enough for what is buffered to be recorded meanwhile.
TURN = 200


def run(dsn: str) -> None:
    """Measure the handlers of Celery's signals, and apply_async with track_publish off, buffered and sync."""
    os.environ["CELERY_JOURNAL_SPOOL"] = ""
    with tempfile.TemporaryDirectory() as folder:
        _handlers(dsn, Path(folder))
        _publishing(dsn, Path(folder))


def _app(dsn: str, folder: Path, mode: str = "buffered") -> Celery:
    if available("redis"):
        broker = {"broker_url": "redis://127.0.0.1:6379/9", "broker_transport_options": {"global_keyprefix": f"bench-{uuid4().hex}:"}}
    else:
        broker = Mailbox(folder / mode).conf
    app = new_app(url_of(dsn), result_backend_transport_options={"track_publish": mode}, **broker)
    assert app.backend
    return app


def _handlers(dsn: str, folder: Path) -> None:
    app = _app(dsn, folder)

    @app.task(name="bench.charge", shared=False, ignore_result=True)
    def charge(order: dict[str, Any], currency: str) -> None:
        """Be a task of an ordinary application."""

    args, kwargs = ({"customer": 4711, "amount": "12.50", "items": [1, 2, 3]},), {"currency": "EUR"}
    queues = [app.amqp.queues["work"]]

    def message() -> Any:
        return app.amqp.as_task_v2(str(uuid4()), charge.name, args, kwargs)

    def sent() -> Callable[[], None]:
        task = message()
        more = {"sender": charge.name, "body": task.body, "headers": task.headers, "exchange": "", "routing_key": "work"}

        def publish() -> None:
            signals.before_task_publish.send(**more, declare=queues, properties=task.properties, retry_policy={})
            signals.after_task_publish.send(**more)

        return publish

    consumer = type("Consumer", (), {"app": app, "hostname": "bench@host"})()

    def received() -> Callable[[], None]:
        task = message()
        content_type, encoding, body = dumps(task.body, serializer="json")
        delivery = {"exchange": "", "routing_key": "work", "redelivered": False}
        arrived = Message(body, content_type=content_type, content_encoding=encoding, headers=task.headers, delivery_info=delivery)
        request = Request(arrived, app=app, task=charge, hostname="bench@host")
        return lambda: signals.task_received.send(sender=consumer, request=request)

    def within(tell: Callable[[str], Any]) -> Callable[[], Callable[[], None]]:
        def prepare() -> Callable[[], None]:
            task = message()
            request = Context(
                task.headers, args=args, kwargs=kwargs, hostname="bench@host", called_directly=False, delivery_info={"routing_key": "work"}
            )

            def run() -> None:
                tell(task.headers["id"])

            charge.request_stack.push(request)
            return run

        return prepare

    def prerun(task_id: str) -> None:
        signals.task_prerun.send(sender=charge, task_id=task_id, task=charge, args=args, kwargs=kwargs)

    def postrun(task_id: str) -> None:
        signals.task_postrun.send(sender=charge, task_id=task_id, task=charge, retval=Ignore(), state="IGNORED")

    def done(task_id: str) -> None:
        app.backend.mark_as_done(task_id, None, charge.request, False)

    cases = {
        "task-sent (before_task_publish and after_task_publish)": sent,
        "task-received (task_received)": received,
        "task-started (task_prerun)": within(prerun),
        "task-ignored, by the task (task_postrun)": within(postrun),
        "task-ignored, by the setting (mark_as_done)": within(done),
    }
    for name, prepare in cases.items():
        times = list[float]()
        for _ in range(ROUNDS):
            tell = prepare()
            began = time.perf_counter()
            tell()
            times.append((time.perf_counter() - began) * 1e6)
        app.backend.buffer.flush()
        print(f"{name:56} median {statistics.median(times):5.1f} µs   p99 {statistics.quantiles(times, n=100)[98]:6.1f} µs")
    app.backend.database.close()


def _purge(app: Celery) -> None:
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("work")


def _publishing(dsn: str, folder: Path) -> None:
    with ExitStack() as stack:
        apps = {mode: _app(dsn, folder, mode) for mode in ("off", "buffered", "sync")}
        for app in apps.values():
            stack.callback(app.backend.database.close)
            stack.callback(_purge, app)
        single: dict[str, list[float]] = {mode: [] for mode in apps}
        throughput: dict[str, list[float]] = {mode: [] for mode in apps}
        for turn in range(12):
            for mode, app in apps.items():
                times = list[float]()
                began = time.perf_counter()
                for number in range(TURN):
                    start = time.perf_counter()
                    app.send_task("bench.charge", ({"customer": number},), {"currency": "EUR"})
                    times.append(time.perf_counter() - start)
                app.backend.buffer.flush()
                whole = time.perf_counter() - began
                if turn:  # the first one opens connections
                    single[mode].append(statistics.median(times))
                    throughput[mode].append(whole / TURN)
        for mode in apps:
            one = statistics.median(value / off for value, off in zip(single[mode], single["off"], strict=True))
            all_of_it = statistics.median(value / off for value, off in zip(throughput[mode], throughput["off"], strict=True))
            micros = statistics.median(single[mode]) * 1e6
            print(f"apply_async, {mode:9} median {micros:6.0f} µs   to off {one:.2f}   until all is recorded, to off {all_of_it:.2f}")
