"""Ctrl-C and SIGTERM as the end of what goes on by itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
