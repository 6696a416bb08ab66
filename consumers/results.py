"""Celery's results, and what they lack: the history of a task, and the members that Celery had once.

`install(app)` makes an app use these classes. Nothing else depends on it: Celery's own do all that they always do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from typing import Any

from celery import Celery, states
from celery import result as stock
from celery.exceptions import ImproperlyConfigured

from celery_journal.projections import TaskAttempt

from .backend import JournalBackend
from .backend.waiting import leaves
from .capture import attach
from .explain import Explanation, explain
from .replay import Lineage, lineage, send_again
from .timeline import Transition, timeline


def _journal_of(backend: Any, asked: str) -> JournalBackend:
    if not isinstance(backend, JournalBackend):
        name = type(backend).__name__
        raise ImproperlyConfigured(f"{asked}() is the journal's, and this result's backend is {name}; write result_backend = 'journal+...'")
    return backend


class AsyncResult(stock.AsyncResult):
    """Celery's AsyncResult, with the history of its task."""

    def history(self) -> list[Transition]:
        """Return what has happened to the task, one transition after the other; what was forgotten or has expired is still there.

        What several have told is one transition with several `witnesses`.
        """
        backend = self._journal("history")
        return timeline(backend.database.run(lambda connection: backend.journal.read_stream(connection, str(self.id))), backend)

    def attempts(self) -> list[TaskAttempt]:
        """Return every run of the task, the first attempt first: a redelivered message is another run of the same attempt."""
        backend = self._journal("attempts")
        return backend.database.run(lambda connection: TaskAttempt.of(connection, str(self.id), backend.journal.schema))

    def explain(self) -> Explanation:
        """Return why the task is where it is; `str()` of it is a few sentences."""
        backend = self._journal("explain")
        return backend.database.run(lambda connection: explain(connection, str(self.id), backend.journal.schema))

    def replay(self, **wishes: Any) -> AsyncResult:
        """Send the task again as it was published, and return the result of the new one; of a failed chain, from its failed step on.

        `reason="..."` and `set={"kwargs.amount": 3}` are the wishes that most have; see celery_journal.consumers.replay.send_again.
        """
        return type(self)(send_again(self._journal("replay"), str(self.id), **wishes), app=self.app)

    @property
    def replay_of(self) -> str | None:
        """The id of the task that it was sent again of; None if it is the first."""
        return self._lineage("replay_of").replay_of

    @property
    def replayed_as(self) -> tuple[str, ...]:
        """The ids of the tasks as which it was sent again."""
        return self._lineage("replayed_as").replayed_as

    def _lineage(self, asked: str) -> Lineage:
        backend = self._journal(asked)
        return backend.database.run(lambda connection: lineage(connection, str(self.id), backend.journal.schema))

    async def aget(self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True) -> Any:
        """Return what `get()` returns, in an event loop: `await result.aget(timeout=10)`, or just `await result`.

        It is pushed as `get()` is, and no thread waits. Raises what the task, or one before it in its chain, has raised, and
        celery.exceptions.TimeoutError after `timeout` seconds.
        """
        if self.ignored:
            return None
        stock.assert_will_not_block()
        await self._journal("aget").wait_for_results(self, timeout, propagate=propagate, follow_parents=follow_parents)
        if propagate and follow_parents:
            for parent in reversed(list(self._parents())):
                if parent._cache:
                    parent.maybe_throw()
        return self.maybe_throw(propagate=propagate)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aget().__await__()

    async def ahistory(self) -> list[Transition]:
        """Return what `history()` returns, in an event loop."""
        backend = self._journal("ahistory")
        async with backend.adatabase.primary() as connection:
            return timeline(await backend.journal.aread_stream(connection, str(self.id)), backend)

    async def aattempts(self) -> list[TaskAttempt]:
        """Return what `attempts()` returns, in an event loop."""
        backend = self._journal("aattempts")
        async with backend.adatabase.primary() as connection:
            return await TaskAttempt.aof(connection, str(self.id), backend.journal.schema)

    async def aexplain(self) -> Explanation:
        """Return what `explain()` returns, in an event loop."""
        return await asyncio.to_thread(self.explain)

    def _journal(self, asked: str) -> JournalBackend:
        return _journal_of(self.backend, asked)

    def retry(self) -> bool:
        """Return whether the task has failed and will be tried again."""
        return bool(self.state == states.RETRY)

    @property
    def return_value(self) -> Any:
        """What `result` is."""
        return self.result

    def exists(self) -> bool:
        """Return whether the journal knows the task; Celery has it since 5.7."""
        return bool(self.backend.task_result_exists(self.id))

    def __reduce_args__(self) -> tuple[Any, ...]:
        # The app's own backend is where it is unpickled too: no second pool there, and no password in the pickle.
        backend = None if self.backend is self.app.backend else self.backend
        return self.id, backend, None, None, self.parent


