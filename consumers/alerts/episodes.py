"""What goes on for a while: told when it begins, and when it is over, and not again in between, whatever becomes of the process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from celery_journal.consumers.words import duration
from celery_journal.journal import JournalError

from .alert import Alert, Kind

#: What an alert calls that which is told of.
FIELDS: dict[Kind, str] = {"queue-age": "queue", "heartbeat": "worker", "spool": "spool"}


@dataclass(frozen=True, slots=True)
class Condition:
    """How something stands at the moment."""

    kind: Kind
    #: The queue, the worker or the machine, by its name.
    subject: str
    #: Whether this begins an episode; and whether it keeps one going that has begun.
    begins: bool
    lasts: bool
    #: In a sentence, as long as it lasts.
    text: str
    details: dict[str, Any] = field(default_factory=dict)


class Episode(BaseModel):
    """What has begun and is not over."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Kind
    subject: str
    began_at: datetime
    text: str
    details: dict[str, Any]


class Episodes(BaseModel):
    """The episodes that are open, and what is not delivered yet of what is to be told of them.

    Both change at once, and are written down before anything is delivered: so a process that is killed leaves behind what it had to
    tell, under the id that it had.
    """

    model_config = ConfigDict(frozen=True)

    open: tuple[Episode, ...] = ()
    untold: tuple[Alert, ...] = ()

    @classmethod
    def read(cls, data: bytes | None) -> Episodes:
        """Return what was written down; raise JournalError if that is something else."""
        try:
            return cls() if data is None else cls.model_validate_json(data)
        except ValidationError as exc:
            raise JournalError("what is remembered under this name is not of a watch, or of a newer one; take another --name") from exc

    def written(self) -> bytes | None:
        """Return it in the form in which it is kept; None where there is nothing to keep."""
        return self.model_dump_json().encode() if self.open or self.untold else None

    def seen(self, kind: Kind, conditions: Iterable[Condition], at: datetime, watch: str) -> Episodes:
        """Return what they are after a look at all that there is of one kind: what begins or is over is to be told."""
        now = {condition.subject: condition for condition in conditions}
        mine = {episode.subject: episode for episode in self.open if episode.kind == kind}
        over = [episode for subject, episode in mine.items() if subject not in now or not now[subject].lasts]
        begun = [
            Episode(id=str(uuid4()), kind=kind, subject=subject, began_at=at, text=condition.text, details=condition.details)
            for subject, condition in now.items()
            if condition.begins and subject not in mine
        ]
        resolved = [_resolved(episode, now.get(episode.subject), at, watch) for episode in over]
        return Episodes(
            open=(*(one for one in self.open if one not in over), *begun),
            untold=(*self.untold, *resolved, *(_began(episode, watch) for episode in begun)),
        )

    def told(self, alert: Alert) -> Episodes:
        """Return what they are when the alert is delivered."""
        return Episodes(open=self.open, untold=tuple(one for one in self.untold if one.id != alert.id))


def _began(episode: Episode, watch: str) -> Alert:
    return Alert(
        id=f"{episode.id}/began",
        kind=episode.kind,
        event="began",
        episode=episode.id,
        at=episode.began_at,
        text=episode.text,
        watch=watch,
        **{FIELDS[episode.kind]: episode.details},
    )


def _resolved(episode: Episode, now: Condition | None, at: datetime, watch: str) -> Alert:
    return Alert(
        id=f"{episode.id}/resolved",
        kind=episode.kind,
        event="resolved",
        episode=episode.id,
        at=at,
        began_at=episode.began_at,
        text=f"resolved after {duration(at - episode.began_at) or 'a moment'}: {episode.text}",
        watch=watch,
        **{FIELDS[episode.kind]: episode.details if now is None else now.details},
    )
