"""The commands that tell what is recorded: list, show, history, tail, top and stats."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from celery_journal.consumers.chronicle import Chronicle
from celery_journal.consumers.cli.history import bar
from celery_journal.consumers.contents import DEEPEST
from celery_journal.consumers.stats import snapshot, tallies
from celery_journal.consumers.tail import Tail
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordStarted,
    GroupSaved,
    OperatorActed,
    TaskFailed,
    TaskForgotten,
    TaskLost,
    TaskProgress,
    TaskReplayed,
    TaskRetried,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.replays import ReplayFinished, ReplayPlanned, ReplayStarted
from celery_journal.projections import Q

from .commanding import STYLES, Commands, Ended, drawn_by
from .lostscene import Log, ago
from .test_cli import as_url

NO = json.dumps({"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}).encode()
ERROR = {"result": NO, "content_type": "application/json", "traceback": "Traceback (most recent call last):\nValueError: no"}


@pytest.fixture
def story(log: Log) -> Log:
    """A task that was sent, retried, and failed; it is looked at by people, and what follows it is another."""
    message = {
        "exchange": "billing",
        "routing_key": "bills",
        "headers": {"lang": "py", "journal_replay_of": "older"},
        "properties": {"priority": 3},
    }
    asked = {"name": "billing.charge", "args": b'[42, "Ann"]', "kwargs": b'{"user_id": 7}', "queue": "bills"}
    run: dict[str, Any] = {"worker": "w1", "run": "r0", "name": "billing.charge"}
    log.tell(
        TaskSent, "t", occurred_at=ago(100), message=message, source="signal", time_limit=30.0, meta=b'{"stamps": {"team": "x"}}', **asked
    )
    log.started(occurred_at=ago(90), queue="bills", **run)
    log.tell(TaskRetried, "t", occurred_at=ago(80), source="backend", **run, **ERROR)
    log.tell(TaskSent, "t", occurred_at=ago(80), attempt=1, message=message, source="signal", **asked)
    log.started(occurred_at=ago(40), queue="bills", attempt=1, worker="w2", run="r1", name="billing.charge")
    log.tell(TaskFailed, "t", occurred_at=ago(20), attempt=1, worker="w2", run="r1", source="backend", **ERROR)
    log.tell(OperatorActed, "t", author="ann@here", action="note", reason="card expired", meta=b'{"resolved": true}')
    log.tell(TaskReplayed, "t", task_id="newer", reason="again")
    return log


def told(ended: Ended, code: int = 0) -> str:
    assert ended.code == code, ended
    return ended.text


# list


def test_list_tells_what_failed_with_its_arguments_and_error(story: Log, commands: Commands, embedded_database: str) -> None:
    """The question of three in the morning: in a pipe, one line a task with tabs."""
    text = told(commands.run("list", "state:FAILURE", "since:1h", dsn=as_url(embedded_database)))

    assert text.rstrip("\n").split("\t")[1:] == [
        "t",
        "billing.charge",
        "42, 'Ann', user_id=7",
        "FAILURE (settled)",
        "20 s",
        "w2",
        "ValueError: no",
    ]


def test_list_tells_programs_every_field(story: Log, commands: Commands, embedded_database: str) -> None:
    """M18: as JSON, and one object a line."""
    (task,) = json.loads(told(commands.run("list", "--json", dsn=as_url(embedded_database))))
    line = told(commands.run("list", "--jsonl", dsn=as_url(embedded_database)))

    assert json.loads(line) == task
    assert (task["task_id"], task["status"], task["task_args"]) == ("t", "FAILURE", '[42, "Ann"]')
    assert line.count("\n") == 1


def test_list_shows_the_newest_first_or_in_the_order_that_is_asked_for(log: Log, commands: Commands, embedded_database: str) -> None:
    """M20, M23: what has not ended stands before what has."""
    for number, name in enumerate("cab"):
        log.tell(TaskSucceeded, f"t{number}", name=name, occurred_at=ago(100 - number))
    log.sent("waits", name="d")

    def names(*arguments: str) -> list[str]:
        return [json.loads(line)["task_name"] for line in commands.run("list", "--jsonl", *arguments, dsn=dsn).out.splitlines()]

    dsn = as_url(embedded_database)
    assert names() == ["d", "b", "a", "c"]
    assert names("--order", "task_name") == ["a", "b", "c", "d"]
    assert names("--order", "-task_name", "--limit", "2") == ["d", "c"]
    assert names("--limit", "0") == names()


def test_list_finds_nothing_with_exit_code_1(log: Log, commands: Commands, embedded_database: str) -> None:
    """And says so to people."""
    assert told(commands.run("list", "state:FAILURE", dsn=as_url(embedded_database)), 1) == "no task is like that\n"
    assert json.loads(told(commands.run("list", "--json", dsn=as_url(embedded_database)), 1)) == []


def test_a_narrow_terminal_has_fewer_columns(story: Log, commands: Commands, embedded_database: str) -> None:
    """So that ids can still be copied."""
    wide, narrow = (told(commands.run("list", dsn=as_url(embedded_database), terminal=True, COLUMNS=columns)) for columns in ("160", "80"))

    assert "arguments" in wide
    assert "arguments" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80


# show


def test_show_tells_everything_about_a_task(story: Log, commands: Commands, embedded_database: str) -> None:
    """Arguments, result, traceback, stamps, message, runs, lineage and what people did."""
    text = told(commands.run("show", "t", dsn=as_url(embedded_database)))

    for line in (
        r"task t FAILURE",
        r"  task_name +billing\.charge",
        r"  0 +42",
        r"  1 +'Ann'",
        r"  user_id +7",
        r'  +"exc_type": "ValueError",',
        r"  ValueError: no",
        r"  stamps\.team +x",
        r"  exchange +billing",
        r"  headers\.lang +py",
        r"  properties\.priority +3",
        r"  replay of +older",
        r"  replayed as +newer",
        r"  attempt 0 +RETRY on w1 from bills waited 10 s ran 10 s started .*",
        r"  attempt 1 +FAILURE on w2 from bills waited 40 s ran 20 s started .*",
        r"  .* note by ann@here \(login \w+\): card expired, resolved",
    ):
        assert re.search(rf"^{line}$", text, re.MULTILINE), (line, text)


def test_show_tells_programs_the_same(story: Log, commands: Commands, embedded_database: str) -> None:
    """Values as what they are."""
    shown = json.loads(told(commands.run("show", "t", "--json", dsn=as_url(embedded_database))))

    assert shown["task"]["args"] == [42, "Ann"]
    assert shown["task"]["kwargs"] == {"user_id": 7}
    assert shown["task"]["result"]["exc_type"] == "ValueError"
    assert (shown["replay_of"], shown["replayed_as"]) == ("older", ["newer"])
    assert shown["message"]["routing_key"] == "bills"
    assert [run["status"] for run in shown["attempts"]] == ["RETRY", "FAILURE"]
    assert shown["actions"][0]["author"] == "ann@here"


def test_show_tells_of_groups_chords_and_workers(log: Log, commands: Commands, embedded_database: str) -> None:
    """Whatever has the id."""
    log.tell(TaskSucceeded, "m", name="add", group_id="g")
    log.tell(GroupSaved, "g", members=("m",))
    log.tell(ChordStarted, "c", size=2, task_id="body")
    log.tell(ChordPartReturned, "c", task_id="m", group_index=0, state="SUCCESS")
    log.online("w1")
    log.started("running", worker="w1")
    log.sent("gone")
    log.tell(TaskForgotten, "gone")

    def text(subject: str) -> str:
        return told(commands.run("show", subject, dsn=as_url(embedded_database)))

    assert re.search(r"members: 1 SUCCESS\n  m  SUCCESS add", text("g"))
    assert re.search(r"chord c open\n(.*\n)*  count +1\n", text("c"))
    assert re.search(r"worker w1 alive\n(.*\n)*  queues +mail\n(.*\n)*has at the moment \(1\)\n  running  STARTED app\.send", text("w1"))
    assert "task-sent, task-forgotten" in text("gone")


@pytest.mark.parametrize(
    ("content_type", "result"),
    [("application/x-python-serialize", b"\x80\x04K\x2a."), ("application/json", b"{broken"), ("application/x-nonsense", b"x")],
)
def test_a_result_that_cannot_be_decoded_is_shown_as_it_is(
    content_type: str, result: bytes, log: Log, commands: Commands, embedded_database: str
) -> None:
    """F16, F18: a pickle is never loaded, broken JSON is text."""
    log.tell(TaskSucceeded, "t", result=result, content_type=content_type)

    assert commands.run("show", "t", dsn=as_url(embedded_database)).code == 0
    assert json.loads(told(commands.run("show", "t", "--json", dsn=as_url(embedded_database))))["task"]["result"]


# history


def test_history_tells_each_transition_with_who_told_it(story: Log, commands: Commands, embedded_database: str) -> None:
    """One line each, with the time since the first, the attempt, the worker, the witnesses and a remark."""
    lines = [line.split("\t") for line in told(commands.run("history", "t", dsn=as_url(embedded_database))).splitlines()]

    assert [(line[1], line[2], line[3]) for line in lines[:6]] == [
        ("0 s", "0", "task-sent"),
        ("10 s", "0", "task-started"),
        ("20 s", "0", "task-retried"),
        ("20 s", "1", "task-sent"),
        ("1 min", "1", "task-started"),
        ("1 min 20 s", "1", "task-failed"),
    ]
    assert lines[2][4:] == ["w1", "backend", "ValueError: no"]
    assert lines[6][3] == "operator-acted"
    assert re.fullmatch(r"note by ann@here \(login \w+\): card expired, resolved", lines[6][6])
    assert lines[7][6] == "sent again as newer: again"


def test_waits_are_drawn_to_scale_on_a_terminal(log: Log, commands: Commands, embedded_database: str) -> None:
    """A task that waited for nine tenths of its time has nine tenths of the bars."""
    log.sent(occurred_at=ago(100))
    log.started(occurred_at=ago(10))
    log.tell(TaskSucceeded, "t", occurred_at=ago(0), worker="w1", run="r1")

    text = told(commands.run("history", "t", dsn=as_url(embedded_database), terminal=True))

    sent, started, *_ = [line for line in text.splitlines() if "task-" in line]
    assert (sent.count("█"), started.count("█")) == (27, 3)
    assert "attempt 0: waited 1 min 30 s in mail, ran 10 s" in text


def test_nothing_is_waited_for_after_the_end(story: Log) -> None:
    """Though somebody notes something about the task later."""
    lines = Chronicle.of(story.connection, "t").lines

    assert [line.until_next is None for line in lines if line.transition.kind == "task-failed"] == [True]
    assert all(line.until_next is not None for line in lines[:5])


def test_a_bar_is_exact_to_an_eighth_and_never_invisible() -> None:
    """Of a span inside a whole one."""
    second = timedelta(seconds=1)

    assert bar(0 * second, 4 * second, 8 * second, 4) == "██  "
    assert bar(4 * second, 3 * second, 8 * second, 4) == "  █▌"
    assert bar(0 * second, second / 1000, 1000 * second, 4) == "▏   "
    assert bar(8 * second, 0 * second, 8 * second, 4) == "   ▏"
    assert bar(0 * second, 0 * second, 0 * second, 4) == "▏   "


def test_history_says_whose_clock_is_wrong(log: Log) -> None:
    """By the clock of the database, and the bars are by that."""
    log.sent(occurred_at=ago(0))
    log.started(occurred_at=ago(-300))

    _, started = Chronicle.of(log.connection, "t").lines

    assert started.remark.startswith("the clock of w1 is 5 min ahead") or started.remark.startswith("the clock of w1 is 4 min 59")
    assert started.after < timedelta(seconds=5)


def test_history_of_what_is_not_over_goes_on_until_now(log: Log) -> None:
    """By the clock of the database."""
    log.sent(occurred_at=ago(50))
    log.tell(TaskLost, "t", reason="nobody consumes mail")

    told = Chronicle.of(log.connection, "t")

    assert told.is_open
    assert [line.remark for line in told.lines] == ["to mail", "nobody consumes mail"]
    assert timedelta(seconds=50) <= told.length < timedelta(seconds=80)


def test_heartbeats_in_a_row_are_one_line(log: Log) -> None:
    """Of a worker that has been there for long."""
    log.online()
    for _ in range(20):
        log.beat()
    log.offline()

    lines = Chronicle.of(log.connection, "w1").lines

    assert [(line.transition.kind, line.times) for line in lines] == [("worker-online", 1), ("worker-heartbeat", 20), ("worker-offline", 1)]


def test_a_replay_has_a_history_of_its_own(log: Log) -> None:
    """By its id: who began it and why, and how many tasks it was about."""
    log.tell(ReplayStarted, "replay", author="ann@here", reason="the bank was down", size=2)
    log.tell(ReplayPlanned, "replay", members=("a", "b"))
    log.tell(ReplayFinished, "replay", counts={"sent": 1, "refused": 1})

    remarks = [line.remark for line in Chronicle.of(log.connection, "replay").lines]

    assert re.fullmatch(r"2 tasks by ann@here \(login \w+\): the bank was down", remarks[0])
    assert remarks[1:] == ["2 tasks", "1 sent, 1 refused"]


def test_history_outlives_the_views(log: Log, commands: Commands, embedded_database: str) -> None:
    """B13: what was forgotten is still told; of what nobody heard, exit code 1."""
    log.sent()
    log.tell(TaskForgotten, "t")

    assert "task-forgotten" in told(commands.run("history", "t", dsn=as_url(embedded_database)))
    assert told(commands.run("history", "nobody", dsn=as_url(embedded_database)), 1) == "nothing was ever heard of nobody\n"
    assert json.loads(told(commands.run("history", "nobody", "--json", dsn=as_url(embedded_database)), 1)) == []


# tail


def test_tail_shows_the_end_of_the_log(story: Log, commands: Commands, embedded_database: str) -> None:
    """The last lines, the newest last."""
    lines = told(commands.run("tail", "--lines", "3", dsn=as_url(embedded_database))).splitlines()

    assert [line.split("\t")[1] for line in lines] == ["task-failed", "operator-acted", "task-replayed"]
    assert told(commands.run("tail", "--lines", "0", dsn=as_url(embedded_database))) == ""


def test_tail_shows_the_facts_about_what_a_query_finds(story: Log, commands: Commands, embedded_database: str) -> None:
    """Also where they stand far from the end."""
    story.journal.append(story.connection, *(story.emitter.emit(TaskSucceeded, f"s{number}") for number in range(1500)))

    lines = told(commands.run("tail", "state:FAILURE", "-n", "2", "--jsonl", dsn=as_url(embedded_database))).splitlines()

    assert [json.loads(line)["kind"] for line in lines] == ["operator-acted", "task-replayed"]


def test_what_is_added_follows_and_nothing_is_skipped(log: Log) -> None:
    """Though a transaction that began earlier ends later: what comes after it in the log waits for it."""
    log.sent("before")
    tail = Tail(log.connection)
    last = tail.last(5)
    with psycopg.connect(log.connection.info.dsn) as slow:
        log.journal.append(slow, log.emitter.emit(TaskSent, "slow"))
        log.sent("quick")
        early = tail.after(last.place)
        slow.commit()
    late = tail.after(early.place)

    assert [[recorded.event.stream for recorded in found.facts] for found in (last, early, late)] == [["before"], [], ["slow", "quick"]]
    assert tail.after(late.place).facts == []


def test_tail_says_where_it_has_not_looked(story: Log, commands: Commands, embedded_database: str) -> None:
    """A query is not looked for in the whole log, and nobody is to believe that there is nothing."""
    story.journal.append(story.connection, *(story.emitter.emit(TaskSucceeded, f"s{number}") for number in range(50_000)))
    dsn = as_url(embedded_database)

    found, all_found = commands.run("tail", "state:FAILURE", dsn=dsn), commands.run("tail", "-n", "3", dsn=dsn)

    assert (found.code, found.out) == (0, "")
    assert found.err == "only the last 50,000 facts were looked through; for older tasks: celery-journal list\n"
    assert all_found.err == ""


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_an_error_is_told_alike_by_every_command(log: Log, commands: Commands, embedded_database: str, serializer: str) -> None:
    """F06: by its type and the first line of its message, though the last line of its traceback is a page of pydantic's help."""
    text = (
        "Traceback (most recent call last):\n  File\npydantic_core._pydantic_core.ValidationError: 1 validation error for Order\n"
        "amount\n  Input should be a valid integer\n    For further information visit https://errors.pydantic.dev/2/v/int_parsing\n"
    )
    stored = json.dumps({"exc_type": "ValidationError", "exc_message": [], "exc_module": "pydantic_core._pydantic_core"}).encode()
    error: dict[str, Any] = {"result": stored, "content_type": "application/json", "traceback": text}
    if serializer == "pickle":
        error |= {"result": b"\x80", "content_type": "application/x-python-serialize"}
    log.sent("t", group_id="g")
    log.tell(TaskFailed, "t", name="app.send", worker="w1", run="r1", group_id="g", **error)
    dsn = as_url(embedded_database)

    for path in (["list"], ["explain", "t"], ["show", "t"], ["show", "g"], ["history", "t"], ["tail"]):
        lines = [line for line in commands.run(*path, dsn=dsn).out.splitlines() if "ValidationError: 1 validation error for Order" in line]
        assert lines, path
        assert path == ["show", "t"] or (len(lines) == 1 and "pydantic" not in lines[0]), path


