"""The app of the workers that the tests start, configured by SCENE_CONF in the environment."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from celery import Celery

app = Celery("scene")
app.conf.update(json.loads(os.environ["SCENE_CONF"]))


@app.task(name="scene.add")
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@app.task(name="scene.quiet", ignore_result=True)
def quiet(value: Any) -> Any:
    """Return the value, which is not stored."""
    return value


@app.task(name="scene.collect")
def collect(values: Any) -> Any:
    """Return what a chord gathers."""
    return values


@app.task(name="scene.fail")
def fail(text: str) -> None:
    """Raise the error of a user."""
    raise ValueError(text)


@app.task(name="scene.persist", bind=True, max_retries=5)
def persist(self: Any, times: int, secret: str = "") -> int:
    """Succeed after so many retries."""
    if self.request.retries < times:
        raise self.retry(exc=OSError("not yet"), countdown=0)
    return int(self.request.retries)


@app.task(name="scene.progress", bind=True)
def progress(self: Any) -> str:
    """Tell how far it is, twice."""
    for done in (1, 2):
        self.update_state(state="PROGRESS", meta={"done": done})
    return "done"


@app.task(name="scene.sleep")
def sleep(seconds: float) -> float:
    """Take so long."""
    time.sleep(seconds)
    return seconds


@app.task(name="scene.die")
def die() -> None:
    """End the process that runs it, as an out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="scene.pid")
def pid() -> int:
    """Return the process that runs it."""
    return os.getpid()


@app.task(name="scene.lump")
def lump(size: int) -> str:
    """Return that much."""
    return "x" * size


@app.task(name="scene.unstorable")
def unstorable() -> object:
    """Return what no serializer knows."""
    return object()
