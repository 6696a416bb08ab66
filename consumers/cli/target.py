"""What a command is about: the journal in a database that is named, or that of an app."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_journal.consumers import embedded
from celery_journal.consumers.options import Options, locate
from celery_journal.journal import Connection, connect
from celery_journal.journal.dsn import parts_of


class Target:
    """The journal that a command is about."""

    def __init__(self, dsn: str | None, schema: str) -> None:
        self._dsn = dsn
        self._schema = schema
        #: The app whose journal it is, if the command was given one.
        self.app: Celery | None = None

    @property
    def schema(self) -> str:
        """The schema of the journal."""
        return self._schema

    @property
    def given(self) -> bool:
        """Whether a database was named."""
        return self._dsn is not None

    @property
    def location(self) -> str | Path:
        """The database that was named: its DSN, or the directory of an embedded server."""
        if self._dsn is None:
            raise click.UsageError("no database is named; give --dsn postgresql://user@host/db, or set CELERY_JOURNAL_DSN")
        return locate(self._dsn)

    @property
    def dsn(self) -> str:
        """Where the database is; an embedded server runs when this returns."""
        location = self.location
        return embedded.use(location) if isinstance(location, Path) else location

    def connect(self) -> Connection:
        """Return a connection to the database that was named."""
        return connect(self.dsn)

    @property
    def options(self) -> Options:
        """The options of the environment."""
        return Options.read(None)

    @property
    def backend(self) -> Any:
        """The result backend of this journal, of the app or of one that knows no tasks and reaches no broker."""
        app = Celery("celery-journal", set_as_current=False, broker="memory://", backend=self._url())
        app.conf.result_backend_transport_options = {"schema": self.schema}
        return app.backend

    def _url(self) -> str:
        location = self.location
        if isinstance(location, Path):
            return f"journal+embedded://{location}"
        parts = parts_of(location)
        password, user = parts.pop("password", None), parts.pop("user", None) or (getpass.getuser() if "password" in parts else None)
        account = ":".join(quote(str(part), safe="") for part in (user, password) if part) + "@" if user else ""
        return f"journal+postgresql://{account}/?{urlencode(parts, quote_via=quote)}"


class AppTarget(Target):
    """The journal to which the results of an app go."""

    def __init__(self, app: Celery) -> None:
        super().__init__(None, "")
        self.app: Celery = app

    @property
    def schema(self) -> str:
        """The schema of the app's journal."""
        return self.options.schema_name

    @property
    def given(self) -> bool:
        """Whether there is a database: there is, or else this says so."""
        return bool(self.location)

    @property
    def location(self) -> str | Path:
        """The database of the app."""
        location: str | Path = self.backend.location
        return location

    @property
    def options(self) -> Options:
        """The options of the app."""
        options: Options = self.backend.options
        return options

    @property
    def backend(self) -> Any:
        """The app's result backend, if it is the journal's."""
        from celery_journal.consumers.backend import JournalBackend

        try:
            backend = self.app.backend
        except ImproperlyConfigured as exc:
            raise click.UsageError(str(exc)) from exc
        if not isinstance(backend, JournalBackend):
            name = type(backend).__name__
            raise click.UsageError(
                f"the results of this app go to {name}, not to a journal; write result_backend = 'journal+postgresql://...'"
            )
        return backend
