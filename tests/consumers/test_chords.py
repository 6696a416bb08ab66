"""Chords by their parts: whatever order, how often and from how many processes they return, the body is sent once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from celery import Celery, chain, chord, group
from celery.app.task import Context
from celery.exceptions import ChordError, TimeLimitExceeded
from celery.result import GroupResult as CeleryGroupResult
from celery.utils.functional import regen

from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal import events as kinds_of
from celery_journal.projections import ChordCounter, ChordPart, verify

from .scene import Mailbox, Message, ask, delivered, kinds, recorded, start, until, url_of

NewApp = Callable[..., Celery]


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    """An app that sends to a folder."""
    return make_app(**mailbox.conf)


def body(app: Celery, **options: Any) -> Any:
    return app.signature("scene.sum", task_id="body", **options)


def begin(app: Celery, size: int, callback: Any = None) -> None:
    """Start the chord `g`, whose members are called m0, m1, ..."""
    results = [app.AsyncResult(f"m{index}") for index in range(size)]
    app.backend.apply_chord(("g", results), body(app) if callback is None else callback)
    app.backend.set_chord_size("g", size)


def give_back(app: Celery, index: int | None, value: Any, state: str = "SUCCESS", task_id: str | None = None, callback: Any = None) -> None:
    """Return a member's part."""
    request = delivered(
        app, task_id=task_id or f"m{index}", group_id="g", group_index=index, chord=body(app) if callback is None else callback
    )
    app.backend.on_chord_part_return(request, state, value)


def counter(dsn: str) -> ChordCounter:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return ChordCounter.get(connection, "g")


def values(message: Message) -> Any:
    return message.args[0]


def run_out(dsn: str) -> None:
    """Let the lease run out, without waiting for it."""
    ask(dsn, b"update celery_journal.chord_lease set claimed_until = claimed_until - interval '1 day' returning 1")


# The body is sent


