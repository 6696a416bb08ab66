"""What real brokers give back when a real worker is gone, and what a cold shutdown cancels."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import chord

from celery_journal.consumers.lost import find_lost
from celery_journal.consumers.redelivery import held
from tests.conftest import require

from .lostscene import pause
from .scene import kinds, row, until, url_of
from .test_cli import as_url, command
from .test_lost_sweep import QUICK, kill
from .workers import available, working


@pytest.fixture
def url(dsn: str) -> str:
    return url_of(dsn)


def lost(dsn: str) -> list[str | None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [one.task_id for one in find_lost(connection, 1.0)]


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_what_a_killed_worker_had_only_received_waits_and_runs_once(url: str, dsn: str, tmp_path: Path, broker: str) -> None:
    """Its prefetched messages are in the queue again, or in Redis' `unacked`: none of them is lost, what had begun is."""
    require(broker, available(broker))
    token = f"scene-back-{os.urandom(3).hex()}"
    conf: dict[str, Any] = {"result_backend_transport_options": QUICK, "worker_prefetch_multiplier": 4}
    with working(broker, url, dsn, tmp_path, **conf) as other, working(broker, url, dsn, tmp_path, token=token, **conf) as doomed:
        begun = [doomed.send("sleep", 600) for _ in range(2)]
        until(lambda: all(result.state == "STARTED" for result in begun))
        waiting = [doomed.send("add", number, 1) for number in range(3)]
        until(lambda: all("task-received" in kinds(dsn, result.id) for result in waiting))
        kill(doomed)
        until(lambda: all("task-lost" in kinds(dsn, result.id) for result in begun), 60)
        pause(2)
        ids = [result.id for result in waiting]

        assert set(lost(dsn)) == {result.id for result in begun}
        assert "given back to the broker" in command("explain", ids[0], dsn=as_url(dsn)).stdout
        assert held(doomed.app, ids) == (set() if broker == "rabbitmq" else set(ids))
        assert not held(other.app, ids)


def test_what_a_cold_shutdown_cancels_is_lost_and_can_be_failed(url: str, dsn: str, tmp_path: Path) -> None:
    """F01: SIGQUIT, and its message was acknowledged before it began; the body of its chord ends with it.

    Not with the filesystem's broker, where Celery's own loop may hang then.
    """
    require("RabbitMQ", available("rabbitmq"))
    conf: dict[str, Any] = {"result_backend_transport_options": QUICK}
    with working("rabbitmq", url, dsn, tmp_path, **conf) as doomed, working("rabbitmq", url, dsn, tmp_path, **conf) as other:
        add, sleep = doomed.signature("add", 1, 1), doomed.signature("sleep", 600)
        body = chord([add, sleep], app=doomed.app)(doomed.signature("add", 1))
        result = body.parent.results[1]
        until(lambda: result.state == "STARTED")
        doomed.process.send_signal(signal.SIGQUIT)
        doomed.process.wait(60)
        assert row(dsn, result.id).status == "RETRY", doomed.said()
        until(lambda: "task-lost" in kinds(dsn, result.id), 60)

        explained = command("explain", result.id, dsn=as_url(dsn)).stdout
        failed = command("lost", "--fail", "--yes", "--grace", "1", dsn=as_url(dsn))

        assert "It is lost: cancelled by a cold shutdown of " in explained
        assert "; its message was acknowledged early, so nobody will run it again." in explained
        assert "retrying" not in explained
        assert "\nfailed " in failed.stdout, failed.stdout + failed.stderr  # the body of the chord may be marked as well by now
        with pytest.raises(Exception, match="cold shutdown"):
            result.get(timeout=30)
        with pytest.raises(Exception, match="cold shutdown"):
            body.get(timeout=30)
        assert kinds(dsn, body.id).count("task-failed") == 1
        assert other.send("add", 2, 2).get(timeout=60) == 4
