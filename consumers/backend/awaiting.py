"""Awaiting results in an event loop: no thread for each, and one connection that hears for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from celery import states
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_journal.journal.answering import within
from celery_journal.journal.codec import escape
from celery_journal.projections.queryset import PAGE

from .connection import JournalUnavailable
from .listening import Waiter
from .pending import resolve
from .reading import Meta, ignored_in
from .waiting import Waiting, leaves, parents_of
from .watch import FIRST_POLL, LAST_POLL


class Hinted(Waiter):
    """Somebody in an event loop who waits for news of some tasks."""

    def __init__(self, task_ids: Iterable[str]) -> None:
        super().__init__(task_ids)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def hint(self, tokens: Iterable[str]) -> None:
        """Say, from any thread, that there may be news of the tasks of these tokens."""
        super().hint(tokens)
        if self.has_hints:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._news.set)

    async def heard(self, seconds: float) -> set[str]:
        """Return the ids of the tasks of which there may be news; none after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()  # before the hints are taken, so that none is left lying about
        return self.wait(0)


class Desk:
    """Reads for all who ask in one event loop: what is asked for while it reads, it reads next, together."""

    def __init__(self, read: Callable[[set[str]], Awaitable[dict[str, Meta]]]) -> None:
        self._read = read
        self._asked: set[str] = set()
        self._answer: asyncio.Future[dict[str, Meta]] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, task_ids: Iterable[str]) -> list[Meta]:
        """Return the metas of those of the tasks that are ready."""
        loop, wanted = asyncio.get_running_loop(), set(task_ids)
        self._asked |= wanted
        if self._answer is None:
            self._answer = loop.create_future()
            self._answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())  # though nobody asks any more
        answer = self._answer
        if self._reading is None:
            self._reading = loop.create_task(self._run())
        ready = await asyncio.shield(answer)
        return [ready[task_id] for task_id in wanted if task_id in ready]

    async def _run(self) -> None:
        answer: asyncio.Future[dict[str, Meta]] | None = None
        try:
            await asyncio.sleep(0)  # those who come in the same turn of the loop
            while (answer := self._answer) is not None:
                asked, self._asked, self._answer = self._asked, set(), None
                try:
                    answer.set_result(await self._read(asked))
                except Exception as exc:  # noqa: BLE001  it is for those who asked
                    answer.set_exception(exc)
        finally:  # neither a task nor a future may keep the loop alive
            for left in (answer, self._answer):
                if left is not None and not left.done():
                    left.cancel()
            self._answer = self._reading = None


class Awaiting(Waiting):
    """The part of the backend that `await result` calls."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, url=url, **kwargs)
        self._desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = WeakKeyDictionary()

    async def wait_for_results(self, result: Any, timeout: float | None, *, propagate: bool, follow_parents: bool = False) -> None:
        """Return when the result, or each of a set, is ready; with `propagate` also when one of them, or of their parents, has failed.

        Raises celery.exceptions.TimeoutError after `timeout` seconds, and JournalUnavailable if the database is away from the beginning;
        an outage later is waited out.
        """
        wanted: dict[str, list[Any]] = {}
        for leaf in leaves(result):
            if not leaf._cache:
                wanted.setdefault(self.check_id(leaf.id), []).append(leaf)
        parents = {str(node.id): node for node in parents_of(result) if not node._cache} if follow_parents else {}
        waiter = Hinted([*wanted, *parents])
        with self.ear.attended_by(waiter):
            try:
                if timeout is not None and timeout <= 0:  # one look, however long it takes
                    await self._read_until_ready(waiter, wanted, parents, propagate=propagate, once=True)
                    return
                async with asyncio.timeout(timeout):
                    await self._read_until_ready(waiter, wanted, parents, propagate=propagate)
            except TimeoutError as exc:
                raise CeleryTimeoutError(f"The operation timed out after {timeout} s.") from exc

    async def _read_until_ready(
        self, waiter: Hinted, wanted: dict[str, list[Any]], parents: dict[str, Any], *, propagate: bool, once: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        desk = self._desks.setdefault(loop, Desk(self._read_ready))
        asked, poll, read_at, is_away, is_first = {*wanted, *parents}, FIRST_POLL, loop.time(), False, True
        while wanted:
            if asked:
                try:
                    ready = await desk.ask(asked)
                    is_away = False
                except (JournalUnavailable, psycopg.OperationalError) as exc:
                    if is_first:
                        raise JournalUnavailable(str(exc).partition("\n")[0]) from exc
                    ready, is_away = [], True
                is_first = False
                for meta in ready:
                    parent = [parents.pop(meta["task_id"])] if meta["task_id"] in parents else []
                    for node in (*parent, *wanted.pop(meta["task_id"], ())):
                        resolve(node, meta)
                    if propagate and meta["status"] in states.PROPAGATE_STATES:
                        return
            if not wanted:
                return
            if once:
                raise TimeoutError
            is_heard = self.ear.hears(waiter) and not is_away
            silence = self.options.reread_interval if is_heard else poll
            asked = await waiter.heard(max(0.0, read_at + silence - loop.time())) & {*wanted, *parents}
            if loop.time() >= read_at + silence:
                asked, read_at = {*wanted, *parents}, loop.time()
                poll = poll if is_heard else min(poll * 1.5, LAST_POLL)

    async def _read_ready(self, task_ids: set[str]) -> dict[str, Meta]:
        given = {escape(task_id): task_id for task_id in task_ids}
        with within(self.options.answer_timeout):
            return await self._read_in_time(given)

    async def _read_in_time(self, given: dict[str, str]) -> dict[str, Meta]:
        ready = dict[str, Meta]()
        async with self.adatabase.primary() as connection:
            rows = self.TaskModel.aobjects.using(connection, self.journal.schema)
            for start in range(0, len(given), PAGE):
                page = list(given)[start : start + PAGE]
                found = rows.filter(task_id__in=page, status__in=[*self.READY_STATES, states.IGNORED])
                for row in [row async for row in found[:PAGE]]:  # no cursor, no transaction
                    task_id = given[row.task_id]
                    if row.status != states.IGNORED:
                        ready[task_id] = self._meta_of(task_id, row)
                    elif ignored_in(await self.journal.aread_stream(connection, task_id)):
                        ready[task_id] = self._meta_without_result(task_id, row)
        return ready
