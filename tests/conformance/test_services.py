"""What the runner borrows of the machine is empty, and nobody else's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from kombu import Connection

from tests.conftest import require
from tests.consumers.workers import available

from . import services

ROOT = Path(__file__).parents[2]


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A queue of RabbitMQ in the place of the one that the suite uses, which may be in use now."""
    require("RabbitMQ", available("rabbitmq"))
    name = f"conformance-{uuid4().hex[:8]}"
    monkeypatch.setattr(services, "QUEUE", name)
    yield name
    with Connection(services.RABBITMQ) as connection:
        connection.default_channel.queue_delete(name)


def test_a_broker_and_a_backend_on_redis_do_not_meet() -> None:
    """Messages and results are in databases that were empty, and are empty afterwards."""
    require("Redis", available("redis"))

    with ExitStack() as stack:
        broker = stack.enter_context(services.broker("redis"))
        backend = stack.enter_context(services.backend("redis", Path()))
        messages, results = (stack.enter_context(client(service.url)) for service in (broker, backend))
        results.set("result", 1)
        messages.set("message", 1)
        broker.clear()

        assert messages.dbsize() == 0
        assert results.dbsize() == 1

    with client(backend.url) as results:
        assert results.dbsize() == 0


def test_a_database_of_redis_that_somebody_uses_is_left_alone() -> None:
    """The keys of other apps survive."""
    require("Redis", available("redis"))
    with ExitStack() as cleanup:
        with services.broker("redis") as broker:
            taken = broker.url
        others = cleanup.enter_context(client(taken))
        cleanup.callback(others.delete, "theirs")
        others.set("theirs", 1)

        with services.broker("redis") as broker:
            assert broker.url != taken

        assert others.get("theirs") == b"1"


def test_two_runs_do_not_share_the_redis_of_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks of both would push to the same keys, and each would miss what the other took."""
    require("Redis", available("redis"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where others may run the suite now
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = "from tests.conformance import services\nwith services.redis_of_the_suite(): print('alone')"

    def another() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    with services.redis_of_the_suite():
        assert "another run has the Redis" in another().stderr
    assert another().stdout == "alone\n"


def test_a_queue_of_rabbitmq_that_somebody_uses_is_left_alone(queue: str) -> None:
    """The messages of other apps are neither run by the suite nor purged."""
    with Connection(services.RABBITMQ) as connection:
        connection.SimpleQueue(queue).put("theirs")

        with pytest.raises(services.NotRun, match="is in use"), services.broker("rabbitmq"):
            pass

        assert connection.SimpleQueue(queue).get(timeout=10).payload == "theirs"


def test_what_a_module_leaves_in_rabbitmq_is_purged(queue: str) -> None:
    """A module does not run the tasks of the one before it."""
    with services.broker("rabbitmq") as broker, Connection(broker.url) as connection:
        left = connection.SimpleQueue(queue)
        left.put("left")
        broker.clear()

        with pytest.raises(left.Empty):
            left.get_nowait()


def test_the_journal_is_a_database_of_its_own(tmp_path: Path) -> None:
    """Results of the suite go to a new journal, which is gone afterwards."""
    with services.backend("journal", tmp_path / "journal") as backend:
        dsn = backend.url.removeprefix("journal+")
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*) from celery_journal.event").fetchone() == (0,)

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, connect_timeout=2)
