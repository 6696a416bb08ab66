"""Spans of time as options."""

from __future__ import annotations

import math

import click

from celery_journal.consumers import search


class Seconds(click.FloatRange):
    """So many seconds, between bounds, also written as query words have it: 90, 30s, 5min, 2h."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        try:
            seconds = _read(str(value))
        except search.BadQuery as exc:
            self.fail(str(exc), param, ctx)
        return float(super().convert(seconds, param, ctx))


def _read(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return search.span(text).total_seconds()
    if not math.isfinite(seconds):  # neither is refused by bounds, and no clock reckons with them
        raise search.BadQuery(f"{text!r} is no span of time; write 10s, 30min, 2h, 1d or 1w")
    return seconds
