"""Who waits for a result that is ignored does not wait for ever: the journal knows that the task has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord, group
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult

from celery_journal.consumers import install
from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.capture.control import account

from .commanding import Commands
from .scene import kinds, new_app, until, url_of, waiting
from .test_cli import as_url
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker of which one task ignores its result, and an app that sends to it and does not know that."""
    broker, folder = "redis" if available("redis") else "filesystem", tmp_path_factory.mktemp("ignored")
    with working(broker, url_of(embedded_database), embedded_database, folder) as worker:
        install(worker.app)
        yield worker


def quiet(worker: Worker, value: Any) -> Any:
    """Return the signature of a task whose result is ignored; before Celery 5.7 who sends it without knowing the task has to say so."""
    return worker.signature("quiet", value, ignore_result=True)


def by_id(worker: Worker, task_id: str) -> Any:
    """Return a result of which nobody has said that it is ignored."""
    return worker.app.AsyncResult(task_id)


@pytest.mark.parametrize("ready", [pytest.param(True, id="ready"), pytest.param(False, id="not yet")])
def test_get_comes_back_with_none(worker: Worker, ready: bool, caplog: pytest.LogCaptureFixture) -> None:
    """As it does at once where the result knows that it is ignored; the log of who waits names the task."""
    task_id = quiet(worker, 7).apply_async(countdown=0 if ready else 1).id
    if ready:
        until(lambda: "task-ignored" in kinds(worker.dsn, task_id))
    result = by_id(worker, task_id)

    assert result.get(timeout=PATIENCE) is None

    said = f"somebody waits for the result of {task_id} (scene.quiet), which is ignored, and gets None"
    assert (said in caplog.messages) is ready  # it is said once an hour
    assert (result.state, by_id(worker, task_id).state) == ("IGNORED", "PENDING")  # who has not waited is told as ever
    assert result.get(timeout=PATIENCE) is None


def test_who_waits_is_recorded_and_the_doctor_names_the_task(worker: Worker, commands: Commands) -> None:
    """Once an hour for each name and process, however often it waits; and groups that were saved are never ready."""
    ids = [quiet(worker, number).apply_async().id for number in range(3)]
    waiter = install(new_app(url_of(worker.dsn)))
    for task_id in ids:
        assert waiter.AsyncResult(task_id).get(timeout=PATIENCE) is None
    until(lambda: any("operator-acted" in kinds(worker.dsn, task_id) for task_id in ids))
    waiter.backend.database.close()
    before = findings(worker, commands)
    GroupResult("g", [by_id(worker, task_id) for task_id in ids], app=worker.app).save()

    (waited,) = before
    _, saved = findings(worker, commands)

    assert [kinds(worker.dsn, task_id).count("operator-acted") for task_id in ids] == [1, 0, 0]
    assert (waited["status"], waited["found"].rpartition(": ")[2]) == ("warn", "scene.quiet")
    assert waited["advice"].endswith(f"tells: celery-journal history {ids[0]}")
    told = commands.run("history", ids[0], dsn=as_url(worker.dsn)).out
    assert "operator-acted" in told
    assert f"{account()}" in told
    assert (saved["status"], saved["found"]) == (
        "warn",
        "groups were saved that are never ready(), because tasks of them end without a result: scene.quiet",
    )
    assert not worker.app.GroupResult.restore("g").ready()


def findings(worker: Worker, commands: Commands) -> list[dict[str, Any]]:
    """Return what the doctor says of results that somebody waits for."""
    said = json.loads(commands.run("doctor", "--json", dsn=as_url(worker.dsn)).out)
    return [finding for finding in said if finding["check"] == "waited-for results"]


def test_a_failure_is_raised_though_results_are_ignored(worker: Worker) -> None:
    """It is no result."""
    task_id = worker.send("fail", "no", ignore_result=True).id

    with pytest.raises(ValueError, match="no"):
        by_id(worker, task_id).get(timeout=PATIENCE)


def test_a_group_has_none_in_the_place_of_what_is_ignored(worker: Worker) -> None:
    """The others' values are there."""
    result = group([worker.signature("add", 1, 2), quiet(worker, 7), worker.signature("add", 3, 4)]).apply_async()

    assert result.get(timeout=PATIENCE) == [3, None, 7]


def test_awaiting_comes_back_with_none(worker: Worker) -> None:
    """In an event loop as well."""

    async def wait() -> Any:
        return await by_id(worker, quiet(worker, 7).apply_async(countdown=1).id).aget(timeout=PATIENCE)

    assert asyncio.run(wait()) is None


def test_then_calls_back(worker: Worker) -> None:
    """With a result that has none."""
    heard: list[Any] = []
    by_id(worker, quiet(worker, 7).apply_async().id).then(heard.append)

    until(lambda: heard)
    assert heard[0].result is None


def test_a_chord_has_the_values_of_members_that_ignore_their_results(worker: Worker) -> None:
    """A part is returned, and nothing is stored of the task."""
    result = chord([quiet(worker, 7), worker.signature("add", 1, 2)], app=worker.app)(worker.signature("collect"))

    assert result.get(timeout=PATIENCE) == [7, 3]


def test_a_task_that_raises_ignore_may_still_get_its_result(worker: Worker, backend_of: JournalBackend) -> None:
    """By hand, from wherever its work goes on: who waits for it waits on."""
    task_id = worker.send("ignore").id
    until(lambda: "task-ignored" in kinds(worker.dsn, task_id))
    with pytest.raises(CeleryTimeoutError):
        by_id(worker, task_id).get(timeout=1)

    with waiting(by_id(worker, task_id).get) as waiter:
        backend_of.store_result(task_id, 5, "SUCCESS")

        assert waiter.result(PATIENCE) == 5


@pytest.fixture
def backend_of(worker: Worker) -> JournalBackend:
    """The result backend of the app that waits."""
    backend: JournalBackend = worker.app.backend
    return backend
