"""What a broker gives back because its worker is gone waits, and is not lost; what was cancelled for good is lost at once."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pytest
from celery import Celery

from celery_journal.consumers import install
from celery_journal.consumers.explain import explain
from celery_journal.consumers.lost import find_lost, mark_lost, sweep_lost
from celery_journal.consumers.request import ACKNOWLEDGES_LATE, CANCELLED_FOR_GOOD, REJECTED_FOR_GOOD
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskRejected, TaskRetried, TaskWitnessed

from .conftest import NewApp
from .lostscene import GRACE, SOON, Log, ago, pause
from .replayscene import begun
from .scene import Mailbox, kinds

#: What a worker may not have acknowledged when it goes.
UNACKNOWLEDGED = ["received", "started, acknowledged late", "the next attempt received"]


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def begin(log: Log, what: str, **worker: Any) -> None:
    """A worker has a task, and is gone."""
    log.online(freq=SOON, **worker)
    log.sent()
    match what:
        case "received":
            log.received()
        case "started, acknowledged late":
            log.received()
            log.started(reason=ACKNOWLEDGES_LATE)
        case "the next attempt received":
            log.received()
            log.started()
            log.tell(TaskRetried, "t", worker="w1", run="r1", queue="mail")
            log.sent(attempt=1)
            log.received(run="r2", attempt=1)
    pause()


def reasons(log: Log, grace: float = GRACE, **options: Any) -> dict[str | None, str]:
    return {one.task_id: f"{one.cause}: {one.reason}" for one in find_lost(log.connection, grace, **options)}


@pytest.mark.parametrize("what", UNACKNOWLEDGED)
def test_what_a_worker_that_is_gone_had_not_acknowledged_waits(log: Log, what: str) -> None:
    """However long: nobody consumes its queue, or who does is busy, or consumes another one."""
    begin(log, what)
    assert reasons(log) == {}

    log.online("w2", queues=("other",))
    log.online("w3", active=1)
    pause()

    assert reasons(log) == {}


@pytest.mark.parametrize("what", UNACKNOWLEDGED)
def test_it_is_lost_once_a_worker_that_could_have_it_has_nothing_to_do(log: Log, what: str) -> None:
    """The rule of what was never received."""
    begin(log, what)
    log.online("w2")
    assert reasons(log, grace=5) == {}
    pause()

    doing = "begun" if what.startswith("started") else "received"
    assert reasons(log)["t"] == (
        f"never received: {doing} by w1, which is gone, then given back to the broker and never received, "
        "though w2, which consumes mail, has nothing to do"
    )


@pytest.mark.parametrize("what", UNACKNOWLEDGED)
def test_a_worker_that_was_started_anew_gives_back_as_well(log: Log, what: str) -> None:
    """The new process of that name has nothing to do with it, and may be the one that should receive it."""
    begin(log, what)
    log.online(pid=2, active=1)
    pause()
    assert reasons(log) == {}

    log.beat(pid=2)

    assert "given back to the broker and never received, though w1" in reasons(log)["t"]


def test_a_worker_that_has_lost_its_broker_gives_back_as_well(log: Log) -> None:
    """Celery forgets then what it has not begun; one that only broadcasts says no more than that it is online again."""
    log.online(queues=None, source="broadcast", active=1)
    log.sent()
    log.received(source="broadcast")
    log.sent("u")
    pause(3.1)
    assert reasons(log) == {}
    log.online(queues=None, source="broadcast", active=1)
    log.received("u", source="broadcast")
    log.beat(queues=None, source="broadcast")
    pause()

    assert reasons(log)["t"] == (
        "never received: received by w1, which has connected to its broker anew, then given back to the broker and never received, "
        "as far as w1, which consumes mail and has nothing to do, has broadcast"
    )
    assert "Its message was given back to the broker: " in sentences(log)


def test_a_broker_that_waits_before_it_gives_back_is_waited_for(log: Log) -> None:
    """Redis holds what a killed worker had for the visibility timeout, which the worker tells with its heartbeats."""
    begin(log, "received", visibility_timeout=1.0)
    log.online("w2")
    pause()
    assert reasons(log) == {}

    pause(1.0)

    assert set(reasons(log)) == {"t"}


def test_what_the_broker_still_holds_is_not_lost(log: Log) -> None:
    """Where it can be asked; what was never said to be received may be held as well."""
    begin(log, "received")
    log.sent("u")
    log.online("w2")
    pause()
    asked: list[set[str]] = []

    def held(task_ids: Collection[str]) -> set[str]:
        asked.append(set(task_ids))
        return {"t"}

    assert set(reasons(log, held=held)) == {"u"}
    assert [one.task_id for one in sweep_lost(log.connection, Journal(), Emitter(), GRACE, held)] == ["u"]
    assert asked == [{"t", "u"}, {"t", "u"}]


def test_what_was_acknowledged_before_it_started_is_lost_with_its_worker(log: Log) -> None:
    """Nobody has its message any more."""
    log.online(freq=SOON)
    log.sent()
    log.received()
    log.started()
    pause()

    assert reasons(log)["t"].startswith("worker gone: started by w1, which has not been heard of since ")


def test_a_delivery_that_was_given_back_counts_more_than_one_that_was_lost(log: Log) -> None:
    """Started and lost by one, delivered again for some reason, and only received by the other, which is gone too."""
    log.online(freq=SOON)
    log.sent()
    log.started()
    log.online("w2", freq=SOON)
    log.received(worker="w2", run="r2")
    pause()

    assert reasons(log) == {}


def test_what_was_witnessed_to_start_was_not_given_back(log: Log) -> None:
    """The same delivery was seen to be received before."""
    log.online(freq=SOON)
    log.online("w2", queues=("other",))
    log.sent()
    for state in ("RECEIVED", "STARTED"):
        log.tell(TaskWitnessed, "t", state=state, worker="w1")
    log.beat(freq=SOON)
    pause()

    assert reasons(log)["t"].startswith("worker gone: started by w1, which has not been heard of since ")


def test_what_expires_after_it_was_given_back_is_lost(log: Log) -> None:
    """It can never run any more."""
    log.online(freq=SOON)
    log.sent(expires=ago(0))
    log.received(expires=ago(0))
    pause()

    assert reasons(log)["t"].startswith("expired: received by w1, expired at ")


def sentences(log: Log) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<at>", str(explain(log.connection, "t")))
    return re.sub(r"\b[\d.]+ (d|h|min|ms|s)( \d+ (h|min|s))?\b", "<t>", text)


def test_it_is_explained(log: Log) -> None:
    """Where it is, and for whom it waits."""
    begin(log, "received")

    assert sentences(log) == (
        "It was received by w1 <t> ago. w1 has not been heard of since <at>. "
        "Its message was given back to the broker: it waits for a worker of `mail`, and no live worker consumes it."
    )


def test_a_start_that_was_given_back_is_explained(log: Log) -> None:
    """The same of a run whose message was not acknowledged."""
    begin(log, "started, acknowledged late")
    log.online("w2")

    assert sentences(log).endswith(
        "Its message was given back to the broker: it waits for a worker of `mail`, and 1 live worker consumes it, with nothing to do."
    )


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    return install(make_app(**mailbox.conf))


@pytest.mark.parametrize("what", UNACKNOWLEDGED)
def test_a_replay_refuses_what_was_given_back_unless_it_is_asked_for(app: Celery, log: Log, mailbox: Mailbox, what: str) -> None:
    """It would run twice; with --also-unfinished whoever asks knows that."""
    message = {"exchange": "", "routing_key": "mail", "headers": {"lang": "py"}, "properties": {"correlation_id": "t"}}
    facts: dict[str, Any] = {"args": b"[1, 2]", "kwargs": b"{}", "message": message}
    log.sent(**facts)
    begin(log, what)

    refused = begun(log.connection, app, ["t"], "first").run()
    asked_for = begun(log.connection, app, ["t"], "second", also_unfinished=True).run()

    ((_, why),) = refused.refused
    assert why == (
        "it has not ended: its message was given back to the broker when w1 was gone, and waits for a worker of mail; "
        "with --also-unfinished it is sent all the same, and may run twice"
    )
    assert list(asked_for.sent) == ["t"]


# Cancelled by a cold shutdown


def cancel(log: Log, why: str) -> None:
    log.online()
    log.sent()
    log.received()
    log.started(reason=ACKNOWLEDGES_LATE if why != CANCELLED_FOR_GOOD else None)
    log.tell(TaskRetried, "t", worker="w1", run="r1", queue="mail", reason=why, source="backend")
    log.offline()
    pause()


def test_what_a_cold_shutdown_has_cancelled_for_good_is_lost_at_once(log: Log, dsn: str) -> None:
    """Its message was acknowledged, and no next attempt was sent."""
    cancel(log, CANCELLED_FOR_GOOD)

    (found,) = find_lost(log.connection, GRACE)
    assert (found.cause, found.worker, found.run) == ("cancelled", "w1", "r1")
    assert found.reason == "cancelled by a cold shutdown of w1; its message was acknowledged early, so nobody will run it again"
    assert sentences(log) == (
        "A cold shutdown of w1 has cancelled its run; its message was acknowledged early, so nobody will run it again."
    )
    mark_lost(log.connection, [found], log.journal, log.emitter)
    assert "task-lost" in kinds(dsn, "t")
    assert [one.marked for one in find_lost(log.connection, GRACE)] == [True]


def reject(log: Log, why: str) -> None:
    log.online()
    log.sent()
    log.received()
    log.started()
    log.tell(TaskRejected, "t", worker="w1", run="r1", queue="mail", reason=why)
    pause()


def test_what_was_rejected_for_good_is_lost_once_its_worker_is_gone(log: Log) -> None:
    """As a retry is that no broker takes: the main process would have failed it, and dies while it waits for the broker."""
    reject(log, f"{REJECTED_FOR_GOOD}: OperationalError('no broker')")
    assert reasons(log) == {}  # its worker will fail it
    assert sentences(log).startswith("w1 has rejected it ")
    assert sentences(log).endswith(f"ago ({REJECTED_FOR_GOOD}: OperationalError('no broker')): nobody will run it again.")

    log.online("w2")
    log.offline()
    pause()

    (found,) = find_lost(log.connection, GRACE)
    assert (found.cause, found.worker) == ("rejected", "w1")
    gone = "rejected by w1, which was gone before it said that it has failed"
    assert found.reason == f"{gone}; its message was acknowledged early, so nobody will run it again"


def test_what_was_rejected_and_acknowledges_late_was_given_back(log: Log) -> None:
    """The broker has it again, where the worker is gone before it has rejected the message."""
    reject(log, "for good: 'not for me'")
    log.offline()
    log.online("w2")
    pause()

    assert reasons(log)["t"].startswith("never received: given back to its queue and never received")


def test_what_was_cancelled_and_acknowledges_late_was_given_back(log: Log) -> None:
    """It waits, until a worker that could have it has nothing to do."""
    cancel(log, "cancelled by Celery")
    assert reasons(log) == {}
    assert sentences(log) == (
        "w1 has cancelled its run (cancelled by Celery), and its message was given back to the broker: "
        "it waits for a worker of `mail`, and no live worker consumes it."
    )

    log.online("w2")
    pause()

    assert reasons(log)["t"].startswith("never received: begun by w1, which is gone, then given back to the broker and never received")


def test_what_was_cancelled_and_sent_again_is_not_lost(log: Log) -> None:
    """Somebody has sent a next attempt after all."""
    cancel(log, CANCELLED_FOR_GOOD)
    log.sent(attempt=1)
    pause()

    assert reasons(log) == {}
