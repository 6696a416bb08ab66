"""Why a task is where it is, in plain words."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from celery_journal.consumers.explain import Explanation, explain
from celery_journal.journal import Connection
from celery_journal.journal.events import (
    ChordFailed,
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    GroupSaved,
    OperatorActed,
    TaskExpired,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskLost,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskSucceeded,
    TaskWitnessed,
)

from .lostscene import SOON, Log, ago, pause
from .test_cli import as_url, command

NO = json.dumps({"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}).encode()


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def told(log: Log, subject: str = "t") -> str:
    """Return the sentences, with every span of time as `<t>` and every moment as `<at>`."""
    text = str(explain(log.connection, subject))
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<at>", text)
    return re.sub(r"\b[\d.]+ (d|h|min|ms|s)( \d+ (h|min|s))?\b", "<t>", text)


def test_an_id_that_nobody_has_mentioned(log: Log) -> None:
    """F10: neither as a task nor as the body of a chord nor as a group; which is not the same as queued."""
    explanation = explain(log.connection, "t")

    assert explanation.kind == "unknown"
    assert str(explanation).startswith("It was never heard of: neither a task, nor the body of a chord, nor a group has that id.")


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        pytest.param("none", "no live worker consumes it", id="no worker"),
        pytest.param("gone", "no live worker consumes it", id="worker gone"),
        pytest.param("elsewhere", "no live worker consumes it", id="of another queue"),
        pytest.param("idle", "1 live worker consumes it, with nothing to do", id="idle"),
        pytest.param("busy", "2 live workers consume it, busy with 5 tasks; 2 tasks sent earlier still wait", id="busy"),
    ],
)
def test_a_queued_task(log: Log, workers: str, words: str) -> None:
    """F10: how long, where, and who could take it."""
    match workers:
        case "gone":
            log.online(freq=SOON)
        case "elsewhere":
            log.online(queues=("other",))
        case "idle":
            log.online()
        case "busy":
            log.online("w1", active=2)
            log.online("w2", active=3)
            log.sent("earlier")
            log.sent("earlier, too")
            log.sent("elsewhere", queue="other")
    log.sent()
    log.sent("later")
    pause()

    assert told(log) == f"It is queued <t> on `mail`, {words}."


SHOP = ["celery.chord", "shop.charge", "shop.mail", "shop.packs", "shop.print"]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        pytest.param(
            [SHOP],
            "No live worker that consumes `mail` has registered the task shop.pack, and whichever receives it fails it: "
            "w0 has shop.packs, shop.mail, shop.print and 1 other task.",
            id="registered by none",
        ),
        pytest.param(
            [["celery.chord"]],
            "No live worker that consumes `mail` has registered the task shop.pack, and whichever receives it "
            "fails it: w0 has no task of its own.",
            id="registered by one that has none",
        ),
        pytest.param([SHOP, ["shop.pack"]], "w0 has not registered shop.pack, and would fail it.", id="registered by one of two"),
        pytest.param([SHOP, None], "w0 has not registered shop.pack, and would fail it.", id="perhaps registered by one of two"),
        pytest.param([None], "", id="nobody tells"),
        pytest.param([["shop.pack"]], "", id="registered"),
    ],
)
def test_a_task_tells_which_of_its_workers_have_not_registered_it(log: Log, others: list[list[str] | None], words: str) -> None:
    """Queued, given back by a worker that is gone, or failed by one that did not know it: they would fail it, as Celery does."""
    log.online("elsewhere", queues=("other",), tasks=["shop.pack"])
    log.online("gone", freq=SOON, tasks=["shop.pack"])
    for number, tasks in enumerate(others):
        told_by = log.online if tasks is None else partial(log.online, tasks=tasks)
        told_by(f"w{number}")
    log.sent(name="shop.pack")
    log.sent("given back", name="shop.pack")
    log.tell(TaskReceived, "given back", worker="gone", run="r", queue="mail", name="shop.pack")
    log.sent("failed", name="shop.pack")
    log.tell(TaskFailed, "failed", result=NO, name="shop.pack")
    log.tell(TaskRejected, "failed", reason="shop.pack is not registered", worker="w0", name="shop.pack")
    pause()

    for task_id in ("t", "given back", "failed"):
        said = told(log, task_id)
        assert said.endswith(words)
        assert ("registered" in said) is bool(words)


def test_how_long_is_in_words_and_by_the_clock_of_the_database(log: Log) -> None:
    """Whatever the clock of the sender says."""
    log.sent(occurred_at=ago(3600))
    pause(0.3)

    assert re.match(r"It is queued (\d+ ms|[\d.]+ s) on", str(explain(log.connection, "t")))


def test_a_task_that_waits_for_its_eta(log: Log) -> None:
    """In its queue, or with a worker; and until when it makes sense."""
    log.sent(eta=ago(-185), expires=ago(-600))
    log.sent("u")
    log.online()
    log.received("u", eta=ago(-185))

    assert re.match(
        r"It is queued .* on `mail`, waiting for its eta in 3 min [1-5] s.\nIt expires in (9 min 5\d s|10 min)",
        str(explain(log.connection, "t")),
    )
    assert told(log, "u") == "It was received by w1 <t> ago, waiting for its eta in <t>. w1 is alive, heard of <t> ago."


@pytest.mark.parametrize(
    ("exchange", "routing_key", "words"),
    [
        ("media", "media.video", "sent to the exchange `media` with"),
        ("celery_delayed_27", f"{'0.' * 27}1.media.video", "sent to the exchange `celery_delayed_27`, which delays it, with"),
        ("", "", None),
        (7, "media", None),
    ],
)
def test_a_task_whose_queue_nobody_knows(log: Log, exchange: object, routing_key: str, words: str | None) -> None:
    """That no worker consumes it would be said of a queue that is none."""
    log.tell(TaskSent, "t", name="app.send", message={"exchange": exchange, "routing_key": routing_key})

    way = f"{words} the routing key `media.video`, and which queue that is, is not known" if words else "where is not known"
    assert told(log) == f"It is queued <t>, {way}."


def test_a_task_that_has_expired_in_its_queue(log: Log) -> None:
    """It will never run."""
    log.sent(expires=ago(60))

    assert told(log).endswith("\nIt expired <t> ago, and no worker will run it any more.")


def test_a_task_that_has_expired_with_a_worker(log: Log) -> None:
    """Unless the worker waits for its eta, and will see then."""
    log.online()
    log.received("t", expires=ago(60))
    log.received("u", expires=ago(60), eta=ago(-60))
    log.started("v", expires=ago(60))

    assert told(log).endswith("\nIt expired <t> ago, and nobody has said since what became of it.")
    assert "expired" not in told(log, "u") + told(log, "v")


@pytest.mark.parametrize(
    ("active", "words"),
    [(0, "w1 is alive and has nothing to do any more: that it has ended was not heard."), (1, "w1 is alive, heard of <t> ago.")],
)
def test_a_task_whose_end_was_not_heard(log: Log, active: int, words: str) -> None:
    """A broadcast may be lost."""
    log.started()
    log.beat(queues=None, active=active, source="broadcast")

    assert told(log).endswith(words)


def test_a_worker_that_only_broadcasts_consumes_what_it_has_received(log: Log) -> None:
    """It says nothing of its queues."""
    log.online(queues=None, active=1, source="broadcast")
    log.started("earlier")
    log.sent()
    log.sent("u", queue="other")

    assert told(log) == "It is queued <t> on `mail`, 1 live worker consumes it, busy with 1 task."
    assert told(log, "u") == "It is queued <t> on `other`, no live worker consumes it."


def test_a_received_task_waits_for_a_process(log: Log) -> None:
    """Its worker is busy with others."""
    log.online(active=2)
    log.sent()
    log.received()

    assert told(log) == "It was received by w1 <t> ago, which is busy with 2 tasks. w1 is alive, heard of <t> ago."


@pytest.mark.parametrize(
    ("life", "words"),
    [
        pytest.param("alive", "w1 is alive, heard of <t> ago.", id="alive"),
        pytest.param("silent", "w1 has not been heard of since <at>.", id="silent"),
        pytest.param("offline", "w1 went offline at <at>.", id="offline"),
        pytest.param("restarted", "w1 was started anew at <at>, after the last that was heard of the task.", id="restarted"),
        pytest.param("unknown", "Whether w1 is alive is not known: the journal has no heartbeat of it.", id="unknown"),
    ],
)
def test_a_started_task_tells_of_its_worker(log: Log, life: str, words: str) -> None:
    """F02: since when, which process, and whether the worker is there."""
    if life != "unknown":
        log.online(freq=SOON if life == "silent" else 10)
    log.started(pid=77)
    match life:
        case "offline":
            log.offline()
        case "restarted":
            log.online(pid=2)
    pause()

    assert told(log) == f"It was started on w1 <t> ago, pid 77. {words}"


def test_a_state_of_its_own(log: Log) -> None:
    """What it said last, with the start or without."""
    log.online()
    log.started(time_limit=60)
    log.tell(TaskProgress, "t", state="PROGRESS", worker="w1", run="r1")
    log.tell(TaskProgress, "u", state="PROGRESS", worker="w1")

    assert told(log) == "It was started on w1 <t> ago, with a time limit of <t>; it said PROGRESS <t> ago. w1 is alive, heard of <t> ago."
    assert told(log, "u") == "It said PROGRESS on w1 <t> ago. w1 is alive, heard of <t> ago."


def test_a_retry_tells_its_cause_and_when(log: Log) -> None:
    """F02: which time it is, why, and what is known of the next attempt."""
    log.online()
    for attempt in (0, 1):
        log.started(attempt=attempt, run=f"r{attempt}")
        log.tell(
            TaskRetried, "t", attempt=attempt, worker="w1", run=f"r{attempt}", result=NO, content_type="application/json", eta=ago(-20)
        )
    assert told(log) == "It is retrying for the second time because of ValueError: no; the next attempt is due in <t>."

    log.sent(attempt=2, eta=ago(-20))
    assert told(log).endswith("the next attempt is due in <t>.\nIt is queued <t> on `mail`, waiting for its eta in <t>.")

    log.received(attempt=2, run="r2", eta=ago(-20))
    assert told(log) == (
        "It is retrying for the second time because of ValueError: no.\n"
        "It was received by w1 <t> ago, waiting for its eta in <t>. w1 is alive, heard of <t> ago."
    )


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        pytest.param(TaskSucceeded, {}, "It has succeeded after <t> on w1 at <at>.", id="succeeded"),
        pytest.param(TaskFailed, {"result": NO}, "It has failed with ValueError: no after <t> on w1 at <at>.", id="failed"),
        pytest.param(
            TaskFailed,
            {"result": b"\x80", "content_type": "application/x-python-serialize", "traceback": "Traceback\nKeyError: 1\n"},
            "It has failed with KeyError: 1 after <t> on w1 at <at>.",
            id="failed, pickled",
        ),
        pytest.param(TaskIgnored, {}, "It has ended without a result after <t> on w1 at <at>.", id="ignored"),
    ],
)
def test_a_task_that_has_ended(log: Log, kind: type[TaskFailed], fields: dict[str, object], words: str) -> None:
    """How, after how long, where and when."""
    log.started()
    log.tell(kind, "t", worker="w1", run="r1", **fields)

    assert told(log) == words


def test_a_step_that_failed_with_what_comes_before_it_was_never_sent(log: Log) -> None:
    """Celery stores the error of one step for all that come after it: whoever looks for a worker's log is to know that there is none."""
    log.tell(TaskFailed, "t", name="app.send", root_id="first", source="backend", traceback="ValueError: no")
    log.tell(TaskFailed, "imported", root_id="first", source="redis", traceback="ValueError: no")
    log.sent("sent", root_id="first")
    log.tell(TaskFailed, "sent", root_id="first", source="backend", traceback="ValueError: no")

    never = "It was never sent, as far as is known, and failed with what comes before it; see: celery-journal graph"
    assert f"{never} t" in str(explain(log.connection, "t"))
    assert never not in str(explain(log.connection, "imported"))
    assert never not in str(explain(log.connection, "sent"))


