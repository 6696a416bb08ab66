"""What can go wrong, as a small tree.

JournalError
├── EventConflict        an id names two different facts
├── EventRefused         the log does not take an event
│   ├── PayloadTooLarge       its payload is above the configured limit
│   └── IdTooLong             the id that it is about is
├── CheckpointRefused    a subscription is another login's
├── LocksHeld            somebody holds what is needed, and does not let go
│   └── RebuildBlocked        the views cannot be rebuilt here, or not now
├── VerifyRefused        the views cannot be verified here
├── DatabaseError
│   ├── CannotListen          nothing can be heard on that connection
│   ├── DsnUnreadable         the connection string is none
│   ├── DatabaseUnreachable   no server answers at that address
│   ├── LoginRefused          the server answers and does not let us in
│   ├── RightsMissing         it lets us in, and not do what the journal needs
│   └── DatabaseMissing       the server has no such database
└── SchemaError
    ├── SchemaMissing    the database has no journal yet
    ├── SchemaOutdated   the journal is older than this package
    ├── SchemaTooNew     the journal is newer than this package
    ├── LogRestored      the log comes from another cluster, and does not count on yet
    └── WrongEncoding    the database is not in UTF8

What the views and the consumers raise is of this tree too, and where Celery or Python has a class for it, of that one: RowDoesNotExist is a
LookupError, JournalUnavailable a celery.exceptions.BackendError. `celery_journal` itself offers those that code of users may want to catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from .command import command


class JournalError(Exception):
    """Something that a caller of celery-journal can act on; `str()` is one sentence without any password."""

    #: The exit code of the command line.
    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class with its text, as other exceptions are: many take what the text is made of.
        return _remade, (type(self), self.args, dict(self.__dict__))


def _remade(cls: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    """Return the exception that a pickle or a copy is of; Celery hands those of tasks from process to process."""
    exc = cls.__new__(cls, *args)
    exc.args = args
    exc.__dict__.update(attributes)
    return exc


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
        self.stream, self.size, self.limit = stream, size, limit
        super().__init__(f"the id {stream[:36]}... is {size} long, and {limit}; give it a shorter one")


class CheckpointRefused(JournalError):
    """The checkpoint of a subscription is another login's, and nobody else may move it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the subscription {name} was begun by another login; take another name, or have the owner of the schema hand it over: "
            f"update the owner in the table subscription"
        )


class LocksHeld(JournalError):
    """Somebody holds what is needed, and does not let go. Nothing was changed."""


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

    def __init__(self, text: str, *, may_pass: bool = False, sqlstate: str | None = None) -> None:
        super().__init__(text)
        #: Why, as PostgreSQL says it, where it could be had.
        self.sqlstate = sqlstate
        #: Whether it may be for the moment only, such as too many connections.
        self.may_pass = may_pass


class DatabaseMissing(DatabaseError):
    """The server has no database of that name."""

    exit_code = 5


class RightsMissing(DatabaseError):
    """The login lacks a privilege on the journal."""

    exit_code = 4


class CannotListen(DatabaseError):
    """The connection works, but no NOTIFY would arrive on it."""


class SchemaError(JournalError):
    """The schema in the database is not the one this package works with."""

    exit_code = 6


class SchemaMissing(SchemaError):
    """The database has no journal yet."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        super().__init__(f"the database has no schema {schema}; run: {command('migrate')}")


class WrongEncoding(SchemaError):
    """The database cannot hold every text."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        super().__init__(
            f"the database is encoded in {encoding} and cannot hold every text; "
            "create one with: create database ... encoding 'UTF8' template template0 locale 'C.UTF-8'"
        )


class SchemaOutdated(SchemaError):
    """The journal in the database is older than this package."""

    def __init__(self, schema: str, found: int, wanted: int) -> None:
        self.schema, self.found, self.wanted = schema, found, wanted
        super().__init__(f"schema {schema} is at version {found} and this package needs {wanted}; run: {command('migrate')}")


class SchemaTooNew(SchemaError):
    """The journal in the database is newer than this package."""

    def __init__(self, schema: str, found: int, wanted: int) -> None:
        self.schema, self.found, self.wanted = schema, found, wanted
        super().__init__(
            f"schema {schema} is at version {found} and this package knows up to {wanted}; run: pip install --upgrade celery-journal"
        )


class LogRestored(SchemaError):
    """The log was restored from another cluster, and its transactions have to be counted on first."""

    def __init__(self, schema: str, why: str) -> None:
        self.schema, self.why = schema, why
        super().__init__(
            f"the log in schema {schema} was restored from another cluster, and cannot count on ({why}); "
            f"run, as its owner and on the primary server: {command('migrate')}"
        )
