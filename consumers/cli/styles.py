"""The colours of the states on a terminal."""

from __future__ import annotations

from celery import states

_STYLES = {
    states.SUCCESS: "green",
    states.FAILURE: "bold red",
    states.RETRY: "yellow",
    states.REVOKED: "magenta",
    states.REJECTED: "magenta",
    states.IGNORED: "dim",
    states.STARTED: "cyan",
    states.RECEIVED: "blue",
    states.PENDING: "dim",
}


def style_of(state: str | None) -> str:
    """Return the style of a state; a custom state is one of a task that runs."""
    return "dim" if state is None else _STYLES.get(state, "cyan")
