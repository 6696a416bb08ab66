"""Results and histories from an event loop, as web handlers ask for them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import ref

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from celery.exceptions import TimeoutError as CeleryTimeoutError
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers.backend import JournalUnavailable
from celery_journal.consumers.models import TaskResult
from celery_journal.consumers.results import install

from .conftest import NewApp
from .proxy import Proxy
from .scene import ask, chained, current, delivered, url_of


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: the event loops are ours."""
    return embedded_database


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    return install(make_app())


def later(seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
    """Make the call in a thread, in a while."""
    threading.Timer(seconds, call, arguments).start()


def test_a_result_is_awaited(app: Celery) -> None:
    """Though it is stored only while somebody waits, by another thread; the loop goes on meanwhile."""

    async def handler() -> tuple[Any, int]:
        result = app.AsyncResult("t")
        waiting = asyncio.ensure_future(result.aget(timeout=30))
        ticks = 0
        later(0.2, app.backend.store_result, "t", {"total": 5}, "SUCCESS")
        while not waiting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await waiting, ticks

    value, ticks = asyncio.run(handler())

    assert value == {"total": 5}
    assert ticks >= 5


def test_await_is_aget(app: Celery) -> None:
    """Also of one that is ready, and that is asked for again."""
    app.backend.store_result("t", 1, "SUCCESS")

    async def handler() -> list[Any]:
        result: Any = app.AsyncResult("t")
        return [await result, await result, await app.AsyncResult("t")]

    assert asyncio.run(handler()) == [1, 1, 1]


def test_what_the_task_raised_is_raised(app: Celery) -> None:
    """Unless propagate is False: then it is returned."""
    app.backend.store_result("t", ValueError("no such shop"), "FAILURE")

    with pytest.raises(ValueError, match="no such shop"):
        asyncio.run(app.AsyncResult("t").aget())

    assert str(asyncio.run(app.AsyncResult("t").aget(propagate=False))) == "no such shop"


def test_the_error_of_a_parent_is_raised(app: Celery) -> None:
    """Its child will never be ready."""
    result = chained(app)
    later(0.2, app.backend.store_result, "a", KeyError("first"), "FAILURE")

    with pytest.raises(KeyError, match="first"):
        asyncio.run(result.aget(timeout=30))


def test_time_is_up(app: Celery) -> None:
    """With the error of Celery, which is also that of `get()`."""
    began = time.monotonic()

    with pytest.raises(CeleryTimeoutError):
        asyncio.run(app.AsyncResult("never").aget(timeout=0.2))

    assert time.monotonic() - began < 5


def test_a_timeout_of_zero_is_one_look(app: Celery) -> None:
    """As with `get()`: what is ready by then is returned."""
    app.backend.store_result("t", 3, "SUCCESS")

    assert asyncio.run(app.AsyncResult("t").aget(timeout=0)) == 3
    with pytest.raises(CeleryTimeoutError):
        asyncio.run(app.AsyncResult("never").aget(timeout=0))


def test_who_gives_up_leaves_nothing_behind(app: Celery) -> None:
    """A request whose client has gone is cancelled."""

    async def handler() -> int:
        waiting = asyncio.ensure_future(app.AsyncResult("never").aget())
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return len(app.backend.ear._waiters)

    assert asyncio.run(handler()) == 0


def test_a_group_is_awaited(app: Celery) -> None:
    """With the values of groups in it as lists; the error of a member is raised at once, though others never end."""
    results = [app.AsyncResult(name) for name in "abc"]
    nested = app.GroupResult("outer", [results[0], app.GroupResult("inner", results[1:])])
    for number, result in enumerate(results):
        app.backend.store_result(result.id, number, "SUCCESS")
    failing = app.GroupResult("failing", [app.AsyncResult("d"), app.AsyncResult("never")])
    app.backend.store_result("d", ValueError("d"), "FAILURE")

    async def handler() -> Any:
        return await nested

    assert asyncio.run(handler()) == [0, [1, 2]]
    assert asyncio.run(app.ResultSet([]).aget()) == []
    with pytest.raises(ValueError, match="d"):
        asyncio.run(failing.aget(timeout=30))


def test_a_thousand_await_on_one_connection_that_listens(app: Celery, dsn: str) -> None:
    """And a few that read; no thread for each."""
    before = threading.active_count()

    async def handler() -> tuple[list[Any], int, int]:
        waiting = asyncio.gather(*(app.AsyncResult(f"t{number}").aget(timeout=60) for number in range(1000)))
        await asyncio.sleep(1)
        threads = threading.active_count() - before
        (connections,) = ask(dsn, b"select count(*) from pg_stat_activity where application_name = 'celery-journal'")[0]
        await asyncio.to_thread(_end_all)
        return await waiting, threads, connections

    def _end_all() -> None:
        for number in range(1000):
            app.backend.store_result(f"t{number}", number, "SUCCESS")

    values, threads, connections = asyncio.run(handler())

    assert values == list(range(1000))
    assert threads < 40  # of asyncio's own pool, and the ear
    assert connections <= 10


def test_many_await_over_a_slow_line(app: Celery, make_app: NewApp, dsn: str) -> None:
    """They read together: each for itself would wait for a connection until it gives up."""
    proxy = Proxy(dsn)
    through = install(make_app(url_of(proxy.dsn)))
    for number in range(300):
        app.backend.store_result(f"t{number}", number, "SUCCESS")

    async def handler() -> tuple[list[Any], int]:
        await through.AsyncResult("t0")
        before = proxy.round_trips
        values = await asyncio.gather(*(through.AsyncResult(f"t{number}").aget(timeout=60) for number in range(300)))
        return values, proxy.round_trips - before

    try:
        values, round_trips = asyncio.run(handler())
    finally:
        through.backend.database.close()
        proxy.close()

    assert values == list(range(300))
    assert round_trips < 60


def test_an_event_loop_that_has_ended_is_forgotten(app: Celery) -> None:
    """Some call asyncio.run() for every task."""
    app.backend.store_result("t", 1, "SUCCESS")
    loops = list[ref[asyncio.AbstractEventLoop]]()

    async def handler() -> Any:
        loops.append(ref(asyncio.get_running_loop()))
        return await app.AsyncResult("t")

    for _ in range(5):
        asyncio.run(handler())
    gc.collect()

    assert [loop for loop in loops[:-1] if loop() is not None] == []


def test_several_loops_await_at_once(app: Celery) -> None:
    """Each in a thread of its own, with connections of its own."""
    later(0.3, app.backend.store_result, "t", 5, "SUCCESS")

    with ThreadPoolExecutor(4) as threads:
        values = list(threads.map(lambda _: asyncio.run(app.AsyncResult("t").aget(timeout=30)), range(4)))

    assert values == [5] * 4


def test_histories_are_read_from_an_event_loop(app: Celery) -> None:
    """With runs and the reasons; one loop after the other, each with its own connections, and none is left open."""
    request = delivered(app, task_id="t")
    app.backend.store_result("t", None, "STARTED", request=request)
    app.backend.store_result("t", 3, "SUCCESS", request=request)

    async def handler() -> tuple[list[str], list[str], str]:
        result = app.AsyncResult("t")
        history, attempts = await asyncio.gather(result.ahistory(), result.aattempts())
        return [one.kind for one in history], [one.status for one in attempts], str(await result.aexplain())

    for _ in range(3):
        kinds, attempts, words = asyncio.run(handler())

        assert kinds == ["task-started", "task-succeeded"]
        assert attempts == ["SUCCESS"]
        assert "succeeded" in words
    gc.collect()  # a connection that is left open would warn


def test_the_views_are_asked_from_an_event_loop(app: Celery) -> None:
    """M17: `aobjects` of the current app's journal."""
    for number in range(5):
        app.backend.store_result(f"t{number}", number, "SUCCESS" if number % 2 else "FAILURE")

    async def handler() -> tuple[list[str], int, bool]:
        failed = TaskResult.aobjects.filter(status="FAILURE").order_by("task_id")
        return [task.task_id async for task in failed], await failed.count(), await TaskResult.aobjects.filter(task_id="t9").exists()

    with current(app):
        assert asyncio.run(handler()) == (["t0", "t2", "t4"], 3, False)


def test_an_outage_is_waited_out(make_app: NewApp, app: Celery, dsn: str) -> None:
    """By who waits already; who comes while the database is away is told so."""
    proxy, back = Proxy(dsn), list[Proxy]()
    port = int(str(conninfo_to_dict(proxy.dsn)["port"]))
    through = install(make_app(url_of(proxy.dsn), result_backend_transport_options={"connect_timeout": 1}))

    async def handler() -> Any:
        waiting = asyncio.ensure_future(through.AsyncResult("t").aget(timeout=60))
        await asyncio.sleep(0.5)
        proxy.close()
        with pytest.raises(JournalUnavailable):
            await through.AsyncResult("u").aget(timeout=30)
        app.backend.store_result("t", 1, "SUCCESS")
        await asyncio.sleep(0.2)
        assert not waiting.done()
        back.append(Proxy(dsn, port))
        return await waiting

    try:
        assert asyncio.run(handler()) == 1
    finally:
        through.backend.database.close()
        for opened in back:
            opened.close()


def test_another_backend_has_no_such_thing() -> None:
    """It is said what to write."""
    other = install(Celery("other", set_as_current=False, backend="cache+memory://"))

    with pytest.raises(ImproperlyConfigured, match=r"aget\(\) is the journal's"):
        asyncio.run(other.AsyncResult("t").aget())
