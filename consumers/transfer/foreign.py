"""Taking over the past from another result backend, as facts with their source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from itertools import islice
from typing import Literal

from kombu.serialization import registry

from celery_journal.journal import Connection, EventConflict, EventRefused, Journal
from celery_journal.journal.codec import encode
from celery_journal.journal.events import Event
from celery_journal.projections import GroupResult, TaskResult

from . import celery_tables, django_results, redis_results
from .past import NOT_OURS, Decoder, ForeignError, Past, PastGroup, PastTask, Untaken

Source = Literal["django-celery-results", "sqlalchemy", "redis"]

#: Tasks whose facts are recorded in one statement.
BATCH = 500


@dataclass(slots=True)
class Taken:
    """How far the taking over has come."""

    tasks: int = 0
    groups: int = 0
    #: What the journal knows already: it was there, and knows better, or was taken over before.
    known: int = 0
    untaken: list[Untaken] = field(default_factory=list)


def take(
    connection: Connection,
    journal: Journal,
    source: Source,
    url: str,
    *,
    accept: frozenset[str] = frozenset({"json"}),
    serializer: str = "json",
    key_prefix: str = "",
    zone: tzinfo = UTC,
    dry_run: bool = False,
) -> Iterator[Taken]:
    """Record what the other result backend knows, in batches; yield after each how far it is. Once more takes only what is new.

    `accept` is what the payloads may be, as Celery's accept_content; `serializer` that backend's result_serializer; `zone`
    is that of the moments which it stored without one. Raises ForeignError.
    """
    past = _read(source, url, Decoder(accept), serializer, key_prefix, zone)
    taken = Taken()
    while batch := list(islice(past, BATCH)):
        _take(connection, journal, source, batch, taken, dry_run=dry_run)
        yield taken


def _read(source: Source, url: str, decoder: Decoder, serializer: str, key_prefix: str, zone: tzinfo) -> Iterator[Past]:
    if serializer not in registry.name_to_type:
        raise ForeignError(f"there is no serializer {serializer!r}; there are {', '.join(sorted(registry.name_to_type))}")
    match source:
        case "django-celery-results":
            return django_results.read(url, decoder, zone)
        case "sqlalchemy":
            return celery_tables.read(url, decoder, serializer, zone)
        case "redis":
            return redis_results.read(url, decoder, serializer, key_prefix)


def _take(connection: Connection, journal: Journal, source: Source, batch: list[Past], taken: Taken, *, dry_run: bool) -> None:
    batch = [
        one if isinstance(one, Untaken) or _id_of(one) else Untaken("a row without an id", "it does not say whose it is") for one in batch
    ]
    tasks = [one for one in batch if isinstance(one, PastTask)]
    groups = [one for one in batch if isinstance(one, PastGroup)]
    ended = {
        task_id
        for task_id, row in TaskResult.get_many(connection, [task.task_id for task in tasks], journal.schema).items()
        if row.date_done is not None
    }
    saved = GroupResult.get_many(connection, [group.group_id for group in groups], journal.schema)
    facts: list[Event] = []
    for task in tasks:
        try:
            told = task.facts(source)
        except ValueError as exc:  # of another type than the field of an event
            taken.untaken.append(Untaken(task.task_id, NOT_OURS.format(type(exc).__name__)))
            continue
        if task.task_id in ended:
            taken.known += 1
        elif not told:
            taken.untaken.append(Untaken(task.task_id, f"it is {task.status}, and nothing says since when; import again when it has ended"))
        elif (why := _refused(journal, told)) is not None:
            taken.untaken.append(Untaken(task.task_id, why))
        else:
            taken.tasks += 1
            facts += told
    for group in groups:
        if group.group_id in saved:
            taken.known += 1
        elif (why := _refused(journal, group.facts(source))) is not None:
            taken.untaken.append(Untaken(group.group_id, why))
        else:
            taken.groups += 1
            facts += group.facts(source)
    taken.untaken += [one for one in batch if isinstance(one, Untaken)]
    if not dry_run:
        journal.make_room(connection, [fact.event_id for fact in facts])
        with suppress(EventConflict):  # of what has not ended, and was read in another way before: that stands
            journal.append(connection, *facts)


def _id_of(one: PastTask | PastGroup) -> str | None:
    """Return whose past it is; None where the row says nothing that is an id."""
    given: object = one.task_id if isinstance(one, PastTask) else one.group_id
    return given if isinstance(given, str) else None


def _refused(journal: Journal, facts: Sequence[Event]) -> str | None:
    """Return why the log does not take these facts; None if it does."""
    try:
        for fact in facts:
            encode(fact, journal.max_payload_bytes, journal.max_id_length)
    except EventRefused as exc:
        return str(exc)
    return None
