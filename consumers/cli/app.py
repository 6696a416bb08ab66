"""The same commands as `celery -A proj journal ...`, about the journal to which the app's results go."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from celery.bin.base import handle_preload_options

from celery_journal.journal.command import begun_as

from .failure import EXIT_CODES
from .main import HELP_OPTIONS, Commands, main
from .target import AppTarget

#: What stands before an app or a URL in Celery's command: an app may be called journal, too.
_WITH_A_VALUE = [[name] for name in ("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir")]


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
    ctx.with_resource(begun_as(beginning_of(sys.argv)))
    ctx.obj = AppTarget(ctx.obj.app)


def beginning_of(typed: Sequence[str]) -> str:
    """Return how the command begins that was typed, up to `journal`; of a URL only the scheme, because a password may be in it."""
    program, *arguments = typed
    places = (place for place, word in enumerate(arguments) if word == "journal" and arguments[:place][-1:] not in _WITH_A_VALUE)
    if (place := next(places, None)) is None:  # called from Python
        return "celery -A proj journal"
    name = "python -m celery" if Path(program).name == "__main__.py" else Path(program).name
    words = (re.sub(r"://.*", "://...", word, flags=re.DOTALL) for word in arguments[: place + 1])
    return " ".join([name, *map(shlex.quote, words)])