def test_a_revoked_task_tells_who_asked_and_who_did_it(log: Log) -> None:
    """F02: somebody asked, a worker did; until then it only was asked for."""
    log.sent()
    log.tell(OperatorActed, "t", action="revoke", author="alice@host")
    assert told(log).endswith("\nalice@host (login postgres) asked for it to be revoked; no worker has done so yet.")

    log.tell(TaskRevoked, "t")
    heard = "a worker that has heard so discards its message, and one that has not may still run it"
    assert told(log) == f"It was revoked at <at> by alice@host (login postgres): {heard}."

    expired = json.dumps({"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}).encode()
    log.tell(TaskRevoked, "t", worker="w2", result=expired)
    assert told(log) == "It was revoked at <at>, asked for by alice@host (login postgres), effected by w2 (TaskRevokedError: expired)."


def test_a_task_that_was_given_back(log: Log) -> None:
    """A message that was rejected waits in its queue again."""
    log.sent()
    log.started()
    log.tell(TaskRejected, "t", worker="w1", run="r1", reason="queued again: 'not for me'")

    assert told(log) == (
        "w1 has given it back <t> ago (queued again: 'not for me').\nIt is queued <t> on `mail`, no live worker consumes it."
    )


def test_a_task_of_which_only_a_broadcast_tells(log: Log) -> None:
    """Its worker keeps the journal by itself, and has not said so."""
    log.sent()
    log.tell(TaskWitnessed, "t", state="STARTED", worker="w1")

    assert told(log).startswith("w1 has not recorded anything of it, but was heard to say STARTED. Whether w1 is alive is not known")


def test_a_lost_task(log: Log) -> None:
    """F02: with the reason; and no more so when it is heard of again."""
    log.online()
    log.started()
    log.tell(TaskLost, "t", reason="started by w1, which went offline")
    assert told(log).endswith("\nIt is lost: started by w1, which went offline.")

    log.started(run="r2")
    assert "lost" not in told(log)
    assert told(log).endswith("Its message was delivered more than once: it was started 2 times in 1 attempt.")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param(TaskForgotten, "somebody called forget()", id="forgotten"),
        pytest.param(TaskExpired, "result_expires has passed", id="expired"),
    ],
)
def test_a_task_that_has_left_the_views(log: Log, kind: type[TaskForgotten], words: str) -> None:
    """The log still has it."""
    log.sent()
    log.tell(TaskSucceeded, "t")
    log.tell(kind, "t")

    assert (
        told(log)
        == f"It has left the views at <at>, because {words}; the log still has it.\nThe last that was heard before: SUCCESS, at <at>."
    )


