"""A real `celery worker` in a process of its own, which never outlives the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from celery_journal.journal import JournalError

from .tasks import DIRECTORY

CHILDREN = 2

#: Seconds for what takes a second as a rule.
DEADLINE = 60.0

#: Seconds in which the worker may end by itself.
STOP_TIMEOUT = 15.0

COMMAND = (
    *(sys.executable, "-m", "celery", "-A", "celery_journal.consumers.demo.tasks"),
    *("worker", "--pool", "prefork", "--concurrency", str(CHILDREN), "--hostname", "demo@%h", "--loglevel", "INFO"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)


class DemoFailed(JournalError):
    """The demo cannot go on: the worker ended, or does not answer."""


class Worker:
    """The worker process, and its log."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "worker.log"
        with self._log.open("ab") as log:
            # Its standard input is how it learns that we are gone; its session of its own keeps Ctrl-C to us.
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                # Killed, it has no time to remove its temporary files; and there the broker puts what it reads.
                env={**os.environ, DIRECTORY: str(directory), "TMPDIR": str(directory)},
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise DemoFailed if the worker has ended."""
        if (status := self._process.poll()) is not None:
            raise DemoFailed(f"the worker ended by itself, with status {status}; its log ends with: {self._last_words()}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for the condition; raise DemoFailed if the worker ends first, or it takes too long."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise self.late(what)
            time.sleep(0.02)

    def late(self, what: str) -> DemoFailed:
        """Return the error that says that what was waited for did not happen."""
        return DemoFailed(f"{what} took longer than {DEADLINE:g} s; the worker's log ends with: {self._last_words()}")

    def ask_to_stop(self) -> None:
        """Have it finish what it is at, and end."""
        self._process.terminate()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End it and its children, by force if they do not end by themselves in time."""
        if self._process.stdin is None or self._process.stdin.closed:
            return  # stopped before; its id may be somebody else's by now
        self.ask_to_stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses to signal a group of zombies
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdin.close()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return " / ".join(ascii(line)[1:-1] for line in lines if line)[-600:]


@contextmanager
def running(directory: Path) -> Iterator[Worker]:
    """Run a worker until the end of the block; after an error there is nothing to wait for."""
    worker = Worker(directory)
    try:
        yield worker
    except BaseException:
        worker.stop(0)
        raise
    worker.stop()