# top and stats


def test_top_counts_what_waits_runs_and_ends(log: Log, commands: Commands, embedded_database: str) -> None:
    """By name, state, worker and queue, with the rate of the last minute."""
    log.online("w1")
    log.sent("waits")
    log.started("runs")
    log.tell(TaskProgress, "custom", state="HALFWAY", worker="w1", name="app.send", queue="mail")
    for number in range(6):
        log.started(f"ended{number}", occurred_at=ago(12))
        log.tell(TaskFailed if number == 0 else TaskSucceeded, f"ended{number}", worker="w1", run="r1", occurred_at=ago(10))
    log.tell(TaskSucceeded, "long ago", name="app.send", occurred_at=ago(3600))

    seen = snapshot(log.connection, 60)
    text = told(commands.run("top", dsn=as_url(embedded_database)))

    (share,) = seen.shares["name"]
    assert (share.key, share.waiting, share.running, share.ended, share.failed) == ("app.send", 1, 2, 6, 1)
    assert share.run_time is not None
    assert round(share.run_time.total_seconds(), 1) == 2
    assert seen.rate(share) == pytest.approx(0.1)
    assert {share.key for share in seen.shares["state"]} == {"PENDING", "STARTED", "HALFWAY", "SUCCESS", "FAILURE"}
    assert "1 worker alive  1 waiting  2 running  in 1 min: 6 ended, 0.10 a second, 1 failed" in text
    assert "worker\tw1\t0\t2\t6\t0.10\t1\t2 s\t\n" in text


