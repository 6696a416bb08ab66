"""The immutable event log: event types, codec, append, read, subscribe, migrate."""

from .codec import RecordedEvent
from .connection import Connections, connect, is_pooled
from .dsn import redact
from .emitter import Emitter
from .epoch import horizon
from .errors import (
    CannotListen,
    CheckpointRefused,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    DsnUnreadable,
    EventConflict,
    EventRefused,
    IdTooLong,
    JournalError,
    LocksHeld,
    LoginRefused,
    LogRestored,
    PayloadTooLarge,
    RightsMissing,
    SchemaError,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
    WrongEncoding,
)
from .journal import Connection, Journal
from .migrations import (
    check_version,
    migrate,
    pending_migrations,
    projections_to_rebuild,
    role_name,
    roles_script,
    schema_version,
    script,
    wanted_version,
)
from .notifications import EVERYTHING, Listener, token
from .subscription import Subscription
from .waiting import Say, Wait, holders, trusted_path

__all__ = [
    "EVERYTHING",
    "CannotListen",
    "CheckpointRefused",
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
    "LocksHeld",
    "LogRestored",
    "LoginRefused",
    "PayloadTooLarge",
    "RecordedEvent",
    "RightsMissing",
    "Say",
    "SchemaError",
    "SchemaMissing",
    "SchemaOutdated",
    "SchemaTooNew",
    "Subscription",
    "Wait",
    "WrongEncoding",
    "check_version",
    "connect",
    "holders",
    "horizon",
    "is_pooled",
    "migrate",
    "pending_migrations",
    "projections_to_rebuild",
    "redact",
    "role_name",
    "roles_script",
    "schema_version",
    "script",
    "token",
    "trusted_path",
    "wanted_version",
]
