"""Replays that are killed, and brokers that go away in the middle: no task is sent twice, and what nobody can know is listed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers.replay import BrokerAway, ReplayRefused
from celery_journal.consumers.replay.canvas import new_id
from celery_journal.consumers.replay.rabbitmq import Transactional
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskStarted
from tests.conftest import require

from .conftest import NewApp
from .proxy import Proxy
from .replayscene import RABBITMQ, Queue, begun, failed, queue_of, resumed
from .scene import ROOT, ask, until
from .test_cli import as_url
from .workers import available

COUNT = 1000


@pytest.fixture(scope="module", autouse=True)
def _rabbitmq() -> None:
    require("RabbitMQ", available("rabbitmq"))


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def queue() -> Iterator[Queue]:
    with queue_of(f"replay-{uuid4().hex[:8]}") as queue:
        yield queue


@pytest.fixture
def task_ids(connection: Connection, queue: Queue) -> list[str]:
    """A thousand tasks that have failed."""
    ids, emitter = [str(uuid4()) for _ in range(COUNT)], Emitter()
    Journal().append(connection, *(fact for task_id in ids for fact in failed(emitter, task_id, queue.name)))
    return ids


@pytest.fixture
def broker() -> Iterator[Proxy]:
    """A proxy before RabbitMQ."""
    proxy = Proxy("host=127.0.0.1 port=5672")
    yield proxy
    proxy.close()


@pytest.fixture
def app(make_app: NewApp, broker: Proxy) -> Celery:
    """An app that reaches RabbitMQ through the proxy."""
    port = conninfo_to_dict(broker.dsn)["port"]
    return make_app(broker_url=f"pyamqp://guest:guest@127.0.0.1:{port}//")


def test_killed_ten_times_it_has_sent_each_task_once(dsn: str, connection: Connection, queue: Queue, task_ids: list[str]) -> None:
    """1,000 tasks, killed with -9 ten times at random and resumed: each is in the queue exactly once."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    chance, name = random.Random(seed), f"night-{uuid4().hex[:6]}"
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", as_url(dsn), "replay", "--yes", "--broker", RABBITMQ]

    def batches() -> int:
        return int(ask(dsn, b"select count(*) from celery_journal.event where kind = 'replay-sending'")[0][0])

    for killed in range(10):
        which = ["--resume", name] if killed else ["--id", name, "--filter", "state:FAILURE"]
        process = subprocess.Popen([*command, *which], cwd=ROOT, stdout=subprocess.DEVNULL)
        before = batches()
        until(lambda before=before, process=process: batches() > before or process.poll() is not None)  # type: ignore[misc]
        time.sleep(chance.random() * 0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    ended = subprocess.run([*command, "--resume", name], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.stdout.splitlines() == [f"replay {name} of 1,000 tasks", "sent 1,000 tasks"], ended.stderr
    messages = queue.taken()
    assert Counter(Counter(headers["id"] for headers in messages).values()) == {1: COUNT}
    assert {headers["journal_replay_of"] for headers in messages} == set(task_ids)
    replayed = ask(dsn, b"select stream, task_id from celery_journal.event where kind = 'task-replayed'")
    assert {(headers["journal_replay_of"], headers["id"]) for headers in messages} == set(replayed)
    assert len(replayed) == COUNT
    assert not queue.others(f"celery-journal.replay.{name}")


def test_a_broker_that_is_cut_off_again_and_again(
    connection: Connection, app: Celery, queue: Queue, task_ids: list[str], broker: Proxy
) -> None:
    """What it says to have sent is there once, what it says to be in doubt at most once, and nothing else is there."""
    done, replay = Event(), begun(connection, app, task_ids)

    def cut() -> None:
        while not done.wait(random.uniform(0.05, 0.2)):
            broker.cut()

    thread = Thread(target=cut)
    thread.start()
    try:
        for _ in range(5):
            with suppress(BrokerAway):
                replay.run()
            replay = resumed(connection, app)
    finally:
        done.set()
        thread.join()
    summary = replay.run()

    sent = Counter(headers["id"] for headers in queue.taken())
    doubtful = set(summary.doubtful)
    assert (summary.stopped, summary.left) == (None, 0)
    assert len(summary.sent) + len(doubtful) == COUNT
    assert {sent[new] for new in summary.sent.values()} == {1}
    assert sum(sent.values()) <= COUNT
    assert sent.keys() - set(summary.sent.values()) <= {new_id("r1", old) for old in doubtful}


def cut_at_commit(monkeypatch: pytest.MonkeyPatch, broker: Proxy, *, reaches: bool) -> None:
    """Cut the connection at the first commit: before RabbitMQ hears of it, or before we hear that it has."""
    stock: Callable[[Any], Any] = Transactional.commit
    first = [True]

    def commit(self: Any) -> Any:
        if first.pop() if first else False:
            if reaches:
                stock(self)
            broker.cut()
            if reaches:
                raise ConnectionResetError("cut off")
        return stock(self)

    monkeypatch.setattr(Transactional, "commit", commit)


def test_a_batch_that_was_cut_off_at_its_commit_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, app: Celery, queue: Queue, task_ids: list[str], broker: Proxy
) -> None:
    """It is listed, and not sent again, neither by this process nor when it is resumed; unless somebody says so."""
    cut_at_commit(monkeypatch, broker, reaches=False)

    summary = begun(connection, app, task_ids[:50]).run()
    again = resumed(connection, app).run()

    assert sorted(summary.doubtful) == sorted(task_ids[:20]) == sorted(again.doubtful)
    assert {headers["journal_replay_of"] for headers in queue.taken()} == set(task_ids[20:50])
    after_all = resumed(connection, app).run(resend_doubtful=True)
    assert (after_all.doubtful, len(after_all.sent)) == ([], 50)
    assert {headers["journal_replay_of"] for headers in queue.taken()} == set(task_ids[:20])


def test_a_batch_that_has_left_its_marker_was_sent(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, app: Celery, queue: Queue, task_ids: list[str], broker: Proxy
) -> None:
    """The answer to the commit is lost, and the marker tells."""
    cut_at_commit(monkeypatch, broker, reaches=True)

    summary = begun(connection, app, task_ids[:50]).run()

    assert (summary.doubtful, len(summary.sent)) == ([], 50)
    assert sorted(headers["journal_replay_of"] for headers in queue.taken()) == sorted(task_ids[:50])


def test_a_broker_that_went_away_between_two_batches_leaves_nothing_in_doubt(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, app: Celery, queue: Queue, task_ids: list[str], broker: Proxy
) -> None:
    """It has ended an idle connection, say: who sends connects again first."""
    stock: Callable[[Any], None] = Transactional.confirm

    def confirm(self: Any) -> None:
        stock(self)
        broker.cut()

    monkeypatch.setattr(Transactional, "confirm", confirm)

    summary = begun(connection, app, task_ids[:60]).run()

    assert (summary.stopped, summary.doubtful, len(summary.sent)) == (None, [], 60)
    assert len(queue.taken()) == 60


def test_what_a_worker_has_told_of_since_is_in_doubt_no_more(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, app: Celery, queue: Queue, task_ids: list[str], broker: Proxy
) -> None:
    """The journal decides where the broker cannot."""
    cut_at_commit(monkeypatch, broker, reaches=False)
    summary = begun(connection, app, task_ids[:20]).run()
    seen = summary.doubtful[0]
    Journal().append(connection, Emitter().emit(TaskStarted, new_id("r1", seen), worker="w1", source="signal"))

    again = resumed(connection, app).run()

    assert again.sent == {seen: new_id("r1", seen)}
    assert sorted(again.doubtful) == sorted(set(task_ids[:20]) - {seen})


def test_only_one_process_runs_a_replay(dsn: str, connection: Connection, app: Celery, queue: Queue, task_ids: list[str]) -> None:
    """A second one is refused in a sentence, and sends nothing."""
    replay = begun(connection, app, task_ids[:1])

    with (
        psycopg.connect(dsn, autocommit=True) as other,
        resumed(other, app)._alone(),
        pytest.raises(ReplayRefused, match="another process runs the replay r1"),
    ):
        replay.run()

    assert queue.taken() == []
    assert len(replay.run().sent) == 1


def test_a_broker_that_does_not_answer_is_one_sentence(dsn: str, connection: Connection, task_ids: list[str]) -> None:
    """Exit code 7, and how to go on; nothing is lost."""
    nowhere = ["--broker", "amqp://guest@127.0.0.1:1//", "--yes", "--id", "later"]
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", as_url(dsn), "replay", *nowhere, task_ids[0]]

    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)

    assert ended.returncode == 7
    assert ended.stderr.startswith("Error: no broker answers at amqp://guest:**@127.0.0.1:1//: ")
    going_on = f"celery-journal --dsn '{as_url(dsn)}' replay --resume later --broker amqp://guest@127.0.0.1:1//"
    assert ended.stderr.endswith(f"when it is back: {going_on}\n")
