"""A task that retries, run here as a worker's child does it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from celery import Celery
from celery.app.trace import build_tracer


def run_retrying(app: Celery) -> str:
    """Run a task that fails once and sends itself again in a minute; return its id."""

    @app.task(name="scene.again", bind=True, max_retries=3, shared=False)
    def again(self: Any) -> None:
        raise self.retry(exc=ConnectionError("no answer"), countdown=60)

    task_id = str(uuid4())
    request = {"id": task_id, "retries": 0, "hostname": "worker@somewhere", "delivery_info": {"routing_key": "work"}, "is_eager": False}
    build_tracer(again.name, again, app=app)(task_id, (), {}, request)
    return task_id
