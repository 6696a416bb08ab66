"""What is lost, and why: tasks that will not go on by themselves (F02)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from celery_journal.consumers.explain import explain
from celery_journal.consumers.lost import Lost, find_lost, mark_lost, sweep_lost
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    TaskFailed,
    TaskProgress,
    TaskRejected,
    TaskRetried,
    TaskSent,
    TaskSucceeded,
    TaskWitnessed,
)

from .lostscene import GRACE, SOON, Log, ago, pause
from .scene import ask

#: The grace where something must happen within it, on a machine that has much to do.
SHORT = 0.5

WORKER_ENDS = ["started", "PROGRESS"]


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def lost(log: Log, grace: float = GRACE) -> dict[str | None, Lost]:
    return {one.task_id: one for one in find_lost(log.connection, grace)}


def reason(log: Log, task_id: str = "t") -> str:
    found = lost(log)
    return f"{found[task_id].cause}: {found[task_id].reason}" if task_id in found else ""


# Published and never received


def test_a_task_that_an_idle_worker_does_not_receive_is_lost(log: Log) -> None:
    """F02: its queue has a live consumer, which has nothing to do, and for longer than the grace it was not taken."""
    log.online(queues=("mail", "other"))
    log.sent()
    assert lost(log, grace=5) == {}

    pause()

    assert reason(log).startswith("never received: sent at ")
    assert reason(log).endswith("and never received, though w1, which consumes mail, has nothing to do")
    assert lost(log)["t"].worker is None
    assert lost(log, grace=5) == {}


def test_a_task_that_was_overtaken_is_lost(log: Log) -> None:
    """F02: the worker is busy, but it has received what was sent later to the same queue."""
    log.online(active=2)
    log.sent("t")
    log.sent("later")
    log.started("later")
    pause()

    assert set(lost(log)) == {"t"}
    assert reason(log).endswith("though 1 live worker consumes mail and later, which was sent later, was received")


def test_the_ends_of_another_queue_do_not_hide_that_a_task_was_overtaken(log: Log) -> None:
    """F02: however many they are, and whoever told of them; which queues a worker consumes that only broadcasts is known by them, too."""
    log.online(queues=None, source="broadcast", active=2)
    log.sent("t")
    log.sent("later")
    log.received("later", source="broadcast")
    log.tell(TaskSucceeded, "later", worker="w1", source="broadcast")
    log.online("w2", queues=("busy",), active=2)
    events = [log.emitter.emit(TaskSucceeded, f"busy{number}", worker="w2", queue="busy") for number in range(1100)]
    log.journal.append(log.connection, *events)
    pause()

    assert set(lost(log)) == {"t"}


def test_who_was_sent_before_a_delayed_task_was_due_does_not_overtake_it(log: Log) -> None:
    """RabbitMQ puts it into its queue when it is due, behind what was sent until then."""
    log.online(active=1)
    log.sent("t", eta=ago(-GRACE), occurred_at=ago(1))
    log.sent("before", occurred_at=ago(0.5))
    log.started("before")
    pause(4 * GRACE)
    assert lost(log) == {}

    log.sent("after")
    log.started("after")
    pause()

    assert set(lost(log)) == {"t"}


@pytest.mark.parametrize(("mine", "other", "is_lost"), [(None, 0, True), (3, 3, True), (0, 9, False), (9, None, False)])
def test_who_has_another_priority_does_not_overtake(log: Log, mine: int | None, other: int | None, is_lost: bool) -> None:
    """F02: a queue with priorities lets others go first; which way round depends on the broker."""
    log.online(active=1)
    for task_id, priority in (("t", mine), ("later", other)):
        log.sent(task_id, message={"properties": {} if priority is None else {"priority": priority}})
    log.started("later")
    pause()

    assert ("t" in lost(log)) is is_lost


@pytest.mark.parametrize(
    "why",
    ["no consumer", "consumer of another queue", "consumer is gone", "busy", "just came", "receives one after the other", "eta", "unsent"],
)
def test_a_task_that_rightly_waits_is_not_lost(log: Log, why: str) -> None:
    """Nothing shows that it should have been received by now."""
    match why:
        case "no consumer":
            pass
        case "consumer of another queue":
            log.online(queues=("other",))
        case "consumer is gone":
            log.online(freq=SOON)
        case "busy":
            log.online(active=1)
            log.started("earlier")
        case _:
            log.online()
    if why == "receives one after the other":
        log.sent("another")
    if why == "unsent":
        log.tell(TaskProgress, "t", state="PROGRESS")
    else:
        log.sent(eta=ago(-600) if why == "eta" else None)
    pause(2 * SHORT)
    match why:
        case "just came":
            log.online()
        case "receives one after the other":
            log.received("another")
            log.tell(TaskSucceeded, "another", worker="w1", queue="mail", run="r1")

    assert lost(log, grace=SHORT) == {}


def test_an_eta_that_has_passed_counts_as_the_sending(log: Log) -> None:
    """The grace begins when the task may run."""
    log.online()
    log.sent(eta=ago(-2))
    pause(0.2)
    assert lost(log) == {}

    pause(2)

    assert reason(log).startswith("never received")


def test_clocks_that_disagree_do_not_make_a_task_lost(log: Log) -> None:
    """F02: what was sent earlier by a clock that is behind was not overtaken: both clocks, and that of the database, must say so."""
    log.online(active=1)
    log.sent("earlier")
    log.sent("t", occurred_at=ago(300))
    log.started("earlier")
    pause()

    assert lost(log) == {}


def test_a_next_attempt_that_is_never_received_is_lost(log: Log) -> None:
    """The retry was sent, and nobody took it."""
    log.online()
    log.sent()
    log.started()
    log.tell(TaskRetried, "t", worker="w1", run="r1")
    pause()
    assert lost(log) == {}

    log.sent(attempt=1)
    pause()

    assert "sent for attempt 1 at" in reason(log)


def test_a_message_that_was_given_back_and_is_not_received_again_is_lost(log: Log) -> None:
    """A task that asked for being queued again waits there like any other."""
    log.online(active=1)
    log.sent()
    log.started()
    log.tell(TaskRejected, "t", worker="w1", run="r1")
    pause()
    assert lost(log) == {}

    log.beat(active=0)

    assert reason(log).startswith("never received: given back to its queue and never received")


def test_a_task_that_expired_in_its_queue_is_lost(log: Log) -> None:
    """RabbitMQ drops an expired message without a word."""
    log.online()
    log.sent(expires=ago(0))
    pause()

    assert reason(log).startswith("expired: sent at ")


def test_who_has_expired_is_lost_whoever_consumes_its_queue(log: Log) -> None:
    """F02: it can never run any more."""
    log.sent("t", expires=ago(0))
    log.sent("later", expires=ago(-600))
    log.sent("without")
    assert lost(log, grace=5) == {}
    pause()

    assert set(lost(log)) == {"t"}
    assert re.fullmatch(r"expired: sent at .* UTC, expired at .* UTC, and never received", reason(log))


def test_who_expires_by_a_clock_that_is_behind_has_not_expired(log: Log) -> None:
    """F02: the broker counts from the sending, whatever the time of the sender was."""
    log.sent(occurred_at=ago(600), expires=ago(300))
    pause()

    assert lost(log) == {}


@pytest.mark.parametrize("eta", [None, 0.0])
def test_who_expires_with_a_worker_that_does_not_say_so_is_lost(log: Log, eta: float | None) -> None:
    """F02: the broker was restarted, the message was in its queue again, and there it expired; the worker lives."""
    log.online()
    at = None if eta is None else ago(eta)
    log.sent(eta=at, expires=ago(0))
    log.received(eta=at, expires=ago(0))
    assert lost(log, grace=5) == {}
    pause()

    assert re.fullmatch(r"expired: received by w1, expired at .* UTC, and nobody has said since what became of it", reason(log))
    assert (lost(log)["t"].worker, lost(log)["t"].run) == ("w1", "r1")


@pytest.mark.parametrize("why", ["started", "waits for its eta", "seen to start", "expires later", "started elsewhere"])
def test_what_has_expired_with_a_worker_may_go_on(log: Log, why: str) -> None:
    """Once it is started it runs on; and a worker that waits for the eta says then that it is revoked."""
    log.online()
    log.online("w2")
    expires = ago(-600 if why == "expires later" else 0)
    eta = ago(-600) if why == "waits for its eta" else None
    log.sent(expires=expires, eta=eta)
    match why:
        case "started":
            log.started(expires=expires)
        case "seen to start":
            log.tell(TaskWitnessed, "t", state="STARTED", worker="w1")
        case "started elsewhere":
            log.received(expires=expires)
            log.started(worker="w2", run="r2", expires=expires)
        case _:
            log.received(expires=expires, eta=eta)
    pause()

    assert lost(log) == {}


@pytest.mark.parametrize("first", ["w1", "w2"])
def test_what_a_worker_that_was_started_anew_may_have_received_is_lost_if_nobody_has_it(log: Log, first: str) -> None:
    """F02: that a worker of the queue died since does not hide that another has nothing to do."""
    log.online("w1")
    log.online("w2")
    tasks = {f"t{number}" for number in range(20)}
    for task_id in sorted(tasks):
        log.sent(task_id)
    log.sent("later")
    log.started("later", worker=first)
    pause()
    log.online(first, pid=2)
    pause()

    assert {task_id for task_id, one in lost(log).items() if one.cause == "never received"} == tasks


def test_who_only_broadcasts_consumes_what_it_has_received(log: Log) -> None:
    """F02: a broadcast does not tell of queues."""
    log.online("capture-1@host", queues=(), software="celery-journal capture")
    log.online(queues=None, source="broadcast")
    log.sent("earlier")
    log.sent("t")
    log.sent("u", queue="other")
    pause()
    assert lost(log) == {}

    log.started("earlier")
    log.tell(TaskSucceeded, "earlier", worker="w1", run="r1", queue="mail")
    pause(0.6)

    assert set(lost(log, grace=0.5)) == {"t"}
    assert re.fullmatch(
        r"sent at .* UTC and never received, as far as w1, which consumes mail and has nothing to do, has broadcast",
        lost(log, grace=0.5)["t"].reason,
    )


@pytest.mark.parametrize("state", ["RECEIVED", "STARTED"])
def test_who_was_seen_to_receive_a_task_has_received_it(log: Log, state: str) -> None:
    """The worker died before it could say so; the broadcast was heard. F02"""
    log.online("w1", freq=SOON)
    log.online("w2", freq=10)
    log.sent()
    log.tell(TaskWitnessed, "t", state=state, worker="w2")
    pause()
    assert lost(log) == {}

    log.sent("u")
    log.tell(TaskWitnessed, "u", state=state, worker="w1")
    log.beat("w1", freq=SOON)
    pause()

    how = (
        "received by w1, which is gone, then given back to the broker"
        if state == "RECEIVED"
        else "by w1, which has not been heard of since"
    )
    assert how in reason(log, "u")


# Received or started by a worker that is gone


@pytest.mark.parametrize("what", WORKER_ENDS)
def test_a_task_of_a_worker_that_is_silent_is_lost(log: Log, what: str) -> None:
    """F02: nothing was heard of the worker for some heartbeats, nor of the task."""
    begin(log, what)
    log.beat(freq=SOON)
    pause()

    assert "by w1, which has not been heard of since " in reason(log)
    assert lost(log)["t"].worker == "w1"


def test_the_silence_of_whom_only_a_broadcast_tells_means_nothing_without_a_capture(log: Log) -> None:
    """Nobody hears such a worker while no capture runs, or while it has not caught up."""
    begin(log, "started")
    log.beat(freq=SOON, source="broadcast")
    pause()
    assert lost(log) == {}

    log.online("capture-1@host", software="celery-journal capture")
    pause()

    assert "by w1, which has not been heard of since " in reason(log)


@pytest.mark.parametrize("what", ["started", "PROGRESS"])
def test_a_task_of_a_worker_that_went_offline_is_lost(log: Log, what: str) -> None:
    """It said goodbye, and did not finish."""
    begin(log, what)
    log.offline()
    pause()

    assert "by w1, which went offline at " in reason(log)


def test_what_a_worker_that_went_offline_had_only_received_is_in_its_queue_again(log: Log) -> None:
    """Lost it is only where another worker could take it."""
    begin(log, "received")
    log.offline()
    pause()
    assert lost(log) == {}

    log.online("w2")
    pause()

    assert reason(log).startswith(
        "never received: received by w1, which is gone, then given back to the broker and never received, though w2"
    )


@pytest.mark.parametrize("what", WORKER_ENDS)
def test_a_task_of_a_worker_that_was_started_anew_is_lost(log: Log, what: str) -> None:
    """F02: the new process of that name knows nothing of it."""
    begin(log, what)
    pause()
    assert lost(log) == {}

    log.online(pid=2)
    pause()

    assert "by w1, which was started anew at " in reason(log)


@pytest.mark.parametrize("pid", [pytest.param(1, id="the same process"), pytest.param(2, id="another process")])
def test_a_broadcast_of_online_may_mean_a_new_connection_only(log: Log, pid: int) -> None:
    """A worker that lost its broker says worker-online when it has it again, and its tasks run on."""
    log.online(source="broadcast")
    log.started()
    pause()

    log.online(pid=pid, active=1, source="broadcast")
    pause()

    assert ("t" in lost(log)) is (pid == 2)


@pytest.mark.parametrize(
    "why", ["alive", "never heard of", "heard of the task", "redelivered", "ended", "silence is short", "second run lives"]
)
def test_a_task_that_may_go_on_is_not_lost(log: Log, why: str) -> None:
    """Its worker is there, or nothing is known of it; or another has the task."""
    if why != "never heard of":
        begin(log, "started")
        log.beat(freq=10 if why == "alive" else SOON)
    else:
        log.started(worker="stranger")
    match why:
        case "redelivered":
            log.online("w2")
            log.received(worker="w2", run="r2")
        case "second run lives":
            log.online("w2")
            log.received(worker="w2", run="r2")
            log.online("w3", freq=SOON)
            log.started(worker="w3", run="r3")
    pause(2 * SHORT)
    match why:
        case "heard of the task":
            log.tell(TaskProgress, "t", state="PROGRESS", worker="w1", run="r1")
        case "ended":
            log.tell(TaskFailed, "t", worker="w1", run="r1")

    assert lost(log, 60 if why == "silence is short" else SHORT) == {}


def test_a_task_whose_every_delivery_is_lost_is_lost(log: Log) -> None:
    """It was redelivered, and that worker is gone as well: the last one is named."""
    begin(log, "started")
    log.offline()
    log.online("w2")
    log.started(worker="w2", run="r2")
    log.offline("w2")
    pause()

    found = lost(log)["t"]
    assert (found.worker, found.run) == ("w2", "r2")


def test_a_task_beyond_its_time_limit_is_lost(log: Log) -> None:
    """F02: the worker is alive, and should have ended it."""
    log.online(active=1)
    log.started("t", time_limit=0.01)
    log.started("u", time_limit=60)
    pause()

    assert set(lost(log)) == {"t"}
    assert reason(log).startswith("over time: started at ")
    assert reason(log).endswith("by w1, which is alive, and its time limit of 0.01 s has passed")


@pytest.mark.parametrize("why", ["nothing to do", "busy", "not since", "says so itself", "only received"])
def test_a_task_of_which_a_worker_that_only_broadcasts_has_nothing_left_is_lost(log: Log, why: str) -> None:
    """F02: its end was broadcast while the broker was away."""
    source = "signal" if why == "says so itself" else "broadcast"
    log.online("capture-1@host", queues=(), software="celery-journal capture")
    log.online(queues=None, active=1, source=source)
    if why == "not since":
        log.beat(queues=None, source=source)
    (log.received if why == "only received" else log.started)()
    pause()
    if why != "not since":
        log.beat(queues=None, active=int(why == "busy"), source=source)

    ended = "end not heard: started by w1 and not heard to end, though it has nothing to do any more"
    assert reason(log) == (ended if why == "nothing to do" else "")


@pytest.mark.parametrize("pool", ["solo", "thread"])
def test_a_pool_that_cannot_end_a_task_lets_it_run(log: Log, pool: str) -> None:
    """Its time limit means nothing there."""
    log.online(active=1, pool=pool)
    log.started("t", time_limit=0.01)
    pause()

    assert lost(log) == {}


# Chords


def chord(log: Log, returned: int, size: int = 2) -> None:
    header = json.dumps([[[f"m{index}", None], None] for index in range(size)]).encode()
    log.tell(ChordStarted, "g", result=header, task_id="body")
    log.tell(ChordSizeSet, "g", size=size)
    for index in range(returned):
        log.tell(ChordPartReturned, "g", task_id=f"m{index}", group_index=index, state="SUCCESS")


@pytest.mark.parametrize("claimed", [False, True])
def test_a_chord_with_nothing_left_to_wait_for_is_lost(log: Log, claimed: bool) -> None:
    """F02: all parts have returned and the body was not sent; or somebody was about to, and its lease ran out."""
    chord(log, returned=2)
    if claimed:
        log.connection.execute("select celery_journal.claim_chord('g', 0, 'host:1:abc/x', '0.6 s')")
        pause(GRACE)
        assert lost(log) == {}  # not before the lease has run out, and the grace has passed
        pause(0.6)
    assert lost(log, grace=5) == {}
    pause()

    assert reason(log, "body").startswith("body not sent: body of chord g: all 2 parts had returned by ")
    assert reason(log, "body").endswith("host:1:abc was about to send it, and did not" if claimed else "nobody has sent it")
    assert lost(log)["body"].body_of == "g"


@pytest.mark.parametrize("where", ["member", "before the member"])
def test_a_chord_that_waits_only_for_what_is_lost_is_lost(log: Log, where: str) -> None:
    """F02: the missing member is lost, or the task before it in its chain."""
    parent = [["first", None], None] if where == "before the member" else None
    log.tell(ChordStarted, "g", result=json.dumps([[["m0", None], None], [["m1", parent], None]]).encode(), task_id="body", size=2)
    log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS")
    begin(log, "started", "first" if parent else "m1")
    assert lost(log) == {}
    log.offline()
    pause()

    named = "first" if parent else "m1"
    assert set(lost(log)) == {named, "body"}
    assert reason(log, "body") == f"members lost: body of chord g: it waits for 1 of 2 parts, and these are lost: {named}"


def header(*members: str, **fields: Any) -> dict[str, Any]:
    """The header of a chord; `first>second` is the second task of a chain."""

    def node(chain: list[str]) -> tuple[list[Any], None]:
        return [chain[-1], node(chain[:-1]) if chain[1:] else None], None

    return {"result": json.dumps([node(member.split(">")) for member in members]).encode(), "task_id": "body", **fields}


def test_a_chord_whose_header_was_sent_in_part_is_lost(log: Log) -> None:
    """F02: the broker went away while the header was being sent, and before the size was known."""
    log.tell(ChordStarted, "g", **header("m0", "m1>m2", "m3"))
    log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS")
    assert lost(log, grace=5) == {}
    pause()

    assert reason(log, "body") == "members lost: body of chord g: it waits for 2 parts, and these were never sent: m1, m3"
    assert "Its header has not been sent to its end, as far as is known: nobody has heard of m2, m3." in str(
        explain(log.connection, "body")
    )


def test_a_chord_of_which_nothing_was_sent_is_lost(log: Log) -> None:
    """F02: no task at all is lost, but the broker was not there."""
    log.tell(ChordStarted, "g", **header("m0", "m1"))
    pause()

    assert reason(log, "body") == "members lost: body of chord g: it waits for 2 parts, and these were never sent: m0, m1"


def test_a_chord_whose_last_part_was_not_sent_is_lost(log: Log) -> None:
    """F02: its size was known by then, and of the others is known when they were sent; one of them is lost."""
    log.tell(ChordStarted, "g", **header("m0", "m1", "m2", size=3))
    log.sent("m0")
    log.started("m0")
    log.tell(TaskSucceeded, "m0", worker="w1", run="r1")
    log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS")
    begin(log, "started", "m1")
    log.offline()
    pause()

    assert reason(log, "body") == (
        "members lost: body of chord g: it waits for 2 of 3 parts, and these are lost: m1; and these were never sent: m2"
    )
    assert "nobody has heard of m2" in str(explain(log.connection, "g"))


def test_a_chord_around_a_chord_that_was_never_sent_is_lost(log: Log) -> None:
    """F02: a body within the header comes after all of its own header."""
    log.tell(ChordStarted, "g", result=json.dumps([[["inner", [["h", None], [[["m0", None], None]]]], None]]).encode(), task_id="body")
    pause()

    assert reason(log, "body").endswith("it waits for 1 part, and these were never sent: h")


@pytest.mark.parametrize("what", ["chord", "task"])
def test_a_chord_around_a_chord_that_was_sent_waits_for_it(log: Log, what: str) -> None:
    """Its body is not sent yet; that is as it should be."""
    log.tell(ChordStarted, "g", result=json.dumps([[["inner", [["h", None], [[["m0", None], None]]]], None]]).encode(), task_id="body")
    if what == "chord":
        log.tell(ChordStarted, "h", result=b"[]", task_id="inner")
    else:
        log.sent("m0")
    pause()

    assert "body" not in lost(log)


@pytest.mark.parametrize("why", ["sending is not tracked", "only what a worker sends is tracked", "its chain goes on", "is still sent"])
def test_a_chord_with_parts_that_nobody_has_heard_of_may_go_on(log: Log, why: str) -> None:
    """They may wait in their queue, or for the task before them."""
    match why:
        case "sending is not tracked":
            log.tell(ChordStarted, "g", **header("m0", "m1", size=2))
            log.received("m0")
            log.tell(TaskSucceeded, "m0", worker="w1", run="r1")
            log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS")
        case "only what a worker sends is tracked":
            log.tell(ChordStarted, "g", **header("m0>m1", "m2", size=2))
            log.started("m0")
            log.sent("m1")
            log.tell(TaskSucceeded, "m0", worker="w1", run="r1")
            log.started("m1")
            log.tell(TaskSucceeded, "m1", worker="w1", run="r1")
            log.tell(ChordPartReturned, "g", task_id="m1", group_index=0, state="SUCCESS")
        case "its chain goes on":
            log.tell(ChordStarted, "g", **header("m0>m1", "m2"))
            log.sent("m0")
        case _:
            log.tell(ChordStarted, "g", **header("m0", "m1"))
            pause(2 * SHORT)
            log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS")
    if why != "is still sent":
        pause()

    assert "body" not in lost(log, GRACE if why != "is still sent" else SHORT)


@pytest.mark.parametrize("why", ["a member is not lost", "unlocked", "size not known"])
def test_a_chord_that_may_go_on_is_not_lost(log: Log, why: str) -> None:
    """Something may still come."""
    if why == "unlocked":
        chord(log, returned=2)
        log.tell(ChordUnlocked, "g", task_id="body")
    elif why == "size not known":
        log.tell(ChordStarted, "g", task_id="body")
        log.tell(ChordPartReturned, "g", task_id="m0", state="SUCCESS")
    else:
        chord(log, returned=0)
        begin(log, "started", "m0")
        log.offline()
        log.online("w2")
        log.started("m1", worker="w2")
    pause()

    assert "body" not in lost(log)


# Marking


def test_what_is_marked_is_in_the_view_and_its_state_is_as_before(log: Log, dsn: str) -> None:
    """`task-lost` says why, who it was with, and changes no state; once is enough."""
    begin(log, "started")
    log.offline()
    pause()

    marked = mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)
    again = mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)

    assert [one.task_id for one in marked] == ["t"]
    assert again == []
    ((status, done, why),) = ask(dsn, b"select status, date_done, lost_reason from celery_journal.task_result")
    assert (status, done) == ("STARTED", None)
    assert why.startswith("started by w1, which went offline")
    assert ask(dsn, b"select kind, source, worker, reason = %s from celery_journal.event where kind = 'task-lost'", why) == [
        ("task-lost", "operator", "w1", True)
    ]
    assert [(one.cause, one.reason, one.marked) for one in find_lost(log.connection, GRACE)] == [("marked", why, True)]
    assert find_lost(log.connection, GRACE, unmarked=True) == []


@pytest.mark.parametrize("cause", ["expired", "end not heard", "over time"])
def test_a_mark_counts_though_the_worker_is_alive(log: Log, cause: str) -> None:
    """It was not for the worker's silence."""
    source = "broadcast" if cause == "end not heard" else "signal"
    log.online("capture-1@host", queues=(), software="celery-journal capture")
    log.online(active=1, source=source)
    if cause == "expired":
        log.received(expires=ago(0))
    else:
        log.started(time_limit=0.01 if cause == "over time" else None)
    pause()
    log.beat(active=0 if cause == "end not heard" else 1, source=source)
    found = find_lost(log.connection, GRACE)
    assert [one.cause for one in found] == [cause]
    mark_lost(log.connection, found, log.journal, log.emitter)

    assert [(one.cause, one.reason) for one in find_lost(log.connection, GRACE)] == [("marked", found[0].reason)]


