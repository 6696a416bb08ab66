"""Chords on a real worker whose members do not end well, and those that are not plain: the body always ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from billiard.exceptions import WorkerLostError
from celery import chain, chord, group
from celery.exceptions import ChordError, Reject, TaskRevokedError

from celery_journal.consumers.backend import JournalBackend
from celery_journal.projections import verify

from .scene import ask, kinds, row, until, url_of
from .workers import Worker, available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that sweeps every second, on RabbitMQ, or Redis, or files."""
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    conf: dict[str, Any] = {"result_backend_transport_options": {"sweep_interval": 1.0}, "task_allow_error_cb_on_chord_header": True}
    folder = tmp_path_factory.mktemp("worker")
    with working(broker, url_of(embedded_database), embedded_database, folder, **conf) as worker:
        yield worker


def started(worker: Worker, *header: Any, body: Any = None) -> Any:
    """Start the chord; return the result of its body."""
    return chord(list(header), app=worker.app)(body or worker.signature("collect"))


def value_of(result: Any) -> Any:
    """The value that the body ends with."""
    return result.get(timeout=PATIENCE)


def failure_of(result: Any) -> ChordError:
    """The ChordError that the body ends with."""
    error = result.get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, ChordError)
    return error


def asked(worker: Worker, query: bytes, *parameters: object) -> list[Any]:
    """The first column of a query."""
    return [found[0] for found in ask(worker.dsn, query, *parameters)]


# Members that do not end well


def test_a_member_that_is_revoked_before_it_is_delivered(worker: Worker) -> None:
    """The worker has heard of the revoke, and then gets the task."""
    gone = worker.signature("add", 1, 1).set(task_id=str(uuid4()))
    worker.app.control.revoke(gone.id, reply=True, timeout=PATIENCE, limit=1)

    result = started(worker, worker.signature("add", 2, 2), gone)

    assert str(failure_of(result)) == f"Dependency {gone.id} raised {TaskRevokedError('revoked')!r}"


def test_a_member_that_is_revoked_while_it_waits_for_its_time(worker: Worker) -> None:
    """It is with the worker, and not due yet."""
    result = started(worker, worker.signature("add", 1, 1, countdown=2), worker.signature("add", 2, 2))
    late = result.parent.results[0]

    worker.app.control.revoke(late.id, reply=True, timeout=PATIENCE, limit=1)

    assert str(failure_of(result)) == f"Dependency {late.id} raised {TaskRevokedError('revoked')!r}"


def test_a_member_that_expires(worker: Worker) -> None:
    """Its time is over before it can run."""
    result = started(worker, worker.signature("add", 1, 1), worker.signature("add", 2, 2, expires=-1))

    assert str(failure_of(result)) == f"Dependency {result.parent.results[1].id} raised {TaskRevokedError('expired')!r}"


@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize("acks_late", [False, True])
def test_a_member_that_rejects_its_message(worker: Worker, requeue: bool, acks_late: bool) -> None:
    """It has failed, unless its message comes back: which one that was acknowledged before cannot."""
    name = "reject_late" if acks_late else "reject"
    result = started(worker, worker.signature("add", 1, 1), worker.signature(name, requeue))

    if requeue and acks_late:
        assert value_of(result) == [2, "came back"]
    else:
        assert str(failure_of(result)) == f"Dependency {result.parent.results[1].id} raised {Reject('not for me', requeue)!r}"
        assert row(worker.dsn, result.parent.results[1].id).status == "FAILURE"


def test_a_member_that_is_lost_with_its_process(worker: Worker) -> None:
    """Killed from outside, such as for want of memory."""
    result = started(worker, worker.signature("add", 1, 1), worker.signature("die"))

    error = failure_of(result)

    assert str(error).startswith(f"Dependency {result.parent.results[1].id} raised WorkerLostError")
    assert isinstance(error.__cause__, (WorkerLostError, type(None)))


def test_a_member_that_is_lost_after_its_result_is_stored(worker: Worker) -> None:
    """It did succeed: the body gets its value, in its place."""
    result = started(worker, worker.signature("vanish"), worker.signature("add", 1, 1))

    assert value_of(result) == ["stored", 2]


