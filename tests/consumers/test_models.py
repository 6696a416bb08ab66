"""The models as users have them: the examples of the seeds, and the journal that nobody had to name.

M17, M22-M25, M37, M38, M43, M44, F07, F08, F10, F11.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from django.conf import settings

from celery_journal.consumers import models
from celery_journal.consumers.models import ChordCounter, GroupResult, TaskResult, TaskResultMeta
from celery_journal.journal import events as kinds
from celery_journal.projections import NoJournal

from .lostscene import ago
from .scene import ROOT, current, delivered, new_app, until, url_of
from .scene import kinds as told


@pytest.fixture(scope="module")
def app(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery]:
    """The current app, and a journal of what it did."""
    if not settings.configured:
        settings.configure(USE_TZ=True)  # for timezone.now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_JOURNAL_SPOOL", str(tmp_path_factory.mktemp("spool")))
        app = new_app(url_of(embedded_database))
        backend = app.backend

        def tell(kind: type[kinds.Event], stream: str, **fields: Any) -> None:
            backend.append(backend.emitter.emit(kind, stream, **fields))

        request = delivered(app, "myapp.tasks.process_data", (1, "two"), {"three": [3]}, task_id="abc123")
        backend.store_result("abc123", {"rows": 5}, "SUCCESS", request=request)
        tell(kinds.TaskSucceeded, "old", name="myapp.tasks.process_data", occurred_at=ago(7200))
        for minute in range(12):
            tell(kinds.TaskFailed, f"failed-{minute:02}", traceback="Traceback ...", occurred_at=ago(60 * minute))
        tell(kinds.TaskFailed, "silent", occurred_at=ago(0))
        tell(kinds.TaskSent, "stale", name="email_workers.tasks.send_email", occurred_at=ago(4000))
        tell(kinds.GroupSaved, "group-abc123", members=("abc123",), result=b"[]", content_type="application/json", content_encoding="utf-8")
        tell(kinds.ChordStarted, "chord-group-123", size=2, result=b'[[["abc123", null], null], [["old", null], null]]')
        tell(kinds.ChordPartReturned, "chord-group-123", task_id="old", state="SUCCESS", result=b"null")
        with current(app):
            yield app
        backend.database.close()


def test_the_examples_of_task_results(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """M22, M23, M24, M25: as the seed has them, but for the import line."""
    from datetime import timedelta

    from django.utils import timezone

    from celery_journal.consumers.models import TaskResult

    # Query recent successful tasks
    recent_success = TaskResult.objects.filter(status="SUCCESS", date_done__gte=timezone.now() - timedelta(hours=1))

    # Find failed tasks with traceback
    failed_tasks = TaskResult.objects.filter(status="FAILURE", traceback__isnull=False).order_by("-date_done")[:10]

    # Get task by ID
    try:
        task = TaskResult.objects.get(task_id="abc123")
        print(f"Task status: {task.status}")
        print(f"Task result: {task.result}")  # type: ignore[str-bytes-safe]
        task_data = task.as_dict()
    except TaskResult.DoesNotExist:
        print("Task not found")

    # Filter by task name
    specific_tasks = TaskResult.objects.filter(task_name="myapp.tasks.process_data", status="SUCCESS")

    assert [found.task_id for found in recent_success] == ["abc123"]
    assert [found.task_id for found in failed_tasks] == [f"failed-{minute:02}" for minute in range(10)]
    assert capsys.readouterr().out.startswith("Task status: SUCCESS\nTask result: b'{")
    assert task_data["task_kwargs"] == '{"three": [3]}'
    assert [found.task_id for found in specific_tasks] == ["abc123", "old"]


def test_the_example_of_a_task_that_is_not_there(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """M24: DoesNotExist."""
    try:
        TaskResult.objects.get(task_id="nobody")
    except TaskResult.DoesNotExist:
        print("Task not found")

    assert capsys.readouterr().out == "Task not found\n"


def test_the_examples_of_group_results(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """M37, M38."""
    from django.utils import timezone

    from celery_journal.consumers.models import GroupResult

    # Query recent group results
    recent_groups = GroupResult.objects.filter(date_done__gte=timezone.now() - timedelta(days=1)).order_by("-date_done")

    # Get specific group
    try:
        group = GroupResult.objects.get(group_id="group-abc123")
        group_data = group.as_dict()
        print(f"Group completed: {group.date_done}")
    except GroupResult.DoesNotExist:
        print("Group not found")

    assert [found.group_id for found in recent_groups] == ["group-abc123"]
    assert capsys.readouterr().out == f"Group completed: {TaskResult.objects.get(task_id='abc123').date_done}\n"
    assert group_data["result"] == "[]"


def test_the_examples_of_chords(app: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """M44, M43."""
    from celery import current_app

    from celery_journal.consumers.models import ChordCounter

    # Check chord progress
    try:
        chord = ChordCounter.objects.get(group_id="chord-group-123")
        print(f"Remaining tasks: {chord.count}")

        # Get full group result
        group_result = chord.group_result(app=current_app)
        print(f"Group ready: {group_result.ready()}")

        if group_result.ready():
            results = group_result.results
            print(f"All {len(results)} tasks completed")
    except ChordCounter.DoesNotExist:
        print("Chord already completed or not found")

    assert capsys.readouterr().out == "Remaining tasks: 1\nGroup ready: True\nAll 2 tasks completed\n"


def test_the_example_of_sending_a_task_again(app: Celery, embedded_database: str) -> None:
    """F07, F08: the arguments are true JSON, and what is sent is recorded."""
    celery_app = app

    task = TaskResultMeta.objects.filter(task_name="myapp.tasks.process_data", args__isnull=False).all()[0]
    task_name = task.task
    task_args = json.loads(task.args)  # type: ignore[arg-type]
    task_kwargs = json.loads(task.kwargs)  # type: ignore[arg-type]
    sent = celery_app.send_task(task_name, args=task_args, kwargs=task_kwargs)

    assert (task_name, task_args, task_kwargs) == ("myapp.tasks.process_data", [1, "two"], {"three": [3]})
    until(lambda: "task-sent" in told(embedded_database, sent.id))
    assert (again := TaskResultMeta.objects.get(task_id=sent.id)).status == "PENDING"
    assert (again.args, again.kwargs) == (task.args, task.kwargs)


def test_the_example_of_stale_tasks(app: Celery) -> None:
    """F11, F10: more than one hour old and still pending."""
    from datetime import timedelta

    from celery_journal.consumers.models import TaskResultMeta

    # Returns a QuerySet
    stale_tasks = TaskResultMeta.objects.get_stale_tasks(timedelta(hours=1))

    assert [(task.task_id, task.status, task.task) for task in stale_tasks] == [("stale", "PENDING", "email_workers.tasks.send_email")]


def test_the_models_are_those_of_the_projections(app: Celery) -> None:
    """One class, wherever it is imported from."""
    from celery_journal import projections

    assert TaskResult is TaskResultMeta is projections.TaskResult
    assert (GroupResult, ChordCounter) == (projections.GroupResult, projections.ChordCounter)


def test_an_event_loop_asks_the_same(app: Celery) -> None:
    """M17: `aobjects` finds the journal of the current app, too."""

    async def ask() -> tuple[list[str], int, str]:
        failed = TaskResult.aobjects.filter(status="FAILURE", traceback__isnull=False).order_by("-date_done")
        return [task.task_id async for task in failed[:2]], await failed.count(), (await TaskResult.aobjects.get(pk="abc123")).status

    assert asyncio.run(ask()) == (["failed-00", "failed-01"], 12, "SUCCESS")


def test_what_is_stored_goes_to_the_journal_of_the_app(app: Celery, embedded_database: str) -> None:
    """M56: and comes back through Celery."""
    TaskResult.objects.store_result("application/json", "utf-8", "stored", "42", "SUCCESS")

    assert told(embedded_database, "stored") == ["task-succeeded"]
    assert app.AsyncResult("stored").get(timeout=5) == 42


def test_without_an_app_it_is_the_journal_of_the_environment(embedded_database: str, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a script: CELERY_JOURNAL_DSN."""
    monkeypatch.setenv("CELERY_JOURNAL_DSN", embedded_database)
    elsewhere = Celery("elsewhere", set_as_current=False)

    async def ask() -> int:
        return await TaskResult.aobjects.filter(pk="abc123").count()

    with current(elsewhere):
        assert TaskResult.objects.get(task_id="abc123").status == "SUCCESS"
        assert asyncio.run(ask()) == 1
        models.find()._database.close()