@pytest.mark.parametrize("how", ["started again", "succeeds", "failed"])
def test_a_task_that_goes_on_after_all_is_not_lost(log: Log, dsn: str, how: str) -> None:
    """Marked or only found: whatever is heard of it afterwards counts."""
    begin(log, "started")
    log.offline()
    pause()
    found = find_lost(log.connection, GRACE)
    mark_lost(log.connection, found, log.journal, log.emitter)

    match how:
        case "started again":
            log.online("w2")
            log.started(worker="w2", run="r2")
        case "succeeds":
            log.tell(TaskSucceeded, "t", worker="w1", run="r1")
        case "failed":
            log.tell(TaskFailed, "t", worker="w1", run="r1")

    assert ask(dsn, b"select lost_reason from celery_journal.task_result") == [(None,)]
    assert find_lost(log.connection, GRACE) == []
    assert mark_lost(log.connection, found, log.journal, log.emitter) == []


@pytest.mark.parametrize("again", ["is there again", "was started anew", "stays away"])
def test_a_mark_means_nothing_where_the_worker_was_only_silent(log: Log, again: str) -> None:
    """F02: it could not reach the database for a while, and its task runs on."""
    log.online(freq=SOON)
    log.started()
    pause()
    mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)

    match again:
        case "is there again":
            log.beat(freq=10)
        case "was started anew":
            log.online(freq=10, pid=2)

    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ([] if again == "is there again" else ["t"])
    assert ("is there again" in str(explain(log.connection, "t"))) is (again == "is there again")


