"""What the suite runs against: the brokers of the machine, and a place for the results that nobody else uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import psycopg
import redis
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_journal.consumers import embedded
from celery_journal.consumers.spool import locked
from celery_journal.journal import migrate
from tests.conftest import LOCAL_SERVER, answers, new_database
from tests.consumers.scene import url_of

from .expected import Backend, Broker
from .run import REDIS_HOST, REDIS_PORT

REDIS = f"redis://{REDIS_HOST}:{REDIS_PORT}"
RABBITMQ = "pyamqp://guest:guest@127.0.0.1:5672//"

#: The queue that the suite insists on.
QUEUE = "celery"


class NotRun(Exception):
    """Something of the machine is missing or in use; the text is one sentence that says what."""


@dataclass(frozen=True, slots=True)
class Service:
    """A URL for a setting of Celery's, and how to make what is behind it as empty as it was."""

    url: str
    clear: Callable[[], object]


@contextmanager
def broker(name: Broker) -> Iterator[Service]:
    """A broker that holds no message now, and none afterwards. Raises NotRun."""
    with _redis_database() if name == "redis" else _rabbitmq() as service:
        yield service


@contextmanager
def backend(name: Backend, folder: Path) -> Iterator[Service]:
    """An empty place for results: a journal of its own, or a database of Redis. Raises NotRun."""
    if name == "redis":
        with _redis_database() as service:
            yield service
        return
    server = LOCAL_SERVER if answers(LOCAL_SERVER) else embedded.use(folder)
    try:
        with contextmanager(new_database)(server) as dsn:
            with psycopg.connect(dsn, autocommit=True) as connection:
                migrate(connection)
            yield Service(url_of(dsn), lambda: None)
    finally:
        embedded.leave(folder)


@contextmanager
def redis_of_the_suite() -> Iterator[None]:
    """The suite's own tasks talk to the tests by Redis, whatever broker and backend there are; those of two runs would hear each other.

    Raises NotRun.
    """
    try:
        redis.Redis.from_url(REDIS).ping()
    except redis.RedisError as exc:
        raise NotRun(f"the suite's own tasks need a Redis, and at {REDIS} none answers") from exc
    with locked(Path(gettempdir()) / f"celery-journal-conformance-{os.getuid()}-{REDIS_HOST}-{REDIS_PORT}.lock") as is_alone:
        if not is_alone:
            raise NotRun(f"another run has the Redis at {REDIS}; wait for it, or name another with REDIS_PORT")
        yield


@contextmanager
def _redis_database() -> Iterator[Service]:
    """The last database of Redis that holds nothing; 0 belongs to the suite's own tasks."""
    try:
        with redis.Redis.from_url(REDIS) as client:
            used = {int(name.removeprefix("db")) for name in client.info("keyspace")} | _taken
    except redis.RedisError as exc:
        raise NotRun(f"no Redis answers at {REDIS}") from exc
    if not (free := set(range(1, 16)) - used):
        raise NotRun(f"no database of the Redis at {REDIS} is empty")
    number = max(free)
    _taken.add(number)
    with redis.Redis.from_url(f"{REDIS}/{number}") as client:
        try:
            yield Service(f"{REDIS}/{number}", client.flushdb)
        finally:
            client.flushdb()
            _taken.discard(number)


#: The databases of Redis that this process uses: what is taken may hold nothing yet.
_taken: set[int] = set()


@contextmanager
def _rabbitmq() -> Iterator[Service]:
    try:
        with Connection(RABBITMQ, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1)
            _, messages, consumers = connection.default_channel.queue_declare(QUEUE, durable=True, auto_delete=False)
    except (OperationalError, OSError) as exc:
        raise NotRun("no RabbitMQ answers on 127.0.0.1:5672") from exc
    if messages or consumers:
        raise NotRun(f"the queue {QUEUE!r} of the RabbitMQ on 127.0.0.1:5672 is in use; stop its workers and purge it")
    try:
        yield Service(RABBITMQ, lambda: _in_rabbitmq("queue_purge"))
    finally:
        _in_rabbitmq("queue_delete")


def _in_rabbitmq(method: str) -> None:
    with Connection(RABBITMQ, connect_timeout=10) as connection:
        getattr(connection.default_channel, method)(QUEUE)
