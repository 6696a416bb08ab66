"""Telling workers to revoke tasks, and who of them has heard it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from celery_journal.consumers.capture.control import recorded_otherwise

#: What a worker had of a task: it ran it, or had its message.
Held = Literal["active", "reserved", "scheduled"]

_HELD: Mapping[str, Held] = {"active": "active", "reserved": "reserved", "scheduled": "scheduled"}


@dataclass(slots=True)
class Hearing:
    """Who has heard that tasks are to be revoked, and who had them."""

    #: The workers that answered; of one that could not do so, what it said.
    workers: dict[str, str | None] = field(default_factory=dict)
    #: The worker that had the task, and how.
    held: dict[str, tuple[str, Held]] = field(default_factory=dict)

    @property
    def heard(self) -> list[str]:
        """Return the workers that will not start the tasks, by name."""
        return sorted(worker for worker, error in self.workers.items() if error is None)

    def complete(self, received: Mapping[str, str | None]) -> None:
        """Add the tasks that a worker has `received`, if it heard: before Celery 5.7 none tells of those that wait for an eta or rate."""
        heard = self.heard
        for task_id, worker in received.items():
            if worker in heard and task_id not in self.held:
                self.held[task_id] = (worker, "scheduled")


def tell(app: Any, connection: Any, hearing: Hearing, task_ids: Sequence[str], *, terminate: bool, signal: str, timeout: float) -> None:
    """Have all workers revoke the tasks, and note who answers within `timeout` seconds; those that answered before are waited for alone."""
    asking: dict[str, Any] = {"connection": connection, "reply": True, "timeout": timeout}
    # Before they are told: afterwards none has them.
    replies = app.control.broadcast("query_task", arguments={"ids": list(task_ids)}, limit=len(hearing.workers) or None, **asking)
    answered = set[str]()
    for worker, told in _by_worker(replies):
        answered.add(worker)
        for task_id, found in told.items():
            if isinstance(found, list | tuple) and found and found[0] in _HELD:
                hearing.held[task_id] = (worker, _HELD[found[0]])
    arguments = {"task_id": list(task_ids), "terminate": terminate, "signal": signal}
    with recorded_otherwise():
        replies = app.control.broadcast("revoke", arguments=arguments, limit=len(answered | hearing.workers.keys()) or None, **asking)
    for worker, told in _by_worker(replies):
        hearing.workers[worker] = str(told["error"]) if "error" in told else None


def _by_worker(replies: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for reply in replies or ():
        for worker, told in reply.items():
            yield worker, told if isinstance(told, dict) else {}