def test_a_member_that_stores_a_failure_by_hand(worker: Worker) -> None:
    """Ignore() after update_state(): nobody tells the chord, and the sweep finds it."""
    result = started(worker, worker.signature("add", 1, 1), worker.signature("ignore", "FAILURE"))

    assert str(failure_of(result)) == f"Dependency {result.parent.results[1].id} raised {ValueError('by hand')!r}"


def test_a_member_that_somebody_else_completes(worker: Worker) -> None:
    """Ignore(), and the result comes from outside: its value stands where its place in the header is."""
    result = started(worker, worker.signature("ignore"), worker.signature("add", 1, 1))
    until(lambda: "chord-part-returned" in kinds(worker.dsn, result.parent.id))

    worker.app.backend.store_result(result.parent.results[0].id, "by hand", "SUCCESS")

    assert value_of(result) == ["by hand", 2]


# Members that have more behind them


@pytest.mark.parametrize("first", ["fail", "reject", "die", "unheard_of", "expires", "ignore"])
@pytest.mark.parametrize("then", ["a task", "a group", "a chord"])
def test_a_chain_whose_first_task_does_not_succeed(worker: Worker, first: str, then: str) -> None:
    """What comes after it will never run, and the chord does not wait for it."""
    broken = {
        "fail": worker.signature("fail", "no"),
        "expires": worker.signature("add", 1, 1, expires=-1),
        "ignore": worker.signature("ignore", "FAILURE"),
    }.get(first) or worker.signature(first)
    add = worker.signature("add", 1)
    rest = {
        "a task": add,
        "a group": group([add, add.clone()], app=worker.app),
        "a chord": chord([add, add.clone()], worker.signature("collect"), app=worker.app),
    }[then]

    result = started(worker, chain(broken, rest, app=worker.app), worker.signature("add", 2, 2))

    failure_of(result)


@pytest.mark.parametrize("what", ["fail", "unheard_of", "die", "good"])
def test_chords_in_chords_in_chords(worker: Worker, what: str) -> None:
    """Three deep: the outermost body ends, whatever happens in the innermost header."""
    broken = {"fail": worker.signature("fail", "no"), "good": worker.signature("add", 1, 1)}.get(what) or worker.signature(what)
    innermost = chord([broken, worker.signature("add", 2, 2)], worker.signature("collect"), app=worker.app)
    middle = chord([innermost, worker.signature("add", 3, 3)], worker.signature("collect"), app=worker.app)

    result = started(worker, worker.signature("add", 4, 4), middle)

    if what == "good":
        assert value_of(result) == [8, [[2, 4], 6]]
    else:
        failure_of(result)


@pytest.mark.parametrize("what", ["fail", "good"])
def test_groups_in_groups_in_a_header(worker: Worker, what: str) -> None:
    """Each member counts, however deep."""
    deep = worker.signature("fail", "no") if what == "fail" else worker.signature("add", 1, 1)
    inner = group([deep, group([worker.signature("add", 2, 2), worker.signature("add", 3, 3)], app=worker.app)], app=worker.app)

    result = started(worker, worker.signature("add", 4, 4), inner)

    if what == "good":
        assert sorted(flat(value_of(result))) == [2, 4, 6, 8]
    else:
        failure_of(result)


def flat(values: Any) -> list[Any]:
    return [leaf for value in values for leaf in (flat(value) if isinstance(value, list) else [value])]


