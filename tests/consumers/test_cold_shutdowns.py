"""What each way to a cold shutdown does to the tasks of a real worker: lost if acknowledged early, and given back if not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from celery_journal.consumers.lost import find_lost
from celery_journal.consumers.redelivery import held
from tests.conftest import require

from .scene import row, until, url_of
from .test_cli import as_url, command
from .test_lost_sweep import QUICK
from .workers import Worker, available, working

#: Seconds for which a soft shutdown waits.
SOFT = 2.0


def quit_now(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGQUIT)


def terminate(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)


def quit_while_it_waits(worker: Worker) -> None:
    """SIGTERM, and SIGQUIT while the worker waits for its tasks."""
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "Warm shutdown" in worker.said())
    worker.process.send_signal(signal.SIGQUIT)


def quit_again(worker: Worker) -> None:
    """SIGQUIT, and again while the worker gives its tasks some time."""
    worker.process.send_signal(signal.SIGQUIT)
    until(lambda: "Initiating Soft Shutdown" in worker.said())
    worker.process.send_signal(signal.SIGQUIT)


def interrupt_twice(worker: Worker) -> None:
    """Ctrl-C, and again."""
    worker.process.send_signal(signal.SIGINT)
    until(lambda: "Hitting Ctrl+C again" in worker.said())
    worker.process.send_signal(signal.SIGINT)


def waiting(worker: Worker) -> int:
    """How many messages are in the worker's queue."""
    queue = worker.app.conf.task_default_queue
    with worker.app.connection_for_read() as connection:
        channel = connection.default_channel
        if hasattr(channel, "_size"):  # Redis, where a declaration forgets the prefix of the keys
            return int(channel._size(queue))
        return int(channel.queue_declare(queue=queue, passive=True).message_count)


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
@pytest.mark.parametrize(
    ("end", "sigterm", "soft"),
    [
        pytest.param(quit_now, None, 0.0, id="SIGQUIT"),
        pytest.param(terminate, "SIGQUIT", 0.0, id="REMAP_SIGTERM"),
        pytest.param(quit_while_it_waits, None, 0.0, id="TERM then QUIT"),
        pytest.param(interrupt_twice, None, 0.0, id="Ctrl-C twice"),
        pytest.param(quit_now, None, SOFT, id="soft shutdown"),
        pytest.param(terminate, "SIGQUIT", SOFT, id="REMAP_SIGTERM, soft shutdown"),
        pytest.param(quit_again, None, SOFT, id="soft shutdown, SIGQUIT again"),
    ],
)
def test_what_was_acknowledged_is_lost_at_once_and_what_was_not_is_in_its_queue(
    end: Callable[[Worker], None],
    sigterm: str | None,
    soft: float,
    broker: str,
    embedded_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F01: nobody will run the one again, and the next worker of the queue gets the other."""
    require(broker, available(broker))
    dsn = embedded_database
    conf: dict[str, Any] = {"result_backend_transport_options": QUICK, "worker_soft_shutdown_timeout": soft}
    if sigterm is not None:
        monkeypatch.setenv("REMAP_SIGTERM", sigterm)

    def lost() -> set[str | None]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return {one.task_id for one in find_lost(connection, 1.0)} & {early.id, late.id}

    with working(broker, url_of(dsn), dsn, tmp_path, **conf) as doomed:
        early, late = doomed.send("sleep", 600), doomed.send("stay")
        until(lambda: early.state == late.state == "STARTED")
        end(doomed)
        doomed.process.wait(60)
        assert row(dsn, early.id).status == "RETRY", doomed.said()
        until(lost)
        explained = command("explain", early.id, dsn=as_url(dsn)).stdout

        assert lost() == {early.id}
        assert "was acknowledged early, so nobody will run it again." in explained
        assert "given back to the broker" in command("explain", late.id, dsn=as_url(dsn)).stdout
        assert held(doomed.app, [early.id, late.id]) == set()
        until(lambda: waiting(doomed) == 1)
