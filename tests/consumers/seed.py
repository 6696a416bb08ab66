"""The tasks of the examples in test_result_examples.py, as they are written there (`shared` is what keeps them from other apps)."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from celery import Celery


def tasks_of(app: Celery) -> SimpleNamespace:
    """Register the tasks with the app, and return them."""

    @app.task(shared=False)
    def add(x: Any, y: Any) -> Any:
        import time

        time.sleep(2)  # Simulate work
        return x + y

    @app.task(shared=False)
    def divide(x: Any, y: Any) -> Any:
        if y == 0:
            raise ValueError("Cannot divide by zero")
        return x / y

    @app.task(bind=True, shared=False)
    def task_with_progress(self: Any, total_items: int) -> Any:
        """Task that reports progress."""
        import time

        for i in range(total_items):
            # Update task state with progress info
            self.update_state(state="PROGRESS", meta={"current": i + 1, "total": total_items})
            time.sleep(0.1)

        return {"status": "Complete", "processed": total_items}

    return SimpleNamespace(add=add, divide=divide, task_with_progress=task_with_progress)


if "SCENE_CONF" in os.environ:  # in a worker, which imports this module beside its own
    from .tasks import app

    tasks_of(app)
