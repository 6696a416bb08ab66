"""The command by which people note something about tasks."""

from __future__ import annotations

import click

from celery_journal.consumers.remarks import remarks
from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Emitter, Journal, check_version

from .choosing import BATCH, choosing_options, chosen, question, with_members
from .output import Output, confirm, confirming_options, output_options
from .plan import plan_of


@click.command("annotate")
@choosing_options
@click.option("--note", help="What is to be known about it.")
@click.option("--label", help="A word for it.")
@click.option("--resolved/--unresolved", default=None, help="Whether nobody needs to look at it any more.")
@click.option("--hidden/--shown", default=None, help="Whether `list` leaves it out.")
@confirming_options
@output_options
@click.pass_context
def annotate(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    words: str | None,
    note: str | None,
    label: str | None,
    resolved: bool | None,
    hidden: bool | None,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Note something about tasks, in the log, with who said so and when; `show` and `history` have it. Exit code 1 if one is unknown.

    A group is its tasks.

    \b
    celery-journal annotate 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e --note "the bank was down" --resolved
    """
    marks = {name: mark for name, mark in (("resolved", resolved), ("hidden", hidden)) if mark is not None}
    if note is None and label is None and not marks:
        raise click.UsageError("there is nothing to note; give --note, --label, --resolved or --hidden")
    target = ctx.obj
    journal = Journal(target.schema)
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = with_members(connection, target.schema, chosen(connection, target.schema, task_ids, words))
        heard_of = journal.known(connection, found)
        known, unknown = ([task_id for task_id in found if (task_id in heard_of) is wanted] for wanted in (True, False))
        plan = plan_of(connection, target.schema, known)
        done = bool(known) and confirm(question("annotate", known, plan.lines()), output, yes=yes, dry_run=dry_run)
        if done:
            events = remarks(Emitter(), known, note=note, label=label, marks=marks)
            for start in range(0, len(events), BATCH):
                journal.append(connection, *events[start : start + BATCH])
    if output.is_data:
        told = {"dry_run": dry_run, "done": done, "task_ids": known, "unknown": unknown}
        output.object({**told, "plan": plan.as_dict()} if dry_run else told)
    else:
        for task_id in unknown:
            click.echo(f"the journal knows no task {shown(task_id)}", err=True)
        if dry_run or done or not known:
            click.echo(f"{'would annotate' if dry_run else 'annotated'} {counted(len(known), 'task')}")
        if dry_run:
            plan.say_dry()
    if unknown:
        ctx.exit(1)
