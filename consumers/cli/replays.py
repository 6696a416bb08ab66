"""The command that lists replays which are not at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_journal.consumers.words import moment
from celery_journal.journal import Journal, check_version
from celery_journal.journal.command import command

from .output import Column, Output, table_options

if TYPE_CHECKING:
    from celery_journal.consumers.replay import Record

COLUMNS = (
    Column("begun", lambda record: record.begun_at and moment(record.begun_at).removesuffix(" UTC")),
    Column("by", lambda record: record.order.author),
    Column("reason", lambda record: record.order.reason),
    Column("planned", lambda record: f"{len(record.planned):,}", "right"),
    Column("begun to send", lambda record: f"{len(record.sending):,}", "right"),
    Column("in doubt", lambda record: f"{len(record.doubted):,}", "right"),
    Column("to go on", lambda record: command(f"replay --resume {record.order.replay_id}")),
)


@click.command("replays")
@table_options
@click.pass_obj
def replays(target: Any, output: Output) -> None:
    """List the replays that were begun and are not at their end: they run, were interrupted, or have tasks in doubt.

    \b
    celery-journal replays
    """
    from celery_journal.consumers.replay import Record

    with target.connect() as connection:
        check_version(connection, target.schema)
        found = Record.unfinished(connection, Journal(target.schema))
    output.rows(found, COLUMNS, _as_object, nothing="every replay that was begun is at its end")


def _as_object(record: Record) -> dict[str, Any]:
    return {
        "replay": record.order.replay_id,
        "begun": record.begun_at,
        "author": record.order.author,
        "reason": record.order.reason,
        "planned": len(record.planned),
        "begun_to_send": len(record.sending),
        "in_doubt": sorted(record.doubted),
    }
