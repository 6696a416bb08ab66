"""Waiting for those who stand in the way: never in silence, never for ever, and never with everybody else behind us."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql

Connection = psycopg.Connection[Any]

#: Is told, in a sentence, whom we wait for.
Say = Callable[[str], object]

#: Seconds: how long is waited in all, before the first word, and between two of them.
PATIENCE, FIRST_WORD, NEXT_WORD = 600.0, 1.0, 15.0

#: Spreads those who try again. Not the numbers of `random`: an application may have seeded them, and forked processes would share ours.
JITTER = random.SystemRandom()

#: Seconds between two attempts to get a lock: at first, and after many.
SHORTEST, LONGEST = 0.05, 1.0


class Wait:
    """One wait: `pause` between two attempts, until it says that it was long enough."""

    def __init__(self, what: str, say: Say | None, holders: Callable[[], list[str]], patience: float = PATIENCE) -> None:
        self._what, self._say, self._holders = what, say, holders
        self._began = time.monotonic()
        self._patience = patience
        self._next_word = self._began + FIRST_WORD
        self._pause = SHORTEST

    def pause(self) -> bool:
        """Wait a little, longer each time; say whom for, now and then. Return False when it was too long."""
        now = time.monotonic()
        if now - self._began > self._patience:
            return False
        if self._say is not None and now >= self._next_word:
            self._say(f"{self._what} waits for {self.whom()}")
            self._next_word = now + NEXT_WORD
        time.sleep(self._pause * JITTER.uniform(0.5, 1.0))
        self._pause = min(self._pause * 1.5, LONGEST)
        return True

    def whom(self) -> str:
        """Return who stands in the way, in words."""
        return "; ".join(self._holders()) or "somebody who has just let go"


def holders(connection: Connection, name: str, schema: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return in words those whom the statement of sql/locks.sql finds."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_told(row) for row in cursor.execute(sql.query("locks.sql", name, schema), parameters)]


@contextmanager
def trusted_path(connection: Connection, schema: str) -> Iterator[None]:
    """Find nothing of what anybody may have planted in other schemas, for as long as the block runs in one session of ours."""
    (before,) = connection.execute(sql.query("schema.sql", "path", schema)).fetchone() or ("",)
    take = sql.query("schema.sql", "take path", schema)
    connection.execute(take, {"path": "pg_catalog, pg_temp"})
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(take, {"path": before})


def _told(row: Mapping[str, Any]) -> str:
    who = f"process {row['pid']}"
    if row["login"]:
        who += f" of {row['login']}" + (f" ({row['application']})" if row["application"] else "")
    at = " in ".join(str(part) for part in (row["state"], row["kind"]) if part)
    since = f"since {row['since'].astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if row["since"] else ""
    return ", ".join(part for part in (who, at, since) if part)
