"""What is drawn again and again, until Ctrl-C or `q`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from rich.console import Group
from rich.live import Live
from rich.text import Text

from celery_journal.journal import Connection

from .interrupts import until_interrupted, until_q
from .lasting import LastingConnection
from .output import console

T = TypeVar("T")


def keep_drawing(target: Any, interval: float, look: Callable[[Connection], T], draw: Callable[[T], Group]) -> None:
    """Draw what there is to see, every `interval` seconds; what was seen last stays while the database is away."""
    drawn = Group()

    def say(text: str) -> None:
        live.update(Group(Text(text, style="bold red"), drawn), refresh=True)

    with (
        closing(LastingConnection(target, say)) as lasting,
        until_interrupted() as interruption,
        until_q() as typed_q,
        Live(console=console(), screen=True, auto_refresh=False) as live,
        interruption.waiting(),
    ):
        while True:
            drawn = draw(lasting.ask(look))
            live.update(drawn, refresh=True)
            if typed_q(interval):
                return
