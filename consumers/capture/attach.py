"""Attaching to an app: from then on what happens to its tasks in this process is recorded."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from .apps import know
from .control import record_requests


def attach(app: Any) -> None:
    """Have what Celery's signals tell of the app's tasks recorded, if its results go to the journal; once more does no harm."""
    if know(app):
        record_requests(app)
        app.steps["worker"].add(CaptureStep)


class CaptureStep(bootsteps.Step):
    """A step of a worker that attaches to its app: `app.steps["worker"].add(CaptureStep)`."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        attach(worker.app)
