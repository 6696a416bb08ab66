"""The command that says why a task is where it is."""

from __future__ import annotations

import click

from celery_journal.consumers.words import shown
from celery_journal.journal import check_version

from .ids import whole_id
from .output import INDENT, Output, output_options, say


@click.command("explain")
@click.argument("task_id")
@output_options
@click.pass_context
def explain(ctx: click.Context, task_id: str, output: Output) -> None:
    """Say in plain words why a task is where it is: queued, running, retrying, lost, ended; or a chord or a group.

    Ages are by the clock of the database, times in UTC; JSON has the facts behind the words. Exit code 1 if the journal never heard of it.

    \b
    celery-journal explain 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e
    """
    from celery_journal.consumers.explain import explain as explain_id

    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        task_id = whole_id(connection, ctx.obj.schema, task_id)
        explanation = explain_id(connection, task_id, ctx.obj.schema)
    if output.is_data:
        output.object(explanation.as_dict())
    else:
        name = (explanation.facts.get("task") or {}).get("name")
        heading = [shown(task_id), *([shown(name)] if name else []), *([shown(explanation.state)] if explanation.state else [])]
        say(" ".join(heading), rest=INDENT)
        for line in explanation.lines:
            say(line, begin=INDENT)
    if explanation.kind == "unknown":
        ctx.exit(1)