def test_top_marks_workers_that_are_gone_and_tells_for_how_long_queues_wait(log: Log, commands: Commands, embedded_database: str) -> None:
    """As `status` does."""
    log.online("w1")
    log.started("runs", worker="w1")
    log.sent("waits", occurred_at=ago(300))
    log.connection.execute("update celery_journal.worker_row set last_seen = clock_timestamp() - interval '1 hour'")

    dsn = as_url(embedded_database)
    seen = json.loads(told(commands.run("top", "--json", dsn=dsn)))
    text = told(commands.run("top", dsn=dsn))
    drawn = commands.run("top", "--once", dsn=dsn, terminal=True)

    assert (seen["workers_alive"], seen["workers_gone"]) == (0, ["w1"])
    assert 300 <= seen["queues"][0]["oldest"] < 600
    assert "0 workers alive, 1 gone: w1  1 waiting" in text
    assert "w1 (gone)" in drawn.text


def test_top_tells_programs_one_snapshot(log: Log, commands: Commands, embedded_database: str) -> None:
    """With numbers in seconds."""
    log.sent()

    seen = json.loads(told(commands.run("top", "--json", dsn=as_url(embedded_database))))

    assert (seen["workers_alive"], seen["all"]["waiting"], seen["names"][0]["name"]) == (0, 1, "app.send")


