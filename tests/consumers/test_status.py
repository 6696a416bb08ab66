"""What is broken is said on one screen, and workers and queues are listed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Emitter
from celery_journal.journal.events import ChordPartReturned, ChordStarted, OperatorActed, TaskFailed, TaskLost, TaskSucceeded

from .commanding import Commands
from .lostscene import Log, ago
from .test_cli import as_url


@pytest.fixture
def status(commands: Commands, embedded_database: str) -> Any:
    """Returns the exit code of `status`, and what it says as JSON."""

    def look() -> tuple[int, dict[str, Any]]:
        ended = commands.run("status", "--json", dsn=as_url(embedded_database))
        return ended.code, json.loads(ended.out)

    return look


def test_where_all_goes_well_nothing_is_broken(log: Log, status: Any, commands: Commands, embedded_database: str) -> None:
    """Exit code 0, though a task has failed; it is counted, with its error."""
    log.online("w1")
    log.offline("w2")
    log.sent("waits", occurred_at=ago(30))
    log.tell(TaskSucceeded, "s", name="app.send")
    log.tell(TaskFailed, "f", name="app.send", traceback="Traceback (most recent call last):\nValueError: no")

    code, said = status()
    drawn = commands.run("status", dsn=as_url(embedded_database), terminal=True)

    assert (code, said["broken"]) == (0, [])
    (queue,) = said["queues"]
    assert (queue["queue"], queue["waiting"], queue["running"], queue["workers"]) == ("mail", 1, 0, 1)
    assert 30 <= queue["oldest"] < 600
    assert (said["last_hour"]["ended"], said["last_hour"]["failed"]) == (2, 1)
    assert [group["error"] for group in said["last_hour"]["errors"]] == ["ValueError: no"]
    assert (drawn.code, "nothing is broken" in drawn.text, "1 ValueError: no" in drawn.text) == (0, True, True)


def test_a_queue_that_no_live_worker_consumes_is_broken(log: Log, status: Any) -> None:
    """The oldest is what has waited longest without an eta to come; a worker that does not tell its queues may consume it."""
    log.online("w1", queues=("other",))
    log.sent("later", occurred_at=ago(900), eta=ago(-3600))
    log.sent("t", occurred_at=ago(300))

    code, said = status()

    (broken,) = said["broken"]
    assert (code, broken.startswith("2 tasks wait where no live worker consumes: mail (2, the oldest for 5 min")) == (1, True)
    assert [(one["queue"], one["waiting"]) for one in said["queues"]] == [("mail", 2), ("other", 0)]
    log.online("w2", queues=None)
    assert status()[0] == 0


def test_tasks_that_no_live_worker_of_their_queue_has_registered_are_broken(log: Log, status: Any) -> None:
    """Counted by name, the ones with an eta to come as well; what one of the workers has registered is not, nor what nobody consumes."""
    log.online("w1", tasks=["app.send"])
    log.online("w2", tasks=["app.pack"])
    log.online("other", queues=("other",), tasks=["app.print"])
    log.sent("fine", occurred_at=ago(300))
    log.sent("t", name="app.print", occurred_at=ago(300))
    log.sent("u", name="app.print", occurred_at=ago(200))
    log.sent("later", name="app.print", eta=ago(-3600))
    log.sent("nowhere", name="app.print", queue="nobodys")
    log.sent("not due", name="app.later", eta=ago(-3600))
    log.started("runs", name="app.gone")

    code, said = status()

    told = "3 tasks wait that no live worker of the queue has registered: app.print in mail (3, the oldest for 5 min"
    assert (code, [one.startswith(told) for one in said["broken"]]) == (1, [False, True])
    (one,) = said["unregistered"]
    assert (one["queue"], one["name"], one["tasks"], one["workers"]) == ("mail", "app.print", 3, ["w1", "w2"])
    assert "tasks" not in said["workers"][0]


@pytest.mark.parametrize(
    "teller",
    [
        pytest.param({"worker": "w2", "tasks": ["app.print"]}, id="has registered it"),
        pytest.param({"worker": "w2"}, id="does not tell its tasks"),
        pytest.param({"worker": "w2", "tasks": None}, id="has more than it tells"),
        pytest.param({"worker": "w2", "queues": None, "tasks": []}, id="does not tell its queues"),
    ],
)
def test_a_task_that_a_worker_may_know_is_not_broken(teller: dict[str, Any], log: Log, status: Any) -> None:
    """Only what is known for sure is told."""
    log.online("w1", tasks=["app.send"])
    log.sent("t", name="app.print", occurred_at=ago(300))
    before = status()[1]["broken"]

    log.online(**teller)

    assert [one.partition(":")[0] for one in before] == ["1 task waits that no live worker of the queue has registered"]
    assert status()[1]["broken"] == []


def test_tasks_that_wait_for_their_eta_alone_are_not_broken(log: Log, status: Any) -> None:
    """Nobody has to be there yet."""
    log.sent("later", eta=ago(-3600))

    code, said = status()

    assert (code, said["broken"]) == (0, [])
    assert said["queues"][0]["oldest"] is None


def test_workers_that_are_gone_or_late_are_broken(log: Log, status: Any, commands: Commands, embedded_database: str) -> None:
    """One that has said that it goes is not."""
    log.online("gone")
    log.online("late")
    silent = "update celery_journal.worker_row set last_seen = clock_timestamp() - %s, meta = '{\"freq\": 10}' where worker = %s"
    log.connection.execute(silent, (timedelta(hours=1), "gone"))
    log.connection.execute(silent, (timedelta(seconds=30), "late"))
    log.offline("went")

    code, said = status()
    listed = commands.run("workers", dsn=as_url(embedded_database))
    everyone = commands.run("workers", "--all", dsn=as_url(embedded_database))

    assert (code, said["broken"]) == (1, ["1 worker gone without a word: gone", "1 worker late with a heartbeat: late"])
    assert [line.split("\t")[:2] for line in listed.out.splitlines()] == [["gone", "gone"], ["late", "alive"]]
    assert [line.split("\t")[:2] for line in everyone.out.splitlines()][-1] == ["went", "offline"]


def test_what_is_lost_is_broken_until_it_is_settled(log: Log, status: Any) -> None:
    """By whoever has marked it."""
    log.sent("t")
    log.tell(TaskLost, "t", reason="received by w1, which is gone")

    code, said = status()
    log.tell(OperatorActed, "t", action="annotate", meta=b'{"resolved": true}')

    assert (code, said["broken"], said["lost"]) == (1, ["1 task lost"], {"t": "received by w1, which is gone"})
    assert status()[0] == 0


def test_a_chord_all_of_whose_members_have_ended_is_stuck(log: Log, status: Any) -> None:
    """Not within the first minute: its body may be on its way."""
    log.tell(ChordStarted, "g", size=1)
    log.tell(ChordPartReturned, "g", task_id="m", state="SUCCESS")
    before = status()
    log.connection.execute("update celery_journal.chord_counter_row set recorded_at = clock_timestamp() - interval '5 minutes'")

    code, said = status()

    assert before[0] == 0
    assert (code, said["broken"]) == (1, ["1 chord stuck: g"])


def test_what_waits_on_this_machine_is_broken(log: Log, commands: Commands, embedded_database: str, spool_folder: Path) -> None:
    """It is in nobody's view yet."""
    spool_of(embedded_database, "celery_journal", spool_folder).put(packed(Emitter().emit(TaskSucceeded, "t")))

    ended = commands.run("status", "--json", dsn=as_url(embedded_database), CELERY_JOURNAL_SPOOL=str(spool_folder))

    said = json.loads(ended.out)
    assert (ended.code, said["broken"], said["spool"]) == (
        1,
        ["1 fact of this machine waits for the database"],
        {"waiting": 1, "refused": 0},
    )


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_the_lists_fit_their_terminal(log: Log, commands: Commands, embedded_database: str, columns: str) -> None:
    """No line is wider."""
    log.online("w1")
    log.sent("t" * 60, queue="a-queue-with-a-rather-long-name")

    for command in ("queues", "workers"):
        drawn = commands.run(command, dsn=as_url(embedded_database), terminal=True, COLUMNS=columns)
        assert drawn.code == 0
        assert max(len(line.rstrip()) for line in drawn.text.splitlines()) <= int(columns)
    assert json.loads(commands.run("queues", "--json", dsn=as_url(embedded_database)).out)[0]["queue"] == "a-queue-with-a-rather-long-name"


def test_the_columns_of_a_pipe_are_named_if_asked_for(log: Log, commands: Commands, embedded_database: str) -> None:
    """Once, and only where there are rows."""
    dsn = as_url(embedded_database)
    nothing = commands.run("queues", "--header", dsn=dsn)
    log.sent("t")
    log.sent("u", queue="other")

    named = commands.run("queues", "--header", dsn=dsn)
    listed = commands.run("list", "--header", dsn=dsn)

    assert nothing.out == "nothing waits, and no worker tells of its queues\n"
    assert [line.split("\t")[0] for line in named.out.splitlines()] == ["queue", "mail", "other"]
    assert listed.out.splitlines()[0].split("\t")[:4] == ["ended, or sent", "task", "name", "arguments"]


def test_watching_needs_a_terminal_and_ends_at_q(log: Log, commands: Commands, embedded_database: str) -> None:
    """Ctrl-C ends it as well."""
    refused = commands.run("status", "--watch", dsn=as_url(embedded_database))
    ended = commands.run("status", "--watch", dsn=as_url(embedded_database), terminal=True, interrupt_at="nothing is broken")

    assert (refused.code, "--watch draws on a terminal" in refused.err) == (2, True)
    assert ended.code == 0
