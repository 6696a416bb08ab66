"""What every part of the backend stands on: its options, its way to the database, and Celery's serializer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.backends.base import BaseBackend, unpickle_backend
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import EncodeError
from kombu.serialization import loads

from celery_journal.consumers.options import InvalidOption, Options, locate
from celery_journal.journal import Emitter, Journal, PayloadTooLarge, redact
from celery_journal.journal import events as kinds

from .connection import TRANSIENT, Database, JournalUnavailable

try:
    from celery.backends.base import decompress_payload
except ImportError:  # Celery before 5.7 compresses no results

    def decompress_payload(payload: Any) -> Any:
        """Return the payload as it is."""
        return payload


class ResultTooLarge(EncodeError):
    """A result is above max_payload_bytes. Celery makes the task a FAILURE with this error."""


class JournalBase(BaseBackend):
    """A backend that can append events and read rows. One instance serves all threads, and survives forks."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, url=url, **kwargs)
        self.thread_safe = True
        try:
            self.options = Options.read(app.conf.get("result_backend_transport_options"))
            self.location = locate(url)
        except InvalidOption as exc:
            raise ImproperlyConfigured(str(exc)) from exc
        self.journal = Journal(
            schema=self.options.schema_name,
            max_payload_bytes=self.options.max_payload_bytes,
            everything_durable=self.options.durability == "everything",
        )
        self.emitter = Emitter()
        self.database = Database(self.location, self.options)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return unpickle_backend, (
            type(self),
            args,
            {"url": self.url, "serializer": self.serializer, "expires": self.expires, **(kwargs or {})},
        )

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL; without the password, unless asked for."""
        if not isinstance(self.location, str):
            return f"journal+embedded://{self.location}"
        if include_password:
            return f"journal+{self.location}"
        return f"journal+postgresql://{redact(self.location)}"

    def append(self, *events: kinds.Event) -> None:
        """Record the events, in one round trip."""
        try:
            self.database.run(lambda connection: self.journal.append(connection, *events))
        except PayloadTooLarge as exc:
            raise ResultTooLarge(str(exc)) from exc

    def _encoded(self, value: Any) -> dict[str, Any]:
        """Return the value as Celery's serializer makes it; raise EncodeError if it cannot."""
        payload = self.encode(value)
        return {
            "result": payload.encode() if isinstance(payload, str) else bytes(payload),
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
        }

    def _decoded(self, row: Any) -> Any:
        """Return the value of a row's result, whatever serializer it was written with; raise what is not accepted."""
        if row.result is None:
            return None
        return loads(
            decompress_payload(row.result),
            content_type=row.content_type,
            content_encoding=row.content_encoding,
            accept=self.accept,
        )

    def _rows(self, model: Any, keys: Iterable[str]) -> dict[str, Any]:
        rows: dict[str, Any] = self.database.run(lambda connection: model.get_many(connection, keys, self.journal.schema))
        return rows

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether the same call may do next time: after a lost connection, never after an error in the data."""
        return isinstance(exc, (JournalUnavailable, *TRANSIENT))