@pytest.mark.parametrize("span", ["nan", "inf", "-inf", "-1", "1e400", "x", ""], ids=ascii)
@pytest.mark.parametrize("option", [["top", "--window"], ["top", "--interval"], ["lost", "--grace"], ["capture", "--linger"]], ids="".join)
def test_a_span_that_is_none_is_wrong_usage(option: list[str], span: str, commands: Commands) -> None:
    """One sentence, from us and not from PostgreSQL, which is not asked."""
    ended = commands.run(option[0], f"{option[1]}={span}", dsn="postgresql://me@127.0.0.1:1/app")

    assert f"Error: Invalid value for '{option[1]}': " in told(ended, 2)


def test_spans_are_written_as_in_queries(log: Log, commands: Commands, embedded_database: str) -> None:
    """Or as seconds."""
    dsn = as_url(embedded_database)

    assert "in 5 min:" in told(commands.run("top", "--window", "5min", dsn=dsn))
    assert "in 5 min:" in told(commands.run("top", "--window", "300", dsn=dsn))


def test_stats_measure_failures_waits_and_runs(log: Log, commands: Commands, embedded_database: str) -> None:
    """By name: a hundred runs that waited and ran for 1 to 100 seconds, four of which failed."""
    events = []
    for number in range(1, 101):
        at = ago(1000)
        task: dict[str, Any] = {"name": "app.send", "worker": "w1", "run": "r1"}
        kind = TaskFailed if number <= 4 else TaskSucceeded
        events += [
            log.emitter.emit(TaskSent, f"t{number}", name="app.send", occurred_at=at),
            log.emitter.emit(TaskStarted, f"t{number}", occurred_at=at + timedelta(seconds=number), **task),
            log.emitter.emit(kind, f"t{number}", occurred_at=at + timedelta(seconds=2 * number), **task),
        ]
    log.journal.append(log.connection, *events)
    log.sent("waits", name="other")

    mine, other = tallies(log.connection, Q())
    text = told(commands.run("stats", "name:app.*", dsn=as_url(embedded_database)))

    assert (mine.tasks, mine.succeeded, mine.failed, mine.failure_rate) == (100, 96, 4, 0.04)
    assert [round(span.total_seconds(), 2) for span in mine.run_time if span] == [50.5, 95.05, 99.01]
    assert (other.name, other.unended, other.failure_rate, other.run_time.p50) == ("other", 1, None, None)
    assert text.startswith("app.send\t100\t0\t96\t4\t0\t4.0 %\t0\t")
    assert text.count("\n") == 1


