"""What goes on, and what went on: counts, rates and how long things take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg.rows import class_row, dict_row
from psycopg.sql import SQL, Composable, Composed

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.projections import Q
from celery_journal.projections.fields import TASK_RESULT
from celery_journal.projections.lookups import Statement

from .errors import ErrorGroup, error_groups
from .settlement import settled_in
from .status import queues_of

#: What tasks are counted by.
By = Literal["name", "error", "queue", "worker", "hour"]


class Percentiles(NamedTuple):
    """What half of all, 95 and 99 of a hundred do not exceed; None where nothing is known."""

    p50: timedelta | None = None
    p95: timedelta | None = None
    p99: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How the tasks of one name fared; or of one queue, worker, hour or error."""

    #: Which one; empty where that is not known.
    name: str
    tasks: int
    unended: int
    #: Steps of chains and bodies of chords that failed with what comes before them; they never ran, and have no part in the rate.
    never_sent: int
    succeeded: int
    #: Those that nobody has settled yet.
    failed: int
    #: Those that failed, and are resolved, or were sent again with success; they have no part in the rate either.
    settled: int
    #: Those that were revoked, or whose result is ignored.
    others: int
    #: Runs that were to be tried again.
    retried: int
    queue_wait: Percentiles
    run_time: Percentiles

    @property
    def failure_rate(self) -> float | None:
        """The part that failed of those that were sent and ended, but for the settled; None where there are none."""
        ended = self.tasks - self.unended - self.never_sent - self.settled
        return self.failed / ended if ended else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        spans = {"queue_wait": self.queue_wait._asdict(), "run_time": self.run_time._asdict()}
        return {**asdict(self), "failure_rate": self.failure_rate, **spans}


@dataclass(frozen=True, slots=True)
class Share:
    """What has not ended, and what ended of late, of one name, state, worker or queue."""

    what: str
    #: Which one; None where it is everything.
    key: str | None
    waiting: int
    running: int
    ended: int
    failed: int
    #: How long those that ended took on average.
    run_time: timedelta | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What goes on at one moment, by the clock of the database."""

    at: datetime
    #: The seconds before it that count.
    seconds: float
    #: Workers that are alive.
    workers: int
    everything: Share
    #: By `name`, `state`, `worker` and `queue`, the busiest first.
    shares: dict[str, list[Share]]
    #: Workers that stopped telling that they live, and never said that they go.
    gone: frozenset[str] = frozenset()
    #: For how long the oldest of each queue should have been taken by now.
    oldest: dict[str | None, timedelta | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "at": self.at,
            "seconds": self.seconds,
            "workers_alive": self.workers,
            "workers_gone": sorted(self.gone),
            "all": self._plain(self.everything),
            **{f"{what}s": [self._plain(share) for share in shares] for what, shares in self.shares.items()},
        }

    def _plain(self, share: Share) -> dict[str, Any]:
        named: dict[str, Any] = {} if share.key is None else {share.what: share.key}
        if share.what == "queue":
            named["oldest"] = self.oldest.get(share.key)
        numbers = {name: value for name, value in asdict(share).items() if name not in {"what", "key"}}
        return {**named, **numbers, "per_second": round(self.rate(share), 3)}

    def rate(self, share: Share) -> float:
        """Return how many end a second."""
        return share.ended / self.seconds


def tallies(connection: Connection, condition: Q, schema: str = sql.DEFAULT_SCHEMA, by: By = "name") -> list[Tally]:
    """Return how the tasks fared that the condition finds, the most frequent name first; hours in their order.

    Of an error only those are counted that failed so; see `error_groups`.
    """
    if by == "error":
        groups = error_groups(connection, None, datetime.now(UTC), condition, schema)
        settled = settled_in(connection, [task_id for group in groups for task_id in group.task_ids], schema)
        return [_of_error(group, len(settled.keys() & set(group.task_ids))) for group in groups]
    statement = Statement(TASK_RESULT, schema)
    key = SQL(sql.queries("stats.sql", schema)[f"key of {by}"])
    query = _query("by key", schema, key=key, condition=condition.condition(statement))
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, statement.parameters).fetchall()
    spans = ("queue_wait", "run_time")
    found = [Tally(**{**row, **{name: Percentiles(*(row[name] or ())) for name in spans}}) for row in rows]
    return sorted(found, key=lambda tally: tally.name) if by == "hour" else found


def _of_error(group: ErrorGroup, settled: int) -> Tally:
    return Tally(group.error, group.count, 0, 0, 0, group.count - settled, settled, 0, 0, Percentiles(), Percentiles())


def snapshot(connection: Connection, seconds: float, schema: str = sql.DEFAULT_SCHEMA) -> Snapshot:
    """Return what goes on now, and ended in the last seconds."""
    with connection.cursor(row_factory=class_row(Share)) as cursor:
        rows = cursor.execute(_query("going on", schema), {"seconds": seconds}).fetchall()
    ((at, alive, gone),) = connection.execute(sql.query("stats.sql", "now", schema)).fetchall()
    oldest = {one.queue: one.age for one in queues_of(connection, schema)}
    shares: dict[str, list[Share]] = defaultdict(list)
    for share in rows:
        shares[share.what].append(share)
    (everything,) = shares.pop("all")
    by = {what: shares[what] for what in ("name", "state", "worker", "queue")}
    return Snapshot(at, seconds, alive, everything, by, frozenset(gone), oldest)


def _query(name: str, schema: str, **parts: Composable) -> Composed:
    """Return the query with the pieces in its braces."""
    pieces = sql.queries("stats.sql", schema)
    return SQL(pieces[name]).format(**{piece: SQL(pieces[piece]) for piece in ("replaced", "never sent")}, **parts)
