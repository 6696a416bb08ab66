"""One wait for the results of some tasks: it reads when there is news, and now and then to be safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

from celery.exceptions import TimeoutError as CeleryTimeoutError
from vine import promise

from celery_journal.journal.answering import within

from .connection import JournalUnavailable
from .listening import Waiter
from .reading import Meta

if TYPE_CHECKING:
    from .waiting import Waiting

OnMessage = Callable[[Meta], object]
OnInterval = Callable[[], object]

#: Seconds between two reads where nothing can be pushed: at first, and at most.
FIRST_POLL, LAST_POLL = 0.02, 0.5

#: Seconds that the server has to answer the last look, for which there may be no time any more.
LAST_LOOK = 0.5

#: Seconds between two calls of `on_interval`, unless told otherwise.
INTERVAL = 0.5

_known: ContextVar[dict[str, Meta | None] | None] = ContextVar("known", default=None)


def known_to_watch(task_id: str) -> Meta | None:
    """Return what this thread, if it waits, has last read of a parent of what it waits for: Celery asks at every interval."""
    return (_known.get() or {}).get(task_id)


class Watch:
    """An iterable of the meta of each task as it becomes ready, until all that are wanted are; of their parents too, meanwhile.

    Raises celery.exceptions.TimeoutError after `timeout` seconds (0: after one look), JournalUnavailable if the database
    cannot be reached at first; an outage later is waited out. `looks` ends it quietly after so many reads.
    """

    def __init__(
        self,
        backend: Waiting,
        wanted: Iterable[str],
        parents: Iterable[str] = (),
        *,
        timeout: float | None = None,
        interval: float | None = None,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        looks: int | None = None,
    ) -> None:
        self._backend = backend
        self._wanted = set(wanted)
        self._parents: dict[str, Meta | None] = dict.fromkeys(parents)
        self._follows_parents = bool(self._parents)
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._on_message = on_message
        self._told: set[UUID] = set()
        #: Of each task, from where on its transitions may be news: reading a long history at every step would never end.
        self._since: dict[str, int] = {}
        self._intervals = _Intervals(on_interval, INTERVAL if interval is None else interval)
        self._looks = looks
        self._waiter = Waiter(self._wanted | self._parents.keys(), transitions=on_message is not None)
        self._longest_poll = LAST_POLL if interval is None else min(interval, LAST_POLL)
        self._poll = min(FIRST_POLL, self._longest_poll)
        self._read_at = 0.0
        self._is_away = False

    def __iter__(self) -> Iterator[Meta]:
        yield from self._remembered()
        ear = self._backend.ear
        with ExitStack() as attending:
            attended = ear.hears(self._waiter)
            if attended:  # or else not before the first look, which may be all there is to it
                attending.enter_context(ear.attended_by(self._waiter))
            news = self._wanted | self._parents.keys()
            self._read_at = time.monotonic()
            is_last = self._is_over()
            ready = self._read(news, first=True)
            has_waited = False
            while True:
                yield from self._deliver(ready)
                if not self._wanted or self._has_looked_enough():
                    break
                if not attended:
                    attending.enter_context(ear.attended_by(self._waiter))
                    attended = True
                if is_last:
                    raise CeleryTimeoutError(f"The operation timed out after {self._timeout} s.")
                self._intervals.call_in_time(self._parents)
                has_waited = True
                news = self._next()
                is_last = self._is_over()
                ready = self._read(news) if news else []
        if (has_waited or self._follows_parents) and not self._wanted:
            self._intervals.call(self._parents)  # as Celery does: the error of a parent goes before that of its child

    def _remembered(self) -> Iterator[Meta]:
        for task_id in list(self._wanted):
            if (meta := self._backend.remembered(task_id)) is not None:
                self._wanted.discard(task_id)
                yield meta

    def _next(self) -> set[str]:
        """Wait, and return the ids of the tasks to read then: those that have news, or all when it is time."""
        everything = self._wanted | self._parents.keys()
        is_heard = self._backend.ear.hears(self._waiter) and not self._is_away
        silence = self._backend.options.reread_interval if is_heard else self._poll
        until = min(self._read_at + silence, self._intervals.next_at)
        if self._deadline is not None:
            until = min(until, self._deadline)
        hinted = self._waiter.wait(max(0.0, until - time.monotonic())) & everything
        now = time.monotonic()
        if now < self._read_at + silence and not self._is_over():
            return hinted
        self._read_at = now
        if not is_heard:
            self._poll = min(self._poll * 1.5, self._longest_poll)
        return everything

    def _read(self, task_ids: set[str], *, first: bool = False) -> list[Meta]:
        """Return the metas of those that are ready; tell of transitions, and remember how it is with parents."""
        if task_ids & self._wanted:
            task_ids = task_ids | self._parents.keys()
        budget = self._timeout if first else 0.0  # later an outage is waited out here
        if budget is not None:
            budget = min(budget, self._backend.options.retry_budget)
        left = None if not self._timeout or self._deadline is None else max(LAST_LOOK, self._deadline - time.monotonic())
        try:
            with within(left):
                ready = self._backend.ready_of(task_ids, self._parents, budget=budget)
                if self._on_message is not None:
                    self._tell(task_ids & self._wanted, self._on_message, budget)
        except JournalUnavailable as exc:
            if first and self._timeout and self._is_over():
                raise CeleryTimeoutError(f"The operation timed out after {self._timeout} s.") from exc
            if first:
                raise
            self._is_away = True
            return []
        self._is_away = False
        return ready

    def _tell(self, task_ids: set[str], on_message: OnMessage, budget: float | None) -> None:
        """Tell of the transitions that were not told yet."""
        since = min((self._since.get(task_id, 0) for task_id in task_ids), default=0)
        transitions, horizon = self._backend.transitions_of(task_ids, since, budget=budget)
        self._since.update(dict.fromkeys(task_ids, horizon))
        for event_id, meta in transitions:
            if event_id not in self._told:
                self._told.add(event_id)
                on_message(meta)

    def _deliver(self, ready: list[Meta]) -> Iterator[Meta]:
        for meta in ready:
            task_id = meta["task_id"]
            if task_id in self._wanted and self._on_message is not None:
                self._on_message(meta)
            if task_id in self._wanted or task_id in self._parents:
                self._wanted.discard(task_id)
                self._parents.pop(task_id, None)
                yield meta

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _has_looked_enough(self) -> bool:
        if self._looks is None:
            return False
        self._looks -= 1
        return self._looks <= 0


class _Intervals:
    """Calls `on_interval` at its time."""

    def __init__(self, on_interval: OnInterval | None, seconds: float) -> None:
        self._calls = [] if on_interval is None else [on_interval]
        self._listeners = _listeners(on_interval)
        self._seconds = max(seconds, 0.01)
        self._open_parents = 0
        self.next_at = float("inf") if on_interval is None else time.monotonic() + self._seconds

    def call_in_time(self, parents: dict[str, Meta | None]) -> None:
        """Call it if its time has come, or if a parent has ended."""
        if self._calls and (time.monotonic() >= self.next_at or len(parents) < self._open_parents):
            self.call(parents)
            self.next_at = time.monotonic() + self._seconds
        self._open_parents = len(parents)

    def call(self, parents: dict[str, Meta | None]) -> None:
        """Call it; what it asks about the parents is answered from these."""
        token = _known.set(parents)
        try:
            for call in self._calls:
                call()
        finally:
            _known.reset(token)
        self._calls += self._listeners
        self._listeners = []


def _listeners(on_interval: OnInterval | None) -> list[OnInterval]:
    """Return what is attached to a promise, as `AsyncResult.get` hands one on: it would call that once, and intervals come again."""
    if not isinstance(on_interval, promise):
        return []
    return [listener for listener in on_interval._lvpending or [on_interval._svpending] if listener is not None]
