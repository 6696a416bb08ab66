"""A primary that dies and a standby that takes its place: a URL of several hosts finds whoever can be written to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from celery import Celery, chord

from celery_journal.consumers.backend import JournalUnavailable
from celery_journal.journal import migrate
from celery_journal.projections import verify

from .scene import kinds, new_app, until
from .servers import Server, folder_of_servers, postgresql, standby_of
from .workers import available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

BROKER = "redis" if available("redis") else "filesystem"

SECRET = "s3cret"

#: What a backend needs to sit out a failover.
PATIENT = {"retry_budget": PATIENCE, "connect_timeout": 2}


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary with a journal, and a standby without which no commit returns, so that nothing that did can be lost."""
    with folder_of_servers() as folder:
        homes = [folder / name for name in ("primary", "standby")]
        for home in homes:
            home.mkdir()
        with postgresql(homes[0]) as primary:
            with psycopg.connect(primary.dsn, autocommit=True) as connection:
                migrate(connection)
            with standby_of(primary, homes[1], name="standby") as standby:
                primary.tell("alter system set synchronous_standby_names = 'standby'")
                primary.tell("select pg_reload_conf()")
                until(lambda: primary.ask("select count(*) from pg_stat_replication where sync_state = 'sync'"))
                yield primary, standby


def url_of_both(pair: tuple[Server, Server]) -> str:
    """The URL that names both hosts."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in pair)
    return f"journal+postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"


@contextmanager
def closing(app: Celery) -> Iterator[Celery]:
    """The app, closed at the end of the block."""
    try:
        yield app
    finally:
        app.backend.database.close()
        app.close()


def fail_over(pair: tuple[Server, Server]) -> None:
    """Kill the primary, and promote the standby once it has seen that nothing more will come."""
    primary, standby = pair
    primary.kill()
    assert standby.ask("select pg_promote()")


def test_a_worker_and_whoever_waits_go_on(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """Tasks run all the while, and one chord spans it: every result arrives, and the journal is whole."""
    _, standby = pair
    with working(BROKER, url_of_both(pair), standby.dsn, tmp_path, result_backend_transport_options=PATIENT) as worker:
        worker.send("add", 1, 1).get(timeout=PATIENCE)
        header = [worker.signature("add", 2, 2), worker.signature("sleep", 3.0), worker.signature("add", 3, 3)]
        gathered = chord(header, app=worker.app)(worker.signature("collect"))
        results = [worker.send("add", 1, number) for number in range(30)]
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(result.get, timeout=PATIENCE) for result in [gathered, *results]]
            results[4].get(timeout=PATIENCE)

            fail_over(pair)

            assert [waiter.result() for waiter in waiting] == [[4, 3.0, 6], *(1 + number for number in range(30))]

        assert worker.send("add", 1, 2).get(timeout=PATIENCE) == 3
        assert [kinds(standby.dsn, result.id).count("task-succeeded") for result in results] == [1] * 30
        with psycopg.connect(standby.dsn, autocommit=True) as connection:
            assert not verify(connection).differences


def test_what_was_stored_is_still_there(pair: tuple[Server, Server]) -> None:
    """Whatever a store has returned for, from four threads, is on the standby; once, though its answer may have been lost."""
    _, standby = pair
    stored: list[str] = []
    over = threading.Event()

    def store(thread: int) -> None:
        turn = 0
        while not over.is_set():
            app.backend.mark_as_done(task_id := f"{thread}-{turn}", turn)
            stored.append(task_id)
            turn += 1

    with closing(new_app(url_of_both(pair), result_backend_transport_options=PATIENT)) as app, ThreadPoolExecutor(4) as pool:
        storing = [pool.submit(store, thread) for thread in range(4)]
        until(lambda: len(stored) > 100)
        fail_over(pair)
        before = len(stored)
        until(lambda: len(stored) > before + 100 or any(thread.done() for thread in storing))
        over.set()
        for thread in storing:
            thread.result()

    assert standby.ask("select count(distinct stream) = count(*) from celery_journal.event")
    assert standby.ask("select array_agg(task_id) @> %s from celery_journal.task_result", stored)


def test_whoever_waits_hears_of_results_on_the_new_primary(pair: tuple[Server, Server]) -> None:
    """The connection that listens follows: the result is pushed, and not only found by a later look."""
    options = {**PATIENT, "reread_interval": 3600}
    with closing(new_app(url_of_both(pair), result_backend_transport_options=options)) as app, ThreadPoolExecutor(1) as pool:
        app.backend.mark_as_done("before", 1)
        waiting = pool.submit(app.AsyncResult("after").get, timeout=PATIENCE)
        _, standby = pair
        until(lambda: listens(pair[0]))

        fail_over(pair)
        until(lambda: listens(standby))
        app.backend.mark_as_done("after", 7)

        assert waiting.result() == 7


def listens(server: Server) -> bool:
    """Return whether somebody holds the lock that says that they listen there."""
    return bool(server.ask("select count(*) from pg_locks where locktype = 'advisory' and granted and mode = 'ShareLock'"))


def test_a_server_without_a_free_connection_is_an_outage(pair: tuple[Server, Server]) -> None:
    """Also for a process that never had one: it is no reason to call its settings wrong."""
    primary, _ = pair
    app = new_app(url_of_both(pair), result_backend_transport_options={"retry_budget": 0.5, "spool": ""})
    primary.tell("create role journal login")
    primary.tell("alter role journal connection limit 0")
    crowded = new_app(
        url_of_both(pair).replace("postgres@", "journal@", 1), result_backend_transport_options={"retry_budget": 0.5, "spool": ""}
    )
    with closing(app), pytest.raises(JournalUnavailable) as failed:
        crowded.backend.mark_as_done("a", 1)

    assert crowded.backend.exception_safe_to_retry(failed.value)


# The URL


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param(f"me:{SECRET}@h1:5432,h2:5433/db?target_session_attrs=read-write", "me@h1:5432,h2:5433/db", id="a port each"),
        pytest.param(f"me:{SECRET}@h1,h2/db", "me@h1,h2/db", id="no port"),
        pytest.param(f"me:{SECRET}@/db?host=h1,h2&port=5433", "me@h1:5433,h2:5433/db", id="one port for both"),
        pytest.param(f"me:{SECRET}@/db?host=/run/a,/run/b&port=1,2", "me@/run/a,/run/b/db", id="sockets"),
    ],
)
def test_a_url_of_several_hosts_is_shown_without_its_password(url: str, shown: str) -> None:
    """As the banner of a worker shows it; and with it, it is the URL that was given."""
    backend = new_app(f"journal+postgresql://{url}").backend

    assert backend.as_uri() == f"journal+postgresql://{shown}"
    assert backend.as_uri(include_password=True) == f"journal+postgresql://{url}"


def test_an_outage_of_several_hosts_is_told_in_a_sentence() -> None:
    """It names all of them, and not the password."""
    url = f"journal+postgresql://me:{SECRET}@127.0.0.1:9,127.0.0.1:10/db"
    app = new_app(url, result_backend_transport_options={"retry_budget": 0, "spool": ""})

    with pytest.raises(JournalUnavailable, match=r"^no PostgreSQL answers at me@127\.0\.0\.1:9,127\.0\.0\.1:10/db; "):
        app.backend.mark_as_done("a", 1)
