"""The same questions from an event loop (M17)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal import events as kinds
from celery_journal.projections import ChordCounter, Count, FieldError, GroupResult, Max, NoJournal, Q, TaskResult
from celery_journal.projections.aquery import AsyncConnection, AsyncManager

Question = Callable[[AsyncManager[TaskResult], AsyncConnection], Awaitable[object]]


@pytest.fixture
def ask(dsn: str, connection: Connection, journal: Journal, emitter: Emitter) -> Callable[[Question], object]:
    """Three tasks, of which one has failed, and the way to ask of them."""
    journal.append(connection, *(emitter.emit(kinds.TaskSent, f"task-{number}", name="add") for number in range(3)))
    journal.append(connection, emitter.emit(kinds.TaskFailed, "task-1"))

    def ask(question: Question) -> object:
        async def asking() -> object:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as opened:
                return await question(TaskResult.aobjects.using(opened), opened)

        return asyncio.run(asking())

    return ask


def test_a_set_is_looped_over(ask: Callable[[Question], object]) -> None:
    """Filtered, ordered, sliced: whole or page by page."""

    async def question(tasks: AsyncManager[TaskResult], _: AsyncConnection) -> object:
        ordered = tasks.filter(Q(status="PENDING") | Q(status="FAILURE")).order_by("-task_id")
        return [
            [task.task_id async for task in ordered],
            [task.task_id async for task in ordered[1:]],
            [task.task_id async for task in ordered[:2]],
            [task.task_id async for task in tasks.exclude(status="PENDING")],
            [task async for task in tasks.none()],
            [row async for row in ordered.values("task")[:1]],
        ]

    assert ask(question) == [
        ["task-2", "task-1", "task-0"],
        ["task-1", "task-0"],
        ["task-2", "task-1"],
        ["task-1"],
        [],
        [{"task": "add"}],
    ]


def test_a_set_is_counted_and_a_row_is_got(ask: Callable[[Question], object]) -> None:
    """`get`, `first`, `count` and `exists` are awaited, of a manager as of a set."""

    async def question(tasks: AsyncManager[TaskResult], _: AsyncConnection) -> object:
        first = await tasks.order_by("task_id").first()
        return (
            await tasks.count(),
            await tasks.filter(status="FAILURE").count(),
            await tasks.exists(),
            await tasks.none().exists(),
            first and first.task_id,
            await tasks.none().first(),
            (await tasks.get(task_id="task-1")).status,
            (await tasks.filter(status="FAILURE").get()).task_id,
        )

    assert ask(question) == (3, 1, True, False, "task-0", None, "FAILURE", "task-1")


def test_what_else_can_be_asked(ask: Callable[[Question], object]) -> None:
    """`values_list`, `distinct`, `last`, `iterator` and `aggregate`, as without an event loop."""

    async def question(tasks: AsyncManager[TaskResult], _: AsyncConnection) -> object:
        last = await tasks.order_by("task_id").last()
        return (
            [one async for one in tasks.order_by("-task_id").values_list("task_id", flat=True)],
            [one async for one in tasks.values_list("status", "task_name").distinct()],
            await tasks.values("status").distinct().count(),
            last and last.task_id,
            [task.task_id async for task in tasks.order_by("task_id").iterator(chunk_size=2)],
            await tasks.aggregate(Count("pk"), last=Max("task_id")),
            await tasks.aggregate(),
        )

    assert ask(question) == (
        ["task-2", "task-1", "task-0"],
        [("FAILURE", "add"), ("PENDING", "add")],
        2,
        "task-2",
        ["task-0", "task-1", "task-2"],
        {"pk__count": 3, "last": "task-2"},
        {},
    )


def test_what_is_not_one_row_is_an_error(ask: Callable[[Question], object]) -> None:
    """The model's own; and what does not exist is said where it is written."""

    async def question(tasks: AsyncManager[TaskResult], _: AsyncConnection) -> object:
        with pytest.raises(TaskResult.DoesNotExist):
            await tasks.get(task_id="nobody")
        with pytest.raises(TaskResult.MultipleObjectsReturned):
            await tasks.get(task_name="add")
        with pytest.raises(FieldError, match="its fields are task_name"):
            tasks.filter(tsk_name="add")
        return "asked"

    assert ask(question) == "asked"


def test_a_loop_that_is_left_lets_go(ask: Callable[[Question], object]) -> None:
    """Of its cursor and its transaction; what was done in it stands."""

    async def question(tasks: AsyncManager[TaskResult], connection: AsyncConnection) -> object:
        async with aclosing(aiter(tasks.order_by("task_id"))) as rows:
            async for _ in rows:
                during = connection.info.transaction_status
                await connection.execute("create table celery_journal.left_behind (id integer)")
                break
        found = await (await connection.execute("select to_regclass('celery_journal.left_behind')::text")).fetchone()
        await connection.execute("drop table celery_journal.left_behind")
        return during.name, connection.info.transaction_status.name, found

    assert ask(question) == ("INTRANS", "IDLE", ("celery_journal.left_behind",))


def test_every_model_can_be_asked(ask: Callable[[Question], object]) -> None:
    """Groups and chords, too."""

    async def question(_: AsyncManager[TaskResult], connection: AsyncConnection) -> object:
        return await GroupResult.aobjects.using(connection).count(), await ChordCounter.aobjects.using(connection).count()

    assert ask(question) == (0, 0)


def test_without_a_journal_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without an event loop."""
    monkeypatch.setattr("celery_journal.projections.aquery.find_database", None)

    with pytest.raises(NoJournal, match=r"say \.using\(connection\)"):
        TaskResult.aobjects.all()
