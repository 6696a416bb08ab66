"""Real workers in real processes, each on queues of its own, for as long as a block."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from celery import Celery

from celery_journal.consumers.backend import JournalBackend

from .scene import ROOT, Mailbox, new_app, until

ADDRESSES = {"redis": ("127.0.0.1", 6379), "rabbitmq": ("127.0.0.1", 5672)}


def available(broker: str) -> bool:
    """Return whether the machine has the broker, and Python a client for it."""
    if broker == "filesystem":
        return True
    if broker == "redis" and importlib.util.find_spec("redis") is None:
        return False
    with suppress(OSError):
        socket.create_connection(ADDRESSES[broker], timeout=2).close()
        return True
    return False


def settings(broker: str, folder: Path, token: str) -> dict[str, Any]:
    """Return the settings of an app that shares this broker with nobody else."""
    names = {"task_default_queue": token, "control_exchange": token, "event_exchange": f"{token}-events"}
    if broker == "filesystem":
        return {**Mailbox(folder).conf, **names}
    if broker == "redis":
        return {"broker_url": "redis://127.0.0.1:6379/9", "broker_transport_options": {"global_keyprefix": f"{token}:"}, **names}
    return {"broker_url": "pyamqp://guest:guest@127.0.0.1:5672//", **names}


@dataclass(frozen=True, slots=True)
class Worker:
    """A prefork worker with two children, an app that sends to it, and the journal of both."""

    app: Celery
    dsn: str
    log: Path
    process: subprocess.Popen[bytes]

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        """Send the task, and return its AsyncResult."""
        return self.signature(name, *args).apply_async(**options)

    def signature(self, name: str, *args: Any, **options: Any) -> Any:
        """Return the signature of the task."""
        return self.app.signature(f"scene.{name}", args=args, options=options)

    def said(self) -> str:
        """Return what the worker has logged."""
        return self.log.read_text()


@contextmanager
def working(
    broker: str, url: str, dsn: str, folder: Path, *arguments: str, token: str | None = None, keeps_queues: bool = False, **conf: Any
) -> Iterator[Worker]:
    """A worker until the end of the block; then nothing of it is left, neither processes nor, unless it `keeps_queues`, queues.

    Those with the same `token` share their queues.
    """
    token = token or f"scene-{uuid4().hex[:8]}"
    name = f"{token}-{uuid4().hex[:4]}"
    conf = {"task_track_started": True, "worker_prefetch_multiplier": 1, **settings(broker, folder / token, token), **conf}
    app = new_app(url, **conf)
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "celery", "-A", "tests.consumers.tasks", "worker", "-n", f"{name}@%h", "-l", "INFO"]
    pool = [] if "-P" in arguments else ["-P", "prefork", "-c", "2"]  # Celery looks for gevent and eventlet in the first -P there is
    command += [*pool, "--without-gossip", "--without-mingle", "--without-heartbeat", *arguments]
    environment = {
        **os.environ,
        "SCENE_CONF": json.dumps({**conf, "result_backend": url, "result_extended": True}),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    worker = Worker(app, dsn, log, process)
    try:
        until(lambda: " ready." in worker.said() or process.poll() is not None)
        assert process.poll() is None, worker.said()
        yield worker
    except BaseException:
        print(worker.said())  # pytest shows it with the failure, of which it may be the only trace
        raise
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(90)  # where a child was killed, Celery's own end of its pool may take half a minute
        left = [other for other in psutil.process_iter(["cmdline"]) if f"{name}@%h" in (other.info["cmdline"] or [])]
        stuck = _stuck(left, worker)
        for other in left:
            other.kill()
        process.wait()
        if not keeps_queues:
            remove_queues(app, broker, token)
        if isinstance(app.backend, JournalBackend):
            app.backend.database.close()
        app.close()
        # Celery's own: of a child that ended in the middle of a message, the pool reads the rest for ever when it is to stop.
        assert not left or "_flush_outqueue" in stuck, f"left running: {left}\n{stuck}"


def _stuck(processes: list[psutil.Process], worker: Worker) -> str:
    """Return where the processes are stuck, as they say it themselves."""
    said = len(worker.said())
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGUSR2)
            time.sleep(0.5)  # one after the other
    return worker.said()[said:]


def remove_queues(app: Celery, broker: str, token: str) -> None:
    """Remove what the broker has of the worker of this token."""
    if broker == "redis":
        with importlib.import_module("redis").Redis(db=9) as client:
            for key in client.scan_iter(f"{token}:*"):
                client.delete(key)
    if broker == "rabbitmq":
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(token)
            for exchange in (token, f"{token}.pidbox", f"reply.{token}.pidbox", f"{token}-events"):
                connection.default_channel.exchange_delete(exchange)