def test_without_either_it_is_said_what_to_do(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, in both worlds."""
    monkeypatch.delenv("CELERY_JOURNAL_DSN", raising=False)

    with current(Celery("elsewhere", set_as_current=False)):
        for manager in (TaskResult.objects, TaskResult.aobjects):
            with pytest.raises(NoJournal, match="go to DisabledBackend, not to a journal; write result_backend = "):
                manager.filter(status="FAILURE")


def test_a_script_ends_by_itself(embedded_database: str, app: Celery) -> None:
    """No thread of a pool keeps it, and nothing is complained of."""
    script = "from celery_journal.consumers.models import TaskResult; print(TaskResult.objects.get(task_id='abc123'))"
    command = [sys.executable, "-W", "error", "-c", script]
    environment = {**os.environ, "CELERY_JOURNAL_DSN": embedded_database}

    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert (ran.stdout, ran.stderr, ran.returncode) == ("<Task: abc123 (SUCCESS)>\n", "", 0)


def test_a_result_is_decoded(app: Celery) -> None:
    """As AsyncResult has it, an exception where it failed, None where nothing is stored."""
    app.backend.mark_as_failure("broke", ValueError("no such shop"), "Traceback ...")

    assert TaskResult.objects.get(task_id="abc123").return_value == {"rows": 5}
    assert TaskResult.objects.get(task_id="old").return_value is None
    assert repr(TaskResult.objects.get(task_id="broke").return_value) == "ValueError('no such shop')"


def test_a_result_that_the_app_does_not_accept_is_not_decoded(app: Celery) -> None:
    """Nor one that is broken: the sentence says why, and the bytes are there. Without an app whose results go there it is the same."""
    stored = TaskResult.objects.store_result("application/x-python-serialize", "binary", "pickled", pickle.dumps(1), "SUCCESS")
    broken = TaskResult.objects.store_result("application/json", "utf-8", "broken", "{", "SUCCESS")

    with current(Celery("elsewhere", set_as_current=False)):
        with pytest.raises(ValueError, match=r"the result of pickled cannot be decoded: Refusing to deserialize .*pickle"):
            _ = stored.return_value
        with pytest.raises(ValueError, match="the result of broken cannot be decoded: Expecting property name"):
            _ = broken.return_value
    assert stored.result == pickle.dumps(1)
    assert stored.return_value == 1  # the current app accepts pickles
