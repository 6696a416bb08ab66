"""Results that somebody has attached a callback to: resolved in the background, though nobody calls `get()`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import ref

from celery import states
from celery._state import task_join_will_block
from celery.result import ResultSet
from vine import barrier, promise

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
    is_first = vars(result).setdefault("_resolved_by", mine) is mine
    if is_first and meta["status"] == states.IGNORED:  # which is no end that Celery knows
        result._set_cache(meta)
        result.on_ready(result)
    elif is_first:
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
        """Resolve results until there are none. Nobody listens for those that have no callback yet."""
        ear = self._backend.ear
        watched: set[str] = set()
        hinted: set[str] = set()
        read_at = time.monotonic()
        time.sleep(GRACE)
        with ExitStack() as attending:
            while self._settle():
                wanted = set(self._awaited())
                if wanted and not watched:
                    attending.enter_context(ear.attended_by(waiter))
                elif watched and not wanted:
                    attending.close()
                waiter.unwatch(watched - wanted)
                waiter.watch(new := wanted - watched)
                watched = wanted
                silence = self._backend.options.reread_interval if ear.hears(waiter) else POLL
                if time.monotonic() >= read_at + silence:
                    new, read_at = watched, time.monotonic()
                if asked := (new | hinted) & watched:
                    self._resolve(asked)
                hinted = waiter.wait(min(max(0.0, read_at + silence - time.monotonic()), POLL if self._seen else LINGER))
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
        awaited = self._awaited()
        for meta in ready:
            for result in awaited.get(meta["task_id"], ()):
                try:
                    resolve(result, meta)
                except Exception:
                    logger.exception("a callback of a result failed", extra={"task_id": result.id})
        self._drop({meta["task_id"] for meta in ready})

    def _drop(self, task_ids: set[str]) -> None:
        for task_id, results in self._awaited().items():
            if task_id in task_ids:
                for result in results:
                    self._held.pop(id(result), None)
                    self._seen.pop(id(result), None)

    def _settle(self) -> bool:
        """Take in what has arrived; return whether any result is left that is not ready, else this thread has ended."""
        while self._arrived:
            result, weak = self._arrived.popleft()
            if weak or not is_awaited(result.on_ready):
                self._seen[id(result)] = ref(result)
            else:
                self._held[id(result)] = result
            del result  # or this frame would keep it alive
        for key, seen in list(self._seen.items()):
            if (member := seen()) is None or member._cache:
                self._seen.pop(key, None)
            del member
        for key, held in list(self._held.items()):
            if held._cache:
                self._held.pop(key, None)
        if self._seen or self._held:
            return True
        with self._lock:
            self._running = bool(self._arrived)
            return self._running

    def _awaited(self) -> dict[str, list[Any]]:
        """Return the results that have callbacks and are not ready, by id."""
        seen = [result for weak in list(self._seen.values()) if (result := weak()) is not None and is_awaited(result.on_ready)]
        awaited: dict[str, list[Any]] = {}
        for result in (*seen, *list(self._held.values())):
            if not result._cache:
                awaited.setdefault(str(result.id), []).append(result)
        return awaited


def is_awaited(on_ready: promise) -> bool:
    """Return whether anybody has attached a callback, to this or to a set of results that it is a member of.

    Every set attaches a barrier to each of its members, whether or not anybody waits for the set.
    """
    callbacks = [callback for callback in on_ready._lvpending or [on_ready._svpending] if callback is not None]
    return any(not isinstance(callback, barrier) or _is_set_awaited(callback) for callback in callbacks)


def _is_set_awaited(full: barrier) -> bool:
    for callback in full.p._lvpending or [full.p._svpending]:
        method = callback.fun() if isinstance(callback, promise) and callback.weak and callback.fun else None
        owner = getattr(method, "__self__", None)
        if isinstance(owner, ResultSet) and is_awaited(owner.on_ready):
            return True
    return False