def test_stats_count_by_queue_worker_hour_and_error_as_well(log: Log, commands: Commands, embedded_database: str) -> None:
    """What it is of stands first, and has its own name in JSON; hours are in order."""
    dsn = as_url(embedded_database)
    for number in range(3):
        log.sent(f"s{number}", queue="mail")
        log.started(f"s{number}", worker="w1")
        log.tell(TaskSucceeded, f"s{number}", worker="w1", name="app.send")
    log.sent("f", queue="bills", name="app.bill", occurred_at=ago(7300))
    log.tell(TaskFailed, "f", worker="w2", name="app.bill", occurred_at=ago(7200), **ERROR)

    def counts(by: str) -> list[tuple[str, int, int]]:
        found = json.loads(told(commands.run("stats", "--by", by, "--json", dsn=dsn)))
        return [(one[by], one["tasks"], one["failed"]) for one in found]

    assert counts("queue") == [("mail", 3, 0), ("bills", 1, 1)]
    assert counts("worker") == [("w1", 3, 0), ("w2", 1, 1)]
    assert counts("error") == [("ValueError: no", 1, 1)]
    hours = counts("hour")
    assert hours[0][1:] == (1, 1)
    assert [hour for hour, *_ in hours] == sorted(hour for hour, *_ in hours)
    assert told(commands.run("stats", "--by", "queue", dsn=dsn)).startswith("mail\t3\t")
    assert "is not one of" in told(commands.run("stats", "--by", "colour", dsn=dsn), 2)


