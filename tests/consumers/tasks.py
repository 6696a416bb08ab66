"""The app of the workers that the tests start, configured by SCENE_CONF in the environment."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from .shapes import shape

faulthandler.register(signal.SIGUSR2)  # where a process that does not end is stuck

app = Celery("scene")
app.conf.update(json.loads(os.environ["SCENE_CONF"]))

if clock := os.environ.get("SCENE_CLOCK"):
    from .skewed import set_clock

    set_clock(float(clock))


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
def persist(self: Any, times: int, secret: str = "", countdown: float = 0) -> int:
    """Succeed after so many retries."""
    if self.request.retries < times:
        raise self.retry(exc=OSError("not yet"), countdown=countdown)
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


@app.task(name="scene.stay", bind=True, acks_late=True)
def stay(self: Any) -> str:
    """Take long, unless its message has come back; it is acknowledged late."""
    if not self.request.delivery_info["redelivered"]:
        time.sleep(600)
    return "came back"


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


@app.task(name="scene.relay")
def relay(number: int) -> Any:
    """Return what another task returns, for which it waits."""
    return add.delay(number, 0).get(disable_sync_subtasks=False, timeout=60)


@app.task(name="scene.reject", bind=True)
def reject(self: Any, requeue: bool = False) -> str:
    """Reject the message; one that comes back is done."""
    if self.request.delivery_info["redelivered"]:
        return "came back"
    raise Reject("not for me", requeue=requeue)


@app.task(name="scene.reject_late", bind=True, acks_late=True)
def reject_late(self: Any, requeue: bool = False) -> str:
    """Reject the message, which is not acknowledged yet."""
    return str(reject.run.__func__(self, requeue))


@app.task(name="scene.vanish", bind=True)
def vanish(self: Any) -> str:
    """Succeed, and be killed before any chord hears of it."""
    self.backend.on_chord_part_return = lambda *part, **more: os.kill(os.getpid(), signal.SIGKILL)
    return "stored"


@app.task(name="scene.ignore", bind=True)
def ignore(self: Any, state: str | None = None) -> None:
    """End without a result, or with a state that it stores itself."""
    if state is not None:
        self.update_state(state=state, meta={"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "builtins"})
    raise Ignore


@app.task(name="scene.replace", bind=True)
def replace(self: Any, signature: dict[str, Any]) -> None:
    """Let another task stand for this one."""
    raise self.replace(self.app.signature(signature))


@app.task(name="scene.recruit", bind=True)
def recruit(self: Any, value: Any) -> Any:
    """Add a member to the chord."""
    self.add_to_chord(collect.s([value, "too"]))
    return value


@app.task(name="scene.oops")
def oops(task_id: str = "") -> str:
    """Hear that a task has failed; with its id, unless it is called as an immutable errback."""
    return task_id


@app.task(name="scene.noise")
def noise(size: int) -> str:
    """Return that much of what does not compress."""
    return os.urandom(size).hex()[:size]


@app.task(name="scene.read")
def read(path: str) -> int:
    """Return the number in the file, once it is there."""
    return int(Path(path).read_text())


@app.task(name="scene.mirror", bind=True, max_retries=1)
def mirror(self: Any, folder: str) -> None:
    """Write down what it sees of its request, which it has while it stays, and again when it is tried again."""
    self.update_state(state="PROGRESS")
    attempt = self.request.retries
    seen = {**vars(self.request), "as text": repr(self.request.delivery_info)}
    Path(folder, f"{attempt}.json").write_text(json.dumps(shape(seen)))
    while not Path(folder, f"go on {attempt}").exists():
        time.sleep(0.05)
    if attempt == 0:
        raise self.retry(countdown=0)
