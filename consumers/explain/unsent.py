"""What there is to say of a step of a chain that was not sent yet, and perhaps never will be: the step before it knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery import states

from celery_journal import sql
from celery_journal.consumers.words import ordinal
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape

if TYPE_CHECKING:
    from celery_journal.consumers.graph import Node

#: How a step stands that has not ended.
_UNDER_WAY = {
    states.PENDING: "was sent, and is not received yet",
    states.RECEIVED: "was received",
    states.STARTED: "is running",
    states.RETRY: "is to be tried again",
    states.REJECTED: "was given back to its queue",
}

#: How one has ended after which Celery sends nothing.
_ENDED = {states.REVOKED: "was revoked or has expired", states.FAILURE: "has failed", states.IGNORED: "has ended without a result"}


@dataclass(frozen=True, slots=True)
class Unsent:
    """A step that was not sent, and what it waits for."""

    #: Its place in the chain, from 1.
    number: int
    #: The last step before it that was sent, and the place of that one.
    before: Node
    before_number: int

    @property
    def is_hopeless(self) -> bool:
        """Whether it will never be sent."""
        return self.before.state in _ENDED or self.before.lost_reason is not None

    @property
    def sentence(self) -> str:
        """The step, and why it was not sent."""
        node = self.before
        step = f"step {self.before_number} ({node.id})"
        where = f" on {node.worker}" if node.worker else ""
        which = f"the {ordinal(self.number)} step of a chain"
        if self.is_hopeless:
            ended = f"is lost: {node.lost_reason}" if node.lost_reason is not None else _ENDED[node.state] + where
            return f"It is {which}, and will never be sent: {step} {ended}."
        if node.kind != "task":
            return f"It is {which}, not sent yet: step {self.before_number} is the {node.kind} {node.id}, {node.state or 'under way'}."
        if node.state == states.SUCCESS:
            return f"It is {which}, not sent yet, though {step} has succeeded{where}: whoever ran that sends the next one."
        doing = _UNDER_WAY.get(node.state)
        return f"It is {which}, not sent yet: {step} {f'{doing}{where}' if doing else f'said {node.state}{where}'}."


def sent_with(connection: Connection, task_id: str, schema: str = sql.DEFAULT_SCHEMA) -> str | None:
    """Return a task in whose message the id stands, as that of a step that is to come; None if nobody has heard of it there either."""
    query = sql.query("unsent.sql", "sent with", schema)
    return next((row["task_id"] for row in Journal(schema).look(connection, query, {"id": task_id})), None)


def unsent_step(connection: Connection, task_id: str, schema: str = sql.DEFAULT_SCHEMA) -> Unsent | None:
    """Return the step of that id, if it is to be sent by another task; None if it is none."""
    from celery_journal.consumers.graph import UNSENT, canvas_of  # which itself looks for errors as they are explained

    if (beside := sent_with(connection, escape(task_id), schema)) is None:
        return None
    canvas = canvas_of(connection, task_id, schema, beside=beside)
    before = {target: source for (source, target), way in canvas.edges.items() if way in {"then", "body"}}
    steps = _steps(task_id, before)
    sent = next((place for place, step in enumerate(steps) if place and canvas.nodes[step].state != UNSENT), None)
    return None if sent is None else Unsent(len(steps), canvas.nodes[steps[sent]], len(steps) - sent)


def _steps(task_id: str, before: Mapping[str, str]) -> list[str]:
    """Return the step and those before it, the first of the chain last."""
    steps = [task_id]
    while (earlier := before.get(steps[-1])) is not None and earlier not in steps:
        steps.append(earlier)
    return steps
