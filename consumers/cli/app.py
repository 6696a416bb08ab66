"""The same commands as `celery -A proj journal ...`, about the journal to which the app's results go."""

from __future__ import annotations

import os
from typing import Any

import click
from celery.bin.base import handle_preload_options

from .failure import EXIT_CODES
from .main import HELP_OPTIONS, Commands, main
from .target import AppTarget


@click.group("journal", cls=Commands, commands=main.commands, epilog=EXIT_CODES, context_settings=HELP_OPTIONS)
@click.pass_context
@handle_preload_options
def journal(ctx: click.Context, **_preloaded: Any) -> None:
    """The event-sourced result journal of this app.

    \b
    celery -A proj journal stale --hours 1
    """
    if ctx.obj.no_color:
        os.environ["NO_COLOR"] = "1"  # which rich heeds
    ctx.obj = AppTarget(ctx.obj.app)
