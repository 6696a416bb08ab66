"""How tasks would be sent today of which nobody has recorded how they were: by name and arguments, as the app has it.

Such are those of another result backend, and those that were sent by who does not load celery-journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_journal.consumers.words import first_line
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskSent
from celery_journal.projections import TaskResult

from .errors import CannotReplay, NotRecorded
from .message import decoded_arguments
from .past import Past

_UNRECORDED = "it is not recorded how it was sent"


@dataclass(frozen=True, slots=True)
class Guesses:
    """Makes the messages of such tasks, where that is wanted."""

    connection: Connection
    journal: Journal
    emitter: Emitter
    app: Any
    is_wanted: bool
    #: What was asked before: how a task was called does not change.
    _calls: dict[str, TaskResult | None] = field(default_factory=dict)

    def of(self, past: Past) -> Past:
        """Return the task with the message that the app would send today; raise NotRecorded, or CannotReplay if the app would not."""
        if not past.known:
            raise NotRecorded("the journal knows no such task")
        task = self._call_of(past)
        if task is None:
            raise NotRecorded(_UNRECORDED)
        if not self.is_wanted:
            raise NotRecorded(f"{_UNRECORDED}; --guess-routing sends it by its name and arguments, as this app would today")
        return replace(past, sent=self._sent_today(task), guessed=True)

    def is_one(self, past: Past) -> bool:
        """Return whether the message of the task would be guessed."""
        return self.is_wanted and past.sent is None and self._call_of(past) is not None

    def message_of(self, past: Past) -> Mapping[str, Any] | None:
        """Return the message of the task, recorded or guessed; None where there is neither."""
        with suppress(CannotReplay):
            past = self.of(past) if self.is_one(past) else past
        return None if past.sent is None else past.sent.message

    def _call_of(self, past: Past) -> TaskResult | None:
        """Return the task if its name and arguments are known."""
        if past.task_id not in self._calls:
            self._calls[past.task_id] = self._found(past)
        return self._calls[past.task_id]

    def _found(self, past: Past) -> TaskResult | None:
        task = TaskResult.get_many(self.connection, [past.task_id], self.journal.schema).get(past.task_id)
        if task is None or task.task_name is None or past.erased:
            return None
        try:
            decoded_arguments(task, self.app.conf.accept_content)
        except CannotReplay:
            return None
        return task

    def _sent_today(self, task: TaskResult) -> TaskSent:
        args, kwargs = decoded_arguments(task, self.app.conf.accept_content)
        kind = self._task_named(task.task_name)
        given = {name: value for name, value in kind._get_exec_options().items() if value is not None}
        try:
            route = self.app.amqp.router.route(given, task.task_name, args, kwargs, kind)
            exchange, routing_key = self._way(route)
        except Exception as exc:  # whatever a router of the app's own may raise
            raise CannotReplay(f"the app's routing of {task.task_name} fails: {first_line(exc)}") from exc
        expires = _moment(route.get("expires"))
        headers = {
            "lang": "py",
            "ignore_result": kind.ignore_result,
            "timelimit": [route.get("time_limit"), route.get("soft_time_limit")],
            "expires": expires and expires.isoformat(),
            **({"periodic_task_name": task.periodic_task_name} if task.periodic_task_name else {}),
        }
        priority = route.get("priority", kind.priority)
        message = {
            "exchange": exchange,
            "routing_key": routing_key,
            "headers": headers,
            "properties": {} if priority is None else {"priority": priority},
        }
        asked: dict[str, Any] = {
            "name": task.task_name,
            "args": task.args,
            "kwargs": task.kwargs,
            "args_content_type": task.args_content_type,
        }
        return self.emitter.emit(TaskSent, task.task_id, **asked, expires=expires, message=message)

    def _task_named(self, name: str | None) -> Any:
        """Return the app's task, which may be in a module that only a worker has imported so far."""
        if name not in self.app.tasks:
            try:
                self.app.loader.import_default_modules()
            except Exception as exc:  # whatever modules of the app's may raise
                raise CannotReplay(f"the app's tasks cannot be imported: {first_line(exc)}") from exc
        if name not in self.app.tasks:
            raise CannotReplay(f"this app has no task {name}, whose routing could be guessed; run it as: celery -A proj journal replay")
        return self.app.tasks[name]

    def _way(self, route: dict[str, Any]) -> tuple[str, str]:
        """Return exchange and routing key as Celery takes them from such options."""
        amqp, queue = self.app.amqp, route.get("queue")
        queue = amqp.queues[queue] if isinstance(queue, str) else queue or amqp.default_queue
        exchange, routing_key = (getattr(found, "name", found) for found in (route.get("exchange"), route.get("routing_key")))
        if (not exchange or not routing_key) and (route.get("exchange_type") or queue.exchange.type) == "direct":
            return "", queue.name
        return (
            str(exchange or queue.exchange.name or amqp.default_exchange.name),
            str(routing_key or queue.routing_key or self.app.conf.task_default_routing_key),
        )


def _moment(expires: Any) -> datetime | None:
    """Return when a message that is sent now expires, of seconds or a moment."""
    if isinstance(expires, datetime):
        return expires.astimezone(UTC)
    return None if expires is None else datetime.now(UTC) + timedelta(seconds=float(expires))
