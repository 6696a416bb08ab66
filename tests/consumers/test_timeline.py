"""The history of a task as people read it: each transition once, with those who have told it, whatever their clocks say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_journal.consumers.timeline import Transition, clock_offsets, timeline
from celery_journal.journal import RecordedEvent
from celery_journal.journal.events import (
    Event,
    TaskForgotten,
    TaskIgnored,
    TaskReceived,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    TaskWitnessed,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Told = tuple[type[Event], float, dict[str, Any]]


def at(second: float) -> datetime:
    """Return that second of the database's clock."""
    return NOON + timedelta(seconds=second)


def log(*told: Told, ahead: dict[str | None, float] | None = None) -> list[RecordedEvent]:
    """Return the log of one task; each fact is recorded as it happens, and `ahead` are the clocks that are wrong, in seconds."""
    places = count(1)
    recorded = []
    for kind, second, fields in told:
        lag = fields.pop("lag", 0.01)
        clock = second + (ahead or {}).get(fields.get("worker"), 0)
        event = kind(event_id=uuid4(), stream="task", occurred_at=at(clock), **{"source": "signal", **fields})
        recorded.append(RecordedEvent(event, 1, next(places), at(second + lag)))
    return recorded


def one_run(worker: str = "w1", run: str = "r1", start: float = 1, source: str = "signal") -> list[Told]:
    """Return a run of a task as the worker tells it."""
    fields = {"worker": worker, "run": run, "source": source}
    return [(TaskReceived, start, {**fields}), (TaskStarted, start + 1, {**fields}), (TaskSucceeded, start + 2, {**fields})]


def witnessed(state: str, second: float, worker: str = "w1", **fields: Any) -> Told:
    """Return what a worker's broadcast tells besides."""
    return TaskWitnessed, second, {"state": state, "worker": worker, "source": "broadcast", **fields}


