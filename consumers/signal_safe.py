"""What a handler of signals may use."""

from __future__ import annotations

import queue
from contextlib import suppress


class SignalSafeEvent:
    """An event that may be set by a handler of signals.

    threading.Event takes a lock in set() and in wait(): a handler that comes in the middle of either, as a second Ctrl-C does, waits
    for its own thread for ever. SimpleQueue.put() is made to be called again in its own middle.
    """

    def __init__(self) -> None:
        self._is_set = False
        # That of the module as it is by now: green threads may have put their own there.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Have everybody go on who waits."""
        self._is_set = True
        self._woken.put(None)

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, so many seconds at most; return whether it is."""
        if not self._is_set:
            with suppress(queue.Empty):
                self._woken.get(timeout=timeout)
                self._woken.put(None)  # for the next who waits
        return self._is_set