def test_an_id_of_which_only_a_request_is_known(log: Log) -> None:
    """Somebody revoked what was never sent."""
    log.tell(OperatorActed, "t", action="revoke", author="alice@host")

    assert told(log) == "No task of that id was sent, as far as the journal knows; the log has operator-acted about it."


def chord(log: Log, size: int, returned: int) -> None:
    header = json.dumps([[[f"m{index}", None], None] for index in range(size)]).encode()
    log.tell(ChordStarted, "g", result=header, task_id="body")
    log.tell(ChordSizeSet, "g", size=size)
    for index in range(returned):
        log.tell(ChordPartReturned, "g", task_id=f"m{index}", group_index=index, state="SUCCESS")


def test_the_body_of_an_open_chord_names_whom_it_waits_for(log: Log) -> None:
    """Of ten, two are missing: one runs, of the other nothing is known."""
    chord(log, 10, 8)
    log.started("m8", group_id="g")

    assert told(log, "body") == (
        "It is the body of a chord, and is sent when all parts have returned: "
        "waiting in chord g for 2 of 10: m8 (STARTED on w1), m9 (not heard of)."
    )
    assert told(log, "g") == "It is a chord: waiting in chord g for 2 of 10: m8 (STARTED on w1), m9 (not heard of). Its body is body."


