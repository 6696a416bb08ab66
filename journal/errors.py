"""What can go wrong, as a small tree.

JournalError
├── EventConflict        an id names two different facts
├── EventRefused         the log does not take an event
│   ├── PayloadTooLarge       its payload is above the configured limit
│   └── IdTooLong             the id that it is about is
├── DatabaseError
│   ├── DsnUnreadable         the connection string is none
│   ├── DatabaseUnreachable   no server answers at that address
│   ├── LoginRefused          the server answers and does not let us in
│   └── DatabaseMissing       the server has no such database
└── SchemaError
    ├── SchemaMissing    the database has no journal yet
    ├── SchemaOutdated   the journal is older than this package
    └── SchemaTooNew     the journal is newer than this package
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID


class JournalError(Exception):
    """Something that a caller of celery-journal can act on; `str()` is one sentence without any password."""

    #: The exit code of the command line.
    exit_code: ClassVar[int] = 1


class EventConflict(JournalError):
    """Another fact is recorded under the same event id. Nothing was overwritten."""

    def __init__(self, event_ids: Sequence[UUID]) -> None:
        self.event_ids = tuple(event_ids)
        named = ", ".join(str(event_id) for event_id in self.event_ids[:3])
        more = f" and {len(self.event_ids) - 3} more" if len(self.event_ids) > 3 else ""
        super().__init__(f"event {named}{more} is recorded already, with other content; the recorded fact stands")


class EventRefused(JournalError):
    """The log does not take an event, which was not recorded."""


class PayloadTooLarge(EventRefused):
    """The payload of an event is above the limit."""

    def __init__(self, stream: str, kind: str, size: int, limit: int) -> None:
        self.stream, self.kind, self.size, self.limit = stream, kind, size, limit
        super().__init__(
            f"{kind} of {stream} has a payload of {size:,} bytes, above the limit of {limit:,}; "
            "store large results elsewhere and return a reference, or raise max_payload_bytes"
        )


class IdTooLong(EventRefused):
    """The id of a task, of a group or of a worker is above the limit."""

    def __init__(self, stream: str, size: str, limit: str) -> None:
        super().__init__(f"the id {stream[:36]}... is {size} long, and {limit}; give it a shorter one")


class DatabaseError(JournalError):
    """The database cannot be used as it is."""


class DsnUnreadable(DatabaseError):
    """The connection string cannot be read."""

    exit_code = 2


class DatabaseUnreachable(DatabaseError):
    """No server answers at that address."""

    exit_code = 3


class LoginRefused(DatabaseError):
    """The server answers, and does not let us in."""

    exit_code = 4

    def __init__(self, text: str, *, may_pass: bool = False) -> None:
        super().__init__(text)
        #: Whether it may be for the moment only; libpq does not tell too many connections from a rule of pg_hba.conf.
        self.may_pass = may_pass


class DatabaseMissing(DatabaseError):
    """The server has no database of that name."""

    exit_code = 5


class CannotListen(DatabaseError):
    """The connection works, but no NOTIFY would arrive on it."""


class SchemaError(JournalError):
    """The schema in the database is not the one this package works with."""

    exit_code = 6


class SchemaMissing(SchemaError):
    """The database has no journal yet."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        super().__init__(f"the database has no schema {schema}; run: celery-journal migrate")


class SchemaOutdated(SchemaError):
    """The journal in the database is older than this package."""

    def __init__(self, schema: str, found: int, wanted: int) -> None:
        self.schema, self.found, self.wanted = schema, found, wanted
        super().__init__(f"schema {schema} is at version {found} and this package needs {wanted}; run: celery-journal migrate")


class SchemaTooNew(SchemaError):
    """The journal in the database is newer than this package."""

    def __init__(self, schema: str, found: int, wanted: int) -> None:
        self.schema, self.found, self.wanted = schema, found, wanted
        super().__init__(
            f"schema {schema} is at version {found} and this package knows up to {wanted}; run: pip install --upgrade celery-journal"
        )
