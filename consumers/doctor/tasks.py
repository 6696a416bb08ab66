"""Checks of what the journal holds: workers, clocks, lost tasks, the spool."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from celery_journal.consumers.lost import find_lost
from celery_journal.consumers.redelivery import held
from celery_journal.consumers.spool import Spool, SpoolStatus, beside, spool_of
from celery_journal.consumers.timeline import TOLERANCE
from celery_journal.consumers.unregistered import find_unlike, find_unregistered
from celery_journal.consumers.words import counted, duration, listed, shown
from celery_journal.journal.command import command
from celery_journal.projections import Worker

from .examination import Finding, Subject, check

#: How late the last heartbeat of a worker may have been recorded: the clock of that worker need not be behind.
LATE = timedelta(seconds=10)

#: For how long it is told that somebody has waited for a result that is ignored; the clocks of those who do may be as far off.
DAY = timedelta(days=1)


@check("clocks")
def _clocks(subject: Subject) -> Iterator[Finding]:
    wrong = {
        worker.worker: worker.clock_offset
        for worker in Worker.all(subject.connection, subject.schema)
        if worker.alive and worker.clock_offset is not None and not -LATE <= worker.clock_offset <= TOLERANCE
    }
    ahead = subject.row("future events", tolerance=TOLERANCE)
    advice = "run an NTP client on every machine; order and ages are right, but dates are by the clock of whoever tells them"
    for name, offset in wrong.items():
        yield Finding(
            "clocks", "warn", f"the clock of {name} is {duration(offset)} {'ahead' if offset > timedelta(0) else 'behind'}", advice
        )
    if ahead["events"] and not wrong:
        events = f"{counted(ahead['events'], 'event')} of the last {ahead['looked_at']:,}"
        found = f"{events} happened after being recorded, up to {duration(ahead['lead'])}"
        yield Finding("clocks", "warn", found, advice)
    if not wrong and not ahead["events"]:
        yield Finding("clocks", "ok", "workers and senders agree with the database")


@check("workers")
def _workers(subject: Subject) -> Iterator[Finding]:
    workers = Worker.all(subject.connection, subject.schema)
    silent = [worker.worker for worker in workers if not worker.alive and not worker.offline]
    if silent:
        found = f"{counted(len(silent), 'worker')} stopped telling that they live, and never said that they go: {listed(silent)}"
        yield Finding("workers", "warn", found, f"start them again if they are missed; what they had is in: {command('lost')}")
    else:
        yield Finding("workers", "ok", f"{counted(sum(worker.alive for worker in workers), 'worker')} alive, none silent")


@check("registered tasks")
def _registered(subject: Subject) -> Iterator[Finding]:
    name = "registered tasks"
    unregistered = find_unregistered(subject.connection, subject.schema)
    unlike = find_unlike(subject.connection, subject.schema)
    code = "start these workers with the code of those who send it (imports, include, autodiscover_tasks)"
    for one in unregistered:
        waits = f"{counted(one.tasks, 'task')} of {one.queue} {'waits' if one.tasks == 1 else 'wait'} under the name {shown(one.name)}"
        found = f"{waits}, and whichever live worker receives one fails it: {listed(one.workers)} {_lacks(one.workers)}"
        yield Finding(name, "bad", found, code)
    for other in unlike:
        found = f"{shown(other.name)} is sent to {other.queue}, where {listed(other.workers)} {_lacks(other.workers)}, and others have"
        yield Finding(name, "warn", found, f"{code}, or let them consume other queues")
    if not unregistered and not unlike:
        yield Finding(name, "ok", "live workers have registered what is sent to their queues, as far as they tell")


def _lacks(workers: list[str]) -> str:
    return f"{'has' if len(workers) == 1 else 'have'} not registered it"


@check("waited-for results")
def _waited(subject: Subject) -> Iterator[Finding]:
    name = "waited-for results"
    now = datetime.now(UTC)
    waited, saved = subject.rows("waited in vain", since=now - DAY, until=now + DAY), subject.rows("groups without results")
    if waited:
        found = f"somebody waited in the last day for results that are ignored, and got None: {_names(waited)}"
        advice = f"take ignore_result from these tasks, or do not wait; who did, tells: {command('history')} {waited[-1]['task_id']}"
        yield Finding(name, "warn", found, advice)
    if saved:
        found = f"groups were saved that are never ready(), because tasks of them end without a result: {_names(saved)}"
        yield Finding(name, "warn", found, "take ignore_result from these tasks, or leave them out of such groups")
    if not waited and not saved:
        yield Finding(name, "ok", "nobody waits for one that is ignored, as far as is known")


def _names(rows: list[dict[str, Any]]) -> str:
    return listed([shown(row["name"] or "(not named)") for row in rows])


@check("lost tasks")
def _lost(subject: Subject) -> Iterator[Finding]:
    found = find_lost(subject.connection, subject.options.lost_grace, subject.schema, held=subject.app and partial(held, subject.app))
    if found:
        words = f"{counted(len(found), 'task')} will not go on by {'itself' if len(found) == 1 else 'themselves'}"
        yield Finding("lost tasks", "warn", words, f"run: {command('lost')}")
    else:
        yield Finding("lost tasks", "ok", "none")


@check("spool")
def _spool(subject: Subject) -> Iterator[Finding]:
    if subject.options.spool == "":
        found = "the option spool is empty: what cannot be written within retry_budget raises in the worker"
        yield Finding("spool", "warn", found, "leave the option out, or name a directory that outlives the container")
        return
    try:
        spool = spool_of(subject.location or subject.dsn, subject.schema, subject.options.spool)
        status, others = spool.status(), [other for other in beside(spool) if _is_perhaps_the_same(other, spool)]
    except (sqlite3.Error, OSError) as exc:
        yield Finding("spool", "bad", f"the spool cannot be read: {exc}", "correct its permissions, or the option spool")
        return
    if status.waiting:
        found = f"{counted(status.waiting, 'event')} of this machine wait for the database, the oldest for {duration(status.age)}"
        yield Finding("spool", "bad", found, f"run: {command('spool drain')}")
    if status.refused:
        found = f"{counted(status.refused, 'event')} of this machine were refused by the database"
        yield Finding("spool", "bad", found, f"run: {command('spool --json')}")
    for other in others:
        found = f"{counted(other.waiting + other.refused, 'event')} of this machine in the spool of {other.place}, named with other words"
        yield Finding("spool", "warn", found, "if that is this database, name it so: celery-journal --dsn ... spool drain")
    if not status.waiting and not status.refused and not others:
        yield Finding("spool", "ok", "nothing of this machine waits")


def _is_perhaps_the_same(status: SpoolStatus, spool: Spool) -> bool:
    """Return whether the spool may be of the same journal, whose server was named with other words: localhost and 127.0.0.1."""
    return status.schema == spool.schema and status.place.rpartition("/")[2] == spool.place.rpartition("/")[2]