# Bodies


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "in another chord"])
@pytest.mark.parametrize("kind", ["group", "chain", "chord"])
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_a_body_of_several_tasks_ends(worker: Worker, kind: str, good: bool, outer: bool) -> None:
    """A group as a body, a chain, another chord: with the values, or all of it with the error."""
    collect = worker.signature("collect")
    several = {
        "group": group([collect, collect.clone()], app=worker.app),
        "chain": chain(collect, collect.clone(), app=worker.app),
        "chord": chord([collect, collect.clone()], collect.clone(), app=worker.app),
    }[kind]
    header = [worker.signature("add", 1, 1) if good else worker.signature("fail", "no"), worker.signature("add", 2, 2)]
    if outer:
        result = started(worker, chord(header, several, app=worker.app), worker.signature("add", 4, 4))
        inner = {"group": [[2, 4], [2, 4]], "chain": [2, 4], "chord": [[2, 4], [2, 4]]}[kind]
        if good:
            assert flat(value_of(result)) == [*flat(inner), 8]
        else:
            failure_of(result)
        return

    result = started(worker, *header, body=several)

    if good:
        assert flat(value_of(result)) == {"group": [2, 4, 2, 4], "chain": [2, 4], "chord": [2, 4, 2, 4]}[kind]
    else:
        ends = result.results if kind == "group" else [result]
        for end in ends:
            assert isinstance(end.get(timeout=PATIENCE, propagate=False), Exception)
            assert row(worker.dsn, end.id).status == "FAILURE"


def test_a_group_whose_header_fails_is_failed_before_it_is_revoked(worker: Worker) -> None:
    """From 5.6 on Celery asks for the revoke itself; whoever waits hears of the failure first, and learns its cause."""
    collect = worker.signature("collect")
    body = group([collect, collect.clone()], app=worker.app)

    result = started(worker, worker.signature("fail", "no"), worker.signature("add", 2, 2), body=body)

    until(lambda: all("task-failed" in kinds(worker.dsn, member.id) for member in result.results))
    for member in result.results:
        told = kinds(worker.dsn, member.id)
        assert not {"operator-acted", "task-revoked"} & set(told[: told.index("task-failed")])
        assert told.count("task-failed") == 1
        with pytest.raises(ValueError, match="no"):
            member.get(timeout=PATIENCE)


def test_an_immutable_body_gets_no_values(worker: Worker) -> None:
    """It has arguments of its own."""
    body = worker.signature("add", 20, 1)
    body.set_immutable(True)

    assert value_of(started(worker, worker.signature("add", 1, 1), worker.signature("add", 2, 2), body=body)) == 21


def heard(worker: Worker, task_id: str) -> list[str]:
    """The errbacks that the failure of the task has called."""
    query = b"select task_id from celery_journal.task_result where task_name = 'scene.oops' and parent_id = %s and status = 'SUCCESS'"
    return asked(worker, query, task_id)


def test_the_errback_of_the_body_hears_of_a_failed_member(worker: Worker) -> None:
    """link_error of the body, once."""
    body = worker.signature("collect")
    body.link_error(worker.signature("oops"))

    result = started(worker, worker.signature("fail", "no"), worker.signature("add", 2, 2), body=body)

    failure_of(result)
    until(lambda: heard(worker, result.id))
    assert len(heard(worker, result.id)) == 1
    assert heard(worker, result.parent.results[0].id) == []


def test_the_errback_of_the_chord_hears_of_both_where_that_is_allowed(worker: Worker) -> None:
    """task_allow_error_cb_on_chord_header: of the member that failed, and of the body that does not run."""
    whole = chord([worker.signature("fail", "no"), worker.signature("add", 2, 2)], worker.signature("collect"), app=worker.app)
    whole.link_error(worker.signature("oops"))

    result = whole.apply_async()

    failure_of(result)
    failed, good = result.parent.results
    until(lambda: heard(worker, result.id) and heard(worker, failed.id))
    assert [len(heard(worker, task.id)) for task in (result, failed, good)] == [1, 1, 0]


def test_an_errback_of_an_inner_and_the_outer_body_is_called_once(worker: Worker) -> None:
    """Celery links that of the outer chord to both: the inner body fails and calls it, and the outer one fails because of that."""
    inner_body = worker.signature("collect").set(task_id=str(uuid4()))
    outer_body = worker.signature("collect")
    for body in (inner_body, outer_body):
        body.link_error(worker.signature("oops"))
    outer_body.link_error(worker.signature("oops").set(priority=1))  # of the outer alone
    inner = chord([worker.signature("add", 1, 1), worker.signature("fail", "no")], inner_body, app=worker.app)

    result = started(worker, worker.signature("add", 2, 2), inner, body=outer_body)

    failure_of(result)
    until(lambda: heard(worker, result.id) and heard(worker, inner_body.id))
    assert (len(heard(worker, inner_body.id)), len(heard(worker, result.id))) == (1, 1)


