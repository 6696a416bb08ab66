"""celery-journal: an event-sourced result journal for Celery on PostgreSQL.

What most users need, from one place; nothing is loaded before it is asked for. This folder installs as `celery_journal` itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_journal.consumers.backend import JournalBackend, JournalUnavailable, ResultTooLarge
    from celery_journal.consumers.models import ChordCounter, TaskResult
    from celery_journal.consumers.options import InvalidOption
    from celery_journal.consumers.replay import BrokerAway, CannotReplay, NothingToReplay, ReplayError, ReplayRefused
    from celery_journal.consumers.results import AsyncResult, GroupResult, ResultSet, install
    from celery_journal.journal import (
        CannotListen,
        CheckpointRefused,
        DatabaseError,
        DatabaseMissing,
        DatabaseUnreachable,
        DsnUnreadable,
        Emitter,
        EventConflict,
        EventRefused,
        IdTooLong,
        Journal,
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
    from celery_journal.projections import FieldError, NoJournal, RebuildBlocked, RowDoesNotExist, SeveralRows, VerifyRefused

#: The names by the module that has them, as above. `GroupResult` is Celery's, with what we add; the view is that of consumers.models.
_NAMES = {
    "consumers.backend": "JournalBackend JournalUnavailable ResultTooLarge",
    "consumers.models": "ChordCounter TaskResult",
    "consumers.options": "InvalidOption",
    "consumers.replay": "BrokerAway CannotReplay NothingToReplay ReplayError ReplayRefused",
    "consumers.results": "AsyncResult GroupResult ResultSet install",
    "journal": (
        "CannotListen CheckpointRefused DatabaseError DatabaseMissing DatabaseUnreachable DsnUnreadable Emitter EventConflict EventRefused "
        "IdTooLong Journal JournalError LocksHeld LogRestored LoginRefused PayloadTooLarge RightsMissing SchemaError SchemaMissing "
        "SchemaOutdated SchemaTooNew WrongEncoding"
    ),
    "projections": "FieldError NoJournal RebuildBlocked RowDoesNotExist SeveralRows VerifyRefused",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AsyncResult",
    "BrokerAway",
    "CannotListen",
    "CannotReplay",
    "CheckpointRefused",
    "ChordCounter",
    "DatabaseError",
    "DatabaseMissing",
    "DatabaseUnreachable",
    "DsnUnreadable",
    "Emitter",
    "EventConflict",
    "EventRefused",
    "FieldError",
    "GroupResult",
    "IdTooLong",
    "InvalidOption",
    "Journal",
    "JournalBackend",
    "JournalError",
    "JournalUnavailable",
    "LocksHeld",
    "LogRestored",
    "LoginRefused",
    "NoJournal",
    "NothingToReplay",
    "PayloadTooLarge",
    "RebuildBlocked",
    "ReplayError",
    "ReplayRefused",
    "ResultSet",
    "ResultTooLarge",
    "RightsMissing",
    "RowDoesNotExist",
    "SchemaError",
    "SchemaMissing",
    "SchemaOutdated",
    "SchemaTooNew",
    "SeveralRows",
    "TaskResult",
    "VerifyRefused",
    "WrongEncoding",
    "install",
]


if not TYPE_CHECKING:  # a type checker that saw it would take any name for one that there is

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=None)
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
