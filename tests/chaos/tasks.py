"""The app of the workers, configured by CHAOS_CONF in the environment: tasks that write down what they do."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.signals import after_task_publish, task_postrun

from tests.chaos.truth import Diary

# A worker that hangs is asked where it stands.
faulthandler.register(signal.SIGUSR2, file=sys.__stderr__ or sys.stderr)

diary = Diary(Path(os.environ["CHAOS_TRUTH"]))


class Honest(Task):
    """A task that writes into the diary when its code begins and ends."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the code."""
        request = self.request
        diary.write("begin", id=request.id, name=self.name, attempt=request.retries, worker=request.hostname)
        try:
            value = self.run(*args, **kwargs)
        except BaseException as exc:
            diary.write("end", id=request.id, outcome=type(exc).__name__)
            raise
        diary.write("end", id=request.id, outcome="returned")
        return value


app = Celery("chaos", task_cls=Honest)
app.conf.update(json.loads(os.environ["CHAOS_CONF"]))


@task_postrun.connect(weak=False)
def _told(task_id: str, state: str | None = None, **_signal: Any) -> None:
    diary.write("told", id=task_id, state=state)


@after_task_publish.connect(weak=False)
def _sent(headers: dict[str, Any], **_signal: Any) -> None:
    diary.write("sent", id=headers["id"], name=headers["task"], attempt=headers.get("retries") or 0)


@app.task(name="chaos.quick")
def quick(value: Any = None) -> Any:
    """Return the value."""
    return value


@app.task(name="chaos.quiet", ignore_result=True)
def quiet(value: Any = None) -> Any:
    """Return the value, which is not stored."""
    return value


@app.task(name="chaos.fail")
def fail(*_values: Any) -> None:
    """Raise the error of a user."""
    raise ValueError("as ordered")


@app.task(name="chaos.persist", bind=True, max_retries=5)
def persist(self: Any, times: int, countdown: float) -> int:
    """Succeed after so many retries."""
    if self.request.retries < times:
        raise self.retry(exc=OSError("not yet"), countdown=countdown)
    return int(self.request.retries)


@app.task(name="chaos.exhaust", bind=True, max_retries=2)
def exhaust(self: Any, countdown: float) -> None:
    """Fail when there are no retries left."""
    raise self.retry(exc=OSError("never"), countdown=countdown)


@app.task(name="chaos.late", acks_late=True)
def late(seconds: float) -> float:
    """Take so long; the message comes again if the worker dies."""
    time.sleep(seconds)
    return seconds


@app.task(name="chaos.sleep")
def sleep(seconds: float) -> float:
    """Take so long."""
    time.sleep(seconds)
    return seconds


@app.task(name="chaos.progress", bind=True)
def progress(self: Any) -> str:
    """Tell how far it is, twice."""
    for done in (1, 2):
        self.update_state(state="PROGRESS", meta={"done": done})
    return "done"


@app.task(name="chaos.ignore")
def ignore() -> None:
    """End without a result."""
    raise Ignore


@app.task(name="chaos.reject", acks_late=True)
def reject() -> None:
    """Reject the message, which is not acknowledged yet."""
    raise Reject("not for me", requeue=False)


@app.task(name="chaos.limit", time_limit=1)
def limit() -> None:
    """Run until it is stopped."""
    time.sleep(30)


@app.task(name="chaos.soft", soft_time_limit=1)
def soft() -> None:
    """Run until it is told to stop."""
    time.sleep(30)


@app.task(name="chaos.part")
def part(number: int, seconds: float) -> int:
    """Return the number after a while, but fail with 13."""
    time.sleep(seconds)
    if number == 13:
        raise ValueError("as ordered")
    return number


@app.task(name="chaos.link")
def link(*values: Any) -> int:
    """Return how many values it was given."""
    return len(values)


@app.task(name="chaos.collect")
def collect(values: Any) -> Any:
    """Return what a chord gathers."""
    return values