def test_the_last_part_sends_the_body(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """B19: with the values in the order of the header, under the id it was promised."""
    begin(app, 3)
    give_back(app, 2, "c")
    give_back(app, 0, "a")
    assert mailbox.sent() == []

    give_back(app, 1, "b")

    (message,) = mailbox.sent()
    assert (message.task, message.id, values(message)) == ("scene.sum", "body", ["a", "b", "c"])
    assert counter(dsn).state == "unlocked"
    assert kinds(dsn, "g") == ["chord-started", "chord-size-set", *["chord-part-returned"] * 3, "chord-unlocked"]


def test_a_part_that_returns_twice_counts_once(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """Redelivery, and Celery's two calls for one hard time limit."""
    begin(app, 2)

    give_back(app, 0, "a")
    give_back(app, 0, "again")

    assert mailbox.sent() == []
    assert (counter(dsn).count, counter(dsn).done) == (1, 1)
    give_back(app, 1, "b")
    assert [values(message) for message in mailbox.sent()] == [["a", "b"]]


def test_one_task_in_two_places_is_two_parts(app: Celery, mailbox: Mailbox) -> None:
    """A frozen signature that stands in the header twice."""
    begin(app, 2)

    give_back(app, 0, "a", task_id="same")
    give_back(app, 1, "b", task_id="same")

    assert [values(message) for message in mailbox.sent()] == [["a", "b"]]


def test_parts_without_a_place_come_last_as_they_returned(app: Celery, mailbox: Mailbox) -> None:
    """Celery gives some members no index."""
    begin(app, 4)

    give_back(app, None, "x", task_id="x")
    give_back(app, 1, "b")
    give_back(app, None, "y", task_id="y")
    give_back(app, 0, "a")

    assert [values(message) for message in mailbox.sent()] == [["a", "b", "x", "y"]]


def test_the_size_may_come_after_the_parts(app: Celery, mailbox: Mailbox) -> None:
    """The header is sent member by member, and its size only before the last of them."""
    app.backend.apply_chord(("g", [app.AsyncResult("m0"), app.AsyncResult("m1")]), body(app))
    give_back(app, 0, "a")
    give_back(app, 1, "b")
    assert mailbox.sent() == []

    app.backend.set_chord_size("g", 2)

    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", ["a", "b"])]


def test_parts_may_return_before_the_chord_is_known(app: Celery, mailbox: Mailbox) -> None:
    """Facts come in any order."""
    give_back(app, 0, "a")

    begin(app, 1)

    assert [values(message) for message in mailbox.sent()] == [["a"]]


def test_an_empty_header_sends_the_body_at_once(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """B18: there is nobody to wait for."""
    app.backend.apply_chord(("g", []), body(app))

    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", [])]
    assert counter(dsn).state == "unlocked"


def test_a_generator_is_not_consumed(app: Celery, mailbox: Mailbox) -> None:
    """B18: a header that is lazily made has no length until it was sent."""
    drawn: list[str] = []

    def header() -> Any:
        for name in ("m0", "m1"):
            drawn.append(name)
            yield app.AsyncResult(name)

    app.backend.apply_chord(("g", regen(header())), body(app))

    assert drawn == []
    give_back(app, 0, "a")
    give_back(app, 1, "b")
    app.backend.set_chord_size("g", 2)
    assert [values(message) for message in mailbox.sent()] == [["a", "b"]]


def test_an_added_member_is_waited_for(app: Celery, mailbox: Mailbox) -> None:
    """add_to_chord() by a member that still runs; the added one takes its place, and both values are there."""
    begin(app, 2)
    give_back(app, 0, "a")

    app.backend.add_to_chord("g", app.AsyncResult("added"))
    give_back(app, 1, "b")
    assert mailbox.sent() == []

    give_back(app, 1, "b+", task_id="added")
    assert [values(message) for message in mailbox.sent()] == [["a", "b", "b+"]]


def test_a_header_with_groups_in_it_keeps_its_structure(app: Celery, mailbox: Mailbox) -> None:
    """The body gets lists in lists, as group results have them."""
    inner = app.GroupResult("inner", [app.AsyncResult("m1"), app.AsyncResult("m2")])
    app.backend.apply_chord(("g", [app.AsyncResult("m0"), inner, app.AsyncResult("m3")]), body(app))
    app.backend.set_chord_size("g", 4)

    for index in (3, 1, 0, 2):
        give_back(app, index, index * 10)

    assert [values(message) for message in mailbox.sent()] == [[0, [10, 20], 30]]


def test_a_member_whose_result_is_ignored_gives_its_value(app: Celery, mailbox: Mailbox) -> None:
    """The value is in the part, and nowhere else."""
    begin(app, 2)
    for index in range(2):
        request = delivered(app, task_id=f"m{index}", group_id="g", group_index=index, chord=body(app), ignore_result=True)
        app.backend.mark_as_done(request.id, index, request=request)

    assert [values(message) for message in mailbox.sent()] == [[0, 1]]
    app.backend.buffer.flush()
    assert (app.AsyncResult("m0").state, app.AsyncResult("m0").result) == ("PENDING", None)


def test_a_late_part_after_the_end_changes_nothing(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """A redelivery may come at any time."""
    begin(app, 1)
    give_back(app, 0, "a")

    give_back(app, 0, "again")
    give_back(app, 5, "stranger")

    assert len(mailbox.sent()) == 1
    assert counter(dsn).state == "unlocked"
    assert ask(dsn, b"select count(*) from celery_journal.chord_lease") == [(0,)]
    assert app.backend.sweep_chords() == []


def test_a_part_of_an_unknown_chord_is_recorded_with_a_warning(app: Celery, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """B19: such as one that another backend has started; a crash or a row that stays it is not."""
    with caplog.at_level(logging.WARNING, "celery_journal"):
        give_back(app, 0, "a")

    assert [record.message for record in caplog.records] == ["a part returned to a chord that the journal does not know"]
    assert kinds(dsn, "g") == ["chord-part-returned"]
    assert ask(dsn, b"select count(*) from celery_journal.chord_lease") == [(0,)]


def test_a_body_that_is_a_group_is_sent_whole(app: Celery, mailbox: Mailbox) -> None:
    """Each of its tasks gets the values."""
    callback = group(app.signature("scene.one"), app.signature("scene.two"), app=app)
    callback.freeze()
    begin(app, 2, callback)

    for index in range(2):
        give_back(app, index, index, callback=callback)

    assert sorted((message.task, values(message)) for message in mailbox.sent()) == [("scene.one", [0, 1]), ("scene.two", [0, 1])]


def test_the_size_of_what_is_no_chord_leaves_no_lease(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """Celery 5.7 also tells the size of a group that is the body of an inner chord."""
    app.backend.set_chord_size("g", 0)

    assert mailbox.sent() == []
    assert ask(dsn, b"select count(*) from celery_journal.chord_lease") == [(0,)]
    assert app.backend.sweep_chords() == []


def test_chords_are_allowed(app: Celery) -> None:
    """Celery asks before it sends one."""
    assert app.backend.ensure_chords_allowed() is None


def test_a_body_without_an_id_gets_one(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """What was sent is what the chord says."""
    begin(app, 1, app.signature("scene.sum"))

    give_back(app, 0, "a", callback=app.signature("scene.sum"))

    (message,) = mailbox.sent()
    assert counter(dsn).body_task_id == message.id


def test_a_member_that_expires_is_not_left_to_the_broker(app: Celery, mailbox: Mailbox) -> None:
    """RabbitMQ would drop its message, and the chord would wait for ever: the worker discards it, and says so."""
    first = app.signature("scene.first").set(expires=60)
    chord([app.signature("scene.member").set(expires=60), first | app.signature("scene.second")], app=app)(app.signature("scene.sum"))
    app.signature("scene.alone").apply_async(expires=60)

    sent = {message.task: "expiration" in message.properties for message in mailbox.sent()}

    assert sent == {"scene.member": False, "scene.first": False, "scene.alone": True}


# A second run


def test_a_chord_that_is_started_again_runs_again(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """A frozen signature that is applied twice: the parts of the first run are not those of the second."""
    for run in ("first", "second"):
        begin(app, 2)
        assert (counter(dsn).state, counter(dsn).count) == ("open", 2)
        give_back(app, 0, f"{run} a")
        give_back(app, 1, f"{run} b")

    assert [values(message) for message in mailbox.sent()] == [["first a", "first b"], ["second a", "second b"]]
    assert counter(dsn).state == "unlocked"
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert verify(connection).differences == []


def test_a_saved_group_survives_a_second_run(app: Celery) -> None:
    """It has the id of the chord, and is somebody's."""
    begin(app, 1)
    app.backend.save_group("g", app.GroupResult("g", [app.AsyncResult("m0")]))
    give_back(app, 0, "a")

    begin(app, 1)

    assert [result.id for result in app.GroupResult.restore("g", app=app, backend=app.backend).results] == ["m0"]


def test_a_chord_that_is_started_again_while_it_runs_goes_on(app: Celery, mailbox: Mailbox) -> None:
    """A task that starts it was delivered twice: no part is lost, and the body is sent once."""
    begin(app, 2)
    give_back(app, 0, "a")

    begin(app, 2)
    give_back(app, 1, "b")

    assert [values(message) for message in mailbox.sent()] == [["a", "b"]]


# A part fails


@pytest.mark.parametrize(
    ("state", "error"),
    [
        pytest.param("FAILURE", ValueError("no", 7), id="failure"),
        pytest.param("REVOKED", RuntimeError("terminated"), id="revoked"),
        pytest.param("FAILURE", TimeLimitExceeded(1), id="time limit"),
    ],
)
def test_a_failed_part_fails_the_body_when_all_have_returned(app: Celery, mailbox: Mailbox, dsn: str, state: str, error: Exception) -> None:
    """With Celery's own words, which people search their logs for."""
    begin(app, 2)
    give_back(app, 0, error, state)
    assert app.AsyncResult("body").state == "PENDING"

    give_back(app, 1, "b")

    result = app.AsyncResult("body")
    assert (result.state, type(result.result)) == ("FAILURE", ChordError)
    assert str(result.result) == f"Dependency m0 raised {error!r}"
    assert mailbox.sent() == []
    assert (counter(dsn).state, counter(dsn).failed, counter(dsn).body_task_id) == ("failed", 1, "body")
    assert kinds(dsn, "g")[-1] == "chord-failed"


def test_a_part_that_failed_twice_fails_the_body_once(app: Celery, dsn: str) -> None:
    """A hard time limit is told twice, while a sibling still runs: the chord neither hangs nor ends early."""
    begin(app, 2)
    give_back(app, 0, TimeLimitExceeded(1), "FAILURE")
    give_back(app, 0, TimeLimitExceeded(1), "FAILURE")
    assert app.AsyncResult("body").state == "PENDING"

    give_back(app, 1, "b")

    assert app.AsyncResult("body").state == "FAILURE"
    assert kinds(dsn, "body") == ["task-failed"]


def test_a_part_that_succeeds_on_redelivery_has_succeeded(app: Celery, mailbox: Mailbox) -> None:
    """The first run was lost with its worker, the second was well."""
    begin(app, 2)
    give_back(app, 0, RuntimeError("worker lost"), "FAILURE")
    give_back(app, 0, "a")

    give_back(app, 1, "b")

    assert [values(message) for message in mailbox.sent()] == [["a", "b"]]


def test_the_errback_of_the_body_is_called(app: Celery, mailbox: Mailbox) -> None:
    """link_error of the body hears of the failed part."""
    callback = body(app)
    callback.link_error(app.signature("scene.oops"))
    begin(app, 1, callback)

    give_back(app, 0, ValueError("no"), "FAILURE", callback=callback)

    assert [(message.task, message.args) for message in mailbox.sent()] == [("scene.oops", ["body"])]


def test_every_task_of_a_group_body_fails(app: Celery) -> None:
    """Whoever waits for one of them hears of it."""
    callback = group(app.signature("scene.one"), app.signature("scene.two"), app=app)
    ids = [result.id for result in callback.freeze().results]
    begin(app, 1, callback)

    give_back(app, 0, ValueError("no"), "FAILURE", callback=callback)

    assert [app.AsyncResult(task_id).state for task_id in ids] == ["FAILURE", "FAILURE"]


BODIES: dict[str, Callable[[Callable[[], Any], Celery], Any]] = {
    "a task": lambda task, app: task(),
    "a group": lambda task, app: group([task(), task()], app=app),
    "a chain": lambda task, app: chain(task(), task(), app=app),
    "a chord": lambda task, app: chord([task(), task()], task(), app=app),
    "a chain to a group": lambda task, app: chain(task(), group([task(), task()], app=app), app=app),
    "a chain to a chord": lambda task, app: chain(task(), chord([task(), task()], task(), app=app), app=app),
    "a group of chains": lambda task, app: group([chain(task(), task(), app=app), task()], app=app),
    "a group of chords": lambda task, app: group([chord([task(), task()], task(), app=app), task()], app=app),
    "a group of groups": lambda task, app: group([group([task(), task()], app=app), task()], app=app),
    "a chord to a chord": lambda task, app: chord([task(), task()], chord([task(), task()], task(), app=app), app=app),
    "a chord to a group": lambda task, app: chord([task(), task()], group([task(), task()], app=app), app=app),
    "a chord to a chain": lambda task, app: chord([task(), task()], chain(task(), task(), app=app), app=app),
}


@pytest.mark.parametrize("shape", list(BODIES))
def test_whatever_holds_the_result_of_a_body_fails_with_it(app: Celery, mailbox: Mailbox, shape: str) -> None:
    """Celery fails tasks and chains, and from 5.6 on groups: who waits for the last task of anything else would wait for ever."""
    body = BODIES[shape](lambda: app.signature("scene.one"), app)
    result = chord([app.signature("scene.member")], app=app)(body)

    for message in mailbox.sent():
        app.backend.on_chord_part_return(Context({**message.headers, **message.embedded}), "FAILURE", ValueError("no"))

    assert {app.backend.get_state(leaf.id) for leaf in leaves(result)} == {"FAILURE"}


def requests(mailbox: Mailbox) -> dict[str, Context]:
    """The requests of the tasks that were sent, by name, as a worker has them."""
    return {message.task.removeprefix("scene."): Context({**message.headers, **message.embedded}) for message in mailbox.sent()}


@pytest.mark.parametrize("shape", list(BODIES))
def test_a_failed_body_that_is_a_member_fails_the_chord_around_it(app: Celery, mailbox: Mailbox, shape: str) -> None:
    """Celery tells the outer chord nothing of an inner body that never ran."""
    inner = chord([app.signature("scene.member")], BODIES[shape](lambda: app.signature("scene.one"), app), app=app)
    result = chord([inner, app.signature("scene.other")], app=app)(app.signature("scene.sum"))
    sent = requests(mailbox)

    app.backend.on_chord_part_return(sent["other"], "SUCCESS", 1)
    app.backend.on_chord_part_return(sent["member"], "FAILURE", ValueError("no"))

    assert (result.state, type(result.result)) == ("FAILURE", ChordError)


@pytest.mark.parametrize("shape", list(BODIES))
@pytest.mark.parametrize("how", ["failed", "revoked"])
def test_what_comes_after_a_task_that_does_not_succeed_returns_its_part(app: Celery, mailbox: Mailbox, shape: str, how: str) -> None:
    """The chord waits for the last of a chain, be it a task, a group or a chord, which will never run."""
    line = chain(app.signature("scene.first"), BODIES[shape](lambda: app.signature("scene.one"), app), app=app)
    result = chord([line, app.signature("scene.other")], app=app)(app.signature("scene.sum"))
    sent = requests(mailbox)
    app.backend.on_chord_part_return(sent["other"], "SUCCESS", 1)

    if how == "failed":
        app.backend.mark_as_failure(sent["first"].id, ValueError("no"), request=sent["first"])
    else:
        app.backend.mark_as_revoked(sent["first"].id, "terminated", request=sent["first"])

    assert (result.state, type(result.result)) == ("FAILURE", ChordError)


def leaves(result: Any) -> list[Any]:
    if isinstance(result, CeleryGroupResult):
        return [leaf for child in result.results for leaf in leaves(child)]
    return [result]


def test_a_value_that_cannot_be_encoded_fails_the_body(app: Celery) -> None:
    """The part has returned, and must not be lost."""
    begin(app, 1)

    give_back(app, 0, object())

    result = app.AsyncResult("body")
    assert (result.state, type(result.result)) == ("FAILURE", ChordError)
    assert str(result.result).startswith("Dependency m0 raised EncodeError")


def test_a_value_above_the_limit_fails_the_body(make_app: NewApp) -> None:
    """An ignored result that is too large ends its part all the same: the chord does not wait for ever."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 4000})
    begin(app, 1)

    give_back(app, 0, "x" * 5000)

    assert app.backend.get_state("body") == "FAILURE"
    assert "above the limit" in str(app.backend.get_result("body"))


def test_a_body_that_cannot_be_sent_fails(app: Celery, dsn: str) -> None:
    """Nobody waits for ever: the error is the body's result, and why is in the log."""
    callback = body(app, serializer="unheard-of")
    begin(app, 1, callback)

    give_back(app, 0, "a", callback=callback)

    assert app.AsyncResult("body").state == "FAILURE"
    assert str(app.AsyncResult("body").result).startswith("Callback error: ")
    assert getattr(recorded(dsn, "g")[-1].event, "reason", "").startswith("Callback error: ")


# Processes


@pytest.mark.parametrize(
    ("copies", "sizing"),
    [pytest.param(1, "first", id="once"), pytest.param(2, "amid", id="twice, and the size comes amid them")],
)
def test_sixteen_processes_at_once_send_the_body_once(dsn: str, mailbox: Mailbox, copies: int, sizing: str) -> None:
    """B19: two hundred parts return at the same moment, one body is sent, with every value in its place."""
    with start("returning", url_of(dsn), f"{mailbox.folder}", "200", "16", f"{copies}", sizing) as processes:
        processes.communicate()

    assert processes.returncode == 0
    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", list(range(200)))]
    assert (counter(dsn).state, counter(dsn).done, counter(dsn).count) == ("unlocked", 200, 0)
    assert kinds(dsn, "g").count("chord-unlocked") == 1
    assert ask(dsn, b"select count(*) from celery_journal.chord_lease where claimed_by is not null") == [(0,)]


def killed(dsn: str, folder: Path, where: str, lease: float) -> str:
    """Have a process return the last part, kill it with -9 where it stalls, and return what it said."""
    with start("stalling", url_of(dsn), f"{folder}", where, f"{lease}") as process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        process.kill()
    return said


def test_a_chord_whose_sender_was_killed_is_completed_after_its_lease(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """Killed between the claim and the message: not before the lease has run out, and then once."""
    begin(app, 2)
    give_back(app, 0, 1)
    assert killed(dsn, mailbox.folder, "before", 3600) == "claimed"

    assert app.backend.sweep_chords() == []
    assert mailbox.sent() == []
    run_out(dsn)

    assert app.backend.sweep_chords() == ["g"]
    assert app.backend.sweep_chords() == []
    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", [1, 2])]
    assert counter(dsn).state == "unlocked"


def test_a_lease_runs_out_by_itself(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """chord_lease is the time a sender has."""
    begin(app, 2)
    give_back(app, 0, 1)
    killed(dsn, mailbox.folder, "before", 0.2)

    until(app.backend.sweep_chords)

    assert [values(message) for message in mailbox.sent()] == [[1, 2]]


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "SUCCESS", "FAILURE"])
def test_a_body_that_was_sent_is_not_sent_again(app: Celery, mailbox: Mailbox, dsn: str, state: str) -> None:
    """Killed between the message and its record: the body kept its id, and the journal knows of it."""
    begin(app, 2)
    give_back(app, 0, 1)
    assert killed(dsn, mailbox.folder, "after", 3600) == "chord-unlocked"
    app.backend.store_result("body", ValueError() if state == "FAILURE" else None, state)
    run_out(dsn)

    app.backend.sweep_chords()

    assert len(mailbox.sent()) == 1
    assert counter(dsn).state == "unlocked"


def test_a_body_that_waits_in_its_queue_is_sent_again_under_its_id(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """Nobody can know that it was sent: at least once, and with one result."""
    begin(app, 2)
    give_back(app, 0, 1)
    killed(dsn, mailbox.folder, "after", 3600)
    run_out(dsn)

    app.backend.sweep_chords()

    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", [1, 2])] * 2


def unsent(app: Celery, dsn: str) -> None:
    """Leave the chord as a process does that dies before it claims: all parts are there, and nobody has sent the body."""
    begin(app, 1)
    part = app.backend.emitter.emit(
        kinds_of.ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS", **app.backend._encoded("a")
    )
    app.backend.append(part)


def test_a_chord_that_nobody_claimed_is_completed(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """The last part was recorded, and its process died before it could ask."""
    unsent(app, dsn)

    assert app.backend.sweep_chords() == ["g"]

    assert [(message.id, values(message)) for message in mailbox.sent()] == [("body", ["a"])]


def test_two_sweeps_at_once_send_the_body_once(app: Celery, make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Every worker sweeps."""
    apps = [make_app(**mailbox.conf) for _ in range(4)]
    unsent(app, dsn)
    together = Barrier(4)

    def sweep(app: Celery) -> list[str]:
        app.backend.get_task_meta("warm")
        together.wait()
        swept: list[str] = app.backend.sweep_chords()
        return swept

    with ThreadPoolExecutor(4) as pool:
        swept = list(pool.map(sweep, apps))

    assert sorted(map(len, swept)) == [0, 0, 0, 1]
    assert len(mailbox.sent()) == 1


def test_a_chord_that_cannot_be_completed_does_not_keep_others_open(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """The body of the first is one that this process may not read."""
    app.backend.append(app.backend.emitter.emit(kinds_of.ChordStarted, "odd", size=0, callback=b"?", callback_content_type="x/y"))
    unsent(app, dsn)

    assert app.backend.sweep_chords() == ["g"]

    assert [message.id for message in mailbox.sent()] == ["body"]


def test_a_sweep_leaves_open_chords_alone(app: Celery, mailbox: Mailbox) -> None:
    """A member is missing, or the size is."""
    begin(app, 2)
    give_back(app, 0, "a")
    app.backend.apply_chord(("unsized", [app.AsyncResult("x")]), body(app))

    assert app.backend.sweep_chords() == []
    assert mailbox.sent() == []


# The view


def test_the_counter_falls_to_zero(app: Celery, dsn: str) -> None:
    """M39-M42: `count` starts at the size of the header, and each part takes one off."""
    begin(app, 3)
    seen = [(counter(dsn).count, counter(dsn).done, counter(dsn).state)]

    for index in range(3):
        give_back(app, index, index)
        seen.append((counter(dsn).count, counter(dsn).done, counter(dsn).state))

    assert seen == [(3, 0, "open"), (2, 1, "open"), (1, 2, "open"), (0, 3, "unlocked")]


def test_the_counter_gives_the_group_of_the_header(app: Celery, dsn: str) -> None:
    """M43, M44: group_result(app) is Celery's, and reads its members from the backend."""
    begin(app, 2)
    app.backend.mark_as_done("m0", "a")
    app.backend.mark_as_done("m1", "b")

    result = counter(dsn).group_result(app)

    assert isinstance(result, CeleryGroupResult)
    assert (result.id, [member.id for member in result.results]) == ("g", ["m0", "m1"])
    assert result.ready()
    assert result.get(timeout=60) == ["a", "b"]


def test_an_unknown_chord_does_not_exist(dsn: str) -> None:
    """M45: each model has its DoesNotExist."""
    with pytest.raises(ChordCounter.DoesNotExist):
        counter(dsn)


def test_the_parts_are_shown(app: Celery, dsn: str) -> None:
    """Who has returned, and with what."""
    begin(app, 3)
    give_back(app, 2, ValueError(), "FAILURE")
    give_back(app, 0, "a")

    with psycopg.connect(dsn, autocommit=True) as connection:
        parts = ChordPart.of(connection, "g")

    assert [(part.task_id, part.group_index, part.status) for part in parts] == [("m0", 0, "SUCCESS"), ("m2", 2, "FAILURE")]


def test_the_view_is_what_the_log_folds_to(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """After parts in all orders, a rebuild would change nothing."""
    give_back(app, 1, "b")
    begin(app, 3)
    give_back(app, 0, "a")
    give_back(app, 0, ValueError(), "FAILURE")
    backend.add_to_chord("g", app.AsyncResult("added"))
    give_back(app, 2, "c")
    give_back(app, 2, "d", task_id="added")

    with psycopg.connect(dsn, autocommit=True) as connection:
        verification = verify(connection)

    assert not verification.differences
    assert counter(dsn).state == "unlocked"
