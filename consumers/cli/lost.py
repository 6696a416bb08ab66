"""The command that lists what will not go on by itself, marks it and fails it."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import click

from celery_journal.consumers.alike import Waiting
from celery_journal.consumers.clock import now_of
from celery_journal.consumers.lost import GRACE, LIMIT, Lost, find_lost, mark_lost
from celery_journal.consumers.redelivery import held
from celery_journal.consumers.words import counted, duration, first_line, shown
from celery_journal.journal import Emitter, Journal, check_version

from .choosing import question
from .failure import Failure
from .output import Column, Output, Record, confirm, confirming_options, output_options, say
from .plan import Plan, place_of
from .spans import Seconds
from .styles import style_of
from .waiting import all_option, rows_or_groups

TASK = Column("task", lambda one: one.task_id or one.group_id, whole=True)
NAME = Column("name", lambda one: one.name, whole=True)
STATE = Column("state", lambda one: one.state, style=lambda one: style_of(one.state))
REASON = Column("reason", lambda one: one.reason)
MARKED = Column("marked", lambda one: "yes" if one.marked else "")
SETTLED = Column("settled", lambda one: one.settled)


@click.command("lost")
@click.option("--mark", is_flag=True, help="Record in the log that they are lost; their Celery states stay as they are.")
@click.option("--fail", is_flag=True, help="Make them FAILURE with WorkerLostError, so that whoever waits hears of it, and mark them.")
@click.option("--settled", is_flag=True, help="Also those that are settled: resolved, or replayed with success.")
@click.option("--grace", type=Seconds(min=0, min_open=True), help=f"Silence that is needed.  [default: {GRACE:g}]")
@all_option
@confirming_options
@output_options
@click.pass_context
def lost(
    ctx: click.Context,
    mark: bool,
    fail: bool,
    settled: bool,
    grace: float | None,
    every: bool,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """List the tasks that will not go on by themselves, for all that is known, and say why. Exit code 1 if there are any.

    \b
    That is: never received, though a live worker should have; expired, and nobody has said so; with a worker that is gone or
    was started anew; running for longer than their time limit; chords of which nothing is left to wait for, or only what is
    lost or was never sent. One that goes on after all is simply not lost; one that was noted to be resolved (annotate --resolved), or
    was replayed and has succeeded so, is settled: neither listed, nor counted, nor failed. What they fail with --fail calls error callbacks
    only as `celery -A proj journal lost --fail`. More than fit on a terminal are counted by queue and reason.

    \b
    celery-journal lost --mark
    """
    target = ctx.obj
    silence = target.options.lost_grace if grace is None else grace
    verb = "fail" if fail else "mark"
    with target.connect() as connection:
        check_version(connection, target.schema)
        held_by_broker = None if target.app is None else partial(held, target.app)
        found = find_lost(connection, silence, target.schema, also_settled=settled, held=held_by_broker)
        unsettled = [one for one in found if one.settled is None]
        chosen = [one for one in unsettled if one.task_id is not None and (fail or not one.marked)] if mark or fail else []
        if not output.is_data:
            _print(found, now_of(connection, target.schema), every=every)
            if len(found) >= LIMIT:
                say(f"no more than {LIMIT:,} are looked for at a time; there may be others", err=True)
        done: list[str] = []
        plan = Plan(place_of(connection, target.schema), Counter((one.name, one.queue) for one in chosen))
        if chosen and dry_run:
            done.append(f"would {verb} {counted(len(chosen), 'task')}")
        elif chosen and confirm(question(verb, [str(one.task_id) for one in chosen], plan.lines()), output, yes=yes, dry_run=dry_run):
            marked = mark_lost(connection, chosen, Journal(target.schema), Emitter())
            done.append(f"marked {counted(len(marked), 'task')}")
            if fail:
                number, unfailed = _fail(target, [*(one for one in chosen if one.marked), *marked])
                done += [f"failed {counted(number, 'task')}", *unfailed]
    if output.is_data:
        output.objects(_as_object(one) for one in found)
    else:
        for line in done:
            click.echo(line)
        if chosen and dry_run:
            plan.say_dry()
    if unsettled:
        ctx.exit(1)


def _fail(target: Any, chosen: list[Lost]) -> tuple[int, list[str]]:
    """Fail them, and return how many that were, and which could not be; the bodies of chords last, because most end with their members."""
    from celery_journal.consumers.backend.connection import JournalUnavailable
    from celery_journal.consumers.failing import fail_lost

    backend = target.backend
    number, unfailed = 0, list[str]()
    try:
        for one in sorted(chosen, key=lambda one: one.is_body):
            try:
                number += fail_lost(backend, one)
            except JournalUnavailable:
                raise
            except Exception as exc:  # noqa: BLE001  what is wrong with one must not keep the others from their end
                unfailed.append(f"{shown(one.task_id or '')} could not be failed: {shown(first_line(exc))}")
    except JournalUnavailable as exc:
        raise Failure(str(exc), 3) from exc
    finally:
        if target.app is None:
            backend.database.close()
    return number, unfailed


def _as_object(one: Lost) -> dict[str, Any]:
    return {
        "task_id": one.task_id,
        "name": one.name,
        "state": one.state,
        "cause": one.cause,
        "reason": one.reason,
        "worker": one.worker,
        "queue": one.queue,
        "group_id": one.group_id,
        "body_of": one.body_of,
        "attempt": one.attempt,
        "date_sent": one.date_sent and one.date_sent.astimezone(UTC).isoformat(),
        "last_heard_of": one.heard_at and one.heard_at.astimezone(UTC).isoformat(),
        "marked": one.marked,
        "settled": one.settled,
    }


def _print(found: list[Lost], now: datetime, *, every: bool) -> None:
    if not found:
        click.echo("no task is lost")
    elif sys.stdout.isatty():
        silent = Column("silent for", lambda one: "" if one.heard_at is None else duration(_age(one, now) or 0), "right")
        settled = [SETTLED] if any(one.settled for one in found) else []
        columns = (TASK, NAME, STATE, silent, REASON, MARKED, *settled)
        queue = Column("", lambda one: one.queue and f"in {one.queue}")
        marked = Column("", lambda one: "marked" if one.marked else "")
        record = Record((silent, TASK, STATE), (NAME, queue, marked), (REASON, *settled))
        rows_or_groups(found, columns, record, partial(_as_waiting, now=now), every=every)
    else:
        for one in found:
            said = "".join(f" ({word})" for word in ("marked" if one.marked else None, one.settled and shown(one.settled)) if word)
            click.echo(f"{shown(one.task_id or one.group_id)}: {shown(one.name or '')} {shown(one.state)}: {shown(one.reason)}{said}")


def _age(one: Lost, now: datetime) -> timedelta | None:
    return None if one.heard_at is None else now - one.heard_at


def _as_waiting(one: Lost, now: datetime) -> Waiting:
    reason = f"settled: {one.reason}" if one.settled else one.reason
    return Waiting(one.task_id or one.group_id or "", one.name, one.queue, _age(one, now), reason)
