"""The command that groups failures by what they have in common."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import click

from celery_journal.consumers import search
from celery_journal.consumers.clock import now_of
from celery_journal.consumers.errors import LIMIT, ErrorGroup, error_groups
from celery_journal.consumers.remarks import remarks
from celery_journal.consumers.words import counted, moment, short, shown
from celery_journal.journal import Connection, Emitter, Journal, check_version
from celery_journal.journal.command import command
from celery_journal.projections import Q, Worker

from .choosing import BATCH
from .failure import Failure
from .ids import SHORTEST
from .output import Column, Output, Record, confirm, confirming_options, console, say, table_options
from .plan import plan_of
from .searching import Searching, is_told, say_doubts, words_argument, words_of

#: How much is looked at unless a word has dates, and before a deployment.
PERIOD = "1d"

#: The moment at which the workers were started that are alive.
WORKERS = "the workers"

_BARS = "▁▂▃▄▅▆▇█"


def _trend(group: ErrorGroup) -> str:
    """Return the counts as bars on a terminal, and as numbers in a pipe."""
    if not sys.stdout.isatty():
        return ",".join(map(str, group.trend))
    most = max(group.trend) or 1
    return "".join(_BARS[(count * (len(_BARS) - 1) + most - 1) // most] for count in group.trend)


def _place(group: ErrorGroup) -> str:
    return "; ".join(filter(None, (group.where and f"in {group.where}", ", ".join(group.names))))


FAILED = Column("failed", lambda group: f"{group.count:,}", "right")
ERROR = Column("error", lambda group: group.error)
WHERE = Column("where", lambda group: group.where)
TASKS = Column("tasks", lambda group: ", ".join(group.names))
TREND = Column("trend", _trend, whole=True)
GROUP = Column("group", lambda group: group.fingerprint, whole=True)

#: On a narrow terminal, without headings.
PLACE = Column("", _place)
EXAMPLE = Column("", lambda group: f"such as {group.example}")

#: What there is room for: the columns of a terminal, from that width on.
COLUMNS = (
    (0, FAILED),
    (0, ERROR),
    (0, WHERE),
    (140, TASKS),
    (200, Column("first", lambda group: moment(group.first_seen).removesuffix(" UTC"))),
    (0, Column("last", lambda group: moment(group.last_seen).removesuffix(" UTC"))),
    (0, TREND),
    (0, GROUP),
    (180, Column("example", lambda group: group.example, whole=True)),
)


@click.command("errors", cls=Searching)
@words_argument
@click.option(
    "--since-deploy",
    metavar="MOMENT",
    is_flag=False,
    flag_value=WORKERS,
    help="Only what is new since then: 2h, 2026-01-31T12:00; without a moment, since the live workers were started.",
)
@click.option("--resolve", metavar="GROUP", help="Note of the tasks of this group that they are resolved.")
@click.option("--note", help="Why, for the log.")
@click.option("--settled", is_flag=True, help="Also failures that are settled: resolved, or replayed with success.")
@confirming_options
@table_options
@click.pass_context
def errors(
    ctx: click.Context,
    condition: Q,
    since_deploy: str | None,
    resolve: str | None,
    note: str | None,
    settled: bool,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Group the failures of the last day by what they have in common: type, message and place in the app, but for numbers, ids and times.

    Exit code 1 if there are none. What is settled, noted to be resolved or replayed with success, is left out, unless --settled or a word
    such as settled:yes or resolved:yes says otherwise.

    \b
    celery-journal errors since:2h 'name:billing.*'
    celery-journal errors --since-deploy
    celery-journal errors --resolve 5b24b0e69f3a --note "fixed by release 12"
    """
    target = ctx.obj
    if note is not None and resolve is None:
        raise click.UsageError("--note says why a group is resolved; name it by --resolve GROUP")
    if not settled and not is_told(ctx, "settled", "resolved"):
        condition &= Q(settled=False)
    if not is_told(ctx, "hidden"):
        condition &= Q(hidden=False)
    with target.connect() as connection:
        check_version(connection, target.schema)
        now = now_of(connection, target.schema)
        deployed = _deployed(connection, target.schema, since_deploy, now) if since_deploy else None
        since = None if is_told(ctx, "since", "until") else (deployed or now) - search.span(PERIOD)
        found = error_groups(connection, since, now, condition, target.schema)
        if deployed is not None:
            found = [group for group in found if group.first_seen >= deployed]
        if resolve is not None:
            _resolve(connection, target.schema, found, resolve, note, output, yes=yes, dry_run=dry_run)
            return
    columns = [column for least, column in COLUMNS if not sys.stdout.isatty() or console().width >= least]
    if sum(group.count for group in found) >= LIMIT:
        say(f"only the newest {LIMIT:,} failures are looked at", err=True)
    last = Column("", lambda group: short(group.last_seen, now))
    record = Record((Column("", lambda group: f"{group.count:,} failed", "right"), last, GROUP, TREND), (), (ERROR, PLACE, EXAMPLE))
    if not output.rows(found, columns, ErrorGroup.as_dict, record=record, nothing="no task has failed like that"):
        say_doubts(words_of(ctx))
        ctx.exit(1)


def _deployed(connection: Connection, schema: str, told: str, now: datetime) -> datetime:
    """Return the moment after which something is new."""
    if told != WORKERS:
        try:
            return search.moment(told, now)
        except search.BadQuery as exc:
            raise click.UsageError(f"--since-deploy: {exc}") from exc
    started = [worker.online_since for worker in Worker.all(connection, schema) if worker.alive and worker.online_since]
    if not started:
        raise Failure("no live worker has told when it was started; say --since-deploy MOMENT", 1)
    return min(started)


def _resolve(
    connection: Connection,
    schema: str,
    found: list[ErrorGroup],
    fingerprint: str,
    note: str | None,
    output: Output,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Note it in the log, where `show` and `history` have it."""
    named = [group for group in found if len(fingerprint) >= SHORTEST and group.fingerprint.startswith(fingerprint)]
    if len(named) != 1:
        what = "is no group of these failures" if not named else f"begins {counted(len(named), 'group')}"
        raise Failure(f"{shown(fingerprint)} {what}; run: {command('errors')}", 1)
    (group,) = named
    what = f"{counted(group.count, 'task')} that failed with {shown(group.error)}"
    plan = plan_of(connection, schema, group.task_ids)
    done = confirm("\n".join([*plan.lines(), f"resolve {what}?"]), output, yes=yes, dry_run=dry_run)
    if done:
        journal = Journal(schema)
        events = remarks(Emitter(), group.task_ids, note=note, marks={"resolved": True})
        for start in range(0, len(events), BATCH):
            journal.append(connection, *events[start : start + BATCH])
    told: dict[str, Any] = {"dry_run": dry_run, "done": done, "group": group.fingerprint, "task_ids": group.task_ids}
    told |= {"plan": plan.as_dict()} if dry_run else {}
    output.said(told, f"{'resolved' if done else 'would resolve' if dry_run else 'left'} {what}")
    if dry_run and not output.is_data:
        plan.say_dry()
