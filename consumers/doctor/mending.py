"""Mending what can be mended: weeks that facts of a wrong clock have taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from psycopg import errors

from celery_journal.consumers.words import counted
from celery_journal.journal import LocksHeld
from celery_journal.journal.waiting import Wait, holders

from .examination import Subject


def weeks_taken(subject: Subject) -> dict[datetime, int]:
    """Return when each week begins that has no partition because its events are in the default one, and how many those are."""
    return {row["first_day"]: row["events"] for row in subject.rows("default partition") if row["first_day"] is not None}


def give_partitions(subject: Subject, weeks: dict[datetime, int], say: Callable[[str], object]) -> Iterator[str]:
    """Move the events of each of the weeks into a partition of its own, and yield what was done, in words.

    Whoever has the log locked is waited for, and `say` is told who that is. Raises LocksHeld if somebody does not let go.
    """
    for first_day in weeks:
        wait = Wait("doctor", say, lambda: holders(subject.connection, "holders of relations", subject.schema, {}))
        while True:
            try:
                moved = subject.row("move week", first_day=first_day)["events"]
                break
            except errors.LockNotAvailable as exc:
                if not wait.pause():
                    as_it_was = f"the week of {first_day:%Y-%m-%d} is as it was, because of {wait.whom()}"
                    raise LocksHeld(f"{as_it_was}; end that, and run it again") from exc
        if moved is not None:
            yield f"moved {counted(moved, 'event')} of the week of {first_day:%Y-%m-%d} into a partition of its own"
