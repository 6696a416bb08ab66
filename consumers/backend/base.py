"""What every part of the backend stands on: its options, its way to the database, and Celery's serializer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from celery import current_app
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import EncodeError

from celery_journal.consumers.capture import Buffer, Recorder, attach
from celery_journal.consumers.options import InvalidOption, Options, beside, locate
from celery_journal.consumers.payloads import TooLarge, decompressed, opened
from celery_journal.consumers.spool import spool_of
from celery_journal.journal import Connection, DsnUnreadable, Emitter, IdTooLong, Journal, PayloadTooLarge, redact
from celery_journal.journal import events as kinds
from celery_journal.journal.codec import check_length
from celery_journal.journal.dsn import SECRETS, parts_of, without_secrets
from celery_journal.journal.errors import JournalError
from celery_journal.journal.faults import is_outage

from .adatabase import AsyncDatabase
from .brief import brief_error
from .connection import Database, JournalUnavailable
from .outage import Outage
from .process import in_worker, is_worker_main
from .retries import Retries
from .unhurried import Unhurried, without_payload

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=kinds.Event)


class ResultTooLarge(JournalError, EncodeError):
    """A result is above max_payload_bytes. Celery makes the task a FAILURE with this error."""


class JournalBase(Retries, Recorder):
    """A backend that can append events and read rows. One instance serves all threads, and survives forks."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, url=url, **kwargs)
        self.thread_safe = True
        try:
            self.options = Options.read(app.conf.get("result_backend_transport_options"), _of_django(app))
            self.location = locate(url)
            replica = beside("read_dsn", self.options.read_dsn, self.location) if self.options.read_dsn else None
        except (InvalidOption, DsnUnreadable) as exc:
            raise ImproperlyConfigured(str(exc)) from exc
        self.journal = Journal(
            schema=self.options.schema_name,
            max_payload_bytes=self.options.max_payload_bytes,
            max_id_length=self.options.task_id_max_length,
            everything_durable=self.options.durability == "everything",
            announcing=True,
        )
        self.emitter = Emitter()
        self.database = Database(self.location, self.options, replica)
        #: The same for event loops.
        self.adatabase = AsyncDatabase(self.location, self.options, replica)
        #: What keeps facts while the database is away; None if the option says so.
        self.spool = None
        if self.options.spool != "":
            self.spool = spool_of(self.location, self.options.schema_name, self.options.spool, self.options.spool_max_bytes)
        self.outage = Outage(self.database, self.journal, self.spool)
        self.buffer = Buffer(Unhurried(self.outage), self.options.buffer_size)
        self.database.on_close(self.buffer.close)
        attach(app)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        # Without the password: pickles go to brokers and into results. The app where it is unpickled has it.
        kept = {"serializer": self.serializer, "expires": self.expires}
        return _unpickled, (type(self), self._url_without_password(), args, {**kept, **(kwargs or {})})

    def _url_without_password(self) -> str | None:
        parts = parts_of(self.location) if isinstance(self.location, str) else {}
        if isinstance(self.location, str) and SECRETS & parts.keys():
            return without_secrets(self.location)
        given: str | None = self.url
        return given

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL; without the password, unless asked for."""
        if not isinstance(self.location, str):
            return f"journal+embedded://{self.location}"
        if include_password:
            return f"journal+{self.location}"
        return f"journal+postgresql://{redact(self.location)}"

    def append(self, *events: kinds.Event) -> None:
        """Record the events, in one round trip; while the database is away, they go to the spool."""
        self._trying(events)
        try:
            self.outage.record(lambda connection: self.journal.append(connection, *events), events)
        except PayloadTooLarge as exc:
            raise ResultTooLarge(str(exc)) from exc
        except IdTooLong as exc:
            _tell_or_raise(exc, events)

    def append_now(self, event: kinds.Event) -> None:
        """Record an event that nobody wants to have later; raise JournalUnavailable while the database is away."""
        self.database.run(lambda connection: self.journal.append(connection, event), budget=0)

    def append_and_ask(self, event: kinds.Event, query: bytes, parameters: Mapping[str, Any]) -> Any:
        """Record the event and, in the same round trip, return what the query answers; None if the event went to the spool."""
        try:
            return self.outage.record(lambda connection: self.journal.append_and_ask(connection, event, query, parameters), [event])
        except IdTooLong as exc:
            return _tell_or_raise(exc, [event])

    def on_task_call(self, producer: Any, task_id: Any) -> Any:
        """Refuse a task that is about to be sent whose id the log could not take."""
        self.check_id(task_id)
        return super().on_task_call(producer, task_id)

    def check_id(self, task_id: Any) -> str:
        """Return the id as a text; raise ValueError if there is none, as Celery does, IdTooLong if the log could not take it."""
        check_length(named(task_id), self.journal.max_id_length)
        return str(task_id)

    def append_at_least(self, event: kinds.Event) -> None:
        """Record the event, without its payload where that is too large or refused; where the database refuses us, it goes to the spool."""
        try:
            self.append(event)
        except (ResultTooLarge, ImproperlyConfigured, psycopg.Error) as exc:
            if isinstance(exc, ImproperlyConfigured) or (isinstance(exc, psycopg.Error) and is_outage(exc)):
                self.outage.keep_refused([event], exc)
            else:
                self.append(without_payload(event))

    def append_first(self, forms: Iterable[Callable[[], E]]) -> E | None:
        """Record the event in the first of its forms that can be encoded and is within the limits; return it."""
        refused: Exception | None = None
        for number, make in enumerate(forms):
            try:
                event = self._made_once(number, make)
                self.append(event)
            except (EncodeError, ValueError, TypeError, RecursionError, psycopg.Error) as exc:
                if is_outage(exc):
                    raise
                refused = refused or exc
            else:
                if refused is not None:
                    logger.warning("%s of %s is recorded without what cannot be stored: %s", event.kind, event.stream, refused)
                return event
        if refused is not None:
            raise refused
        return None

    def encode_result(self, result: Any, state: str) -> Any:
        """Return the result as the serializer can take it. An error that cannot be had that way becomes a short text."""
        try:
            return super().encode_result(result, state)
        except Exception:
            if state not in self.EXCEPTION_STATES:
                raise
            return brief_error(result)

    def _encoded(self, value: Any) -> dict[str, Any]:
        """Return the value as Celery's serializer makes it; raise EncodeError if it cannot, unless force_json says otherwise."""
        try:
            payload = self.encode(value)
        except EncodeError:
            if not self.options.force_json or self.content_type != "application/json":
                raise
            payload = self.encode({"value": str(value), "forced_json": True})  # as django-celery-fulldbresult has it
        result = payload.encode() if isinstance(payload, str) else bytes(payload)
        try:
            decompressed(result, self.options.max_payload_bytes)
        except TooLarge as exc:  # nobody could read it
            raise ResultTooLarge(str(exc)) from exc
        return {
            "result": result,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
        }

    def _decoded(self, row: Any) -> Any:
        """Return the value of a row's result, whatever serializer it was written with; raise what is not accepted."""
        if row.result is None:
            return None
        return opened(row.result, row.content_type, row.content_encoding, self.accept, self.options.max_payload_bytes)

    def _rows(self, model: Any, keys: Iterable[str], *, fresh: bool = False) -> dict[str, Any]:
        """Return the rows; `fresh` ones are not from a replica, which may be a little behind. What a worker decides by must be."""

        def work(connection: Connection) -> dict[str, Any]:
            rows: dict[str, Any] = model.get_many(connection, keys, self.journal.schema)
            return rows

        return self.database.run(work) if fresh or is_worker_main() else self.database.read(work)

    def _row_unless_away(self, model: Any, key: str) -> Any:
        """Return the row; None if there is none, and without waiting again while the database is away."""
        if self.outage.away:
            return None
        try:
            return self._rows(model, [key], fresh=True).get(key)
        except JournalUnavailable:
            return None


