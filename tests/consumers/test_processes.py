"""Every pool of a worker, and every way in which a producer runs: threads, green threads, forks."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord

from tests.conftest import require

from .scene import ask, row, start, until, url_of
from .workers import available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

BROKER = "redis" if available("redis") else "filesystem"

NewApp = Callable[..., Celery]

POOLS = [
    pytest.param(["-P", "solo"], id="solo"),
    pytest.param(["-P", "threads", "-c", "8"], id="threads"),
    pytest.param(["-P", "prefork", "-c", "2", "--max-tasks-per-child=1"], id="a process a task"),
    pytest.param(["-P", "gevent", "-c", "20"], id="gevent"),
    pytest.param(["-P", "eventlet", "-c", "20"], id="eventlet"),
]

GREEN = ["gevent", "eventlet"]

#: What happens between processes and threads here is the same on every server.
one_server = pytest.mark.parametrize("server", ["embedded"], indirect=True, scope="session")


def need(kind: str) -> None:
    """Skip where the library of these green threads is not installed."""
    require(kind, kind not in GREEN or importlib.util.find_spec(kind) is not None)


def sessions(dsn: str, name: str) -> int:
    """Return how many sessions of that name the server has."""
    return len(ask(dsn, b"select from pg_stat_activity where application_name = %s", name))


def listeners(dsn: str, name: str) -> set[int]:
    """Return the sessions of that name that hold the lock that says that somebody listens."""
    holders = b"select pid from pg_locks where locktype = 'advisory' and mode = 'ShareLock' and granted"
    found = ask(dsn, b"select pid from pg_stat_activity where application_name = %s and pid in (" + holders + b")", name)
    return {pid for (pid,) in found}


# Workers


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_of_each_pool_stores_what_its_tasks_return(embedded_database: str, tmp_path: Path, pool: list[str]) -> None:
    """Successes, failures, retries and chords; its connections are few, and gone when it is.

    Under green threads a task that waits for another's result does not hold up the others.
    """
    need(pool[1])
    name = f"pool-{pool[1]}"
    url = url_of(embedded_database, application_name=name)
    options = {"pool_size": 3, "sweep_interval": 0.5}
    with working(BROKER, url, embedded_database, tmp_path, *pool, result_backend_transport_options=options) as worker:
        worker.app.backend.database.close()
        numbers = [worker.send("add", 1, number) for number in range(10)]
        waiting = [worker.send("relay", number) for number in range(4)] if pool[1] in GREEN else []
        failed, retried = worker.send("fail", "no"), worker.send("persist", 2)
        gathered = chord([worker.signature("add", 2, number) for number in range(5)], app=worker.app)(worker.signature("collect"))

        assert [result.get(timeout=PATIENCE) for result in numbers] == [1 + number for number in range(10)]
        assert [result.get(timeout=PATIENCE) for result in waiting] == [0, 1, 2, 3][: len(waiting)]
        assert isinstance(failed.get(timeout=PATIENCE, propagate=False), ValueError)
        assert retried.get(timeout=PATIENCE) == 2
        assert gathered.get(timeout=PATIENCE) == [2 + number for number in range(5)]
        assert row(embedded_database, numbers[0].id).date_started is not None
        # A process has at most three, this one besides its ear, and each of those in which tasks wait.
        processes = 1 if pool[1] != "prefork" else 3
        assert sessions(embedded_database, name) <= 3 * (processes + 1) + 1 + bool(waiting)

    until(lambda: not sessions(embedded_database, name))


# Producers with threads


@one_server
def test_threads_that_wait_for_the_same_result_all_have_it(make_app: NewApp, dsn: str) -> None:
    """32 of them, on one connection that listens and a bounded pool."""
    app = make_app(url_of(dsn, application_name="same"), result_backend_transport_options={"pool_size": 4, "reread_interval": 3600})
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(app.AsyncResult("a").get, timeout=PATIENCE) for _ in range(32)]
        until(lambda: listeners(dsn, "same"))

        make_app().backend.mark_as_done("a", 7)

        assert [waiter.result() for waiter in waiting] == [7] * 32

    assert len(listeners(dsn, "same")) == 1
    assert sessions(dsn, "same") <= 4 + 1


@one_server
def test_threads_that_wait_for_different_results_have_each_its_own(make_app: NewApp, dsn: str) -> None:
    """32 of them; the results are stored in another order than they are waited for."""
    app = make_app(url_of(dsn, application_name="different"), result_backend_transport_options={"pool_size": 4, "reread_interval": 3600})
    writer = make_app()
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(app.AsyncResult(f"t{number}").get, timeout=PATIENCE) for number in range(32)]
        until(lambda: listeners(dsn, "different"))

        for number in reversed(range(32)):
            writer.backend.mark_as_done(f"t{number}", number)

        assert [waiter.result() for waiter in waiting] == list(range(32))

    assert len(listeners(dsn, "different")) == 1
    assert sessions(dsn, "different") <= 4 + 1


# Producers with green threads


@contextmanager
def producing(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A producer, ended with the block."""
    with start("producing", *arguments, PYTHONWARNINGS="ignore") as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the producer says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the producer ended with {process.wait()}"
    facts: dict[str, Any] = json.loads(line)
    return facts