def short(transitions: Sequence[Transition]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the kinds with their witnesses."""
    return [(one.kind, one.witnesses) for one in transitions]


def test_what_several_tell_is_one_transition_with_its_witnesses() -> None:
    """The backend, the signals and the broadcast speak of the same task."""
    sent: Told = (TaskSent, 0, {})
    recorded = log(sent, *one_run(), witnessed("STARTED", 2.1), witnessed("SUCCESS", 3.1), witnessed("PENDING", 0.1, "gen1@host"))

    assert short(timeline(recorded)) == [
        ("task-sent", ("signal", "broadcast")),
        ("task-received", ("signal",)),
        ("task-started", ("signal", "broadcast")),
        ("task-succeeded", ("signal", "broadcast")),
    ]


def test_a_fact_that_two_sources_have_recorded_is_one_transition() -> None:
    """As after an outage, when the broadcast may be recorded before what waited in a worker's spool."""
    early = [(kind, second, {**fields, "source": "broadcast", "run": "b1"}) for kind, second, fields in one_run()]
    late = [(kind, second, {**fields, "lag": 60}) for kind, second, fields in one_run()]

    transitions = timeline(log(*early, *late))
    assert short(transitions) == [(f"task-{what}", ("signal", "broadcast")) for what in ("received", "started", "succeeded")]
    assert {one.run for one in transitions} == {"r1"}


def test_what_only_the_broadcast_tells_is_a_transition_too() -> None:
    """The worker was killed before it could record it itself."""
    transitions = timeline(log((TaskSent, 0, {}), witnessed("RECEIVED", 1), witnessed("STARTED", 2)))

    assert short(transitions) == [("task-sent", ("signal",)), ("task-received", ("broadcast",)), ("task-started", ("broadcast",))]
    assert transitions[-1].worker == "w1"


def test_two_runs_of_one_attempt_stay_two_with_two_witnesses_each() -> None:
    """A redelivery that really ran twice."""
    twice = [*one_run(), *one_run(run="r2", start=11)]
    transitions = timeline(log(*twice, *(witnessed("STARTED", second) for second in (2.1, 12.1))))

    started = [one for one in transitions if one.kind == "task-started"]
    assert [(one.run, one.witnesses) for one in started] == [("r1", ("signal", "broadcast")), ("r2", ("signal", "broadcast"))]


def test_a_witness_of_another_worker_confirms_nothing() -> None:
    """Each has its own run."""
    transitions = timeline(log(*one_run("w1"), witnessed("STARTED", 5, "w2")))

    assert [one.worker for one in transitions if one.kind == "task-started"] == ["w1", "w2"]


def test_who_effects_a_revoke_is_not_who_asked_for_it() -> None:
    """The broadcast is of the worker that discards the task."""
    recorded = log(
        (TaskRevoked, 1, {"source": "backend"}),
        (TaskRevoked, 2, {"source": "backend", "worker": "w3", "run": "r1"}),
        witnessed("REVOKED", 2.1, "w3"),
    )

    assert [(one.worker, one.witnesses) for one in timeline(recorded)] == [(None, ("backend",)), ("w3", ("backend", "broadcast"))]
    assert len(timeline(log((TaskRevoked, 1, {"source": "backend"}), witnessed("REVOKED", 2, "w3")))) == 2


def test_the_success_of_a_broadcast_may_be_of_a_result_that_is_ignored() -> None:
    """It does not say so."""
    recorded = log((TaskIgnored, 1, {"worker": "w1", "run": "r1", "source": "backend"}), witnessed("SUCCESS", 1.1))

    assert short(timeline(recorded)) == [("task-ignored", ("backend", "broadcast"))]


def test_attempts_are_told_apart() -> None:
    """The start of a retry is no witness of the first start."""
    fields = {"worker": "w1", "run": "r2", "attempt": 1}
    again: list[Told] = [(TaskRetried, 3, {"worker": "w1", "run": "r1"}), (TaskStarted, 5, dict(fields))]
    transitions = timeline(log(*one_run()[:2], *again, witnessed("STARTED", 5.1, attempt=1)))

    assert [(one.attempt, one.witnesses) for one in transitions if one.kind == "task-started"] == [
        (0, ("signal",)),
        (1, ("signal", "broadcast")),
    ]


def test_facts_that_were_recorded_late_stand_where_they_happened() -> None:
    """They are recorded when there is time, and after an outage."""
    (received, started, succeeded) = one_run()
    late: Told = (received[0], received[1], {**received[2], "lag": 5})

    assert [one.kind for one in timeline(log((TaskSent, 0, {"lag": 9}), started, succeeded, late))] == [
        "task-sent",
        "task-received",
        "task-started",
        "task-succeeded",
    ]


@pytest.mark.parametrize("ahead", [-0.8, -0.2, 0.2, 0.8])
def test_clocks_that_differ_by_less_than_can_be_told_do_not_change_the_order(ahead: float) -> None:
    """As clocks do, and tasks may be quicker than that."""
    quick: list[Told] = [(TaskReceived, 0.01, {}), (TaskStarted, 0.02, {}), (TaskSucceeded, 0.03, {})]
    told: list[Told] = [(kind, second, {"worker": "w1", "run": "r1", **fields}) for kind, second, fields in quick]

    transitions = timeline(log((TaskSent, 0, {"lag": 0.9}), *told, ahead={None: ahead}))
    assert [one.kind for one in transitions] == ["task-sent", "task-received", "task-started", "task-succeeded"]


@pytest.mark.parametrize("ahead", [300, -300])
@pytest.mark.parametrize("whose", ["w1", None])
def test_clocks_that_disagree_are_said_to_and_do_not_change_the_order(whose: str | None, ahead: float) -> None:
    """Clocks of worker and producer 5 minutes apart."""
    recorded = log((TaskSent, 0, {}), *one_run(), ahead={whose: ahead})

    transitions = timeline(recorded)
    assert [one.kind for one in transitions] == ["task-sent", "task-received", "task-started", "task-succeeded"]
    wrong = {one.worker: round(one.clock_offset.total_seconds()) for one in transitions if one.clock_offset}
    if whose is None and ahead < 0:  # that a message was recorded late means nothing, and nobody else's clock contradicts it
        assert wrong == {}
    else:
        assert wrong == {whose: ahead}
        assert [abs((one.told_at - at(second)).total_seconds()) < 0.1 for second, one in enumerate(transitions)] == [True] * 4


def test_a_fact_that_waited_in_a_spool_is_no_sign_of_a_wrong_clock() -> None:
    """An hour late, and yet in order."""
    spooled: list[Told] = [(kind, second, {**fields, "lag": 3600}) for kind, second, fields in one_run()]

    assert clock_offsets(log((TaskSent, 0, {}), *spooled)) == {}


def test_what_has_no_witnesses_has_none() -> None:
    """Facts of an older version do not say who has told them."""
    (one,) = timeline(log((TaskForgotten, 0, {"source": None})))

    assert (one.witnesses, one.state, one.kind) == ((), None, "task-forgotten")


@given(st.permutations(range(7)))
def test_the_order_of_the_log_does_not_matter(order: list[int]) -> None:
    """The same facts, recorded in any order, are the same history."""
    told: list[Told] = [
        (TaskSent, 0.0, dict[str, Any]()),
        *one_run(),
        witnessed("STARTED", 2.1),
        witnessed("SUCCESS", 3.1),
        witnessed("RECEIVED", 1.1),
    ]
    recorded = log(*told)
    shuffled = [RecordedEvent(recorded[old].event, 1, new, recorded[old].recorded_at) for new, old in enumerate(order)]

    assert short(timeline(shuffled)) == short(timeline(recorded))


def test_the_runs_of_an_id_that_was_sent_again_stay_where_they_were() -> None:
    """What was told before the second sending does not follow it."""
    again: list[Told] = [(TaskSent, 60, {}), *one_run(run="r2", start=61)]

    found = timeline(log((TaskSent, 0, {}), *one_run(), *again))

    assert [(fact.kind, fact.run) for fact in found] == [
        ("task-sent", None),
        ("task-received", "r1"),
        ("task-started", "r1"),
        ("task-succeeded", "r1"),
        ("task-sent", None),
        ("task-received", "r2"),
        ("task-started", "r2"),
        ("task-succeeded", "r2"),
    ]
