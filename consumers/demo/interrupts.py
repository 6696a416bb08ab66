"""Signals that would end the demo: the first one makes it clean up, and none keeps it from that."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def orderly() -> Iterator[None]:
    """Have the first signal raise, so that everything is removed, and ignore the later ones."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    _handle_by(_raise)
    try:
        yield
    finally:
        for signum, handler in before.items():
            _handle_by(handler, signum)


@contextmanager
def held() -> Iterator[None]:
    """Have signals wait until the end of the block: what it starts is known by then, and can be stopped."""
    arrived: list[int] = []
    _handle_by(lambda signum, _frame: arrived.append(signum))
    try:
        yield
    finally:
        _handle_by(_raise)
        for signum in arrived[:1]:
            _raise(signum, None)


def wait() -> None:
    """Return when a signal has arrived."""
    with suppress(KeyboardInterrupt, SystemExit):
        while True:
            time.sleep(3600)


def ignore() -> None:
    """Ignore signals from here on."""
    _handle_by(signal.SIG_IGN)


def _raise(signum: int, _frame: object) -> None:
    ignore()
    raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)


def _handle_by(handler: signal._HANDLER, *signals: signal.Signals) -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers, and no signal arrives
        for signum in signals or SIGNALS:
            signal.signal(signum, handler)
