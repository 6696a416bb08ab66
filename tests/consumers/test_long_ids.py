"""Ids that are longer than the log can take: they are refused in one sentence, and keep nothing else from being recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from celery_journal.consumers.backend.unhurried import Unhurried
from celery_journal.journal import Emitter, IdTooLong, Journal
from celery_journal.journal.constraints import MAX_ID_BYTES
from celery_journal.journal.events import TaskSent
from celery_journal.journal.workers import WorkerHeartbeat
from celery_journal.projections import Worker

from .conftest import NewApp
from .scene import new_app, until, url_of
from .workers import settings, working


def long_id(length: int) -> str:
    """An id that cannot be compressed, as an index would."""
    return "".join(uuid4().hex for _ in range(length // 32 + 1))[:length]


@pytest.fixture
def app(dsn: str) -> Celery:
    return new_app(url_of(dsn))


def test_the_longest_id_is_recorded(app: Celery) -> None:
    """M02: every id that can be looked up."""
    task_id = long_id(MAX_ID_BYTES)

    app.backend.store_result(task_id, 3, "SUCCESS")

    assert app.AsyncResult(task_id).result == 3


def test_a_longer_one_is_refused_in_one_sentence(app: Celery) -> None:
    """M75: with what to do, and not in the words of an index."""
    with pytest.raises(IdTooLong, match=r"is 2,501 bytes long, and the log takes 2,500; give it a shorter one"):
        app.backend.store_result(long_id(MAX_ID_BYTES + 1), 3, "SUCCESS")


@pytest.mark.parametrize(
    "conf",
    [
        pytest.param({"result_backend_transport_options": {"task_id_max_length": 40}}, id="option"),
        pytest.param({"DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH": 40}, id="of django-celery-results"),
    ],
)
def test_a_bound_of_the_users_own_holds(conf: dict[str, object], dsn: str) -> None:
    """M75: in characters."""
    app = new_app(url_of(dsn), **conf)

    app.backend.store_result("ä" * 40, 3, "SUCCESS")

    assert app.AsyncResult("ä" * 40).result == 3
    with pytest.raises(IdTooLong, match=r"is 41 characters long, and task_id_max_length is 40"):
        app.backend.store_result("x" * 41, 3, "SUCCESS")


def test_one_that_is_refused_keeps_no_other_from_being_recorded(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Neither those before it nor those after it, which were told at the same time."""
    emitter, refused = Emitter(), long_id(MAX_ID_BYTES + 1)
    events = [emitter.emit(TaskSent, task_id, name="add") for task_id in ("before", refused, "after", refused[::-1])]

    with caplog.at_level(logging.ERROR):
        Unhurried(app.backend.outage).record(list(events))

    assert app.backend.database.run(lambda connection: Journal().known(connection, ["before", "after"])) == {"before", "after"}
    said = [record.getMessage() for record in caplog.records]
    assert [f"task-sent of {task_id[:36]} is lost" in line for task_id, line in zip((refused, refused[::-1]), said, strict=True)] == [
        True,
        True,
    ]


def test_a_worker_keeps_its_name(dsn: str) -> None:
    """A bound for ids says nothing about hosts: without heartbeats its tasks would count as lost."""
    app = new_app(url_of(dsn), result_backend_transport_options={"task_id_max_length": 36})

    app.backend.append(Emitter().emit(WorkerHeartbeat, "celery@" + "w" * 60))

    assert app.backend.database.run(lambda connection: Worker.get_many(connection, ["celery@" + "w" * 60]))


@pytest.mark.parametrize("send", ["apply_async", "send_task", "chain"])
def test_a_task_with_a_longer_one_is_not_sent(send: str, make_app: NewApp) -> None:
    """Its result could not be had, so whoever sends it learns that at once."""
    app = make_app(broker_url="memory://")

    @app.task(name="add", shared=False)
    def add() -> None:
        pass

    calls: dict[str, Callable[[], object]] = {
        "apply_async": lambda: add.apply_async(task_id=long_id(3000)),
        "send_task": lambda: app.send_task("add", task_id=long_id(3000)),
        "chain": lambda: add.si().set(task_id=long_id(3000)).apply_async(),
    }
    with pytest.raises(IdTooLong, match="give it a shorter one"):
        calls[send]()


def test_nobody_waits_for_a_longer_one(app: Celery) -> None:
    """There will never be a result of that name."""
    for ask in (lambda result: result.get(timeout=3), lambda result: result.state, lambda result: result.get(timeout=None)):
        with pytest.raises(IdTooLong):
            ask(app.AsyncResult(long_id(3000)))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
@pytest.mark.parametrize(("length", "limit"), [(3006, MAX_ID_BYTES), (300, 255)], ids=["of the log", "of an option"])
def test_a_worker_outlives_a_longer_one(pool: str, length: int, limit: int, embedded_database: str, tmp_path: Path) -> None:
    """One sent by somebody without a journal: its body runs, the log says what is not recorded, and the next task ends well."""
    options = {"task_id_max_length": limit}
    arguments = ["-P", pool, *(["-c", "2"] if pool == "prefork" else [])]
    token, conf = f"long-{uuid4().hex[:8]}", dict[str, Any](result_backend_transport_options=options)
    with working("filesystem", url_of(embedded_database), "", tmp_path, *arguments, token=token, **conf) as worker:
        foreign = new_app("cache+memory://", **settings("filesystem", tmp_path / token, token))

        foreign.send_task("scene.add", (1, 2), task_id="x" * length)

        until(lambda: "give it a shorter one" in worker.said())
        assert worker.send("add", 2, 2).get(timeout=30) == 4
        until(lambda: worker.said().count("succeeded in") >= 2)
        assert worker.process.poll() is None
        assert "Traceback" not in worker.said()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_outlives_a_count_of_retries_that_is_none(pool: str, embedded_database: str, tmp_path: Path) -> None:
    """It is the sender's, who may be anybody: the body runs, and its end is recorded."""
    arguments = ["-P", pool, *(["-c", "2"] if pool == "prefork" else [])]
    token = f"odd-{uuid4().hex[:8]}"
    with working("filesystem", url_of(embedded_database), "", tmp_path, *arguments, token=token) as worker:
        foreign = new_app("cache+memory://", **settings("filesystem", tmp_path / token, token))

        sent = [foreign.send_task("scene.add", (1, 2), retries=retries) for retries in (2**40, -1, 1.5)]

        assert [worker.app.AsyncResult(one.id).get(timeout=30) for one in sent] == [3, 3, 3]
        until(lambda: worker.said().count("succeeded in") == 3)
        assert "could not be" not in worker.said()
        assert worker.process.poll() is None