def test_what_was_heard_of_since_it_was_found_is_not_marked(log: Log) -> None:
    """The end, or a new start, came between the search and the mark."""
    for task_id in ("t", "u"):
        begin(log, "started", task_id)
    log.offline()
    pause()
    found = find_lost(log.connection, GRACE)
    log.tell(TaskSucceeded, "t", worker="w1", run="r1")

    assert [one.task_id for one in mark_lost(log.connection, found, log.journal, log.emitter)] == ["u"]


def test_the_body_of_a_chord_is_marked_under_its_own_id(log: Log, dsn: str) -> None:
    """Whoever waits for the chord asks for that one."""
    chord(log, returned=2)
    pause()

    mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)

    assert ask(dsn, b"select task_id, status, lost_reason is not null from celery_journal.task_result") == [("body", "PENDING", True)]
    assert [(one.task_id, one.marked, one.body_of) for one in find_lost(log.connection, GRACE)] == [("body", True, "g")]
    assert find_lost(log.connection, GRACE, unmarked=True) == []


def test_one_process_sweeps_at_a_time(log: Log, dsn: str) -> None:
    """The lock belongs to the transaction, as poolers want it; who does not get it leaves the sweep to the other."""
    import psycopg

    begin(log, "started")
    log.offline()
    pause()
    with psycopg.connect(dsn) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('celery_journal.lost', 0))")
        assert sweep_lost(log.connection, Journal(), Emitter(), GRACE) == []

    assert [one.task_id for one in sweep_lost(log.connection, Journal(), Emitter(), GRACE)] == ["t"]
    assert ask(dsn, b"select source from celery_journal.event where kind = 'task-lost'") == [("sweep",)]
    assert sweep_lost(log.connection, Journal(), Emitter(), GRACE) == []


def begin(log: Log, what: str, task_id: str = "t") -> None:
    """Have worker w1 come, and the task be with it."""
    log.online()
    log.sent(task_id)
    match what:
        case "received":
            log.received(task_id)
        case "started":
            log.received(task_id)
            log.started(task_id)
        case "PROGRESS":
            log.tell(TaskProgress, task_id, state="PROGRESS", worker="w1", run="r1")
        case _:
            log.started(task_id, worker="w0")
            log.tell(TaskRetried, task_id, worker="w0", run="r1")
            log.tell(TaskSent, task_id, attempt=1, queue="mail")
            log.received(task_id, attempt=1, run="r2")
