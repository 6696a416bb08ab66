"""What a handler of signals may use."""

from __future__ import annotations

import threading
from contextlib import suppress


class SignalSafeEvent:
    """An event that may be set by a handler of signals.

    threading.Event takes a lock in set() and in wait(): a handler that comes in the middle of either, as a second Ctrl-C does, waits
    for its own thread for ever. Here set() only lets go of one.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._closed = threading.Lock()
        self._closed.acquire()

    def set(self) -> None:
        """Have everybody go on who waits."""
        self._is_set = True
        self._open()

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, so many seconds at most; return whether it is."""
        if not self._is_set and self._closed.acquire(timeout=timeout):
            self._open()  # for the next who waits
        return self._is_set

    def _open(self) -> None:
        with suppress(RuntimeError):  # it is open already
            self._closed.release()
