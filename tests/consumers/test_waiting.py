"""Results are pushed: whoever waits is woken, and while nothing happens the database hears nothing."""

from __future__ import annotations

import gc
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult, ResultSet

from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal.events import TaskFailed

from .proxy import Proxy
from .scene import ask, delivered, until, url_of

NewApp = Callable[..., Celery]

#: What a connection that listens is doing.
LISTENERS = (
    b"select pid from pg_stat_activity"
    b" where datname = current_database() and query like '%%pg_advisory_lock_shared%%' and pid <> pg_backend_pid()"
)

NEVER = 3600.0


@pytest.fixture(autouse=True)
def _silence(dsn: str) -> None:
    """Nobody listens: a listener of another test stays for some seconds after its last waiter."""
    until(lambda: not listeners(dsn))


@pytest.fixture
def waiting_app(make_app: NewApp) -> Celery:
    """An app whose waiters are only ever woken by a push: the safety read comes too late for any test."""
    return make_app(result_backend_transport_options={"reread_interval": NEVER})


@pytest.fixture
def writer(make_app: NewApp) -> JournalBackend:
    """The backend of somebody else, who stores results."""
    backend: JournalBackend = make_app().backend
    return backend


@pytest.fixture
def later() -> Iterator[Callable[..., Any]]:
    """Runs something in a thread; what it raises fails the test."""
    with ThreadPoolExecutor(40) as pool:
        yield pool.submit


def listeners(dsn: str) -> int:
    return len(ask(dsn, LISTENERS))


def failure_of(backend: JournalBackend, task_id: str, error: str) -> TaskFailed:
    result = json.dumps({"exc_type": error, "exc_message": ["mine"], "exc_module": "builtins"}).encode()
    return backend.emitter.emit(TaskFailed, task_id, result=result, content_type="application/json", content_encoding="utf-8")


def heard(app: Celery, dsn: str) -> None:
    """Wait until somebody listens."""
    until(lambda: listeners(dsn))
    time.sleep(0.2)  # and has read what happened before


