"""Ctrl-C, SIGTERM and `q` as the end of what goes on by itself."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial


class Interruption:
    """Whether the end was asked for. It ends what waits, and not a line that is being printed; asked for again, it ends that too."""

    def __init__(self) -> None:
        #: By a signal, so far.
        self.is_asked_for = False
        self._may_end = False

    def note(self, *_: object) -> None:
        """Be told by a signal."""
        if self._may_end or self.is_asked_for:
            raise KeyboardInterrupt
        self.is_asked_for = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that may be left in the middle; KeyboardInterrupt is raised there."""
        self._may_end = True
        try:
            if self.is_asked_for:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_end = False


@contextmanager
def until_interrupted() -> Iterator[Interruption]:
    """Take Ctrl-C and SIGTERM for the end of the block."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def until_q() -> Iterator[Callable[[float], bool]]:
    """What waits so many seconds, and returns whether `q` was typed meanwhile; where no terminal is read, nothing is."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield _slept
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield _slept
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield partial(_typed_q, terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _typed_q(terminal: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            typed = os.read(terminal, 1024)
            if b"q" in typed:
                return True
            if not typed:  # the terminal is gone, and would be ready for ever
                return _slept(left)
    return False