def test_a_body_that_was_marked_as_lost_is_a_body_still(log: Log) -> None:
    """F02: all have returned, and nobody sent it."""
    chord(log, 2, 2)
    log.tell(TaskLost, "body", reason="nobody has sent it")

    assert told(log, "body").endswith(
        "all 2 parts have returned to chord g, and nobody has sent the body yet.\nIt is lost: nobody has sent it."
    )
    assert explain(log.connection, "body").kind == "body"


def test_chords_and_groups_that_have_ended(log: Log) -> None:
    """By the id of the group; the body is a task like any other then."""
    chord(log, 1, 1)
    log.tell(ChordUnlocked, "g", task_id="body")
    log.sent("body")
    assert told(log, "g") == "It is a chord, which has ended: its body body was sent."
    assert told(log, "body").startswith("It is queued")

    log.tell(ChordStarted, "h", task_id="other", size=1)
    log.tell(ChordPartReturned, "h", task_id="m", group_index=0, state="FAILURE")
    log.tell(ChordFailed, "h", task_id="other")
    assert told(log, "h").startswith("It is a chord, which has failed: 1 of its parts did not succeed")

    log.tell(GroupSaved, "s", members=("a", "b"))
    log.tell(TaskSucceeded, "a")
    assert told(log, "s") == "It is a saved group of 2: 1 have not ended: b (not heard of)."

    log.sent("c", group_id="unsaved")
    assert told(log, "unsaved").startswith("It is a group of which these tasks have not ended: c (PENDING).\n")


