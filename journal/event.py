"""What all events have in common: a fact about a stream, and when it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainValidator, field_validator


def text(value: object) -> str:
    """Return the text; raise ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError("a str is needed")
    return str.__str__(value)  # str() of an enum of texts is its name


def _stream(value: object) -> str:
    if not text(value):
        raise ValueError("a stream needs a name")
    return text(value)


def _kind(value: object) -> str:
    if not text(value):
        raise ValueError("a kind needs a name")
    return text(value)


#: Any str. pydantic's own refuses lone surrogates, which a traceback may well hold.
Text = Annotated[str, PlainValidator(text)]
Stream = Annotated[str, PlainValidator(_stream)]
Kind = Annotated[str, PlainValidator(_kind)]


class Event(BaseModel):
    """One fact about one stream (a task id, a group id, a worker's host name, the name of a periodic task, the id of a replay)."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_bytes="base64")

    #: Whether a PostgreSQL crash may lose the last fraction of a second of this kind.
    relaxed: ClassVar[bool] = False

    #: Made once, before the first try; the same fact delivered twice has the same id.
    event_id: UUID
    stream: Stream
    kind: Kind
    schema_version: int = Field(default=1, ge=1, le=32767)
    #: Celery's `request.retries`, from 0.
    attempt: int = Field(default=0, ge=0, le=2**31 - 1)
    #: The emitter's clock.
    occurred_at: AwareDatetime
    #: Where it stands in time among what its emitter tells of the stream: a moment after the one before it, where the clock has gone back
    #: since; None where `occurred_at` says so.
    ordered_at: AwareDatetime | None = None
    #: Who says so: `backend`, `signal` (both from inside the process where it happened), `broadcast` (Celery's own events), `sweep` (who
    #: looks for what is lost), `operator` (a command of somebody's), `database` (maintenance), or where it was imported from.
    source: Text | None = None

    @field_validator("occurred_at")
    @classmethod
    def _in_utc(cls, moment: datetime) -> datetime:
        return moment.astimezone(UTC)
