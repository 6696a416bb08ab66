"""What the tests of the result backend stand on: an app on a journal, requests as a worker makes them, and a mailbox."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import psycopg
from celery import Celery, _state
from celery.app.task import Context
from kombu.serialization import dumps, loads
from psycopg.conninfo import conninfo_to_dict

from celery_journal.journal import Journal, RecordedEvent
from celery_journal.projections import TaskResult

ROOT = Path(__file__).parents[2]

WORKER = "worker@somewhere"

#: All serializers that kombu has, as accept_content names them.
SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]


def url_of(dsn: str, **more: str) -> str:
    """Return the backend URL of a DSN, `more` being further parameters of libpq."""
    parts = {**conninfo_to_dict(dsn), **more}
    user, database = parts.pop("user", "postgres"), parts.pop("dbname")
    if password := parts.pop("password", None):
        user = f"{user}:{password}"
    return f"journal+postgresql://{user}@/{database}?{urlencode(parts, quote_via=quote)}"


def new_app(url: str, **conf: Any) -> Celery:
    """Return an app that stores its results there, is nobody's current app, and does not reach any broker."""
    app = Celery("scene", set_as_current=False, backend=url, broker="memory://")
    app.conf.update({"result_extended": True, "accept_content": SERIALIZERS[:2], "task_default_queue": "work", **conf})
    return app


@contextmanager
def current(app: Celery) -> Iterator[None]:
    """The app as the current one, which unpickling goes by."""
    before = _state._tls.current_app
    app.set_current()
    try:
        yield
    finally:
        _state._tls.current_app = before


def chained(app: Celery) -> Any:
    """Return the result of a task whose parent is another, whose parent is a third."""
    return app.AsyncResult("c", parent=app.AsyncResult("b", parent=app.AsyncResult("a")))


def delivered(app: Celery, name: str = "scene.add", args: Any = (), kwargs: Any = None, **options: Any) -> Context:
    """Return the request that a worker makes of the message which this app sends for the task."""
    task_id = options.pop("task_id", None) or str(uuid4())
    more_headers, properties = options.pop("headers", {}), options.pop("properties", {})
    message = app.amqp.as_task_v2(task_id, name, args, kwargs or {}, **options)
    content_type, encoding, body = dumps(message.body, serializer=app.conf.task_serializer)
    arguments, keywords, embedded = loads(body, content_type, encoding, accept=[content_type])
    headers = json.loads(json.dumps({**message.headers, **more_headers}))
    return Context(
        headers,
        args=arguments,
        kwargs=keywords,
        hostname=WORKER,
        correlation_id=task_id,
        properties=properties,
        delivery_info={"exchange": "", "routing_key": "work", "priority": 0, "redelivered": False},
        called_directly=False,
        **embedded,
    )


def recorded(dsn: str, stream: str) -> list[RecordedEvent]:
    """Return what the log has of a task, a group or a chord."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return Journal().read_stream(connection, stream)


def kinds(dsn: str, stream: str) -> list[str]:
    """Return the kinds of the events of a stream, in order."""
    return [event.event.kind for event in recorded(dsn, stream)]


def stored(dsn: str, task_id: str) -> list[str]:
    """Return the kinds of what Celery itself stores of a task, in order; the rest is recorded when there is time."""
    return [kind for kind in kinds(dsn, task_id) if kind not in {"task-sent", "task-received", "operator-acted"}]


def row(dsn: str, task_id: str) -> TaskResult:
    """Return what the view shows of a task."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return TaskResult.get(connection, task_id)


def ask(dsn: str, query: bytes, *parameters: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query, parameters).fetchall()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until the condition holds; `seconds` only bounds a test that fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def in_background(call: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
    """Make the call in a thread, and return the future of it; one that hangs does not keep a failing test from its end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments, **options))
        except BaseException as exc:  # noqa: BLE001  whoever asks for the result gets it
            future.set_exception(exc)

    Thread(target=run, daemon=True).start()
    return future


@contextmanager
def waiting(call: Callable[..., Any], **options: Any) -> Iterator[Future[Any]]:
    """A thread that waits for results by this call, from before the block begins; the future of what it returns."""
    began = Event()
    future = in_background(call, timeout=60, on_interval=lambda *_: began.set(), **options)
    until(lambda: began.is_set() or future.done(), 10)
    yield future


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a program of these tests in a process of its own, with pipes to talk to it."""
    command = [sys.executable, "-m", f"tests.consumers.{module}", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdin=pipe, stdout=pipe, text=True)


@dataclass(frozen=True, slots=True)
class Message:
    """A task that was sent."""

    task: str
    id: str
    args: list[Any]
    headers: dict[str, Any]
    #: What the body carries besides the arguments: the chord, the chain, ...
    embedded: dict[str, Any]
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The folder of a filesystem:// broker, which keeps what is sent until a worker takes it."""

    folder: Path

    @property
    def conf(self) -> dict[str, Any]:
        """The settings of an app that uses it."""
        for name in ("queue", "control"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        queue, control = f"{self.folder / 'queue'}", f"{self.folder / 'control'}"
        options = {"data_folder_in": queue, "data_folder_out": queue, "control_folder": control, "polling_interval": 0.02}
        transport = "celery_journal.consumers.demo.broker:Transport"  # kombu's own reader may see a message half written, and dies
        return {"broker_url": "filesystem://", "broker_transport": transport, "broker_transport_options": options}

    def sent(self) -> list[Message]:
        """Return the tasks that were sent and that no worker has taken."""
        messages = []
        for path in sorted((self.folder / "queue").glob("*.msg")):
            message = json.loads(path.read_bytes())
            if "task" in message["headers"]:
                headers, (args, _, embedded) = message["headers"], json.loads(base64.b64decode(message["body"]))
                messages.append(Message(headers["task"], headers["id"], args, headers, embedded, message["properties"]))
        return messages