def test_the_cause_is_told_however_many_wait_for_each_other(log: Log) -> None:
    """A chord waits for the body of another one, which waits for a task whose queue nobody consumes."""
    chord(log, 2, 1)
    log.tell(ChordStarted, "h", result=json.dumps([[["x", None], None]]).encode(), task_id="m1")
    log.tell(ChordSizeSet, "h", size=1)
    log.sent("x", queue="reports", group_id="h")

    explained = explain(log.connection, "body")

    assert list(explained.causes) == ["m1", "x"]
    assert explained.lines[-1].startswith("x, which that waits for: It is queued ")
    assert explained.lines[-1].endswith("on `reports`, no live worker consumes it.")
    assert [cause["id"] for cause in explained.as_dict()["causes"]] == ["m1", "x"]


def test_clocks_that_disagree_are_named(log: Log) -> None:
    """The sender's is ahead, the worker's behind: the times in the log are not in their order."""
    log.online(occurred_at=ago(300))
    log.sent(occurred_at=ago(-300))
    log.received(occurred_at=ago(300))

    assert told(log).endswith(
        "The clocks disagree: that of the sender is <t> ahead of the database's; that of w1 is <t> behind the database's; "
        "by them w1 had the task <t> before it was sent."
    )
    log.online("w2")
    log.sent("u")
    log.received("u", worker="w2")
    assert "clocks" not in told(log, "u")


def test_a_worker_is_told_too(log: Log) -> None:
    """Its name is an id as well."""
    log.online()

    assert told(log, "w1") == "It is a worker, alive: first seen at <at>, last heard of <t> ago."


def test_odd_ids_are_ids(log: Log) -> None:
    """NUL and lone surrogates are escaped in the views."""
    log.sent("nul\0\udc80")

    assert told(log, "nul\0\udc80").startswith("It is queued")


def test_the_result_is_plain_data(log: Log) -> None:
    """What `AsyncResult.explain()` and `--json` share."""
    log.online()
    log.started()
    explanation = explain(log.connection, "t")

    assert isinstance(explanation, Explanation)
    plain = json.loads(json.dumps(explanation.as_dict()))
    assert (plain["id"], plain["kind"], plain["state"]) == ("t", "task", "STARTED")
    assert plain["facts"]["workers"][0]["worker"] == "w1"


# The command


def test_the_command_prints_a_heading_and_sentences(log: Log, dsn: str) -> None:
    """Nothing in a name is obeyed by the terminal."""
    log.sent("t", name="evil\x1b[2J", queue="q\x1b[2J")

    plain, as_json = command("explain", "t", dsn=as_url(dsn)), command("explain", "t", "--json", dsn=as_url(dsn))

    heading, sentence = plain.stdout.splitlines()
    assert (plain.returncode, heading) == (0, "t evil\\x1b[2J PENDING")
    assert re.fullmatch(r"  It is queued .* on `q\\x1b\[2J`, no live worker consumes it\.", sentence)
    assert json.loads(as_json.stdout)["kind"] == "task"


def test_the_command_says_what_it_does_not_know(dsn: str) -> None:
    """Exit code 1, in an empty journal; 2 without an id."""
    unknown, nothing = command("explain", "t", dsn=as_url(dsn)), command("explain", dsn=as_url(dsn))

    assert unknown.returncode == 1
    assert "never heard of" in unknown.stdout
    assert nothing.returncode == 2
    assert "Missing argument" in nothing.stderr


def test_a_task_that_was_sent_again_tells_of_the_other(log: Log) -> None:
    """Both ways."""
    log.sent("t")
    log.tell(TaskFailed, "t", result=NO, content_type="application/json")
    log.tell(TaskReplayed, "t", task_id="u", replay="r", author="ann@shop", reason="bank was down")
    log.sent("u", message={"headers": {"journal_replay_of": "t"}})

    assert told(log, "t").endswith("ann@shop: bank was down.\nThat has not ended: PENDING.")

    log.tell(TaskSucceeded, "u")
    assert told(log, "t").endswith("ann@shop: bank was down.\nThat has ended: SUCCESS.")
    assert told(log, "u").endswith("It is t, sent again.")
