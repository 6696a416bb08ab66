"""Whose journal a fact belongs into: that of the app whose task it is about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from celery import current_app
from celery._state import _get_active_apps, get_current_task

from celery_journal.consumers.options import Options
from celery_journal.journal import Emitter
from celery_journal.journal.events import Event

from .buffer import Buffer


class Recorder(ABC):
    """What records facts for an app: its result backend."""

    app: Any
    options: Options
    emitter: Emitter
    #: For facts that nobody waits for.
    buffer: Buffer

    @abstractmethod
    def append(self, *events: Event) -> None:
        """Record the events before this returns; while the database is away, they go to the spool."""

    @abstractmethod
    def append_at_least(self, event: Event) -> None:
        """Record the event before this returns, without its payload where that is too large or refused."""

    @abstractmethod
    def append_now(self, event: Event) -> None:
        """Record an event that nobody wants to have later, or raise."""


_attached: WeakSet[Any] = WeakSet()

_NOBODY = SimpleNamespace()


def know(app: Any) -> bool:
    """Remember the app as one whose messages are to be recorded; return whether it is a new one."""
    new = app not in _attached
    _attached.add(app)
    return new


def recorder_of(app: Any) -> Recorder | None:
    """Return who records for the app; None if its results do not go to the journal."""
    backend = app.backend
    return backend if isinstance(backend, Recorder) else None


def sender_of(name: str, declare: Any) -> Any:
    """Return the app that sends a task of that name to these queues; None if it is none that we are attached to."""
    # The signal does not say. The queue is the app's own object, unless the caller has made it.
    queue = declare[0] if declare else None
    if queue is not None:
        for app in (*_attached, *_get_active_apps()):
            # Who sends has its queues; the others are not to be set up for this.
            queues = vars(vars(app).get("amqp") or _NOBODY).get("queues") or {}
            if queues.get(queue.name) is queue:
                return app if app in _attached else None
    if (task := get_current_task()) is not None and task.app in _attached:
        return task.app
    app = current_app._get_current_object()
    if app in _attached:
        return app
    known = [app for app in _attached if name in app.tasks]
    return known[0] if len(known) == 1 else None
