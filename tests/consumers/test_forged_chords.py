"""Chords that somebody has forged who may write the log and not use the broker: never sent where a key is set, and in nobody's way."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from celery.app.utils import filter_hidden_settings
from celery.exceptions import ChordError

from celery_journal.consumers.backend.bodies import is_signed, signed
from celery_journal.consumers.doctor.examination import APP_CHECKS, Subject
from celery_journal.consumers.options import InvalidOption, Options
from celery_journal.journal import Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, ChordStarted, Event, GroupExpired, TaskFailed
from celery_journal.projections import ChordCounter, verify

from .scene import Mailbox, ask, kinds, recorded

NewApp = Callable[..., Celery]

KEY, OLD_KEY = "a key that nobody can guess".replace(" ", "-"), "the-key-that-was-used-before"

PICKLE = "application/x-python-serialize"


@pytest.fixture
def new(make_app: NewApp, mailbox: Mailbox) -> NewApp:
    """Makes an app that sends to a folder and sweeps at once, with these options."""
    return lambda **options: make_app(**mailbox.conf, result_backend_transport_options={"sweep_interval": 0.001, **options})


def write(dsn: str, *events: Event) -> None:
    """Append the events, as whoever may write can."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        Journal().append(connection, *events)


def start_of(group_id: str, **fields: Any) -> ChordStarted:
    """The fact that a chord of one member has started an hour ago, whose body is the task `scene.sum`."""
    callback: dict[str, Any] = {
        "task": "scene.sum",
        "args": [],
        "kwargs": {},
        "options": {"task_id": f"body-{group_id}"},
        "subtask_type": None,
    }
    given = {"callback": json.dumps(callback).encode(), "callback_content_type": "application/json", "task_id": f"body-{group_id}"}
    header = {"result": b"[]", "content_type": "application/json", "content_encoding": "utf-8", "size": 1}
    return Emitter().emit(ChordStarted, group_id, occurred_at=_an_hour_ago(), **{**given, **header, **fields})


def part_of(group_id: str, **fields: Any) -> ChordPartReturned:
    """The fact that its member has returned 1."""
    given = {"task_id": "m", "group_index": 0, "state": "SUCCESS", "result": b"1", "content_type": "application/json"}
    return Emitter().emit(ChordPartReturned, group_id, occurred_at=_an_hour_ago(), **{**given, "content_encoding": "utf-8", **fields})


def _an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def sent(mailbox: Mailbox) -> list[str]:
    return [message.id for message in mailbox.sent()]


# Bodies are sent only where they are signed


