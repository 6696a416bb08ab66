"""A connection for what goes on by itself, which outlasts an outage of the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from celery_journal.consumers.words import shown
from celery_journal.journal import Connection, DatabaseUnreachable, LoginRefused, check_version

T = TypeVar("T")

#: Seconds between two attempts to connect again.
PAUSE = 1.0


class LastingConnection:
    """A connection that is opened again when the database was away; `say` is told once that it is, and that it is back.

    As long as it is away, `meanwhile` is called again and again. With `waits` it may be away at the beginning, too.
    """

    def __init__(
        self, target: Any, say: Callable[[str], object], meanwhile: Callable[[], object] = lambda: None, *, waits: bool = False
    ) -> None:
        self._target = target
        self._say = say
        self._meanwhile = meanwhile
        try:
            self.connection = self._opened()
        except (DatabaseUnreachable, LoginRefused) as exc:
            if not waits or not (isinstance(exc, DatabaseUnreachable) or exc.may_pass):
                raise
            say(f"{exc}; waiting for it")
            self.connection = self._opened_again()
            say("the database is back")

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Return the answer; where the database goes away, ask again when it is back."""
        while True:
            try:
                return question(self.connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
                if not self.connection.closed:  # only this question has failed, by a timeout perhaps
                    raise
                self._say(f"the database went away: {shown(str(exc).strip().partition(chr(10))[0])}; waiting for it")
            self.connection = self._opened_again()
            self._say("the database is back")

    def close(self) -> None:
        """Close it, in the middle of a statement or not."""
        self.connection.close()

    def _opened(self) -> Connection:
        connection: Connection = self._target.connect()
        try:
            check_version(connection, self._target.schema)
        except BaseException:
            connection.close()
            raise
        return connection

    def _opened_again(self) -> Connection:
        while True:
            time.sleep(PAUSE)
            self._meanwhile()
            try:
                return self._opened()
            except (DatabaseUnreachable, psycopg.OperationalError, psycopg.InterfaceError):  # the latter two where it goes away once more
                continue
            except LoginRefused as exc:
                if not exc.may_pass:
                    raise
