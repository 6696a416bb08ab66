"""The command that looks for what will surprise."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import click

from celery_journal.consumers.words import counted
from celery_journal.journal import check_version

from .output import Column, Output, Record, confirm, confirming_options, table_options

STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}

COLUMNS = (
    Column("", lambda finding: finding.status, style=lambda finding: STYLES[finding.status]),
    Column("check", lambda finding: finding.check),
    Column("found", lambda finding: finding.found),
    Column("what to do", lambda finding: finding.advice),
)


@click.command("doctor")
@click.option("--payloads", is_flag=True, help="Also try to decode every result and all arguments that the views hold.")
@click.option("--mend", is_flag=True, help="First give each week that a wrong clock has taken a partition; as the owner of the schema.")
@confirming_options
@table_options
@click.pass_context
def doctor(ctx: click.Context, payloads: bool, mend: bool, yes: bool, dry_run: bool, output: Output) -> None:
    """Look for settings and states that will surprise, and say what to do. Exit code 1 if there are any.

    With --mend, events of weeks that the default partition has begun are moved into partitions of their own. Nobody is held up for
    longer than moments, and the log records it.

    The settings of an app are looked at as `celery -A proj journal doctor` only.

    \b
    celery -A shop journal doctor
    """
    from celery_journal.consumers.doctor import Subject, examine, unreadable

    target = ctx.obj
    with target.connect() as connection:
        check_version(connection, target.schema)
        subject = Subject(connection, target.dsn, target.options, target.schema, target.app, target.location)
        if mend:
            _mend(subject, output, yes=yes, dry_run=dry_run)
        findings: Any = examine(subject)
        if payloads:
            findings = itertools.chain(findings, unreadable(subject))
        wrong = []

        def noting() -> Any:
            for finding in findings:
                if finding.status != "ok":
                    wrong.append(finding)
                yield finding

        output.rows(noting(), COLUMNS, lambda finding: finding.as_dict(), record=Record(COLUMNS[:2], prose=COLUMNS[2:]))
    if not output.is_data and target.app is None:
        click.echo("the settings of an app were not looked at; run: celery -A proj journal doctor", err=True)
    if wrong:
        ctx.exit(1)


def _mend(subject: Any, output: Output, *, yes: bool, dry_run: bool) -> None:
    """Mend, and say on standard error what was done."""
    from celery_journal.consumers.doctor import give_partitions, weeks_taken

    say = partial(click.echo, err=True)
    weeks = weeks_taken(subject)
    if dry_run:
        for week, events in weeks.items():
            say(f"would move {counted(events, 'event')} of the week of {week:%Y-%m-%d} into a partition of its own")
    elif weeks and confirm(f"give {counted(len(weeks), 'week')} a partition?", output, yes=yes, dry_run=False, scripted=True):
        for done in give_partitions(subject, weeks, say):
            say(done)
