"""Moments and spans of the database as a session of ours writes them; those that Python has no datetime for as the first or the last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import TimestamptzLoader

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class AsToldLoader(Loader):
    """Reads what a session of ours writes. What libpq knows of its settings may be of one that a pooler has lent before."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        loader = psycopg.adapters.get_loader(oid, self.format) or TimestamptzLoader  # the one in C, where there is one
        self._load = loader(oid, None).load

    def load(self, data: Buffer) -> object:
        """Return the moment, or the span."""
        return self._load(data)


class NearestMoment(AsToldLoader):
    """Reads a `timestamptz`; one that is infinite, before Christ or after the year 9999 does not keep the rest from being read."""

    def load(self, data: Buffer) -> datetime:
        """Return the moment, or the nearest to it."""
        try:
            moment: datetime = self._load(data)
        except psycopg.DataError:
            written = bytes(data)
            return _FIRST if written.startswith(b"-") or written.endswith(b"BC") else _LAST
        return moment


@dataclass(frozen=True, slots=True)
class Reading:
    """How a connection of ours reads what the database sends, as psycopg takes it."""

    adapters: AdaptersMap
    connection: None = None


def _reading() -> Reading:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("timestamptz", NearestMoment)
    for name in ("date", "timestamp", "interval"):
        adapters.register_loader(name, AsToldLoader)
    return Reading(adapters)


#: The `context` of every connection of ours.
READING = _reading()
