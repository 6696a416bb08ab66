"""A server that is there and does not answer: nobody waits for it longer than told, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult

from celery_journal.consumers.backend import JournalBackend

from .conftest import NewApp
from .proxy import Proxy
from .scene import in_background, until, url_of

SHORT: dict[str, Any] = {"answer_timeout": 1.0, "retry_budget": 0.5, "connect_timeout": 2.0}


@pytest.fixture
def app(proxy: Proxy, make_app: NewApp) -> Celery:
    """An app that has used its server, which can hang."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options=SHORT)
    app.backend.store_result("before", 1, "SUCCESS")
    return app


@contextmanager
def held(dsn: str, task_id: str) -> Iterator[None]:
    """Somebody has inserted a fact of the task during the block, and does not commit."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into celery_journal.event (event_id, occurred_at, stream, kind, state)"
            " values (gen_random_uuid(), now(), %s, 'task-started', 'STARTED')",
            [task_id],
        )
        yield
        connection.rollback()


def seconds_of(call: Callable[[], object], error: type[BaseException] | None = None) -> float:
    """Return how long the call takes, which raises that error."""
    begun = time.monotonic()
    if error is None:
        call()
    else:
        with pytest.raises(error):
            call()
    return time.monotonic() - begun


def test_what_a_hanging_server_does_not_take_is_spooled(app: Celery, proxy: Proxy) -> None:
    """And recorded when it answers again."""
    backend: JournalBackend = app.backend
    assert backend.spool is not None

    with proxy.hanging():
        assert seconds_of(lambda: backend.store_result("a", 1, "SUCCESS")) < 6
        assert backend.spool.length() == 1
        assert seconds_of(lambda: backend.store_result("b", 1, "SUCCESS")) < 1

    until(lambda: backend.spool is not None and backend.spool.length() == 0)
    assert app.AsyncResult("a").get(timeout=10) == 1


def test_a_fact_whose_task_somebody_holds_is_spooled(app: Celery, dsn: str) -> None:
    """The statement is cancelled: nothing of ours goes on waiting in the server."""
    backend: JournalBackend = app.backend
    assert backend.spool is not None

    with held(dsn, "hot"):
        assert seconds_of(lambda: backend.store_result("hot", 1, "SUCCESS")) < 4
        assert backend.spool.length() == 1

    until(lambda: backend.spool is not None and backend.spool.length() == 0)
    assert app.AsyncResult("hot").get(timeout=10) == 1


def test_the_statement_is_cancelled_in_the_server(make_app: NewApp, dsn: str) -> None:
    """Or those that were given up would fill its connections one by one."""
    app = make_app(url_of(dsn), result_backend_transport_options=SHORT)

    with held(dsn, "hot"), psycopg.connect(dsn, autocommit=True) as observer:
        app.backend.outage.spool = None  # nobody tries again
        storing: Future[Any] = in_background(app.backend.store_result, "hot", 1, "SUCCESS")
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        until(lambda: observer.execute(waiting).fetchone() == (1,))
        with pytest.raises(Exception, match="did not answer in time"):
            storing.result(timeout=20)
        until(lambda: observer.execute(waiting).fetchone() == (0,), seconds=5)


@pytest.mark.parametrize("way", ["get", "join", "awaited"])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "fresh"])
def test_get_returns_in_its_time(way: str, warm: bool, proxy: Proxy, make_app: NewApp) -> None:
    """Whatever the server's deadline is, and in whatever way is waited."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options={"answer_timeout": 30.0})
    if warm:
        app.backend.store_result("before", 1, "SUCCESS")
        if way == "awaited":
            asyncio.run(app.backend.wait_for_results(app.AsyncResult("before"), 10, propagate=True))

    async def awaiting() -> None:
        await app.backend.wait_for_results(app.AsyncResult("nope"), 3, propagate=True)

    calls: dict[str, Callable[[], object]] = {
        "get": lambda: app.AsyncResult("nope").get(timeout=3),
        "join": lambda: GroupResult("g", [app.AsyncResult("nope"), app.AsyncResult("nor")], app=app).get(timeout=3),
        "awaited": lambda: asyncio.run(awaiting()),
    }
    with proxy.hanging():
        assert seconds_of(calls[way], CeleryTimeoutError) < 5
