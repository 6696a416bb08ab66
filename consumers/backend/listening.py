"""The ear of a process: one connection that hears which tasks have news, and those whom it tells."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from celery_journal.journal import EVERYTHING, CannotListen, Listener, token
from celery_journal.journal.waiting import JITTER

logger = logging.getLogger(__name__)

#: Seconds for which the connection stays when nobody waits any more: whoever waited once often waits again.
LINGER = 5.0


def stay_in(pid: int) -> None:
    """Return if this is the process of that id. A green thread goes on in a forked child, where it must do nothing ever, not even end."""
    while os.getpid() != pid:
        time.sleep(3600)


class Waiter:
    """Somebody who waits for news of some tasks. `wait` is for one thread, the rest for any."""

    def __init__(self, task_ids: Iterable[str] = (), *, transitions: bool = False) -> None:
        #: Whether every transition is of interest, and not only how a task ends.
        self.transitions = transitions
        self._ids: dict[str, set[str]] = {}
        self._hints: deque[str] = deque()
        self._woken = threading.Event()
        self.watch(task_ids)

    def watch(self, task_ids: Iterable[str]) -> None:
        """Wait for news of these tasks too."""
        for task_id in task_ids:
            self._ids.setdefault(token(task_id), set()).add(task_id)

    def unwatch(self, task_ids: Iterable[str]) -> None:
        """Wait for news of these tasks no more."""
        for task_id in task_ids:
            if ids := self._ids.get(heard := token(task_id)):
                ids.discard(task_id)
                if not ids:
                    del self._ids[heard]

    def hint(self, tokens: Iterable[str]) -> None:
        """Say that there may be news of the tasks of these tokens."""
        if relevant := [heard for heard in tokens if heard in self._ids or heard == EVERYTHING]:
            self._hints.extend(relevant)
            self._woken.set()

    @property
    def has_hints(self) -> bool:
        """Whether `wait` would return at once with something."""
        return bool(self._hints)

    def wake(self) -> None:
        """Let `wait` return with nothing."""
        self._woken.set()

    def wait(self, seconds: float) -> set[str]:
        """Return the ids of the tasks of which there may be news; none after so many seconds."""
        self._woken.wait(seconds)
        self._woken.clear()  # before the hints are taken, so that none is left lying about
        ids: set[str] = set()
        while self._hints:
            heard = self._hints.popleft()
            ids.update(*self._ids.values()) if heard == EVERYTHING else ids.update(self._ids.get(heard, ()))
        return ids


class Ear:
    """Listens as long as somebody in this process waits, in a thread of its own."""

    def __init__(self, where: Callable[[], str], schema: str, *, is_deaf: bool = False) -> None:
        """`where` returns the DSN to listen at; a deaf one is there for those who poll."""
        self._where = where
        self._schema = schema
        self._pid = os.getpid()
        # Reentrant: a wait that was given up ends when it is collected, and that may be in here.
        self._lock = threading.RLock()
        self._waiters: set[Waiter] = set()
        self._listener: Listener | None = None
        self._hears_transitions = False
        self._running = False
        self._is_deaf = is_deaf
        self._left_at = 0.0
        self._is_closed = False

    def hears(self, waiter: Waiter) -> bool:
        """Return whether no news can pass this waiter unheard from now on."""
        return self._listener is not None and (self._hears_transitions or not waiter.transitions)

    @contextmanager
    def attended_by(self, waiter: Waiter) -> Iterator[None]:
        """Hint to the waiter, from now until the end of the block; once more about everything as soon as the ear hears."""
        self.enter(waiter)
        try:
            yield
        finally:
            self.leave(waiter)

    def enter(self, waiter: Waiter) -> None:
        """Hint to the waiter from now on."""
        with self._lock:
            self._waiters.add(waiter)
            if not self._running and not self._is_deaf:
                self._running = True
                threading.Thread(target=self._run, name="celery-journal-ear", daemon=True).start()
            elif (listener := self._listener) is not None and not self.hears(waiter):
                listener.wake()

    def leave(self, waiter: Waiter) -> None:
        """Hint to the waiter no more."""
        with self._lock:
            self._waiters.discard(waiter)
            self._left_at = time.monotonic()

    def close(self) -> None:
        """Listen no more; whoever still waits polls."""
        with self._lock:
            self._is_closed = self._is_deaf = True
            if self._listener is not None:
                self._listener.wake()

    def _run(self) -> None:
        failures = 0
        while self._is_needed():
            try:
                self._listen()
                failures = 0
            except CannotListen as exc:
                logger.warning("results are polled, because %s: set listen_dsn to a direct connection", exc)
                with self._lock:
                    self._is_deaf, self._running = True, False
                return
            except Exception as exc:  # noqa: BLE001  whatever it is, those who wait go on by polling
                stay_in(self._pid)
                if self._is_closed:
                    return
                failures += 1
                log = logger.warning if failures == 1 else logger.debug
                log("results are polled until the connection that hears of them is back: %s", str(exc).partition("\n")[0])
                time.sleep(JITTER.uniform(0.5, 1.0) * min(0.1 * 2**failures, 10.0))

    def _is_needed(self) -> bool:
        """Return whether to go on; if not, this thread has ended, and the next waiter starts another."""
        with self._lock:
            wanted = bool(self._waiters) or time.monotonic() < self._left_at + LINGER
            self._running = wanted and not self._is_closed
            return self._running

    def _listen(self) -> None:
        transitions = self._wants_transitions()
        listener = Listener(self._where(), self._schema, transitions=transitions)
        self._hears_transitions, self._listener = transitions, listener
        try:
            self._tell({EVERYTHING})  # what happened before we heard
            while self._is_needed():
                if not transitions and self._wants_transitions():
                    return  # and listen anew, for these too
                if tokens := listener.wait(LINGER):
                    self._tell(tokens)
        finally:
            self._listener = None
            listener.close()

    def _wants_transitions(self) -> bool:
        with self._lock:
            return any(waiter.transitions for waiter in list(self._waiters))

    def _tell(self, tokens: set[str]) -> None:
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.hint(tokens)