def test_get_returns_when_the_result_is_stored(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """R26: without a single poll in between."""
    result = waiting_app.AsyncResult(str(uuid4()))
    answer = later(result.get, timeout=60)
    heard(waiting_app, dsn)

    writer.store_result(result.id, [1, 2], "SUCCESS")

    assert answer.result(10) == [1, 2]


def test_a_failure_is_pushed_too(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """R04: the task's own error is raised."""
    result = waiting_app.AsyncResult(str(uuid4()))
    answer = later(result.get, timeout=60)
    heard(waiting_app, dsn)

    writer.store_result(result.id, KeyError("gone"), "FAILURE")

    with pytest.raises(KeyError, match="gone"):
        answer.result(10)


def test_while_waiting_the_database_hears_nothing(make_app: NewApp, proxy: Proxy, dsn: str, later: Callable[..., Any]) -> None:
    """A get() of a second without a result costs a few round trips at its beginning and one at its end."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options={"reread_interval": NEVER})
    first = later(app.AsyncResult("a").get, timeout=30)
    heard(app, dsn)

    with proxy.counting() as counted:
        time.sleep(1.5)

    assert sum(counted) == 0
    assert not first.done()
    app.backend.store_result("a", 1, "SUCCESS")
    assert first.result(10) == 1


@pytest.mark.parametrize("timeout", [0.05, 0.3, 1.0])
def test_a_timeout_is_kept(waiting_app: Celery, timeout: float) -> None:
    """R03: celery.exceptions.TimeoutError, when it is time and not much later."""
    started = time.monotonic()

    with pytest.raises(CeleryTimeoutError):
        waiting_app.AsyncResult(str(uuid4())).get(timeout=timeout)

    assert timeout <= time.monotonic() - started < timeout + 0.5


def test_no_time_is_one_look(waiting_app: Celery, writer: JournalBackend) -> None:
    """A timeout of 0 returns what is there, and raises at once if there is nothing."""
    writer.store_result("there", 7, "SUCCESS")

    assert waiting_app.AsyncResult("there").get(timeout=0) == 7
    with pytest.raises(CeleryTimeoutError):
        waiting_app.AsyncResult("not there").get(timeout=0)


def test_two_waiters_on_one_id_are_both_woken(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """Two result objects of one task, and one object in two threads."""
    task_id = str(uuid4())
    shared = waiting_app.AsyncResult(task_id)
    answers = [later(result.get, timeout=60) for result in (shared, shared, waiting_app.AsyncResult(task_id))]
    heard(waiting_app, dsn)
    time.sleep(0.3)

    writer.store_result(task_id, "both", "SUCCESS")

    assert [answer.result(10) for answer in answers] == ["both"] * 3


def test_a_restored_group_is_pushed_while_the_original_waits(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """Stock Redis hangs here up to Celery 5.6."""
    original = waiting_app.GroupResult(str(uuid4()), [waiting_app.AsyncResult(str(uuid4())) for _ in range(3)])
    original.save()
    restored = waiting_app.GroupResult.restore(original.id, app=waiting_app)
    answers = [later(group.get, timeout=60) for group in (original, restored)]
    heard(waiting_app, dsn)
    time.sleep(0.3)

    for number, member in enumerate(original.results):
        writer.store_result(member.id, number, "SUCCESS")

    assert [answer.result(10) for answer in answers] == [[0, 1, 2]] * 2


def test_thirty_two_threads_wait_with_one_listener(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """Half of them for a task of their own, half for the same; one connection listens, whatever they wait for."""
    ids = [str(uuid4()) for _ in range(16)]
    common = str(uuid4())
    answers = [later(waiting_app.AsyncResult(task_id).get, timeout=60) for task_id in [*ids, *[common] * 16]]
    heard(waiting_app, dsn)
    time.sleep(0.5)
    assert listeners(dsn) == 1

    for number, task_id in enumerate([*ids, common]):
        writer.store_result(task_id, number, "SUCCESS")

    assert [answer.result(30) for answer in answers] == [*range(16), *[16] * 16]


def test_a_waiter_survives_the_end_of_its_connection(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """Every connection is terminated, and what was stored meanwhile is not missed."""
    result = waiting_app.AsyncResult(str(uuid4()))
    answer = later(result.get, timeout=60)
    heard(waiting_app, dsn)

    ask(dsn, b"select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
    writer.store_result(result.id, "kept", "SUCCESS")

    assert answer.result(30) == "kept"


def test_a_waiter_listens_again(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """After the connection was lost, the next result is pushed as before."""
    result = waiting_app.AsyncResult(str(uuid4()))
    answer = later(result.get, timeout=60)
    heard(waiting_app, dsn)
    (pid,) = ask(dsn, LISTENERS)[0]

    ask(dsn, b"select pg_terminate_backend(%s)", pid)
    until(lambda: [row for row in ask(dsn, LISTENERS) if row != (pid,)])
    time.sleep(0.3)
    assert not answer.done()
    writer.store_result(result.id, "again", "SUCCESS")

    assert answer.result(10) == "again"


def test_nobody_listens_where_nobody_waits(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """Results that are dropped, read or ready cost no connection, and groups that are only sent neither."""
    for number in range(50):
        waiting_app.GroupResult(str(uuid4()), [waiting_app.AsyncResult(f"{number}-{index}") for index in range(5)])
    writer.store_result("ready", 1, "SUCCESS")
    assert waiting_app.AsyncResult("ready").get(timeout=10) == 1
    assert waiting_app.AsyncResult("unknown").state == "PENDING"
    gc.collect()
    time.sleep(0.3)

    assert listeners(dsn) == 0


def test_a_writer_says_nothing_where_nobody_listens(writer: JournalBackend, dsn: str) -> None:
    """No NOTIFY, which costs a lock of the whole cluster."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(b"listen celery_journal")
        writer.store_result("a", 1, "SUCCESS")
        assert list(connection.notifies(timeout=0.3)) == []

        connection.execute(
            b"select pg_advisory_lock_shared(hashtextextended('celery_journal.results', place)) from generate_series(0, 63) as place"
        )
        writer.store_result("b", {"done": 1}, "PROGRESS")
        assert list(connection.notifies(timeout=0.3)) == []
        writer.store_result("b", "secret", "SUCCESS")
        (hint,) = connection.notifies(timeout=10, stop_after=1)

    assert hint.channel == "celery_journal"
    assert len(hint.payload) == 12


def test_a_callback_is_called_though_nobody_waits(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """R65 then: also of a result that nobody keeps."""
    called: list[Any] = []
    waiting_app.AsyncResult("a").then(lambda result: called.append((result.id, result.result)))
    gc.collect()
    heard(waiting_app, dsn)

    writer.store_result("a", 5, "SUCCESS")

    until(lambda: called)
    assert called == [("a", 5)]


def test_a_callback_of_what_is_ready_is_called(waiting_app: Celery, writer: JournalBackend) -> None:
    """It need not be pushed any more."""
    writer.store_result("a", 5, "SUCCESS")
    called: list[Any] = []

    waiting_app.AsyncResult("a").then(lambda result: called.append(result.result))

    until(lambda: called)
    assert called == [5]


def test_a_callback_of_a_group_is_called_once_all_are_ready(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """R66 then: a group that somebody keeps."""
    group = waiting_app.GroupResult(str(uuid4()), [waiting_app.AsyncResult(f"m{index}") for index in range(3)])
    called: list[Any] = []
    group.then(lambda ready: called.append([member.result for member in ready.results]))
    heard(waiting_app, dsn)

    for index in range(3):
        assert not called
        writer.store_result(f"m{index}", index, "SUCCESS")

    until(lambda: called)
    assert called == [[0, 1, 2]]


def test_a_callback_of_a_group_may_come_late(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """R66 then: nobody listens for a group that somebody only keeps, until a callback is attached, be it to a group around it."""
    inner = waiting_app.GroupResult("inner", [waiting_app.AsyncResult("a"), waiting_app.AsyncResult("b")])
    outer = waiting_app.GroupResult("outer", [inner, waiting_app.AsyncResult("c")])
    time.sleep(0.5)
    assert listeners(dsn) == 0

    called: list[Any] = []
    outer.then(lambda ready: called.append(ready.id))
    heard(waiting_app, dsn)
    for name in "abc":
        writer.store_result(name, name, "SUCCESS")

    until(lambda: called)
    assert called == ["outer"]


def test_a_callback_that_raises_harms_no_other(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """It is logged, and the next is called."""
    called: list[Any] = []
    waiting_app.AsyncResult("bad").then(lambda _result: 1 / 0)
    waiting_app.AsyncResult("good").then(lambda result: called.append(result.id))
    heard(waiting_app, dsn)

    writer.store_result("bad", 1, "SUCCESS")
    time.sleep(0.2)
    writer.store_result("good", 1, "SUCCESS")

    until(lambda: called)


def test_a_callback_may_wait_itself(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """Nothing that the waiting needs is held while it runs."""
    called: list[Any] = []
    waiting_app.AsyncResult("a").then(lambda _result: called.append(waiting_app.AsyncResult("b").get(timeout=30)))
    heard(waiting_app, dsn)

    writer.store_result("a", 1, "SUCCESS")
    time.sleep(0.5)
    writer.store_result("b", 2, "SUCCESS")

    until(lambda: called)
    assert called == [2]


def test_results_that_nobody_waits_for_leave_nothing_behind(waiting_app: Celery, writer: JournalBackend) -> None:
    """R65: not in memory, whether they have callbacks, time out, or are simply dropped."""
    for number in range(200):
        waiting_app.AsyncResult(f"dropped-{number}")
        waiting_app.GroupResult(str(number), [waiting_app.AsyncResult(f"grouped-{number}")])
    for number in range(3):
        with pytest.raises(CeleryTimeoutError):
            waiting_app.AsyncResult(f"late-{number}").get(timeout=0.01)
    waiting_app.AsyncResult("called").then(lambda _result: None)
    writer.store_result("called", 1, "SUCCESS")
    time.sleep(0.5)
    gc.collect()

    until(
        lambda: not [thing for thing in gc.get_objects() if issubclass(type(thing), waiting_app.AsyncResult) and thing.app is waiting_app]
    )


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_every_transition_is_told(make_app: NewApp, writer: JournalBackend, dsn: str, later: Callable[..., Any], serializer: str) -> None:
    """R02 on_message: in order, those from before the wait included, with the end as the last."""
    app = make_app(result_serializer=serializer, result_backend_transport_options={"reread_interval": NEVER})
    request = delivered(app)
    told: list[dict[str, Any]] = []
    app.backend.store_result(request.id, {"pid": 1}, "STARTED", request=request)
    answer = later(app.AsyncResult(request.id).get, timeout=60, on_message=told.append)
    heard(app, dsn)

    for done in (1, 2):
        app.backend.store_result(request.id, {"done": done}, "PROGRESS", request=request)
    app.backend.store_result(request.id, OSError("again"), "RETRY", request=request)
    until(lambda: len(told) == 4)
    request.retries = 1
    app.backend.store_result(request.id, "end", "SUCCESS", request=request)

    assert answer.result(10) == "end"
    assert [(meta["task_id"], meta["status"]) for meta in told] == [
        (request.id, state) for state in ("STARTED", "PROGRESS", "PROGRESS", "RETRY", "SUCCESS")
    ]
    assert [meta["result"] for meta in told[1:3]] == [{"done": 1}, {"done": 2}]
    assert isinstance(told[3]["result"], OSError)


def test_transitions_are_told_while_another_listens_already(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """R02 on_message: the first waiter wanted the end only."""
    plain = later(waiting_app.AsyncResult("a").get, timeout=60)
    heard(waiting_app, dsn)
    told: list[str] = []
    curious = later(waiting_app.AsyncResult("a").get, timeout=60, on_message=lambda meta: told.append(meta["status"]))
    locks = b"select from pg_locks l join pg_database d on d.oid = l.database where mode = 'ShareLock' and datname = current_database()"
    until(lambda: len(ask(dsn, locks)) == 2 * 64)
    time.sleep(0.3)

    writer.store_result("a", None, "PROGRESS")
    until(lambda: told == ["PROGRESS"])
    writer.store_result("a", 1, "SUCCESS")

    assert (plain.result(10), curious.result(10), told) == (1, 1, ["PROGRESS", "SUCCESS"])


def test_on_interval_comes_again_and_again(waiting_app: Celery) -> None:
    """R02 on_interval, interval: every so many seconds."""
    calls: list[float] = []

    with pytest.raises(CeleryTimeoutError):
        waiting_app.AsyncResult("a").get(timeout=1, interval=0.1, on_interval=lambda: calls.append(time.monotonic()))

    assert 4 <= len(calls) <= 11


def test_the_error_of_a_parent_is_raised(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """R02 follow_parents: as soon as the parent has failed, though its child never runs."""
    grandparent = waiting_app.AsyncResult("grandparent")
    parent = waiting_app.AsyncResult("parent", parent=grandparent)
    answer = later(waiting_app.AsyncResult("child", parent=parent).get, timeout=60)
    heard(waiting_app, dsn)

    writer.store_result("grandparent", ValueError("first"), "FAILURE")

    with pytest.raises(ValueError, match="first"):
        answer.result(10)


def test_parents_that_are_not_ready_are_not_asked_for_at_every_interval(
    make_app: NewApp, proxy: Proxy, dsn: str, later: Callable[..., Any]
) -> None:
    """What whoever waits has read of them is still true, or a push would have come."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options={"reread_interval": NEVER})
    child = app.AsyncResult("child", parent=app.AsyncResult("parent"))
    answer = later(child.get, timeout=30, interval=0.05)
    heard(app, dsn)

    with proxy.counting() as counted:
        time.sleep(1)

    assert sum(counted) == 0
    app.backend.store_result("child", 1, "SUCCESS")
    assert answer.result(10) == 1


def test_members_come_as_they_become_ready(waiting_app: Celery, writer: JournalBackend, dsn: str) -> None:
    """R66 iter_native: not in the order of the group."""
    group = waiting_app.GroupResult(str(uuid4()), [waiting_app.AsyncResult(f"m{index}") for index in range(3)])
    members = group.iter_native(timeout=60)
    found = []
    for index in (2, 0, 1):
        writer.store_result(f"m{index}", index, "SUCCESS")
        found.append(next(members))

    assert [(task_id, meta["result"]) for task_id, meta in found] == [("m2", 2), ("m0", 0), ("m1", 1)]
    assert list(members) == []


def test_nested_groups_are_waited_for(waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """R26: with their structure, and with a member that is in both twice."""
    inner = waiting_app.GroupResult("inner", [waiting_app.AsyncResult("a"), waiting_app.AsyncResult("b")])
    outer = waiting_app.GroupResult("outer", [inner, waiting_app.AsyncResult("c"), waiting_app.AsyncResult("a")])
    answer = later(outer.get, timeout=60)
    heard(waiting_app, dsn)

    for name in "cab":
        writer.store_result(name, name.upper(), "SUCCESS")

    assert answer.result(10) == [["A", "B"], "C", "A"]


def test_a_group_times_out_as_a_whole(waiting_app: Celery, writer: JournalBackend) -> None:
    """R26 timeout: whatever part of it is ready."""
    group = waiting_app.GroupResult("g", [waiting_app.AsyncResult("a"), waiting_app.GroupResult("h", [waiting_app.AsyncResult("b")])])
    writer.store_result("a", 1, "SUCCESS")
    started = time.monotonic()

    with pytest.raises(CeleryTimeoutError):
        group.get(timeout=0.3)

    assert time.monotonic() - started < 1


def test_an_empty_group_is_ready(waiting_app: Celery) -> None:
    """R26: nothing to wait for."""
    assert waiting_app.GroupResult("g", []).join() == []
    assert list(waiting_app.backend.iter_native(ResultSet([], app=waiting_app))) == []


def test_a_group_is_told_of_every_transition_of_its_members(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """R26 on_message."""
    group = waiting_app.GroupResult("g", [waiting_app.AsyncResult("a"), waiting_app.AsyncResult("b")])
    told: list[Any] = []
    answer = later(group.get, timeout=60, on_message=lambda meta: told.append((meta["task_id"], meta["status"])))
    heard(waiting_app, dsn)

    for name in "ab":
        writer.store_result(name, None, "STARTED")
        writer.store_result(name, name, "SUCCESS")

    assert answer.result(10) == ["a", "b"]
    assert sorted(told) == [("a", "STARTED"), ("a", "SUCCESS"), ("b", "STARTED"), ("b", "SUCCESS")]


def test_without_listening_results_are_polled(make_app: NewApp, writer: JournalBackend, dsn: str, later: Callable[..., Any]) -> None:
    """An empty listen_dsn: no connection listens, and get() returns all the same."""
    app = make_app(result_backend_transport_options={"listen_dsn": ""})
    answer = later(app.AsyncResult("a").get, timeout=60)
    time.sleep(0.5)
    assert listeners(dsn) == 0

    writer.store_result("a", 1, "SUCCESS")

    assert answer.result(10) == 1


def test_a_listen_dsn_that_leads_nowhere_is_said_once(
    make_app: NewApp, writer: JournalBackend, later: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Results are polled meanwhile."""
    app = make_app(result_backend_transport_options={"listen_dsn": "postgresql://postgres@127.0.0.1:1/nowhere"})
    answer = later(app.AsyncResult("a").get, timeout=60)
    until(lambda: "polled" in caplog.text)
    time.sleep(1)

    writer.store_result("a", 1, "SUCCESS")

    assert answer.result(10) == 1
    assert caplog.text.count("results are polled until") == 1


def test_one_that_was_never_reached_is_said_at_once(make_app: NewApp) -> None:
    """A database that is not there raises, and does not hang."""
    app = make_app("journal+postgresql://postgres@127.0.0.1:1/nowhere", result_backend_transport_options={"retry_budget": 0})

    with pytest.raises(Exception, match="no PostgreSQL answers"):
        app.AsyncResult("a").get(timeout=60)


def test_a_result_that_was_pickled_is_waited_for(waiting_app: Celery, writer: JournalBackend) -> None:
    """No connection travels with it, and no second pool is opened where it arrives."""
    waiting_app.set_current()
    result = waiting_app.AsyncResult("a")
    copied = pickle.loads(pickle.dumps(result))
    writer.store_result("a", 1, "SUCCESS")

    assert copied.get(timeout=10) == 1
    assert copied.backend is waiting_app.backend


def test_results_are_dropped_in_any_thread_at_any_time(waiting_app: Celery, dsn: str, later: Callable[..., Any]) -> None:
    """R65: garbage collection calls the backend; it takes no lock that somebody may hold."""
    answer = later(waiting_app.AsyncResult("a").get, timeout=60)
    heard(waiting_app, dsn)
    backend: JournalBackend = waiting_app.backend
    ear = backend.ear
    with ear._lock:
        dropping = threading.Thread(target=lambda: [waiting_app.AsyncResult(str(number)) for number in range(100)] and None)
        dropping.start()
        dropping.join(10)
        assert not dropping.is_alive()

    backend.store_result("a", 1, "SUCCESS")
    assert answer.result(10) == 1


def test_a_wait_that_is_given_up_may_end_anywhere(waiting_app: Celery) -> None:
    """A generator that nobody reads any more is collected in whatever this thread does at the moment, the listening included."""
    group = waiting_app.GroupResult("g", [waiting_app.AsyncResult("a"), waiting_app.AsyncResult("b")])
    members, ear = group.iter_native(), waiting_app.backend.ear
    threading.Timer(0.5, waiting_app.backend.store_result, ["a", 1, "SUCCESS"]).start()
    assert next(members)[0] == "a"
    assert ear._waiters

    collected = threading.Event()

    def collect() -> None:
        with ear._lock:
            members.close()
        collected.set()

    threading.Thread(target=collect, daemon=True).start()
    assert collected.wait(10)
    assert not ear._waiters


def test_what_cannot_be_decoded_is_raised_to_whoever_asked_for_it(
    make_app: NewApp, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """Others go on waiting."""
    strict = make_app(result_accept_content=["json"], result_backend_transport_options={"reread_interval": NEVER})
    pickler = make_app(result_serializer="pickle")
    bad, good = later(strict.AsyncResult("bad").get, timeout=60), later(strict.AsyncResult("good").get, timeout=60)
    heard(strict, dsn)

    pickler.backend.store_result("bad", 1, "SUCCESS")
    with pytest.raises(Exception, match="efusing to deserialize"):
        bad.result(10)
    writer.store_result("good", 1, "SUCCESS")

    assert good.result(10) == 1


def test_a_callback_whose_result_cannot_be_read_harms_no_other(make_app: NewApp, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is said in the log, once."""
    strict = make_app(result_accept_content=["json"])
    make_app(result_serializer="pickle").backend.store_result("bad", 1, "SUCCESS")
    strict.backend.store_result("good", 1, "SUCCESS")
    called: list[str] = []

    for name in ("bad", "good"):
        strict.AsyncResult(name).then(lambda result: called.append(result.id))

    until(lambda: called)
    time.sleep(1.5)
    assert called == ["good"]
    assert caplog.text.count("a result with a callback cannot be read") == 1


def test_callbacks_go_on_when_new_ones_come_all_the_time(waiting_app: Celery, writer: JournalBackend) -> None:
    """The thread that calls them ends with the last and starts with the next; none is lost in between."""
    called: list[int] = []
    for number in range(60):
        writer.store_result(f"r{number}", number, "SUCCESS")
        waiting_app.AsyncResult(f"r{number}").then(lambda result: called.append(result.result))
        time.sleep(0.03 * (number % 4))

    until(lambda: len(called) == 60)
    assert sorted(called) == list(range(60))
    backend: JournalBackend = waiting_app.backend
    until(lambda: not backend._background._running)


def test_celery_finds_what_it_looks_for(backend: JournalBackend) -> None:
    """R65 supports_native_join, and is_async, without which callbacks of groups are never called."""
    assert backend.is_async
    assert backend.supports_native_join
    assert GroupResult("g", [], app=backend.app).supports_native_join is None


def test_the_error_of_a_header_goes_before_that_of_its_body(
    waiting_app: Celery, writer: JournalBackend, dsn: str, later: Callable[..., Any]
) -> None:
    """R02 follow_parents: with Celery's own backends, get() of a chord raises what its member raised."""
    header = waiting_app.GroupResult("header", [waiting_app.AsyncResult("good"), waiting_app.AsyncResult("bad")])
    answer = later(waiting_app.AsyncResult("body", parent=header).get, timeout=60)
    heard(waiting_app, dsn)

    with psycopg.connect(dsn, autocommit=True) as connection:  # both at once, so that it is no matter of luck
        failures = [("body", "RuntimeError"), ("bad", "ValueError")]
        writer.journal.append(connection, *(failure_of(writer, task_id, error) for task_id, error in failures))

    with pytest.raises(ValueError, match="mine"):
        answer.result(10)
