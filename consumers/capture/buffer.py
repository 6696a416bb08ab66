"""Facts that nobody waits for: a thread of each process records them, many in one statement, a few milliseconds later."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.util import Finalize
from typing import ClassVar, Protocol
from weakref import WeakSet

from celery_journal.journal.events import Event

logger = logging.getLogger(__name__)

#: How to make the events of a fact; it is made in the thread, so that whoever tells the fact need not wait for that.
Make = Callable[[], Event]

#: Seconds in which facts gather.
LINGER = 0.005

#: Facts in one statement.
BATCH = 500

#: Seconds without any fact after which the thread ends.
IDLE = 30.0

#: Seconds that a process waits at its end.
PATIENCE = 10.0


class Sink(Protocol):
    """Where the facts go."""

    def record(self, events: list[Event]) -> None:
        """Record the events, in the log or else in the spool; raise if neither takes them."""

    def record_last(self, events: list[Event]) -> None:
        """Do the same at the end of the process, when no thread can be started any more."""


class _Process:
    """What belongs to one process: a forked child has neither our thread, nor are these facts its own."""

    __slots__ = ("dropped", "filled", "mutex", "stopping", "thread", "waiting", "writing")

    def __init__(self) -> None:
        self.waiting: deque[Make] = deque()
        self.filled = threading.Event()
        #: Held by whoever records, so that what was told first is recorded first.
        self.writing = threading.Lock()
        self.mutex = threading.Lock()
        self.thread: threading.Thread | None = None
        self.stopping = False
        self.dropped = 0


class Buffer:
    """Gathers facts and records them soon; bounded, and left empty when the process ends."""

    alive: ClassVar[WeakSet[Buffer]] = WeakSet()

    def __init__(self, sink: Sink, size: int) -> None:
        self._sink = sink
        self._size = size
        self._processes: dict[int, _Process] = {}
        self.alive.add(self)

    def put(self, make: Make, *, may_wait: bool) -> None:
        """Have the fact recorded soon.

        When `size` facts wait already, because they come faster than the database takes them, either this records
        some itself and so slows down whoever tells (`may_wait`), or the fact is dropped, and it is said so.
        """
        process = self._processes.get(os.getpid()) or self._begin()
        if len(process.waiting) >= self._size:
            if may_wait:
                self._write(process)
            else:
                self._drop(process)
                return
        process.waiting.append(make)
        if not process.filled.is_set():
            process.filled.set()
            if process.thread is None:
                self._start(process)

    def flush(self) -> None:
        """Record what waits before this returns."""
        process = self._processes.get(os.getpid())
        if process is not None:
            self._write(process)  # also where nothing waits any more: the thread may be at it
            while process.waiting:
                self._write(process)

    def close(self, timeout: float = PATIENCE) -> None:
        """Record what waits, and end the thread of this process; the next fact starts another."""
        process = self._processes.pop(os.getpid(), None)
        if process is None:
            return
        process.stopping = True
        process.filled.set()
        thread = process.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if not process.writing.acquire(timeout=timeout):  # the thread is stuck in the database, and its facts are its own
            return
        try:
            while events := self._taken(process):
                self._try(self._sink.record_last, events)
        finally:
            process.writing.release()

    def _begin(self) -> _Process:
        for pid in self._processes.keys() - {os.getpid()}:  # those of the process that we were forked from, which records them
            self._processes.pop(pid, None)
        Finalize(None, close_all, exitpriority=10)  # a child of multiprocessing ends without Python's own exit
        return self._processes.setdefault(os.getpid(), _Process())

    def _start(self, process: _Process) -> None:
        with process.mutex:
            if process.thread is None and not process.stopping:
                process.thread = threading.Thread(target=self._run, args=[process], name="celery-journal-buffer", daemon=True)
                try:
                    process.thread.start()
                except RuntimeError:  # the next fact tries again; or the interpreter is about to end, and will close this
                    process.thread = None
                    process.filled.clear()

    def _run(self, process: _Process) -> None:
        while not process.stopping:
            if not process.filled.wait(IDLE) and self._may_rest(process):
                return
            time.sleep(LINGER)
            process.filled.clear()
            while process.waiting and not process.stopping:
                self._write(process)

    def _may_rest(self, process: _Process) -> bool:
        """Return whether the thread may end, until there is something to do again: an app that nobody uses any more must go."""
        with process.mutex:
            process.thread = None  # first, so that who tells something now starts another
            if process.filled.is_set():
                process.thread = threading.current_thread()
                return False
            return True

    def _write(self, process: _Process) -> None:
        with process.writing:
            if events := self._taken(process):
                self._try(self._sink.record, events)

    def _taken(self, process: _Process) -> list[Event]:
        events = list[Event]()
        while process.waiting and len(events) < BATCH:
            make = process.waiting.popleft()
            try:
                events.append(make())
            except Exception:
                logger.exception("a fact could not be made an event")
        return events

    def _try(self, record: Callable[[list[Event]], None], events: list[Event]) -> None:
        try:
            record(events)
        except Exception as exc:  # noqa: BLE001  the thread goes on
            streams = _some(event.stream for event in events)
            logger.error("%d facts are lost: %s", len(events), exc, extra={"streams": streams})

    def _drop(self, process: _Process) -> None:
        process.dropped += 1
        if process.dropped & (process.dropped - 1) == 0:  # the first, the second, the fourth, ...
            logger.error("%d facts were dropped, because %d wait for the database already", process.dropped, self._size)


def _some(streams: Iterable[str]) -> list[str]:
    return sorted(set(streams))[:10]


def close_all() -> None:
    """Record what waits in any buffer of this process."""
    for buffer in list(Buffer.alive):
        buffer.close()


atexit.register(close_all)