class _Iterable:
    """What a set of results and a group have in common."""

    results: list[Any]
    backend: Any
    supports_native_join: bool | None
    iter_native: Any

    def iterate(self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5) -> Iterator[Any]:
        """Yield the return value of each task as it becomes ready, and those of a group inside as a list.

        Raises celery.exceptions.TimeoutError if they are not all ready within `timeout` seconds, and what a task raised;
        with `propagate=False` that exception is yielded.
        """
        stock.assert_will_not_block()
        if not self.supports_native_join:  # the results of eager tasks, or none
            yield from (member.get(timeout=timeout, propagate=propagate, interval=interval) for member in self.results)
            return
        for _, meta in self.iter_native(timeout=timeout, interval=interval):
            if isinstance(meta, list):
                yield [member.get(timeout=timeout, propagate=propagate, interval=interval) for member in meta]
            elif propagate and meta["status"] in states.PROPAGATE_STATES:
                raise meta["result"]
            else:
                yield meta["result"]

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """Return what `get()` returns, in an event loop: `await group.aget(timeout=10)`, or just `await group`.

        Raises what a task raised as soon as one has, and celery.exceptions.TimeoutError after `timeout` seconds.
        """
        stock.assert_will_not_block()
        if self.results:
            await _journal_of(self.backend, "aget").wait_for_results(self, timeout, propagate=propagate)
        if propagate:
            for leaf in leaves(self):
                if leaf._cache:
                    leaf.maybe_throw()
        return [_value(member) for member in self.results]

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.aget().__await__()


def _value(member: Any) -> Any:
    """Return the value of a result that is ready, the list of them for a set."""
    return [_value(inner) for inner in member.results] if isinstance(member, stock.ResultSet) else member.result


class ResultSet(_Iterable, stock.ResultSet):
    """Celery's ResultSet, which can be empty, iterated over and pickled."""

    def __init__(self, results: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__([] if results is None else results, **kwargs)

    def __reduce__(self) -> Any:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return (self.results,)


class GroupResult(_Iterable, stock.GroupResult):
    """Celery's GroupResult, which can be iterated over."""

    def __init__(self, id: str | None = None, results: list[Any] | None = None, parent: Any = None, **kwargs: Any) -> None:  # noqa: A002
        super().__init__(id, [] if results is None else results, parent, **kwargs)


def _say_how(self: stock.AsyncResult, name: str) -> Any:
    """Raise the AttributeError of a member that Celery's class has not; of one of ours it says which class has it."""
    lacks = f"{type(self).__name__!r} object has no attribute {name!r}"
    hint = f"; Celery's own class has none: write app.AsyncResult(task_id), of install(app), for {name}" if name in _OURS else ""
    raise AttributeError(lacks + hint, name=name, obj=self)


#: What our AsyncResult has and Celery's has not.
_OURS = {name for name in vars(AsyncResult) if not name.startswith("_") and not hasattr(stock.AsyncResult, name)}


def install(app: Celery) -> Celery:
    """Make the app's results these, and return the app; once more does no harm.

    Call it where the app is made, `app = install(Celery(...))`, so that every process which imports the app has them. It also has
    everything recorded that the app sends, from its first message on: a process that only sends tasks whose results are
    ignored would not make its result backend before. Celery's own class stays as it is, but that the error where code asks
    `celery.result.AsyncResult` for what only ours has says how to get it.
    """
    attach(app)
    if not hasattr(stock.AsyncResult, "__getattr__"):
        stock.AsyncResult.__getattr__ = _say_how
    for name, ours in (("AsyncResult", AsyncResult), ("GroupResult", GroupResult), ("ResultSet", ResultSet)):
        if not issubclass(getattr(app, name), ours):
            setattr(app, name, app.subclass_with_self(ours, reverse=name))
    return app