def named(stream: Any, what: str = "task_id") -> str:
    """Return the id as a text; raise ValueError, as Celery's key-value backends do, if there is none."""
    if not stream:
        raise ValueError(f"{what} must not be empty. Got {stream} instead.")
    return str(stream)


def _tell_or_raise(exc: IdTooLong, events: Sequence[kinds.Event]) -> None:
    """Raise the error; in a worker say it, because its task has run, and the error would end the worker with it."""
    if not in_worker():
        raise exc
    for event in events:
        logger.error("%s is not recorded: %s", event.kind, exc)


_NAMES_OF_DJANGO = {
    "track_publish": "FULLDBRESULT_TRACK_PUBLISH",
    "force_json": "FULLDBRESULT_FORCE_JSON",
    "task_id_max_length": "RESULTS_TASK_ID_MAX_LENGTH",
}


def _of_django(app: Any) -> dict[str, Any]:
    """Return the options that go by the names of django-celery-results and -fulldbresult."""
    given = {option: app.conf.get(f"DJANGO_CELERY_{name}") for option, name in _NAMES_OF_DJANGO.items()}
    return {option: value for option, value in given.items() if value is not None}


def _unpickled(cls: Any, url: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the backend of the current app, if it is the one that was pickled; another one otherwise."""
    app = current_app._get_current_object()
    backend = app.backend
    if type(backend) is cls and backend.__reduce__() == (_unpickled, (cls, url, args, kwargs)):
        return backend
    return cls(*args, app=app, url=url, **kwargs)
