"""A clock that is wrong: seconds by which those parts of this process that say when something happened are ahead."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Self

from celery_journal.consumers.backend import ignored
from celery_journal.consumers.capture import published, running
from celery_journal.journal import emitter


def set_clock(seconds: float) -> None:
    """Have what is told from now on be told by a clock that is so far ahead; no process can have another clock than its machine."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(datetime.now(tz).timestamp() + seconds, tz)

        def __sub__(self, other: object) -> timedelta:  # type: ignore[override]
            return datetime.__sub__(self, other)  # type: ignore[operator, no-any-return]

    for module in (ignored, published, running, emitter):
        module.datetime = Wrong  # type: ignore[attr-defined]
