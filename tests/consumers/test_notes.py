"""What we note of a request: Celery's users see nothing of it, and each process knows which run it tells of."""

from __future__ import annotations

import gc
import json
import pickle
from collections import Counter
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.task import Context
from celery.worker.request import Request
from kombu.message import Message
from kombu.serialization import dumps

from celery_journal.consumers import notes
from celery_journal.consumers.notes import begin_run, cancelled, note_cancelled, note_end, run_of

from .scene import kinds, recorded, until, url_of
from .shapes import shape
from .workers import Worker, available, working

PATIENCE = 60

#: Each way to run tasks; green threads are those of gevent.
POOLS = ["prefork", "solo", "threads", "gevent"]

pytestmark = pytest.mark.contract


def worker_of(pool: str, url: str, dsn: str, folder: Path) -> Any:
    """Return a worker with that pool, for a block."""
    if pool == "gevent":
        pytest.importorskip("gevent")
    return working("redis" if available("redis") else "filesystem", url, dsn, folder, "-P", pool, "-c", "2")


def seen(pool: str, url: str, dsn: str, folder: Path) -> dict[str, Any]:
    """Return what users see of a task that is tried again: the task by itself, and those who ask the worker about it."""
    folder.mkdir()
    shown: dict[str, Any] = {}
    with worker_of(pool, url, dsn, folder) as worker:
        task_id = worker.send("mirror", str(folder), headers={"of": "the user"}).id
        for attempt in (0, 1):
            until((folder / f"{attempt}.json").exists, PATIENCE)
            until(lambda: (folder / f"{attempt}.json").read_text().endswith("]"))  # noqa: B023  used at once
            shown[f"request {attempt}"] = json.loads((folder / f"{attempt}.json").read_text())
            if attempt == 0 and pool != "solo":  # which answers nobody while it runs a task
                later = worker.send("add", 1, 2, countdown=300).id
                until(lambda: inspected(worker, "scheduled"), PATIENCE)
                shown |= {name: shape(inspected(worker, name)) for name in ("active", "scheduled", "reserved")}
                found = inspected(worker, "query_task", [task_id, later]) or {}
                shown["query_task"] = shape([found.get(one) for one in (task_id, later)])
            (folder / f"go on {attempt}").touch()
    return shown


def inspected(worker: Worker, name: str, *arguments: Any) -> Any:
    """Return what the worker answers."""
    (answer,) = (getattr(worker.app.control.inspect(timeout=5, limit=1), name)(*arguments) or {"": None}).values()
    return answer


def by_the_worker(worker: Worker, task_id: str) -> list[Any]:
    """Return the facts of the task but those of who sent it."""
    return [place.event for place in recorded(worker.dsn, task_id) if place.event.kind != "task-sent"]


@pytest.mark.parametrize("pool", POOLS)
def test_users_see_the_same_as_with_a_backend_of_celery(pool: str, embedded_database: str, tmp_path: Path) -> None:
    """In `self.request` of a first and of a second attempt, its delivery, headers and properties, and in what `inspect` answers."""
    ours = seen(pool, url_of(embedded_database), embedded_database, tmp_path / "ours")
    # Not file://, whose writers write at once: what a run and the next one store is then in one another, and the worker cannot read it.
    stock = seen(pool, f"db+sqlite:///{tmp_path}/results", embedded_database, tmp_path / "stock")

    assert ours == stock
    assert "celery_journal" not in json.dumps(ours)
    assert "journal_" not in json.dumps(ours)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_two_runs_of_one_attempt_at_once_are_told_apart(pool: str, embedded_database: str, tmp_path: Path) -> None:
    """As where a broker delivers again what still runs: whatever process tells of it, each run has all that happened in it."""
    task_id = str(uuid4())
    with worker_of(pool, url_of(embedded_database), embedded_database, tmp_path) as worker:
        for _ in range(2):
            worker.send("mirror", str(tmp_path), task_id=task_id)
        until(lambda: Counter(kinds(worker.dsn, task_id))["task-progress"] == 2, PATIENCE)
        for attempt in (0, 1):
            (tmp_path / f"go on {attempt}").touch()
        until(lambda: Counter(kinds(worker.dsn, task_id))["task-succeeded"] == 2, PATIENCE)

    told: dict[str, list[str]] = {}
    for event in by_the_worker(worker, task_id):
        told.setdefault(event.run, []).append(event.kind)
    first, last = ["task-received", "task-started", "task-progress", "task-retried"], ["task-received", "task-started"]
    last += ["task-progress", "task-succeeded"]
    assert sorted(map(sorted, told.values())) == sorted([sorted(first)] * 2 + [sorted(last)] * 2)


def test_what_the_main_process_tells_is_of_the_run_that_it_received(embedded_database: str, tmp_path: Path) -> None:
    """A child that dies tells nothing any more; the main process stores the failure."""
    with worker_of("prefork", url_of(embedded_database), embedded_database, tmp_path) as worker:
        task_id = worker.send("die").id
        until(lambda: "task-failed" in kinds(worker.dsn, task_id), PATIENCE)

    (run,) = {event.run for event in by_the_worker(worker, task_id)}
    assert run


def received(app: Celery) -> Any:
    """Return a request as a worker makes it of a message."""
    task = app.amqp.as_task_v2(str(uuid4()), "celery.backend_cleanup", (), {})
    content_type, encoding, body = dumps(task.body, serializer="json")
    message = Message(
        body, content_type=content_type, content_encoding=encoding, headers=task.headers, delivery_info={"routing_key": "work"}
    )
    return Request(message, app=app, hostname="w1")


def test_the_process_that_runs_a_task_gets_a_plain_request(make_app: Callable[..., Celery]) -> None:
    """By a pipe it has the types of Celery, and its run is known there; as a Context in the same process too."""
    request = received(make_app())
    run = begin_run(request)

    arrived = pickle.loads(pickle.dumps(request.request_dict))

    assert type(arrived) is dict
    assert run_of(Context(arrived)) == run_of(Context(request.request_dict)) == run_of(request) == run
    assert run_of(Context(delivery_info=dict(arrived["delivery_info"]))) is None
    assert run_of(Context()) is None


def test_a_note_goes_with_its_request(make_app: Callable[..., Celery]) -> None:
    """A worker makes millions of them."""
    request = received(make_app())
    begin_run(request)
    note_cancelled(request, "why")
    note_end(request, "FAILURE")
    kept: list[Sized] = [notes._runs, notes._cancelled, notes._ends]
    before = [len(each) for each in kept]

    del request
    gc.collect()

    assert [len(each) for each in kept] == [many - 1 for many in before]


def test_of_what_is_no_request_of_celery_nothing_is_noted() -> None:
    """Some give a dict of their own, or nothing."""
    for odd in (None, {}, object()):
        note_cancelled(odd, "why")
        assert (begin_run(odd), run_of(odd), cancelled(odd), note_end(odd, "FAILURE")) == (None, None, None, False)
