"""What identifies a fact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_journal.journal import Emitter
from celery_journal.journal.emitter import KNOWN, identify
from celery_journal.journal.events import TaskReceived, TaskSent, TaskStarted
from tests.strategies import moments, texts

from .forking import in_a_fork

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(moments(), texts(), texts(), st.integers(0, 9))
def test_an_event_id_is_a_uuid_of_version_8(moment: datetime, stream: str, emitter: str, sequence: int) -> None:
    """Whatever the fact, its id is what RFC 9562 leaves to us."""
    event_id = identify(moment, stream, "task-sent", 0, emitter, sequence)

    assert event_id.version == 8
    assert event_id.variant == RFC_4122


@given(moments())
@example(datetime(2106, 7, 2, 2, 43, 21, 230000, tzinfo=UTC))  # whose timestamp(), as a float, is a bit too small
def test_an_event_id_begins_with_the_milliseconds(moment: datetime) -> None:
    """The first 48 bits say when the fact occurred; before 1970 they say 1970."""
    event_id = identify(moment, "task-1", "task-sent", 0, "emitter", 0)

    assert event_id.int >> 80 == max((moment - EPOCH) // timedelta(milliseconds=1), 0)


@given(st.lists(moments(), min_size=2, max_size=5, unique_by=lambda moment: max((moment - EPOCH) // timedelta(milliseconds=1), 0)))
def test_event_ids_sort_by_time(history: list[datetime]) -> None:
    """Ids are inserted at the right edge of the index."""
    ids = [identify(moment, "task-1", "task-sent", 0, "emitter", number) for number, moment in enumerate(sorted(history))]

    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"occurred_at": NOON + timedelta(milliseconds=1)}, id="moment"),
        pytest.param({"stream": "task-2"}, id="stream"),
        pytest.param({"kind": "task-received"}, id="kind"),
        pytest.param({"attempt": 1}, id="attempt"),
        pytest.param({"emitter": "another"}, id="emitter"),
        pytest.param({"sequence": 1}, id="sequence"),
    ],
)
def test_another_fact_has_another_id(other: dict[str, Any]) -> None:
    """Whatever identifies a fact is in its id, and nothing else is."""
    fact = {"occurred_at": NOON, "stream": "task-1", "kind": "task-sent", "attempt": 0, "emitter": "emitter", "sequence": 0}

    assert identify(**fact) == identify(**fact)  # type: ignore[arg-type]
    assert identify(**fact) != identify(**{**fact, **other})  # type: ignore[arg-type]


def test_an_event_is_of_now_unless_said_otherwise(emitter: Emitter) -> None:
    """An emitter reads its own clock, in UTC."""
    before = datetime.now(UTC)

    event = emitter.emit(TaskSent, "task-1")

    assert before <= event.occurred_at <= datetime.now(UTC)
    assert emitter.emit(TaskSent, "task-1", occurred_at=NOON).occurred_at == NOON


def test_what_is_emitted_has_what_was_said(emitter: Emitter) -> None:
    """The fields of the event are those that the emitter was given."""
    event = emitter.emit(TaskStarted, "task-1", attempt=2, occurred_at=NOON, worker="worker-1", pid=7)

    assert event == TaskStarted(event_id=event.event_id, stream="task-1", attempt=2, occurred_at=NOON, worker="worker-1", pid=7)


def ids_of(emitter: Emitter, number: int = 500) -> list[UUID]:
    """Return ids of facts that only the emitter and its sequence tell apart."""
    return [emitter.emit(TaskSent, "task-1", occurred_at=NOON).event_id for _ in range(number)]


def test_threads_never_make_the_same_id(emitter: Emitter) -> None:
    """One emitter, eight threads, one moment, one stream: every id is another."""
    with ThreadPoolExecutor(8) as threads:
        ids = [event_id for made in threads.map(ids_of, [emitter] * 8) for event_id in made]

    assert len(set(ids)) == len(ids) == 8 * 500


@pytest.mark.parametrize("name", [pytest.param(None, id="nameless"), pytest.param("worker-1", id="named")])
def test_forked_children_never_make_the_same_id(name: str | None) -> None:
    """A parent and its forked children, which inherit one emitter in one state: every id is another."""
    emitter = Emitter(name)
    ids = ids_of(emitter, 3)

    ids += in_a_fork(lambda: ids_of(emitter, 3)) + in_a_fork(lambda: ids_of(emitter, 3)) + ids_of(emitter, 3)

    assert len(set(ids)) == len(ids) == 12


def test_emitters_of_one_process_never_make_the_same_id() -> None:
    """Two emitters in one process, for example of two applications, tell different facts."""
    ids = ids_of(Emitter(), 3) + ids_of(Emitter(), 3)

    assert len(set(ids)) == 6


def test_the_order_of_the_calls_is_kept_where_the_clock_does_not_go_on(emitter: Emitter) -> None:
    """Each fact says where it stands, beside what the clock said; those that the clock puts in order say nothing."""
    moments = [NOON + timedelta(seconds=second) for second in (0, 10, -3600, -3599, 20, 5, 30, 30)]

    told = [emitter.emit(TaskSent, "task-1", occurred_at=moment) for moment in moments]

    assert [event.occurred_at for event in told] == moments
    assert [event.ordered_at is not None for event in told] == [False, False, True, True, False, True, False, True]
    places = [event.ordered_at or event.occurred_at for event in told]
    assert places == sorted(set(places))


def test_other_streams_and_other_emitters_have_an_order_of_their_own(emitter: Emitter) -> None:
    """As has what is told of a stream by another kind: a start is often told after what followed it."""
    emitter.emit(TaskSent, "task-1", occurred_at=NOON)
    before = NOON - timedelta(hours=1)

    told = [
        emitter.emit(TaskSent, "task-2", occurred_at=before),
        emitter.emit(TaskReceived, "task-1", occurred_at=before),
        Emitter().emit(TaskSent, "task-1", occurred_at=before),
    ]

    assert [event.ordered_at for event in told] == [None] * 3


def test_an_emitter_of_a_million_streams_stays_small(emitter: Emitter) -> None:
    """It knows those of which it has told last."""
    for number in range(KNOWN + 100):
        emitter.emit(TaskSent, f"task-{number}")

    assert len(emitter._identity.last) == KNOWN


def test_the_clock_may_be_at_its_end(emitter: Emitter) -> None:
    """There is no later moment to say."""
    last = datetime.max.replace(tzinfo=UTC)
    emitter.emit(TaskSent, "task-1", occurred_at=last)

    assert emitter.emit(TaskSent, "task-1", occurred_at=NOON).ordered_at == last
