"""Celery's own retry loop (`result_backend_always_retry`), around a backend that has a budget and a spool.

With it on, Celery counts the tries and pauses between them, so each of ours is a single one, and all of them send the
same event: the first may have been recorded before its connection broke.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from celery._state import get_current_task
from celery.backends.base import BaseBackend
from celery.exceptions import BackendStoreError

from celery_journal.consumers.options import Options
from celery_journal.journal.events import Event
from celery_journal.journal.faults import is_transient

from .connection import JournalUnavailable, one_try
from .outage import Outage
from .process import is_worker_main

E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class _Tries:
    """The tries of one call of Celery's."""

    #: When to give up, whatever Celery's settings say.
    deadline: float = math.inf
    #: The events made so far, by the number of their form.
    made: dict[int, Any] = field(default_factory=dict)
    #: What the last try was to record.
    events: Sequence[Event] = ()


_tries: ContextVar[_Tries | None] = ContextVar("tries", default=None)


class Retries(BaseBackend):
    """The part of the backend that Celery's retry loop is about."""

    options: Options
    outage: Outage

    def store_result(self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any) -> Any:
        """Record the state of a task, and return the encoded result; while the database is away, the state goes to the spool."""
        stored = self._tried(super().store_result, task_id, result, state, traceback=traceback, request=request, **kwargs)
        return self.encode_result(result, state) if stored is None else stored

    def get_task_meta(self, task_id: Any, cache: bool = True) -> Any:
        """Return what is known of a task."""
        return self._tried(super().get_task_meta, task_id, cache=cache)

    def _ensure_retryable(self, *args: Any, **kwargs: Any) -> Any:  # the loop of Celery 5.7; before, it is in the two above
        return self._tried(super()._ensure_retryable, *args, **kwargs)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether the same call may do next time: after a lost connection, never after an error in the data."""
        tries = _tries.get()
        if tries is not None and time.monotonic() >= tries.deadline:
            return False
        return isinstance(exc, JournalUnavailable) or is_transient(exc)

    def _sleep(self, amount: float) -> None:
        tries = _tries.get()
        time.sleep(amount if tries is None else max(0.0, min(amount, tries.deadline - time.monotonic())))

    def _tried(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what Celery's loop returns; None if it gave up on an event, which is in the spool then."""
        if not self.always_retry or _tries.get() is not None:
            return call(*args, **kwargs)
        tries = _Tries()
        if is_worker_main() and get_current_task() is None:  # it looks after all the others, and an endless loop would hang them
            tries.deadline = time.monotonic() + self.options.retry_budget
        ours, single = _tries.set(tries), one_try.set(True)
        try:
            return call(*args, **kwargs)
        except (BackendStoreError, JournalUnavailable) as exc:
            if not tries.events or self.outage.spool is None:
                raise
            cause = exc if isinstance(exc, JournalUnavailable) else JournalUnavailable(str(exc.__cause__ or exc.__context__ or exc))
            self.outage.keep(tries.events, cause)
            return None
        finally:
            one_try.reset(single)
            _tries.reset(ours)

    def _trying(self, events: Sequence[Event]) -> None:
        """Remember what this try is to record."""
        if (tries := _tries.get()) is not None:
            tries.events = events

    def _made_once(self, form: int, make: Callable[[], E]) -> E:
        """Return the event that `make` makes; in Celery's loop, what it made at the first try."""
        tries = _tries.get()
        if tries is None:
            return make()
        if form not in tries.made:
            tries.made[form] = make()
        event: E = tries.made[form]
        return event
