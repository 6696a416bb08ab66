"""What the broadcast tells becomes a fact, or a witness of one: each transition once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from celery_journal import sql
from celery_journal.consumers.broadcast import Recorder
from celery_journal.consumers.broadcast.authorities import JOURNALS, LOOK_INTERVAL, UNHEARD
from celery_journal.consumers.broadcast.delivery import Delivery
from celery_journal.consumers.broadcast.recorder import AGAIN, COURTESY, MOST_UNSURE, PATIENCE
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import (
    Event,
    TaskFailed,
    TaskIgnored,
    TaskReceived,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    TaskWitnessed,
)
from celery_journal.journal.workers import WorkerOnline

from .broadcasting import Foreigner
from .scene import ask, kinds, recorded

WORKER = "celery@foreign"

MODELS: dict[str, type[Event]] = {"RECEIVED": TaskReceived, "STARTED": TaskStarted, "RETRY": TaskRetried, "SUCCESS": TaskSucceeded}


class Message:
    """A message as kombu hands it on."""

    content_encoding = "utf-8"
    headers: Mapping[str, Any] = {}

    def __init__(self, body: object, content_type: str = "application/json") -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.content_type = content_type

    def decode(self) -> object:
        raise ValueError(f"no decoder for {self.content_type}")


def delivery(*events: object, **more: Any) -> Delivery:
    """Return a message with these events."""
    return Delivery(Message(list(events), **more), time.monotonic())


@pytest.fixture
def foreigner() -> Foreigner:
    return Foreigner()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(Journal())


def record(recorder: Recorder, connection: Connection, *events: object, all_of_it: bool = True) -> Delivery:
    """Record a message with these events."""
    message = delivery(*events)
    recorder.take([message])
    recorder.record(connection, all_of_it=all_of_it)
    return message


def pass_by(recorder: Recorder, seconds: float) -> None:
    """Let what waits have waited so much longer."""
    for claim in recorder._waiting:
        claim.not_before -= seconds
        claim.delivery.arrived -= seconds


def shown(dsn: str, stream: str) -> list[tuple[str, int, str | None]]:
    """Return kind, attempt and run of what the log has."""
    return [(one.event.kind, one.event.attempt, getattr(one.event, "run", None)) for one in recorded(dsn, stream)]


def test_a_foreign_task_is_recorded_with_its_run(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Received, started and ended are one run, named by its delivery."""
    received, started, succeeded = foreigner.life("t")

    message = record(recorder, connection, received, started, succeeded)

    run = recorded(dsn, "t")[0].event.event_id.hex
    assert shown(dsn, "t") == [("task-received", 0, run), ("task-started", 0, run), ("task-succeeded", 0, run)]
    assert ask(dsn, b"select attempt, run, worker, status from celery_journal.task_attempt") == [(0, run, WORKER, "SUCCESS")]
    assert message.done


