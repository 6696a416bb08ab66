"""The immutable event log: event types, codec, append, read, subscribe, migrate."""

from .codec import RecordedEvent
from .connection import Connections, connect, is_pooled, redact
from .emitter import Emitter
from .errors import (
    CannotListen,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    DsnUnreadable,
    EventConflict,
    EventRefused,
    IdTooLong,
    JournalError,
    LoginRefused,
    PayloadTooLarge,
    SchemaError,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
)
from .journal import Connection, Journal
from .migrations import check_version, migrate, pending_migrations, projections_to_rebuild, schema_version, script, wanted_version
from .notifications import EVERYTHING, Listener, token
from .subscription import Subscription

__all__ = [
    "EVERYTHING",
    "CannotListen",
    "Connection",
    "Connections",
    "DatabaseError",
    "DatabaseMissing",
    "DatabaseUnreachable",
    "DsnUnreadable",
    "Emitter",
    "EventConflict",
    "EventRefused",
    "IdTooLong",
    "Journal",
    "JournalError",
    "Listener",
    "LoginRefused",
    "PayloadTooLarge",
    "RecordedEvent",
    "SchemaError",
    "SchemaMissing",
    "SchemaOutdated",
    "SchemaTooNew",
    "Subscription",
    "check_version",
    "connect",
    "is_pooled",
    "migrate",
    "pending_migrations",
    "projections_to_rebuild",
    "redact",
    "schema_version",
    "script",
    "token",
    "wanted_version",
]