def test_a_signed_body_is_sent_by_the_sweep(new: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """What the app has recorded itself, with the key in its options."""
    app = new(signing_key=KEY)
    app.backend.apply_chord(("g", [app.AsyncResult("m")]), app.signature("scene.sum", task_id="body"))
    app.backend.set_chord_size("g", 1)
    write(dsn, part_of("g"))

    assert app.backend.sweep_chords() == ["g"]

    assert sent(mailbox) == ["body"]


@pytest.mark.parametrize("case", ["unsigned", "another key", "copied", "another size", "another header", "another body", "another id"])
def test_a_body_that_is_not_signed_is_not_sent(new: NewApp, mailbox: Mailbox, dsn: str, case: str) -> None:
    """The chord fails, and the log, the views and who waits for the body are told why."""
    app, good = new(signing_key=KEY), signed(start_of("g"), [KEY.encode()])
    changed: dict[str, dict[str, Any]] = {
        "unsigned": {"signature": None},
        "copied": {},
        "another size": {"size": 0},
        "another header": {"result": b'[[["other", null], null]]'},
        "another body": {"callback": (good.callback or b"").replace(b"scene.sum", b"scene.add")},
        "another id": {"task_id": "somebody-elses"},
    }
    match case:
        case "another key":
            forged = signed(start_of("g"), [OLD_KEY.encode()])
        case "copied":  # as another fact
            forged = start_of("g", signature=good.signature)
        case _:
            forged = good.model_copy(update=changed[case])
    write(dsn, forged, part_of("g"))

    app.backend.sweep_chords()

    assert sent(mailbox) == []
    error = app.AsyncResult(forged.task_id).get(propagate=False, timeout=10)
    assert (type(error), str(error)) == (ChordError, "the body of chord g is not signed with the app's signing_key, and is not sent")
    assert recorded(dsn, "g")[-1].event.model_dump()["reason"] == str(error)
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert ChordCounter.get_many(connection, ["g"])["g"].state == "failed"
        assert verify(connection).differences == []


def test_a_chord_that_has_ended_is_not_begun_again_by_a_copy(new: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Its signed start is in the log for everybody to read: it is bound to the id of its fact, which is there once."""
    app, good = new(signing_key=KEY), signed(start_of("g"), [KEY.encode()])
    write(dsn, good, part_of("g"))
    app.backend.sweep_chords()

    copy = start_of("g", signature=good.signature)
    write(dsn, Emitter().emit(GroupExpired, "g"))
    write(dsn, copy, part_of("g"))
    app.backend.sweep_chords()

    assert sent(mailbox) == ["body-g"]


def test_an_earlier_key_is_accepted(new: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """The first signs, all are accepted: keys can be changed while chords are open."""
    app = new(signing_key=[KEY, OLD_KEY])
    write(dsn, signed(start_of("g"), [OLD_KEY.encode()]), part_of("g"))
    app.backend.apply_chord(("h", [app.AsyncResult("m")]), app.signature("scene.sum", task_id="body"))

    app.backend.sweep_chords()

    assert sent(mailbox) == ["body-g"]
    started = recorded(dsn, "h")[0].event
    assert isinstance(started, ChordStarted)
    assert is_signed(started, [KEY.encode()])


def test_without_a_key_a_chord_is_swept_as_before(new: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Whoever may write the log is trusted then, as the documentation says."""
    write(dsn, start_of("g"), part_of("g"))

    assert new().backend.sweep_chords() == ["g"]
    assert sent(mailbox) == ["body-g"]


# No pickle is opened


class Trap:
    """A pickle of this leaves a file behind where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["body", "part"])
@pytest.mark.parametrize("options", [{}, {"signing_key": KEY}], ids=["no key", "a key"])
def test_a_sweep_opens_no_pickle(new: NewApp, mailbox: Mailbox, dsn: str, tmp_path: Path, where: str, options: dict[str, Any]) -> None:
    """Though the app accepts them: the chord fails."""
    trap = pickle.dumps(Trap(tmp_path / "opened"))
    start = start_of("g", callback=trap, callback_content_type=PICKLE) if where == "body" else start_of("g")
    if where == "part" and options:
        start = signed(start, [KEY.encode()])
    write(dsn, start, part_of("g", **({} if where == "body" else {"result": trap, "content_type": PICKLE, "content_encoding": "binary"})))
    app = new(**options)

    app.backend.sweep_chords()

    assert not (tmp_path / "opened").exists()
    assert (sent(mailbox), kinds(dsn, "g")[-1]) == ([], "chord-failed")


def test_a_pickled_body_that_is_signed_is_sent(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """It is the app's own."""
    app = make_app(**mailbox.conf, task_serializer="pickle", result_backend_transport_options={"signing_key": KEY})
    app.backend.apply_chord(("g", [app.AsyncResult("m")]), app.signature("scene.sum", task_id="body"))
    write(dsn, part_of("g"))
    app.backend._bodies.clear()  # another process

    app.backend.set_chord_size("g", 1)

    assert kinds(dsn, "g")[-1] == "chord-unlocked"


def test_who_starts_a_chord_needs_not_open_the_pickle(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """The members had returned before the size was told; without a key it knows the body itself."""
    app = make_app(**mailbox.conf, task_serializer="pickle")
    app.backend.apply_chord(("g", [app.AsyncResult("m")]), app.signature("scene.sum", task_id="body"))
    write(dsn, part_of("g"))

    app.backend.set_chord_size("g", 1)

    assert kinds(dsn, "g")[-1] == "chord-unlocked"


# One bad chord, and a good one beside it


DEEP = b'[[["a",null],' * 3000 + b"null" + b"]]" * 3000


def _wide() -> bytes:
    header = "null"
    for place in range(3000):
        header = f'["p{place}",{header}]'
    return f"[[{header},null]]".encode()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"size": 2147483647}, id="overflow"),
        pytest.param({"result": b'[[["m1",null],null]]'}, id="negative index"),
        pytest.param({"result": DEEP}, id="deep header"),
        pytest.param({"result": _wide()}, id="wide header"),
        pytest.param({"result": b'{"not": "a list"}'}, id="no list"),
        pytest.param({"result": b"[1, null, [[], []]]"}, id="no results"),
        pytest.param({"result": b"\xff\x00"}, id="no text"),
        pytest.param({"callback": b"[" * 100_000}, id="deep body"),
        pytest.param({"callback": b"null"}, id="no body"),
        pytest.param({"callback": b'{"task": "scene.sum", "options": 7}'}, id="no options"),
        pytest.param({"callback": b'{"task": "scene.sum", "subtask_type": "chord"}'}, id="no chord"),
        pytest.param({"callback_content_type": "made/up"}, id="unknown serializer"),
        pytest.param({"task_id": None}, id="no id"),
    ],
)
def test_a_chord_that_makes_no_sense_keeps_no_other_from_its_end(
    new: NewApp, mailbox: Mailbox, dsn: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once, and the others are swept, those that are older and those that are newer."""
    app = new()
    write(dsn, start_of("older"), part_of("older"), start_of("bad", **fields), part_of("bad"), start_of("newer"), part_of("newer"))
    insert = (
        b"insert into celery_journal.event (event_id, occurred_at, stream, kind, state, task_id, group_id, group_index) "
        b"values (%s, clock_timestamp() - interval '1 hour', %s, %s, %s, %s, %s, %s) returning 1"
    )
    if "size" in fields:
        ask(dsn, insert, uuid4(), "bad", "chord-size-set", None, "x", None, None)
    write(dsn, Emitter().emit(TaskFailed, "m1", occurred_at=_an_hour_ago()))
    with suppress(psycopg.errors.CheckViolation):  # the log itself may refuse it
        ask(dsn, insert, uuid4(), "m1", "task-failed", "FAILURE", None, "bad", -5)

    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            app.backend.sweep_chords()

    assert {"body-older", "body-newer"} <= set(sent(mailbox))
    assert [kinds(dsn, group)[-1] for group in ("older", "newer")] == ["chord-unlocked"] * 2
    assert len([told for told in caplog.records if "bad" in told.getMessage()]) <= 1


# The key


@pytest.mark.parametrize("given", [KEY, [KEY, OLD_KEY]])
def test_nobody_is_shown_the_key(given: Any) -> None:
    """Neither by `celery report` and `inspect conf`, nor by what our own options look like."""
    conf = {"result_backend_transport_options": {"signing_key": given, "pool_size": 2}}

    assert filter_hidden_settings(conf)["result_backend_transport_options"] == {"signing_key": "********", "pool_size": 2}
    app = Celery("scene", set_as_current=False, broker="memory://")
    app.conf.update(conf)
    assert KEY not in app.bugreport()
    assert KEY not in repr(Options.read(conf["result_backend_transport_options"]))


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between commas, or a line each."""
    (tmp_path / "keys").write_text(f"{KEY}\n{OLD_KEY}\n")
    monkeypatch.setenv("CELERY_JOURNAL_SIGNING_KEY", f"{OLD_KEY},{KEY}")

    by_environment = Options.read(None).signing_keys
    monkeypatch.delenv("CELERY_JOURNAL_SIGNING_KEY")
    by_file = Options.read({"signing_key_file": str(tmp_path / "keys")}).signing_keys

    assert (by_environment, by_file) == ([OLD_KEY.encode(), KEY.encode()], [KEY.encode(), OLD_KEY.encode()])


@pytest.mark.parametrize("given", [{"signing_key": "short-secret"}, {"signing_key": [1]}, {"signing_key_file": "/nowhere/at-all"}])
def test_a_key_that_is_none_is_refused_without_showing_it(given: dict[str, Any]) -> None:
    """In one sentence."""
    with pytest.raises(InvalidOption) as refused:
        Options.read(given)

    assert "signing_key" in str(refused.value)
    assert "short-secret" not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_doctor_warns_where_there_is_no_key_and_names_what_is_not_signed(new: NewApp, dsn: str) -> None:
    """A chord that was forged, or that somebody without the key has started."""

    def look(**options: Any) -> list[tuple[str, str]]:
        app = new(**options)
        with psycopg.connect(dsn, autocommit=True) as connection:
            subject = Subject(connection, dsn, app.backend.options, "celery_journal", app)
            return [(found.status, found.found) for found in APP_CHECKS["signing"](subject, app)]

    write(dsn, signed(start_of("good"), [KEY.encode()]))
    without, good = look(), look(signing_key=KEY)
    write(dsn, start_of("forged"))
    forged = look(signing_key=KEY)

    assert [status for status, _ in (*without, *good, *forged)] == ["warn", "ok", "bad"]
    assert "forged" in forged[0][1]
    assert "good" not in forged[0][1]
