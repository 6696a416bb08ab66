"""Failures grouped by what they have in common: the type, what it says, and where in the application it was raised."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.projections import Q
from celery_journal.projections.fields import TASK_RESULT
from celery_journal.projections.lookups import Statement

from .raised import LONGEST, error_of

#: Failures that are looked at, the newest.
LIMIT = 10_000

#: The parts of a period whose failures are counted apart.
BUCKETS = 12

_FRAME = re.compile(r'^[\s|+]*File "(?P<file>[^"\n]*)", line \d+(?:, in (?P<where>[^\n]*))?\n(?:[\s|+]*(?P<code>[^\n]*))?', re.MULTILINE)

#: Code that is not the application's: what was installed, Python's own, and what has no file.
_FOREIGN = re.compile(r"site-packages|dist-packages|[/\\]lib[/\\]python\d|[/\\]Lib[/\\]|^<")

#: What differs between two failures of one kind: addresses of mail, of machines and in memory, ids, times, and all else with a digit in it.
_ADDRESS = r"[^\s@'\"<>]+@[\w-]+\.[\w.-]+|[\w:.]*::[\w:.]*"
_ID = r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{16,}\b"
_VARYING = re.compile(rf"(?:(?:{_ADDRESS}|{_ID}|[\w.:/+-]*\d[\w.:/+-]*) ?)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that has failed, and what is stored of why."""

    task_id: str
    name: str | None
    date_done: datetime
    traceback: str | None
    result: bytes | None
    content_type: str | None
    content_encoding: str | None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """The failures of one fingerprint in a period."""

    fingerprint: str
    #: That of the newest, on one line.
    error: str
    #: Where in the application it was raised last; empty where the traceback does not tell.
    where: str
    names: tuple[str, ...]
    #: The tasks, the newest first.
    task_ids: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime
    #: How many there were in each part of the period, the oldest first.
    trend: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many have failed so."""
        return len(self.task_ids)

    @property
    def example(self) -> str:
        """The task that has failed so last."""
        return self.task_ids[0]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        names = ("fingerprint", "error", "where", "names", "count", "first_seen", "last_seen", "trend", "example", "task_ids")
        return {name: getattr(self, name) for name in names}


def fingerprint_of(stored: object) -> str:
    """Return what the failures of one kind have in common, as twelve hexadecimal digits.

    Two are alike where their types, the frames of the application in their tracebacks (file, function and line of code, not its number) and
    their messages are, but for numbers, ids, addresses and times. Code that was installed counts where there is no other.
    """
    error = _VARYING.sub("* ", error_of(stored) or "")
    frames = [f"{_tail(file)} {where} {code}" for file, where, code in _frames(getattr(stored, "traceback", None) or "")]
    parts = [
        error,
        *(frame for place, frame in enumerate(frames) if frame not in frames[max(0, place - 8) : place]),
    ]  # a recursion of any depth
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def error_groups(
    connection: Connection, since: datetime | None, until: datetime, condition: Q | None = None, schema: str = sql.DEFAULT_SCHEMA
) -> list[ErrorGroup]:
    """Return the failures for which the condition holds by their fingerprints, the most frequent first.

    The period is from `since`, or the first of them, to `until`, which is now. No more than the newest LIMIT are looked at.
    """
    failures = _failures(connection, since or datetime.min.replace(tzinfo=UTC), condition or Q(), schema)
    if since is None:
        since = failures[-1].date_done if failures else until
    by_fingerprint = defaultdict[str, list[Failure]](list)
    for failure in failures:
        by_fingerprint[fingerprint_of(failure)].append(failure)
    groups = [_group(fingerprint, alike, since, until) for fingerprint, alike in by_fingerprint.items()]
    return sorted(groups, key=lambda group: (-group.count, group.fingerprint))


def _failures(connection: Connection, since: datetime, condition: Q, schema: str) -> list[Failure]:
    statement = Statement(TASK_RESULT, schema)
    query = SQL(sql.queries("errors.sql", schema)["failures"]).format(condition=condition.condition(statement))
    parameters = {**statement.parameters, "since": since, "limit": LIMIT, "longest": LONGEST}
    with connection.cursor(row_factory=class_row(Failure)) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _group(fingerprint: str, alike: Sequence[Failure], since: datetime, until: datetime) -> ErrorGroup:
    newest = alike[0]
    trend = [0] * BUCKETS
    for failure in alike:
        place = (failure.date_done - since) / (until - since) if until > since else 1
        trend[min(BUCKETS - 1, max(0, int(place * BUCKETS)))] += 1
    frames = list(_frames(newest.traceback or ""))
    return ErrorGroup(
        fingerprint=fingerprint,
        error=error_of(newest) or "an error that cannot be read",
        where=f"{_tail(frames[-1][0])}: {frames[-1][1]}" if frames else "",
        names=tuple(sorted({failure.name for failure in alike if failure.name is not None})),
        task_ids=tuple(failure.task_id for failure in alike),
        first_seen=alike[-1].date_done,
        last_seen=newest.date_done,
        trend=tuple(trend),
    )


def _frames(traceback: str) -> Iterator[tuple[str, str, str]]:
    """Yield file, function and code of the frames of the application; of all, where none is its own."""
    found = [(one["file"], one["where"] or "", (one["code"] or "").strip()) for one in _FRAME.finditer(traceback)]
    own = [frame for frame in found if not _FOREIGN.search(frame[0])]
    yield from own or found


def _tail(file: str) -> str:
    """Return the end of the path: where an application is installed differs between machines and versions."""
    return "/".join(re.split(r"[/\\]", file)[-2:])
