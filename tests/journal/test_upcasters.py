"""Old versions of events are brought up to date when they are read."""

from __future__ import annotations

import pytest

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskLost
from celery_journal.journal.upcasters import UPCASTERS, Fields, Upcaster, upcast


def rename_cause(fields: Fields) -> Fields:
    """Version 1 said `cause` where version 2 says `reason`."""
    fields = dict(fields)
    fields["reason"] = fields.pop("cause")
    return fields


def shout(fields: Fields) -> Fields:
    """Version 3 is loud."""
    return {**fields, "reason": fields["reason"].upper()}


LOST: dict[tuple[str, int], Upcaster] = {("task-lost", 1): rename_cause, ("task-lost", 2): shout}


def test_an_old_event_goes_through_every_version() -> None:
    """The fields are those of the newest version, and say so."""
    old = {"kind": "task-lost", "schema_version": 1, "cause": "power"}

    assert upcast(old, LOST) == {"kind": "task-lost", "schema_version": 3, "reason": "POWER"}


def test_an_event_of_a_version_between_goes_through_the_rest() -> None:
    """What was done before is not done again."""
    old = {"kind": "task-lost", "schema_version": 2, "reason": "power"}

    assert upcast(old, LOST) == {"kind": "task-lost", "schema_version": 3, "reason": "POWER"}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"kind": "task-lost", "schema_version": 3, "cause": "power"}, id="newest version"),
        pytest.param({"kind": "task-lost", "schema_version": 9, "cause": "power"}, id="version of the future"),
        pytest.param({"kind": "task-sent", "schema_version": 1, "cause": "power"}, id="another kind"),
    ],
)
def test_an_event_that_is_up_to_date_stays_as_it_is(fields: Fields) -> None:
    """Only an old version of the kind is changed."""
    assert upcast(fields, LOST) == fields


def test_an_upcast_old_event_reads_as_the_new_one(
    connection: Connection, journal: Journal, emitter: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an old version recorded is read as the newest version would have recorded it."""
    old = emitter.emit(TaskLost, "task-1", cause="power")
    new = old.model_copy(update={"schema_version": 3, "reason": "POWER"})
    journal.append(connection, old)
    for key, upcaster in LOST.items():
        monkeypatch.setitem(UPCASTERS, key, upcaster)

    (read,) = journal.read_stream(connection, "task-1")

    assert read.event == TaskLost(**{name: getattr(new, name) for name in TaskLost.model_fields})
    assert read.event.model_extra == {}


def test_an_old_event_is_not_rewritten(connection: Connection, journal: Journal, emitter: Emitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps what was recorded, so the event told again is still the same fact."""
    old = emitter.emit(TaskLost, "task-1", cause="power")
    journal.append(connection, old)
    for key, upcaster in LOST.items():
        monkeypatch.setitem(UPCASTERS, key, upcaster)
    journal.read_stream(connection, "task-1")

    new = journal.append(connection, old)

    assert new == 0
    assert connection.execute("select schema_version from celery_journal.event").fetchall() == [(1,)]
