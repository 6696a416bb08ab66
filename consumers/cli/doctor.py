"""The command that looks for what will surprise."""

from __future__ import annotations

import itertools
from typing import Any

import click

from celery_journal.journal import check_version

from .output import Column, Output, output_options

STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}

COLUMNS = (
    Column("", lambda finding: finding.status, style=lambda finding: STYLES[finding.status]),
    Column("check", lambda finding: finding.check),
    Column("found", lambda finding: finding.found),
    Column("what to do", lambda finding: finding.advice),
)


@click.command("doctor")
@click.option("--payloads", is_flag=True, help="Also try to decode every result and all arguments that the views hold.")
@output_options
@click.pass_context
def doctor(ctx: click.Context, payloads: bool, output: Output) -> None:
    """Look for settings and states that will surprise, and say what to do. Exit code 1 if there are any.

    The settings of an app are looked at as `celery -A proj journal doctor` only.

    \b
    celery -A shop journal doctor
    """
    from celery_journal.consumers.doctor import Subject, examine, unreadable

    target = ctx.obj
    with target.connect() as connection:
        check_version(connection, target.schema)
        subject = Subject(connection, target.dsn, target.options, target.schema, target.app)
        findings: Any = examine(subject)
        if payloads:
            findings = itertools.chain(findings, unreadable(subject))
        wrong = []

        def noting() -> Any:
            for finding in findings:
                if finding.status != "ok":
                    wrong.append(finding)
                yield finding

        output.rows(noting(), COLUMNS, lambda finding: finding.as_dict())
    if not output.is_data and target.app is None:
        click.echo("the settings of an app were not looked at; run: celery -A proj journal doctor", err=True)
    if wrong:
        ctx.exit(1)
