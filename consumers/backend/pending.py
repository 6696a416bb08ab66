"""Results that somebody has attached a callback to: resolved in the background, though nobody calls `get()`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import ref

from celery._state import task_join_will_block
from vine import barrier

from .connection import JournalUnavailable
from .listening import LINGER, Waiter, stay_in

if TYPE_CHECKING:
    from .waiting import Waiting

logger = logging.getLogger(__name__)

#: Seconds that a result has to be dropped again before anybody listens for it: most groups are, as soon as they are sent.
GRACE = 0.05

#: Seconds between two reads where nothing can be pushed.
POLL = 0.5


def resolve(result: Any, meta: dict[str, Any]) -> None:
    """Give the result its meta, and let its callbacks be called once, however many threads wait for it."""
    mine = object()
    if vars(result).setdefault("_resolved_by", mine) is mine:
        result._maybe_set_cache(meta)
    elif result._cache is None:
        result._set_cache(result.backend.meta_from_decoded(meta))


class Pending:
    """The results of this process that wait for their callbacks, and the thread that resolves them while there are any."""

    def __init__(self, backend: Waiting) -> None:
        self._backend = backend
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running = False
        self._waiter = Waiter()
        self._arrived: deque[tuple[Any, bool]] = deque()
        # By identity: two results of one id are two. Changed by single operations only, without the lock.
        self._held: dict[int, Any] = {}
        self._seen: dict[int, ref[Any]] = {}

    def add(self, result: Any, *, weak: bool) -> None:
        """Resolve the result when its task is ready; a weak one only if somebody still has it by then."""
        if task_join_will_block():
            return  # a running task must not wait for another, and its process has no connection to spare
        self._arrived.append((result, weak))
        with self._lock:
            if self._running:
                self._waiter.wake()
            else:
                self._running, self._waiter = True, Waiter()  # the thread that is about to end still has the old one
                threading.Thread(target=self._run, args=[self._waiter], name="celery-journal-callbacks", daemon=True).start()

    def close(self) -> None:
        """Resolve nothing more."""
        self._held.clear()
        self._seen.clear()
        self._waiter.wake()

    def discard(self, result: Any) -> None:
        """Forget the result; safe in a garbage collection."""
        self._held.pop(id(result), None)

    def _run(self, waiter: Waiter) -> None:
        time.sleep(GRACE)
        if self._settle():
            with self._backend.ear.attended_by(waiter):
                self._resolve_all(waiter)

    def _resolve_all(self, waiter: Waiter) -> None:
        """Resolve results until there are none."""
        watched: set[str] = set()
        hinted: set[str] = set()
        read_at = time.monotonic()
        while self._settle():
            wanted = set(self._results())
            waiter.unwatch(watched - wanted)
            waiter.watch(new := wanted - watched)
            watched = wanted
            silence = self._backend.options.reread_interval if self._backend.ear.hears(waiter) else POLL
            if time.monotonic() >= read_at + silence:
                new, read_at = watched, time.monotonic()
            if asked := (new | hinted) & watched:
                self._resolve(asked)
            hinted = waiter.wait(min(max(0.0, read_at + silence - time.monotonic()), LINGER))  # dropped results do not say so
            stay_in(self._pid)
            if self._arrived:
                time.sleep(GRACE)

    def _resolve(self, task_ids: set[str]) -> None:
        try:
            ready = self._backend.ready_of(task_ids, budget=0)
        except JournalUnavailable:
            return  # until it is back
        except Exception:
            if len(task_ids) == 1:
                logger.exception("a result with a callback cannot be read", extra={"task_ids": task_ids})
                self._drop(task_ids)
            else:  # one of them
                for task_id in task_ids:
                    self._resolve({task_id})
            return
        for meta in ready:
            for result in self._results().get(meta["task_id"], ()):
                try:
                    resolve(result, meta)
                except Exception:
                    logger.exception("a callback of a result failed", extra={"task_id": result.id})
        self._drop({meta["task_id"] for meta in ready})

    def _drop(self, task_ids: set[str]) -> None:
        for task_id, results in self._results().items():
            if task_id in task_ids:
                for result in results:
                    self._held.pop(id(result), None)
                    self._seen.pop(id(result), None)

    def _settle(self) -> bool:
        """Take in what has arrived; return whether there is anything to wait for, else this thread has ended."""
        while self._arrived:
            result, weak = self._arrived.popleft()
            if weak or not _has_callback(result):
                self._seen[id(result)] = ref(result)
            else:
                self._held[id(result)] = result
            del result  # or this frame would keep it alive
        if self._results():
            return True
        with self._lock:
            self._running = bool(self._arrived)
            return self._running

    def _results(self) -> dict[str, list[Any]]:
        """Return the results that are still wanted and not ready, by id."""
        results: dict[str, list[Any]] = {}
        for key, weak in list(self._seen.items()):
            if (result := weak()) is None or result._cache:
                self._seen.pop(key, None)
            else:
                results.setdefault(str(result.id), []).append(result)
        for key, result in list(self._held.items()):
            if result._cache:
                self._held.pop(key, None)
            else:
                results.setdefault(str(result.id), []).append(result)
        return results


def _has_callback(result: Any) -> bool:
    """Return whether anything but its own group waits for the result: every group attaches a barrier to its members."""
    promise = result.on_ready
    callbacks = promise._lvpending or [promise._svpending]
    return any(callback is not None and not isinstance(callback, barrier) for callback in callbacks)
