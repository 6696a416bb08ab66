"""A worker that may not use the journal does not start: it would take tasks from their queue, and record nothing of them."""

from __future__ import annotations

from typing import Any

import psycopg
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_init

from celery_journal import sql
from celery_journal.consumers.words import listed
from celery_journal.journal import Connection, DatabaseError, DatabaseUnreachable, LoginRefused, RightsMissing, SchemaError
from celery_journal.journal.answering import within
from celery_journal.journal.codec import COLUMNS
from celery_journal.journal.faults import is_outage, is_transient

from .base import JournalBase

#: Seconds for which the start of a worker waits for the database, which may be away.
PATIENCE = 10.0


class Refused(SystemExit):
    """The worker ends with this sentence."""


def admit(backend: JournalBase) -> None:
    """Raise Refused if the journal is not one that this worker may write to and read; not when it is only away."""
    try:
        with within(PATIENCE):
            backend.database.admit(lambda connection: check_rights(connection, backend.journal.schema))
    except (DatabaseError, SchemaError, ImproperlyConfigured) as exc:
        if not _may_pass(exc):
            raise Refused(_sentence(exc)) from None
    except psycopg.Error as exc:
        if is_outage(exc) and not is_transient(exc):
            raise Refused(_sentence(exc)) from None
    except OSError:  # an embedded server that cannot be started now
        pass


def _may_pass(exc: BaseException) -> bool:
    if isinstance(exc, LoginRefused):
        return exc.may_pass and exc.sqlstate != psycopg.errors.InsufficientPrivilege.sqlstate  # that of CONNECT on the database
    return isinstance(exc, DatabaseUnreachable)


def check_rights(connection: Connection, schema: str) -> None:
    """Raise RightsMissing unless the login may do what a worker does."""
    row = connection.execute(sql.query("schema.sql", "missing rights", schema), {"columns": list(COLUMNS)}).fetchone()
    if row is not None and row[0]:
        roles = f"run `celery-journal migrate --roles --writer {row[1]}` as the owner"
        raise RightsMissing(f"the login {row[1]} may not {listed(row[0])} in schema {schema}; {roles}")


def _sentence(exc: BaseException) -> str:
    return f"the worker does not start, and its queues are as they were: {str(exc).strip().partition(chr(10))[0]}"


@worker_init.connect(weak=False, dispatch_uid="celery-journal-admission")
def _admit(sender: Any, **_signal: Any) -> None:
    app = getattr(sender, "app", None)
    if app is not None and isinstance(app.backend, JournalBase):
        admit(app.backend)
