"""How the command that runs was begun, so that what a sentence advises can be typed as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_beginning = ContextVar("_beginning", default="celery-journal")


@contextmanager
def begun_as(beginning: str) -> Iterator[None]:
    """Have commands begin so in the block, such as `celery -A proj journal`."""
    token = _beginning.set(beginning)
    try:
        yield
    finally:
        _beginning.reset(token)


def command(words: str) -> str:
    """Return the command, `lost --mark`, as it is to be typed."""
    return f"{_beginning.get()} {words}"