def test_each_attempt_is_the_one_that_was_received(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Only what was received says the attempt; what follows from that worker belongs to it, also in later batches."""
    first = [foreigner.received("t"), foreigner.says("task-started", "t"), foreigner.says("task-retried", "t", exception="OSError()")]
    second = [foreigner.received("t", retries=1), foreigner.says("task-started", "t")]

    record(recorder, connection, *first, *second)
    record(Recorder(Journal()), connection, foreigner.says("task-succeeded", "t"))

    assert [(kind, attempt) for kind, attempt, _ in shown(dsn, "t")] == [
        ("task-received", 0),
        ("task-started", 0),
        ("task-retried", 0),
        ("task-received", 1),
        ("task-started", 1),
        ("task-succeeded", 1),
    ]
    assert len({run for _, _, run in shown(dsn, "t")}) == 2


def test_a_delivery_that_ran_twice_is_two_runs(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """The message came again after the worker had died, and the task ran again."""
    other = Foreigner("celery@other")

    record(recorder, connection, foreigner.received("t"), foreigner.says("task-started", "t"))
    record(recorder, connection, *other.life("t"))
    record(recorder, connection, foreigner.received("t"), foreigner.says("task-started", "t"), foreigner.says("task-succeeded", "t"))

    runs = ask(dsn, b"select worker, status from celery_journal.task_attempt order by date_received")
    assert runs == [(WORKER, "STARTED"), ("celery@other", "SUCCESS"), (WORKER, "SUCCESS")]


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "at once"])
@pytest.mark.parametrize("journalling", [True, False], ids=["journalling", "foreign"])
def test_a_retry_that_overtakes_is_told_apart(
    journalling: bool, apart: bool, dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """The message of a retry is sent first: it may be received, and started, before the worker says that the first attempt is over."""
    expected = [
        ("RECEIVED", 0),
        ("STARTED", 0),
        ("RECEIVED", 1),
        ("RETRY", 0),
        ("RECEIVED", 2),
        ("STARTED", 1),
        ("STARTED", 2),
        ("RETRY", 1),
        ("SUCCESS", 2),
    ]
    now = time.time()
    events = [
        foreigner.says(
            MODELS[state].model_fields["kind"].default, "t", now + place / 100, **({"retries": n} if state == "RECEIVED" else {})
        )
        for place, (state, n) in enumerate(expected)
    ]
    if journalling:  # all of it is there, told first-hand, before the first word of the broadcast
        says_for_itself(connection)
        for (state, attempt), event in zip(expected, events, strict=True):
            moment = datetime.fromtimestamp(event["timestamp"] - 0.001, UTC)
            told: dict[str, Any] = {"attempt": attempt, "occurred_at": moment, "worker": WORKER, "run": f"r{attempt}", "source": "signal"}
            first_hand(connection, Emitter().emit(MODELS[state], "t", **told))

    for batch in [[event] for event in events] if apart else [events]:
        record(recorder, connection, *batch)

    query = b"select state, attempt from celery_journal.event where source = 'broadcast' order by occurred_at, position"
    assert ask(dsn, query) == expected


def test_a_worker_that_died_leaves_its_run_open(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """The same worker is started again, takes the message again, and retries the task: all of that is the second run."""
    for attempt in (0, 0, 1):
        record(recorder, connection, foreigner.received("t", retries=attempt), foreigner.says("task-started", "t"))
        if attempt == 0 and "task-started" in kinds(dsn, "t")[2:]:
            record(recorder, connection, foreigner.says("task-retried", "t"))
    record(recorder, connection, foreigner.says("task-retried", "t"))

    runs = ask(dsn, b"select attempt, status from celery_journal.task_attempt order by date_received")
    assert runs == [(0, "STARTED"), (0, "RETRY"), (1, "RETRY")]


def test_what_was_received_a_month_ago_is_found(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """A task with an eta waits in its worker."""
    record(recorder, connection, foreigner.received("t", retries=3, at=time.time() - 30 * 86400))

    record(recorder, connection, foreigner.says("task-started", "t"))

    assert [attempt for _, attempt, _ in shown(dsn, "t")] == [3, 3]
    assert len({run for _, _, run in shown(dsn, "t")}) == 1


def test_an_unknown_attempt_waits_and_is_the_best_known(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Somebody else may have what was received before; when nobody has, the newest attempt that was sent is the likeliest."""
    record(recorder, connection, foreigner.says("task-sent", "t", retries=2))

    waiting = record(recorder, connection, foreigner.says("task-started", "t"), all_of_it=False)
    before = kinds(dsn, "t")
    waits = not waiting.done
    pass_by(recorder, PATIENCE)
    recorder.record(connection)

    assert before == ["task-sent"]
    assert waits
    assert shown(dsn, "t")[1:] == [("task-started", 2, None)]
    assert waiting.done


def test_what_another_capture_records_meanwhile_is_taken(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Of two captures one has what was received, and the other what followed."""
    received, started = foreigner.received("t", retries=1), foreigner.says("task-started", "t")
    recorder.shared = True

    record(recorder, connection, started, all_of_it=False)
    waits = recorder.waiting
    record(Recorder(Journal()), connection, received)
    pass_by(recorder, COURTESY)
    recorder.record(connection)

    assert waits == 1
    assert [(kind, attempt) for kind, attempt, _ in shown(dsn, "t")] == [("task-received", 1), ("task-started", 1)]


def test_a_sending_waits_for_what_its_sender_records(dsn: str, connection: Connection, recorder: Recorder) -> None:
    """A sender that journals may be late: the longer, the better known it is."""
    web = Foreigner("gen1@web")

    message = record(recorder, connection, web.says("task-sent", "t", retries=0), all_of_it=False)
    before = kinds(dsn, "t")
    record(recorder, connection, web.says("task-sent", "u", retries=0), all_of_it=False)
    for stream in ("t", "u"):
        Journal().append(connection, Emitter().emit(TaskSent, stream, source="signal"))
    pass_by(recorder, AGAIN)
    recorder.record(connection)
    late = record(recorder, connection, web.says("task-sent", "late", retries=0), all_of_it=False)
    pass_by(recorder, UNHEARD)
    recorder.record(connection)

    assert before == []
    assert message.done
    assert kinds(dsn, "t") == kinds(dsn, "u") == ["task-sent", "task-witnessed"]
    assert not late.done

    pass_by(recorder, JOURNALS)
    recorder.record(connection)

    assert kinds(dsn, "late") == ["task-sent"]


def test_a_sending_of_one_who_does_not_journal_waits_once(dsn: str, connection: Connection, recorder: Recorder) -> None:
    """Nor do others wait for it, or many for anything."""
    web = Foreigner("gen1@web")

    record(recorder, connection, web.says("task-sent", "t", retries=0), all_of_it=False)
    record(recorder, connection, Foreigner().received("other"), all_of_it=False)
    assert kinds(dsn, "other") == ["task-received"]
    pass_by(recorder, UNHEARD)
    recorder.record(connection)
    record(recorder, connection, web.says("task-sent", "u", retries=0), all_of_it=False)
    assert kinds(dsn, "t") == kinds(dsn, "u") == ["task-sent"]

    record(recorder, connection, *(Foreigner("gen2@web").says("task-sent", f"{n}") for n in range(MOST_UNSURE + 1)), all_of_it=False)
    assert not recorder.waiting


def test_a_message_that_comes_twice_is_recorded_once(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """To another capture as well, and whatever was learned meanwhile."""
    received, started, succeeded = foreigner.life("t")
    record(recorder, connection, started, succeeded)
    before = shown(dsn, "t")

    record(Recorder(Journal()), connection, started, succeeded, succeeded)
    record(Recorder(Journal()), connection, received, started, succeeded)

    assert shown(dsn, "t")[:2] == before
    assert kinds(dsn, "t") == ["task-started", "task-succeeded", "task-received"]


def first_hand(connection: Connection, *events: Event) -> None:
    """Record what backends and signals tell."""
    Journal().append(connection, *events)


def says_for_itself(connection: Connection, pid: int = 4711) -> None:
    """Have the worker journal by itself."""
    first_hand(connection, Emitter().emit(WorkerOnline, WORKER, pid=pid, source="signal"))


def test_a_worker_that_journals_is_only_witnessed(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """What it broadcasts is no second fact, whether its own word is there already or comes later."""
    says_for_itself(connection)
    started = Emitter().emit(TaskStarted, "t", worker=WORKER, run="r", source="signal")
    first_hand(connection, started)

    record(recorder, connection, *foreigner.life("t"))

    witnesses = [one.event for one in recorded(dsn, "t")][1:]
    assert [(event.kind, event.state, event.worker, event.pid) for event in witnesses if isinstance(event, TaskWitnessed)] == [
        ("task-witnessed", state, WORKER, 4711) for state in ("RECEIVED", "STARTED", "SUCCESS")
    ]


def test_what_a_worker_that_journals_says_of_itself_is_dropped(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Its own heartbeats say more, and the view has to show whose word it is."""
    says_for_itself(connection)

    message = record(recorder, connection, foreigner.says("worker-heartbeat", freq=2.0), foreigner.says("worker-offline"))

    assert kinds(dsn, WORKER) == ["worker-online"]
    assert message.done


@pytest.mark.parametrize(
    "foreigner",
    [
        pytest.param(Foreigner(pid=1), id="another process"),
        pytest.param(Foreigner("celery@elsewhere"), id="another name"),
    ],
)
def test_another_worker_is_not_taken_for_one_that_journals(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """The name alone is that of whoever runs there now."""
    says_for_itself(connection)

    record(recorder, connection, *foreigner.life("t"))

    assert kinds(dsn, "t") == ["task-received", "task-started", "task-succeeded"]


def test_a_worker_that_ceased_to_journal_is_foreign_again(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """In a container the next one has the same name and the same process id."""
    says_for_itself(connection)
    later = [{**event, "timestamp": time.time() + 3600} for event in foreigner.life("t")]

    record(recorder, connection, *later)

    assert kinds(dsn, "t") == ["task-received", "task-started", "task-succeeded"]


def test_a_backlog_of_a_worker_that_journalled_is_witnessed(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """What it broadcast an hour ago is as much its own as what it broadcasts now; its clock does not matter."""
    says_for_itself(connection)
    earlier = [{**event, "timestamp": time.time() - 3600} for event in foreigner.life("t")]

    record(recorder, connection, *earlier)

    assert set(kinds(dsn, "t")) == {"task-witnessed"}


def test_what_is_there_first_hand_is_witnessed(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """A worker that journals, but of which nothing is known as a worker: its facts are known by themselves."""
    emitter = Emitter()
    first_hand(connection, emitter.emit(TaskSent, "t", source="signal"), emitter.emit(TaskSucceeded, "t", worker=WORKER, source="backend"))

    record(recorder, connection, Foreigner("gen1@web").says("task-sent", "t", retries=0), *foreigner.life("t"))

    assert kinds(dsn, "t") == ["task-sent", "task-succeeded", "task-witnessed", "task-received", "task-started", "task-witnessed"]


def test_one_fact_has_one_witness(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """The second success that is broadcast is a fact of its own if the log has only one first-hand: it ran twice."""
    first_hand(connection, Emitter().emit(TaskSucceeded, "t", worker=WORKER, source="backend"))

    record(recorder, connection, foreigner.received("t"), foreigner.says("task-succeeded", "t"))
    record(recorder, connection, foreigner.received("t"), foreigner.says("task-succeeded", "t"))

    assert kinds(dsn, "t") == ["task-succeeded", "task-received", "task-witnessed", "task-received", "task-succeeded"]


def test_another_workers_fact_is_not_witnessed(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """A redelivered task ran there as well."""
    first_hand(connection, Emitter().emit(TaskSucceeded, "t", worker="celery@journalling", source="backend"))

    record(recorder, connection, *foreigner.life("t"))

    assert kinds(dsn, "t") == ["task-succeeded", "task-received", "task-started", "task-succeeded"]


def test_asking_for_a_revoke_is_not_effecting_it(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Somebody asked, and the worker did it: two facts."""
    first_hand(connection, Emitter().emit(TaskRevoked, "t", source="signal"))

    record(recorder, connection, foreigner.says("task-revoked", "t", terminated=True))

    assert kinds(dsn, "t") == ["task-revoked", "task-revoked"]


def test_a_fact_told_later_first_hand_does_not_count_twice_when_it_comes_again(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Recorded as a fact, killed before the acknowledgement, delivered again when the log knows better: nothing is added."""
    received, started, succeeded = foreigner.life("t")
    record(recorder, connection, received, started, succeeded)
    first_hand(connection, Emitter().emit(TaskSucceeded, "t", worker=WORKER, source="backend"))

    message = record(Recorder(Journal()), connection, received, started, succeeded)

    assert kinds(dsn, "t").count("task-witnessed") == 0
    assert message.done


def test_only_the_newest_heartbeat_of_a_batch_is_kept(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Who was heard of is heard of now."""
    other = Foreigner("celery@other")

    record(
        recorder,
        connection,
        *[foreigner.says("worker-heartbeat", at=time.time() + n, active=n, freq=2.0) for n in range(5)],
        other.says("worker-heartbeat", freq=2.0),
        foreigner.says("worker-heartbeat", at=time.time() - 60, active=99),
        foreigner.says("worker-offline"),
    )

    assert ask(dsn, b"select kind, stream from celery_journal.event order by stream, kind") == [
        ("worker-heartbeat", WORKER),
        ("worker-offline", WORKER),
        ("worker-heartbeat", "celery@other"),
    ]
    assert ask(dsn, b"select worker, active, source from celery_journal.worker where worker = 'celery@other'") == [
        ("celery@other", None, "broadcast")
    ]


def test_what_cannot_be_read_or_stored_keeps_nothing_else(
    dsn: str, connection: Connection, foreigner: Foreigner, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken messages, broken events, one above the limit: counted, said, and done with."""
    recorder = Recorder(Journal(max_payload_bytes=2000))
    broken = [
        Delivery(Message(b"\x80\x04K\x01.", "application/x-python-serialize"), 0),
        Delivery(Message(b"{", "application/json"), 0),
        delivery(3, {"type": "task-started"}, foreigner.says("shop-opened")),
    ]
    fine = delivery(foreigner.received("a"), foreigner.received("large", args="x" * 3000), foreigner.received("b"))

    recorder.take([*broken, fine])
    recorder.record(connection, all_of_it=True)

    assert (kinds(dsn, "a"), kinds(dsn, "b"), kinds(dsn, "large")) == (["task-received"], ["task-received"], [])
    assert (recorder.tally.malformed, recorder.tally.refused) == (4, 1)
    assert all(one.done for one in [*broken, fine])
    assert len([record for record in caplog.records if "skipped" in record.message]) == 4
    assert "large" in [getattr(record, "stream", "") for record in caplog.records]


def test_names_that_no_column_holds_are_told_like_others(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """NUL and lone surrogates, in the id and in the name of the worker."""
    odd = Foreigner("celery@\0\udcff")

    record(recorder, connection, odd.received("t\0", retries=1), odd.says("task-started", "t\0"))
    record(Recorder(Journal()), connection, odd.says("task-succeeded", "t\0"))

    assert [(kind, attempt) for kind, attempt, _ in shown(dsn, "t\0")] == [("task-received", 1), ("task-started", 1), ("task-succeeded", 1)]
    assert len({run for _, _, run in shown(dsn, "t\0")}) == 1


def test_an_outage_loses_nothing(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """A batch that the database did not take is there for the next try, as it was."""
    message = delivery(*foreigner.life("t"))
    recorder.take([message])
    with psycopg.connect(dsn, autocommit=True) as broken:
        broken.execute(b"set default_transaction_read_only = on")
        with pytest.raises(psycopg.Error):
            recorder.record(broken, all_of_it=True)
    waited = (recorder.waiting, message.done)

    recorder.record(connection, all_of_it=True)

    assert waited == (3, False)
    assert kinds(dsn, "t") == ["task-received", "task-started", "task-succeeded"]
    assert (recorder.waiting, message.done) == (0, True)


def test_what_is_told_is_found_by_its_stream_in_few_partitions(connection: Connection) -> None:
    """One look by the index for each task, and only where the time may be."""
    emitter, journal = Emitter(), Journal()
    (turn,) = connection.execute(b"select date_trunc('week', clock_timestamp(), 'UTC')").fetchone() or (None,)
    assert isinstance(turn, datetime)
    around = [turn + timedelta(hours=hour) for hour in (-12, 12)]  # in the two partitions that the window reaches into, on every day
    journal.append(
        connection,
        *[
            emitter.emit(kind, f"t{n}", worker=WORKER, occurred_at=moment)
            for moment in around
            for n in range(2000)
            for kind in (TaskReceived, TaskSucceeded)
        ],
    )
    connection.execute(b"analyze celery_journal.event")
    window = {"since": turn - timedelta(days=1), "until": turn + timedelta(days=1)}

    query = b"explain (format json, analyze) " + sql.query("broadcast.sql", "told")
    ((plan,),) = connection.execute(query, {"streams": [f"t{n}" for n in range(20)], **window}).fetchall()

    text = json.dumps(plan)
    assert "Seq Scan" not in text.replace("event_default", "")
    assert text.count('"Relation Name": "event_2') == 2
    assert "stream_position_idx" in text


@pytest.mark.parametrize(
    ("model", "broadcast"),
    [
        pytest.param(TaskIgnored, "task-succeeded", id="the result is ignored"),
        pytest.param(TaskFailed, "task-failed", id="failed"),
        pytest.param(TaskFailed, "task-rejected", id="failed, and its message is rejected"),
        pytest.param(TaskRejected, "task-rejected", id="rejected"),
        pytest.param(TaskRetried, "task-retried", id="retried"),
        pytest.param(TaskRetried, "task-cancelled", id="cancelled"),
        pytest.param(TaskRevoked, "task-revoked", id="revoked"),
    ],
)
def test_each_end_that_is_there_first_hand_is_witnessed(
    model: type[Event], broadcast: str, dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Though nothing is known of the worker; what is broadcast of a task does not say that its result is ignored, for one."""
    first_hand(connection, Emitter().emit(model, "t", worker=WORKER, source="backend"))

    record(recorder, connection, foreigner.received("t"), foreigner.says(broadcast, "t"))

    assert kinds(dsn, "t")[1:] == ["task-received", "task-witnessed"]


@pytest.mark.parametrize("model", [TaskReceived, TaskStarted], ids=["received", "started"])
def test_who_has_journalled_a_run_is_the_authority_on_all_of_it(
    model: type[Event], dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """The rest of what it records comes later, when the database is back; there is no second run beside its own."""
    first_hand(connection, Emitter().emit(model, "t", worker=WORKER, run="r", source="signal"))

    for event in foreigner.life("t"):
        record(recorder, connection, event)

    assert kinds(dsn, "t")[1:] == 3 * ["task-witnessed"]
    assert ask(dsn, b"select run, status from celery_journal.task_attempt") == [("r", model.model_fields["state"].default)]


def test_the_delivery_after_that_is_not(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """What ran again, without a word of the worker itself, is known by the broadcast alone."""
    first_hand(connection, Emitter().emit(TaskReceived, "t", worker=WORKER, run="r", source="signal"))

    record(recorder, connection, foreigner.received("t"))
    record(recorder, connection, *foreigner.life("t"))

    assert kinds(dsn, "t") == ["task-received", "task-witnessed", "task-received", "task-started", "task-succeeded"]


def test_a_retry_that_overtakes_is_told_apart_by_what_is_there_first_hand(
    dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Where several captures share the queue, none can go by the order."""
    recorder.shared = True
    now, emitter = datetime.now(UTC), Emitter()
    says_for_itself(connection)
    facts: list[tuple[type[Event], int, int]] = [
        (TaskReceived, 0, 0),
        (TaskStarted, 0, 1),
        (TaskReceived, 1, 2),
        (TaskRetried, 0, 3),
        (TaskSucceeded, 1, 9),
    ]
    for kind, attempt, later in facts:
        told: dict[str, Any] = {"attempt": attempt, "worker": WORKER, "run": f"r{attempt}", "source": "signal"}
        first_hand(connection, emitter.emit(kind, "t", occurred_at=now + timedelta(milliseconds=later), **told))
    moments = [now.timestamp() + later / 1000 for later in (0, 1, 2, 3.5, 9.5)]

    record(recorder, connection, foreigner.received("t", 0, at=moments[0]), foreigner.received("t", 1, at=moments[2]))
    for said, moment in [("task-retried", moments[3]), ("task-started", moments[1]), ("task-succeeded", moments[4])]:
        record(recorder, connection, foreigner.says(said, "t", moment))

    witnesses = ask(dsn, b"select state, attempt from celery_journal.event where kind = 'task-witnessed' order by occurred_at")
    assert witnesses == [("RECEIVED", 0), ("STARTED", 0), ("RECEIVED", 1), ("RETRY", 0), ("SUCCESS", 1)]


@pytest.mark.parametrize("remembered", [True, False], ids=["remembered", "found in the log"])
def test_a_worker_that_was_started_anew_is_the_authority_on_what_it_did_before(
    remembered: bool, dsn: str, connection: Connection, foreigner: Foreigner
) -> None:
    """Its broadcast may be read when the view knows only the new process."""
    recorder = Recorder(Journal())
    says_for_itself(connection)
    if remembered:
        record(recorder, connection, foreigner.says("worker-online"))
    says_for_itself(connection, pid=4712)

    record(recorder, connection, *foreigner.life("t"))
    record(recorder, connection, *Foreigner(pid=4710).life("of another process"))

    assert set(kinds(dsn, "t")) == {"task-witnessed"}
    assert "task-witnessed" not in kinds(dsn, "of another process")


def test_the_log_is_not_searched_for_every_batch(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Who is not known there is looked for again later."""
    record(recorder, connection, *foreigner.life("a"))
    says_for_itself(connection)
    says_for_itself(connection, pid=4712)

    record(recorder, connection, *foreigner.life("b"))
    for process in recorder.authorities._looked:
        recorder.authorities._looked[process] -= LOOK_INTERVAL
    record(recorder, connection, *foreigner.life("c"))

    assert "task-witnessed" not in [*kinds(dsn, "a"), *kinds(dsn, "b")]
    assert set(kinds(dsn, "c")) == {"task-witnessed"}


@pytest.mark.parametrize("away", [True, False], ids=["away", "there"])
def test_while_the_database_is_away_a_worker_is_silent_and_not_gone(
    away: bool, dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner
) -> None:
    """Its heartbeats of that time are recorded nowhere, and what it broadcast is its own all the same."""
    says_for_itself(connection)
    now = time.time()
    if away:
        recorder.authorities.note_outage(now + 5, now + 600)

    record(recorder, connection, *[{**event, "timestamp": now + 500} for event in foreigner.life("t")])

    assert (set(kinds(dsn, "t")) == {"task-witnessed"}) == away


def test_a_run_fails_once(dsn: str, connection: Connection, recorder: Recorder, foreigner: Foreigner) -> None:
    """Celery broadcasts twice that a hard time limit has passed: when it is noticed, and when the process is gone."""
    received, started, _ = foreigner.life("t")
    failed = [foreigner.says("task-failed", "t", exception=text) for text in ("TimeLimitExceeded(1)", "WorkerLostError('gone')")]

    record(recorder, connection, received, started, failed[0])
    message = record(Recorder(Journal()), connection, failed[1])
    record(recorder, connection, received, started, foreigner.received("t"), foreigner.says("task-failed", "t"))

    assert kinds(dsn, "t") == ["task-received", "task-started", "task-failed", "task-received", "task-failed"]
    assert message.done