@one_server
@pytest.mark.parametrize("green", GREEN)
def test_green_threads_are_told_of_their_results_at_once(make_app: NewApp, dsn: str, green: str) -> None:
    """30 of them wait; from the store to the return of get() it takes less than 100 ms, at the median."""
    need(green)
    writer, stored = make_app(), dict[str, float]()
    with producing(green, "waiting", url_of(dsn, application_name=green), "30") as process:
        assert heard(process) == {"waiting": 30}
        until(lambda: listeners(dsn, green))
        time.sleep(0.5)  # so that whoever polls has slowed down by now
        for number in range(30):
            stored[f"t{number}"] = time.monotonic()
            writer.backend.mark_as_done(f"t{number}", number)
            time.sleep(0.03)

        returned = heard(process)["returned"]
        _, _ = process.communicate()

    latencies = [returned[task_id] - stored[task_id] for task_id in stored]
    print(f"{green}: median {statistics.median(latencies) * 1000:.1f} ms, most {max(latencies) * 1000:.1f} ms")
    assert statistics.median(latencies) < 0.1
    assert process.returncode == 0


@one_server
@pytest.mark.parametrize("green", [*GREEN, "gevent, late"])
def test_green_threads_go_on_while_the_database_takes_its_time(dsn: str, green: str) -> None:
    """psycopg waits in C unless it knows of them, and then nobody has a turn."""
    need(green.partition(",")[0])
    with producing(green, "sleeping", url_of(dsn)) as process:
        assert heard(process)["turns"] > 10
        _, _ = process.communicate()

    assert process.returncode == 0


@one_server
def test_the_worker_of_celerys_own_testing_works(dsn: str) -> None:
    """celery.contrib.testing: a worker in a thread of the process that is the producer as well, ping included."""
    with producing("native", "testing", url_of(dsn)) as process:
        assert heard(process) == {"doubled": [2 * number for number in range(10)]}
        _, _ = process.communicate()

    assert process.returncode == 0


# Producers that fork


@one_server
@pytest.mark.parametrize("green", ["native", *GREEN])
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_producer_that_forks_while_it_waits_is_told_and_so_is_its_child(make_app: NewApp, dsn: str, how: str, green: str) -> None:
    """B05: as under gunicorn --preload, each listens for itself, nobody takes the other's news, nor ends the other's sessions."""
    need(green)
    writer = make_app()
    with producing(green, "forking", url_of(dsn, application_name="forking"), how) as process:
        assert process.stdin is not None
        assert "ready" in heard(process)
        until(lambda: listeners(dsn, "forking"))
        before = listeners(dsn, "forking")
        process.stdin.write("\n")
        process.stdin.flush()
        assert "child" in heard(process)
        until(lambda: len(listeners(dsn, "forking")) > 1)

        for number in range(5):
            writer.backend.mark_as_done(f"parent{number}", number)
            assert heard(process) == {"parent_has": number}
        writer.backend.mark_as_done("child", "for the child")
        assert heard(process) == {"child_has": "for the child", "before": "before"}
        assert heard(process) == {"child_over": True}
        assert before <= listeners(dsn, "forking")
        writer.backend.mark_as_done("parent5", 5)
        assert heard(process) == {"parent_has": 5}
        assert heard(process) == {"after": "after"}
        _, _ = process.communicate()

    assert process.returncode == 0
