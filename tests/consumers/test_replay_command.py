"""The command that sends recorded tasks again, and Redis, which has no transactions."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.main import main
from celery_journal.consumers.replay import Replay, Uncertain
from celery_journal.consumers.replay.canvas import new_id
from celery_journal.consumers.replay.onebyone import OneByOne
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import Event, TaskStarted, TaskSucceeded
from tests.conftest import require

from .conftest import NewApp
from .lostscene import Log
from .replayscene import RABBITMQ, Queue, begun, failed, queue_of, resumed
from .scene import ROOT, ask, kinds, until
from .test_cli import as_url, command
from .workers import available


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def queue() -> Iterator[Queue]:
    require("RabbitMQ", available("rabbitmq"))
    with queue_of(f"replay-{uuid4().hex[:8]}") as queue:
        yield queue


def replay(dsn: str, *arguments: str, broker: str = RABBITMQ) -> Result:
    """Run the command, where nobody is at a terminal."""
    return CliRunner().invoke(main, ["--dsn", as_url(dsn), "replay", "--broker", broker, *arguments])


def put(log: Log, queue: str, *task_ids: str, **fields: Any) -> None:
    """Have these tasks sent and failed."""
    log.journal.append(log.connection, *(fact for task_id in task_ids for fact in failed(log.emitter, task_id, queue, **fields)))


def test_what_query_words_find_is_sent_again(dsn: str, log: Log, queue: Queue) -> None:
    """The summary counts what was sent, skipped and refused, with the reasons; exit code 1, because not all could be."""
    put(log, queue.name, "a", "b")
    put(log, queue.name, "other", name="other.task")
    put(log, queue.name, "bare", args=None)
    put(log, queue.name, "done")
    log.tell(TaskSucceeded, "done")

    ended = replay(dsn, "--filter", "state:FAILURE -name:other.*", "done", "--id", "night", "--reason", "bank was down", "--yes")

    assert ended.exit_code == 1
    assert ended.stdout.splitlines() == [
        "replay night of 4 tasks",
        "sent 2 tasks",
        "skipped 1 task: it has succeeded: done",
        "refused 1 task: its arguments were not captured (store_arguments is off, or they were too large): bare",
    ]
    assert ended.stderr == ""
    assert {headers["journal_replay_of"] for headers in queue.taken()} == {"a", "b"}
    started = log.journal.read_stream(log.connection, "night")[0].event.model_dump()
    assert (started["reason"], started["options"]) == ("bank was down", {"filter": "state:FAILURE -name:other.*"})
    assert "@" in started["author"]
    assert "task-sent" in kinds(dsn, new_id("night", "a"))


def test_json(dsn: str, log: Log, queue: Queue) -> None:
    """`--json`: old ids and new ones; nothing else on standard output, and exit code 0 where all went well."""
    put(log, queue.name, "a")

    ended = replay(dsn, "a", "--json", "--yes", "--id", "night")

    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "replay": "night",
        "dry_run": False,
        "planned": 1,
        "sent": [{"task_id": "a", "replayed_as": new_id("night", "a")}],
        "guessed": [],
        "along": 0,
        "skipped": [],
        "refused": [],
        "in_doubt": [],
        "stopped": None,
        "left": 0,
    }


def test_it_asks_first_and_dry_run_only_says(dsn: str, log: Log, queue: Queue) -> None:
    """Where there is nobody to ask nothing is sent; nor with --dry-run, which also leaves no trace in the log."""
    put(log, queue.name, "a")

    asked, dry = replay(dsn, "a"), replay(dsn, "a", "nobody", "--dry-run")

    assert (asked.exit_code, "say --yes or --dry-run" in asked.stderr) == (2, True)
    assert dry.stdout.splitlines()[:2] == ["would send 1 task", "refused 1 task: the journal knows no such task: nobody"]
    assert f"in {queue.name}\nin journal_" in dry.stdout
    assert queue.taken() == []
    assert ask(dsn, b"select count(*) from celery_journal.event where kind like 'replay-%%'") == [(0,)]


def test_a_group_is_its_members(dsn: str, log: Log, queue: Queue) -> None:
    """The id of a group that is no chord."""
    put(log, queue.name, "a", "b", group_id="g")

    ended = replay(dsn, "g", "--yes")

    assert "sent 2 tasks" in ended.stdout
    assert {headers["journal_replay_of"] for headers in queue.taken()} == {"a", "b"}


def test_ctrl_c_finishes_the_batch_and_says_how_to_go_on(dsn: str, log: Log, queue: Queue) -> None:
    """And the rest is sent when it is resumed."""
    put(log, queue.name, *(f"t{number}" for number in range(30)))
    arguments = [
        "--dsn",
        as_url(dsn),
        "replay",
        "--broker",
        RABBITMQ,
        "--filter",
        "state:FAILURE",
        "--yes",
        "--id",
        "slow",
        "--rate",
        "4/s",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_journal.consumers.cli", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: "replay-sending" in kinds(dsn, "slow"))
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)

    assert (process.returncode, error) == (130, "")
    first, sent, stopped = said.splitlines()
    count = int(sent.split()[1])
    assert (first, 0 < count < 30) == ("replay slow of 30 tasks", True)
    going_on = f"celery-journal --dsn '{as_url(dsn)}' replay --resume slow --broker pyamqp://..."
    assert stopped == f"stopped, it was interrupted; {30 - count} tasks are left: {going_on}"
    assert len(queue.taken()) == count
    (listed,) = json.loads(command("replays", "--json", dsn=as_url(dsn)).stdout)
    assert (listed["replay"], listed["planned"], listed["begun_to_send"], listed["in_doubt"]) == ("slow", 30, count, [])
    assert command("replays", dsn=as_url(dsn)).stdout.rstrip().endswith("celery-journal replay --resume slow")
    assert replay(dsn, "--resume", "slow", "--rate", "1000/s", "--yes").stdout.splitlines()[-1] == "sent 30 tasks"
    assert command("replays", dsn=as_url(dsn)).stdout == "every replay that was begun is at its end\n"
    assert len(queue.taken()) == 30 - count


def test_a_queue_that_does_not_exist_is_refused(dsn: str, log: Log, queue: Queue) -> None:
    """RabbitMQ would drop the message and say nothing."""
    put(log, "no-such-queue-at-all", "a")
    put(log, queue.name, "b")

    ended = replay(dsn, "a", "b", "--yes")

    assert ended.exit_code == 1
    assert "refused 1 task: RabbitMQ does not take it to the queue no-such-queue-at-all: " in ended.stdout
    assert {headers["journal_replay_of"] for headers in queue.taken()} == {"b"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param([], "no task is named; give ids, or --filter", id="nothing"),
        pytest.param(["a", "--set", "amount=3"], "'amount=3' sets nothing; write kwargs.amount=3", id="set"),
        pytest.param(["a", "--rate", "quick"], "write 50/s, 100/m or 1000/h", id="rate"),
        pytest.param(["a", "--rate", "0/s"], "write 50/s, 100/m or 1000/h", id="no rate"),
        pytest.param(["a", "--id", "x y\x1b"], "take up to 100 letters", id="id"),
        pytest.param(["--resume", "nowhere"], "there is no replay nowhere", id="resume"),
        pytest.param(["a", "--resume", "x"], "--resume goes on as it was begun", id="both"),
        pytest.param(["--filter", "stat:FAILURE"], "perhaps state:", id="word"),
        pytest.param(["--filter", "name:'x"], "a quotation mark is missing", id="quote"),
    ],
)
def test_wrong_usage_is_one_sentence(connection: Connection, dsn: str, arguments: list[str], sentence: str) -> None:
    """Exit code 2, and nothing is recorded."""
    Journal().append(connection, *failed(Emitter(), "a", "work"))

    ended = replay(dsn, *arguments, "--yes", broker="memory://")

    assert (ended.exit_code, "Traceback" in ended.stderr) == (2, False)
    assert sentence in ended.stderr.replace("\n", " ")
    assert ask(dsn, b"select count(*) from celery_journal.event where kind like 'replay-%%'") == [(0,)]


def test_without_a_broker_it_says_what_to_do(dsn: str) -> None:
    """There is no app that would know one."""
    ended = CliRunner().invoke(main, ["--dsn", as_url(dsn), "replay", "a"])

    assert (ended.exit_code, "give --broker amqp://guest@localhost//, or run it as: celery -A proj" in ended.stderr) == (2, True)


# Redis


@pytest.fixture
def redis_app(make_app: NewApp) -> Iterator[Celery]:
    """An app that sends to Redis."""
    require("Redis", available("redis"))
    token = f"replay-{uuid4().hex[:8]}:"
    yield make_app(broker_url="redis://127.0.0.1:6379/9", broker_transport_options={"global_keyprefix": token})
    with importlib.import_module("redis").Redis(db=9) as client:
        for key in client.scan_iter(f"{token}*"):
            client.delete(key)


class Killed(BaseException):
    """The process is killed."""


def killed_after(monkeypatch: pytest.MonkeyPatch, replay: Replay, moment: str) -> None:
    """Run the replay as far as before its message leaves, or as after it has left and before that is recorded."""

    def die(*_arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(OneByOne, "send", die) if moment == "before" else patch.setattr(Replay, "_tell_sent", die)
        with pytest.raises(Killed):
            replay.run()


def in_redis(app: Celery) -> list[str]:
    """Take the ids of the messages in the queue."""
    taken: list[str] = []
    with app.connection_for_read() as connection, connection.SimpleQueue("work") as queue:
        while True:
            try:
                message = queue.get(block=False)
            except queue.Empty:
                return taken
            taken.append(message.headers["id"])
            message.ack()


def test_redis_tells_of_what_still_waits_in_it(monkeypatch: pytest.MonkeyPatch, redis_app: Celery, log: Log) -> None:
    """Killed after the message has left: it is found in the list, whatever its priority, and not sent again."""
    put(log, "work", "a", "b")
    killed_after(monkeypatch, begun(log.connection, redis_app, ["a", "b"]), "after")

    summary = resumed(log.connection, redis_app).run()

    assert (sorted(summary.sent), summary.doubtful) == (["a", "b"], [])
    assert sorted(in_redis(redis_app)) == sorted(summary.sent.values())


def test_what_a_worker_of_redis_has_taken_and_not_acknowledged_is_found(
    monkeypatch: pytest.MonkeyPatch, redis_app: Celery, log: Log
) -> None:
    """It is in no list any more."""
    put(log, "work", "a")
    killed_after(monkeypatch, begun(log.connection, redis_app, ["a"]), "after")
    with redis_app.connection_for_read() as connection, connection.SimpleQueue("work") as queue:
        message = queue.get(block=False)

        summary = resumed(log.connection, redis_app).run()
        message.ack()

    assert (list(summary.sent), summary.doubtful) == (["a"], [])


@pytest.mark.parametrize("evidence", [None, TaskStarted])
def test_what_redis_does_not_have_any_more_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch, redis_app: Celery, log: Log, evidence: type[Event] | None
) -> None:
    """It was never sent, or a worker has it done: listed, not guessed, and never sent again; unless the log has heard of it."""
    put(log, "work", "a", "b")
    killed_after(monkeypatch, begun(log.connection, redis_app, ["a", "b"]), "before")
    if evidence is not None:
        log.tell(evidence, new_id("r1", "a"), worker="w1")

    summary = resumed(log.connection, redis_app).run()
    again = resumed(log.connection, redis_app).run()

    assert summary.doubtful == again.doubtful == ([] if evidence else ["a"])
    assert summary.sent.keys() == again.sent.keys() == ({"a", "b"} if evidence else {"b"})
    assert in_redis(redis_app) == [new_id("r1", "b")]


def test_a_redis_that_goes_away_leaves_its_task_in_doubt(monkeypatch: pytest.MonkeyPatch, redis_app: Celery, log: Log) -> None:
    """Nobody knows whether it has heard of it; the rest is sent."""
    put(log, "work", "a", "b")
    stock, calls = OneByOne.send, list[object]()

    def send(self: OneByOne, batch: Any) -> None:
        calls.append(batch)
        if len(calls) == 1:
            raise Uncertain("the broker went away: connection reset")
        stock(self, batch)

    monkeypatch.setattr(OneByOne, "send", send)

    summary = begun(log.connection, redis_app, ["a", "b"]).run()

    assert (summary.doubtful, list(summary.sent)) == (["a"], ["b"])
    assert in_redis(redis_app) == [new_id("r1", "b")]


def test_ctrl_c_does_not_wait_for_a_slow_rate(dsn: str, log: Log, queue: Queue) -> None:
    """One task an hour: nothing of a batch is under way while it waits for its turn."""
    put(log, queue.name, "a", "b")
    arguments = ["--dsn", as_url(dsn), "replay", "--broker", RABBITMQ, "a", "b", "--yes", "--id", "slow", "--rate", "1/h"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_journal.consumers.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    until(lambda: "task-replayed" in kinds(dsn, "a"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)

    assert said.splitlines() == [
        "replay slow of 2 tasks",
        "sent 1 task",
        f"stopped, it was interrupted; 1 task is left: celery-journal --dsn '{as_url(dsn)}' replay --resume slow --broker pyamqp://...",
    ]


def test_where_nothing_is_found_a_program_hears_so_too(dsn: str, queue: Queue) -> None:
    """`--json` prints an object, as ever."""
    plain, as_json = (replay(dsn, "--filter", "state:FAILURE", "--yes", *form) for form in ([], ["--json"]))

    assert (plain.exit_code, plain.stdout) == (0, "no task is found\n")
    assert (as_json.exit_code, json.loads(as_json.stdout)["planned"]) == (0, 0)
