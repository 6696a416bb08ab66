"""The examination: one small function a check, each of which says what it found and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from celery import Celery
from psycopg import errors
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.options import Options
from celery_journal.consumers.words import first_line, shown
from celery_journal.journal import Connection
from celery_journal.journal.faults import is_outage

logger = logging.getLogger(__name__)

Status = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    #: `warn` will surprise somebody some day; `bad` loses something, or stops it, now.
    status: Status
    #: In words.
    found: str
    #: What to do; empty where there is nothing to do.
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return {"check": self.check, "status": self.status, "found": self.found, "advice": self.advice}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: a journal, and the app whose results go there, where one is known."""

    connection: Connection
    #: Where it is connected to.
    dsn: str
    options: Options
    schema: str
    app: Celery | None = None
    #: What whoever records calls it, by which its spool is found: an embedded server is its directory. Unless given, `dsn`.
    location: str | Path | None = None

    def rows(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return what the statement of sql/doctor.sql answers."""
        with self.connection.transaction(), self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.query("schema.sql", "trusted path", self.schema))  # also through a pooler
            return cursor.execute(sql.query("doctor.sql", name, self.schema), parameters).fetchall()

    def row(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Return the one row that the statement answers."""
        (row,) = self.rows(name, **parameters)
        return row


#: Yields a finding for each thing that is wrong, and one that is `ok` where nothing is.
Check = Callable[[Subject], Iterator[Finding]]
AppCheck = Callable[[Subject, Celery], Iterator[Finding]]

#: In the order in which they are made: those of the journal, and those of the settings of an app.
CHECKS: dict[str, Check] = {}
APP_CHECKS: dict[str, AppCheck] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Make the function a check of that name."""
    return lambda function: CHECKS.setdefault(name, function)


def app_check(name: str) -> Callable[[AppCheck], AppCheck]:
    """Make the function a check of an app's settings."""
    return lambda function: APP_CHECKS.setdefault(name, function)


def examine(subject: Subject) -> Iterator[Finding]:
    """Yield what every check finds, as it comes."""
    begun = [(name, look(subject)) for name, look in CHECKS.items()]
    if subject.app is not None:
        begun += [(name, look(subject, subject.app)) for name, look in APP_CHECKS.items()]
    for name, findings in begun:
        try:
            yield from findings
        except errors.InsufficientPrivilege as exc:
            found = f"not looked at: {exc.diag.message_primary} for {subject.connection.info.user}"
            yield Finding(name, "warn", found, "run this as the owner of the schema")
        except Exception as exc:  # one odd row must not hide what the other checks find
            if isinstance(exc, psycopg.Error) and is_outage(exc):
                raise
            logger.debug("a check failed", exc_info=True)
            found = f"could not be looked at: {shown(first_line(exc))}"
            yield Finding(name, "bad", found, "please report it; what the other checks say holds all the same")