def test_stats_count_the_last_day_unless_told_otherwise(log: Log, commands: Commands, embedded_database: str) -> None:
    """`--since`, as everywhere; `all` is everything."""
    log.tell(TaskSucceeded, "old", name="old", occurred_at=ago(3 * 86400))
    dsn = as_url(embedded_database)

    assert told(commands.run("stats", dsn=dsn), 1) == "no task is like that\n"
    assert told(commands.run("stats", "--since", "1w", dsn=dsn)).startswith("old\t1\t")
    assert told(commands.run("stats", "--since", "all", dsn=dsn)).startswith("old\t1\t")
    assert "is no moment" in told(commands.run("stats", "--since", "x", dsn=dsn), 2)


# The other commands


@pytest.mark.parametrize(
    "path",
    [
        ["stale"],
        ["lost"],
        ["spool"],
        ["explain", "t"],
        ["projections", "verify"],
        ["version"],
        ["migrate"],
        ["projections", "rebuild", "--yes"],
    ],
    ids=lambda path: path[0],
)
def test_every_command_that_tells_something_tells_programs(path: list[str], log: Log, commands: Commands, embedded_database: str) -> None:
    """--json is one document, --jsonl one object a line; both together are wrong usage."""
    log.sent(occurred_at=ago(8000))
    dsn = as_url(embedded_database)

    whole, lines = commands.run(*path, "--json", dsn=dsn), commands.run(*path, "--jsonl", dsn=dsn)

    assert whole.code == lines.code in {0, 1}, (whole, lines)
    document = json.loads(whole.out)
    objects = [json.loads(line) for line in lines.out.splitlines()]
    assert len(objects) == (len(document) if isinstance(document, list) else 1)
    assert commands.run(*path, "--json", "--jsonl", dsn=dsn).code == 2


