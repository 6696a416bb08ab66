"""What is lost and settled all the same: resolved by people, or replayed with success."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from celery_journal.consumers.failing import fail_lost
from celery_journal.consumers.lost import find_lost, mark_lost, sweep_lost
from celery_journal.consumers.replay.canvas import new_id
from celery_journal.journal import Connection
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    OperatorActed,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskProgress,
    TaskReplayed,
    TaskSucceeded,
)
from celery_journal.journal.replays import ReplayStarted

from .lostscene import GRACE, SOON, Log, pause
from .scene import ask, kinds
from .test_cli import as_url, command

NOW = ["--grace", "0.05"]


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def lost(log: Log) -> None:
    """Tasks t and u are with a worker that is gone."""
    log.online()
    for task_id in ("t", "u"):
        log.sent(task_id)
        log.started(task_id)
    log.offline()
    pause()


def mark(log: Log) -> None:
    mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)


def resolve(log: Log, task_id: str = "t", *, resolved: bool = True) -> None:
    log.tell(OperatorActed, task_id, action="annotate", meta=json.dumps({"resolved": resolved}).encode(), source="operator")


def settle(log: Log, how: str) -> None:
    """Have it be that t is settled so."""
    match how:
        case "resolved":
            resolve(log)
        case "replayed":
            replay(log, "t", "copy")
            log.tell(TaskSucceeded, "copy", worker="w2", run="c1")
        case "without a result":
            replay(log, "t", "copy")
            log.tell(TaskIgnored, "copy", worker="w2", run="c1")
        case "again and again":
            replay(log, "t", "copy")
            log.tell(TaskFailed, "copy", worker="w2", run="c1")
            replay(log, "copy", "other", "r2")
            log.tell(TaskSucceeded, "other", worker="w2", run="c2")
        case "doubted":
            log.tell(ReplayStarted, "r1", size=1, options={}, source="operator")
            log.tell(OperatorActed, "t", action="replay-doubted", label="r1", task_id=new_id("r1", "t"), source="operator")
            log.sent(new_id("r1", "t"), message={"headers": {}})
            log.tell(TaskSucceeded, new_id("r1", "t"), worker="w2", run="c1")
        case "forgotten":
            replay(log, "t", "copy")
            log.tell(TaskSucceeded, "copy", worker="w2", run="c1")
            log.tell(TaskForgotten, "copy")


def replay(log: Log, task_id: str, copy: str, replay_id: str = "r1") -> None:
    log.tell(ReplayStarted, replay_id, size=1, options={}, source="operator")
    log.sent(copy, message={"headers": {}})
    log.tell(TaskReplayed, task_id, task_id=copy, replay=replay_id, source="operator")


HOW = ["resolved", "replayed", "without a result", "again and again", "doubted", "forgotten"]


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "only found"])
@pytest.mark.parametrize("how", HOW)
def test_what_is_settled_is_not_lost(lost: None, log: Log, app: Any, how: str, marked: bool) -> None:
    """Neither listed nor marked, and never failed, though somebody has found it before; `also_settled` has it, with the reason."""
    if marked:
        mark(log)
    found = {one.task_id: one for one in find_lost(log.connection, GRACE)}
    assert set(found) == {"t", "u"}

    settle(log, how)

    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["u"]
    why = {one.task_id: one.settled for one in find_lost(log.connection, GRACE, also_settled=True)}
    copy = {"again and again": "other", "doubted": new_id("r1", "t")}.get(how, "copy")
    assert why == {"t": "resolved" if how == "resolved" else f"replayed as {copy}, which has succeeded", "u": None}
    assert not fail_lost(app.backend, found["t"])
    assert [one.task_id for one in mark_lost(log.connection, [found["t"]], log.journal, log.emitter)] == []
    assert app.AsyncResult("t").state == "STARTED"


@pytest.mark.parametrize("what", ["unresolved again", "fails", "under its own id"])
def test_what_is_not_settled_stays_lost(lost: None, log: Log, what: str) -> None:
    """Nobody has said so last, or what it was sent again as has not succeeded."""
    match what:
        case "unresolved again":
            resolve(log)
            resolve(log, resolved=False)
        case "fails":
            replay(log, "t", "copy")
            log.tell(TaskFailed, "copy", worker="w2", run="c1")
        case _:
            log.tell(TaskReplayed, "t", task_id="t", replay="r1", source="operator")

    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["t", "u"]


def test_the_settled_keep_no_others_out_of_the_limit(lost: None, log: Log) -> None:
    """However many they are, what is not is found."""
    resolve(log, "t")

    assert [one.task_id for one in find_lost(log.connection, GRACE, limit=1)] == ["u"]
    mark(log)
    assert [one.task_id for one in find_lost(log.connection, GRACE, limit=1)] == ["u"]


def test_a_sweep_may_mark_what_is_settled_and_never_fails_it(lost: None, log: Log, dsn: str) -> None:
    """To find that out it would lock all of the log; whoever reads it is told that it is settled."""
    resolve(log)

    assert [one.task_id for one in sweep_lost(log.connection, log.journal, log.emitter, GRACE)] == ["t", "u"]

    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["u"]
    assert "task-failed" not in kinds(dsn, "t")


def test_the_body_of_a_chord_that_was_replayed_is_settled(log: Log) -> None:
    """It has no row of its own; its members are lost for their chord all the same."""
    header = b'[[["m1", null], null]]'
    log.tell(ChordStarted, "g", size=1, task_id="body", result=header, content_type="application/json", content_encoding="utf-8")
    log.tell(ChordSizeSet, "g", size=1)
    log.tell(ChordPartReturned, "g", task_id="m1", group_index=0, state="SUCCESS")
    pause()
    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["body"]

    replay(log, "body", "copy")
    log.tell(TaskSucceeded, "copy", worker="w2", run="c1")

    assert find_lost(log.connection, GRACE) == []


def test_the_command_leaves_out_what_is_settled(lost: None, log: Log, dsn: str) -> None:
    """Exit code 0 where nothing else is lost; `--settled` shows it, with the reason; `--fail` does not fail it."""
    mark(log)
    resolve(log, "t")
    resolve(log, "u")

    plain, shown = command("lost", *NOW, dsn=as_url(dsn)), command("lost", *NOW, "--settled", dsn=as_url(dsn))
    failed = command("lost", *NOW, "--settled", "--fail", "--yes", dsn=as_url(dsn))
    as_json = command("lost", *NOW, "--settled", "--json", dsn=as_url(dsn))
    doctor = command("doctor", "--json", dsn=as_url(dsn))

    assert (plain.returncode, plain.stdout) == (0, "no task is lost\n")
    assert (shown.returncode, shown.stdout.count("(marked) (resolved)\n")) == (0, 2)
    assert (failed.returncode, kinds(dsn, "t")[-1]) == (0, "operator-acted")
    assert [one["settled"] for one in json.loads(as_json.stdout)] == ["resolved"] * 2
    (finding,) = (one for one in json.loads(doctor.stdout) if one["check"] == "lost tasks")
    assert finding["status"] == "ok"


@pytest.mark.parametrize("what", ["its worker is gone", "its worker was started anew", "it was never received", "it told of its progress"])
def test_silence_counts_from_the_last_word(log: Log, dsn: str, what: str) -> None:
    """That of the worker, or of the task where no worker had it, or where that worker speaks; a mark is no word."""
    log.online(freq=SOON if what == "its worker is gone" else 10)
    log.sent()
    if what != "it was never received":
        log.started()
    if what == "it told of its progress":
        log.tell(TaskProgress, "t", state="PROGRESS", worker="w1", run="r1")
    match what:
        case "its worker is gone":
            log.beat(freq=SOON)
        case "its worker was started anew" | "it told of its progress":
            pause()
            log.online(pid=2)
    pause()
    (before,) = find_lost(log.connection, GRACE)
    mark(log)
    pause()
    (after,) = find_lost(log.connection, GRACE)

    last = {"its worker is gone": "worker-heartbeat", "it was never received": "task-sent", "it told of its progress": "task-progress"}
    query = b"select max(recorded_at) from celery_journal.event where kind = %s"
    ((heard_at,),) = ask(dsn, query, last.get(what, "task-started"))
    assert isinstance(heard_at, datetime)
    assert (before.heard_at, after.heard_at, after.marked) == (heard_at, heard_at, True)
    (told,) = json.loads(command("lost", *NOW, "--json", dsn=as_url(dsn)).stdout)
    assert datetime.fromisoformat(told["last_heard_of"]) == heard_at
