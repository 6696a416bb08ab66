"""The command that draws the canvas of a task."""

from __future__ import annotations

from typing import Any

import click

from celery_journal.consumers.words import shown
from celery_journal.journal import check_version

from .ids import whole_id
from .output import Output, console, output_options
from .styles import style_of

#: Columns of a tree that nobody reads on a screen.
WIDE = 10_000


@click.command("graph")
@click.argument("subject", metavar="ID")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot", "svg"]),
    default="text",
    show_default=True,
    help="A tree, or what Mermaid, Graphviz or a browser draws.",
)
@output_options
@click.pass_context
def graph(ctx: click.Context, subject: str, form: str, output: Output) -> None:
    """Draw the whole canvas that a task, a group or a chord is a part of: the steps of its chain, also those not sent yet, the members
    of its groups, the bodies of its chords, its callbacks and the tasks that it has sent.

    Exit code 1 if the views have nothing of that id.

    \b
    celery-journal graph 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e
    celery-journal graph 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e --format svg > canvas.svg
    """
    from celery_journal.consumers.graph import as_dot, as_mermaid, as_svg, as_tree, canvas_of

    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        subject = whole_id(connection, ctx.obj.schema, subject)
        canvas = canvas_of(connection, subject, ctx.obj.schema)
    drawings: dict[str, Any] = {"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}
    if output.is_data:
        output.object(canvas.as_dict())
    elif not canvas.nodes:
        said = f"{shown(subject)} is no part of a canvas: the views have neither a task, nor a group or a chord of that id"
        click.echo(said, err=form != "text")
    elif form in drawings:
        click.echo(drawings[form](canvas))
    else:
        printer = console()
        printer.width = WIDE  # a terminal wraps what rich would leave out: a label without room
        for tree in as_tree(canvas, style_of):
            printer.print(tree, soft_wrap=True, crop=False)
    if canvas.is_cut:
        click.echo(f"only the first {len(canvas.nodes):,} of the canvas are shown", err=True)
    if not canvas.nodes:
        ctx.exit(1)
