"""A task that can be aborted, for the worker of test_modes.py."""

from __future__ import annotations

import time
from typing import Any

from celery.contrib.abortable import AbortableTask

from .tasks import app


@app.task(name="scene.until_aborted", bind=True, base=AbortableTask, max_retries=3)
def until_aborted(self: Any, attempt: int) -> str:
    """Go on until it is aborted, in the attempt of that number."""
    if self.request.retries < attempt:
        raise self.retry(countdown=0)
    self.update_state(state="PROGRESS", meta={"done": 0})
    for _ in range(300):
        if self.is_aborted():
            return "aborted"
        time.sleep(0.05)
    return "never told"
