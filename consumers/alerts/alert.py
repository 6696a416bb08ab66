"""An alert: what is told to others, once when it happens, or when it begins and when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from celery_journal.consumers.words import shown

Kind = Literal["failure", "lost", "queue-age", "heartbeat", "spool"]

#: Every kind of alert, in the order in which they are told of.
KINDS: tuple[Kind, ...] = ("failure", "lost", "queue-age", "heartbeat", "spool")

#: What the variables of the environment begin with that a command gets.
PREFIX = "CELERY_JOURNAL_ALERT_"

#: Characters of a variable: together they have to fit beside the arguments of a program.
LONGEST = 2000


class Alert(BaseModel):
    """What is told, in a form that outlasts the process; what is told again has the same id."""

    model_config = ConfigDict(frozen=True)

    #: Of a failure or a lost task, that of its fact in the log.
    id: str
    kind: Kind
    event: Literal["happened", "began", "resolved"]
    #: What that which began and that which is resolved have in common.
    episode: str
    at: datetime
    #: When that began which is resolved.
    began_at: datetime | None = None
    #: In a sentence, on one line.
    text: str
    #: The subscription that tells it.
    watch: str
    task: dict[str, Any] | None = None
    queue: dict[str, Any] | None = None
    worker: dict[str, Any] | None = None
    spool: dict[str, Any] | None = None

    def as_json(self) -> bytes:
        """Return it as JSON in UTF-8, without what it has nothing to do with."""
        return self.model_dump_json(exclude_none=True).encode()

    def as_variables(self) -> dict[str, str]:
        """Return its main fields as variables of the environment, none of which could write to a terminal."""
        return {f"{PREFIX}{name}": shown(value)[:LONGEST] for name, value in self._main() if value is not None}

    def _main(self) -> Iterator[tuple[str, object]]:
        yield from {
            "ID": self.id,
            "KIND": self.kind,
            "EVENT": self.event,
            "EPISODE": self.episode,
            "AT": self.at.isoformat(),
            "TEXT": self.text,
            "WATCH": self.watch,
        }.items()
        task = self.task or {}
        yield from ((name, task.get(name.lower())) for name in ("TASK_ID", "NAME", "ERROR", "GROUP", "REASON"))
        yield "QUEUE", (self.queue or task).get("queue")
        yield "WORKER", (self.worker or task).get("worker")


def plain(text: str) -> str:
    """Return the text, with what is no Unicode escaped: it may come from a traceback, and no JSON has it."""
    return text.encode("utf-8", "backslashreplace").decode()