def test_an_output_that_does_not_know_a_character_is_told_it_otherwise(log: Log, embedded_database: str) -> None:
    """No UnicodeEncodeError, as of a name on a terminal of the last century."""
    log.sent(name="gr\u00f6\u00dfe\u2603")
    environment = {**os.environ, "CELERY_JOURNAL_DSN": as_url(embedded_database), "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "list"]

    ended = subprocess.run(command, env=environment, capture_output=True, encoding="latin-1", timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    assert "gr\u00f6\u00dfe\\u2603" in ended.stdout


def test_drawings_are_plainer_where_an_output_does_not_know_them(story: Log, embedded_database: str) -> None:
    """Bars and what is cut, on a terminal of ASCII; column by column as they would be."""
    environment = {"CELERY_JOURNAL_DSN": as_url(embedded_database), "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "history", "t"]
    drawn = {}
    for encoding in ("utf-8", "ascii"):
        drawn[encoding] = STYLES.sub("", drawn_by(command, {**environment, "PYTHONIOENCODING": encoding}).decode(encoding))

    assert "████" in drawn["utf-8"]
    assert "####" in drawn["ascii"]
    assert "\\u" not in drawn["ascii"]
    assert [line.index("task-") for line in drawn["ascii"].splitlines() if "task-" in line] == [
        line.index("task-") for line in drawn["utf-8"].splitlines() if "task-" in line
    ]


@pytest.mark.parametrize("depth", [150, 900, 3000, 100_000])
@pytest.mark.parametrize("where", ["result", "arguments", "meta", "message", "remark"])
def test_what_is_nested_deeply_is_cut_and_the_rest_is_shown(
    commands: Commands, log: Log, embedded_database: str, where: str, depth: int
) -> None:
    """Text and JSON: a limit of Python is none of the command's."""
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    kinds = {"content_type": "application/json", "content_encoding": "utf-8"}
    inside: list[object] = []
    for _ in range(min(depth, 400)):  # a log takes no more in the body of a fact
        inside = [inside]
    sent: dict[str, dict[str, Any]] = {"arguments": {"args": b"[1]", "kwargs": deep}, "message": {"message": {"headers": {"x": inside}}}}
    ended: dict[str, dict[str, Any]] = {"result": {"result": deep, **kinds}, "meta": {"meta": deep}}
    log.sent(**sent.get(where, {}))
    log.tell(TaskSucceeded, "t", worker="w1", run="r1", **ended.get(where, {}))
    if where == "remark":
        log.tell(OperatorActed, "t", action="annotate", reason="seen", meta=deep)

    shown, as_data = (commands.run("show", "t", form, dsn=as_url(embedded_database)) for form in ("--full", "--json"))
    history = commands.run("history", "t", dsn=as_url(embedded_database))

    assert (shown.code, shown.err, as_data.code, history.code) == (0, "", 0, 0)
    assert "attempt 0  SUCCESS on w1" in shown.out
    assert ("seen" in shown.out) is (where == "remark")
    assert json.loads(as_data.out)["task"]["status"] == "SUCCESS"
    if where == "result" and depth < 1000:
        assert shown.out.count('"a": {') == DEEPEST - 1
        assert '"a": "…"' in shown.out


def test_a_task_is_not_its_own_parent(commands: Commands, log: Log, embedded_database: str) -> None:
    """So says Celery of a task without a parent that tries again, and so does what was recorded before we knew."""
    log.sent(parent_id="t", root_id="t")
    log.tell(TaskFailed, "t", worker="w1", run="r1", parent_id="t", root_id="t")

    shown = commands.run("show", "t", "--json", dsn=as_url(embedded_database))
    graph = commands.run("graph", "t", "--json", dsn=as_url(embedded_database))

    assert json.loads(shown.out)["task"]["parent_id"] is None
    assert json.loads(graph.out)["edges"] == []