# Headers


def test_a_generated_header(worker: Worker) -> None:
    """It has no length until it was sent."""
    header = (worker.signature("add", number, number) for number in range(5))

    assert value_of(chord(header, app=worker.app)(worker.signature("collect"))) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("kind", ["task", "group", "chain", "chord", "fail"])
def test_a_member_that_is_replaced(worker: Worker, kind: str) -> None:
    """What stands for it returns its part."""
    add = worker.signature("add", 1, 1)
    stand_in = {
        "task": add,
        "group": group([add, add.clone()], app=worker.app),
        "chain": chain(add, worker.signature("add", 1), app=worker.app),
        "chord": chord([add, add.clone()], worker.signature("collect"), app=worker.app),
        "fail": worker.signature("fail", "no"),
    }[kind]

    result = started(worker, worker.signature("replace", stand_in), worker.signature("add", 4, 4))

    if kind == "fail":
        failure_of(result)
    else:
        assert value_of(result) == [{"task": 2, "group": [2, 2], "chain": 3, "chord": [2, 2]}[kind], 8]


def test_a_member_that_adds_another(worker: Worker) -> None:
    """The body waits for both."""
    result = started(worker, worker.signature("recruit", 7), worker.signature("add", 1, 1))

    assert sorted(map(str, value_of(result))) == ["2", "7", "[7, 'too']"]


def test_a_frozen_chord_that_is_sent_twice_runs_twice(worker: Worker) -> None:
    """The second run has the ids of the first, and a body of its own."""
    frozen = chord([worker.signature("add", 1, 1), worker.signature("add", 2, 2)], worker.signature("collect"), app=worker.app)
    frozen.freeze()
    first = frozen.apply_async()
    assert value_of(first) == [2, 4]
    until(lambda: kinds(worker.dsn, first.parent.id)[-1] == "chord-unlocked")

    second = frozen.apply_async()

    assert second.parent.id == first.parent.id
    until(lambda: kinds(worker.dsn, first.parent.id).count("chord-unlocked") == 2)
    assert value_of(second) == [2, 4]


def test_a_chord_unlock_from_another_backend_still_works(worker: Worker) -> None:
    """Its header runs here now, and the message that polls for it is still in the queue."""
    members = [worker.send("add", number, number) for number in range(2)]
    header = worker.app.GroupResult(str(uuid4()), members)
    body = worker.signature("collect").set(task_id=str(uuid4()))

    super(JournalBackend, worker.app.backend).fallback_chord_unlock(header, body, countdown=0, interval=0.1)

    assert value_of(worker.app.AsyncResult(body.id)) == [0, 2]


def test_nothing_is_left_behind(worker: Worker) -> None:
    """After all this no chord is open, the only leases are those of the sweeps, and a rebuild would change nothing."""
    # Celery also tells the size of a group at the end of a chain in a header, which is no chord and never starts.
    query = b"""select c.group_id from celery_journal.chord_counter c join celery_journal.event e on e.stream = c.group_id
                 where c.state = 'open' and e.kind = 'chord-started'"""
    until(lambda: asked(worker, query) == [])

    assert set(asked(worker, b"select group_id from celery_journal.chord_lease")) <= {"", "\1lost"}
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        assert verify(connection).differences == []


@pytest.mark.parametrize("nested", [False, True])
def test_a_group_behind_a_task_that_fails_fails_too(worker: Worker, nested: bool) -> None:
    """R26, celery #6437: every task of it, or whoever waits for the group waits for ever."""
    tasks = [worker.signature("add", 1), worker.signature("add", 2)]
    behind = group([group(tasks, app=worker.app), worker.signature("add", 3)], app=worker.app) if nested else group(tasks, app=worker.app)
    result = chain(worker.signature("fail", "first"), behind, app=worker.app).apply_async()

    with pytest.raises(ValueError, match="first"):
        result.get(timeout=PATIENCE)
    until(result.ready)  # the group is told after the task
    assert all(member.failed() for member in result.results if not hasattr(member, "results"))
