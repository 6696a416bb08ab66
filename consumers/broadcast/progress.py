"""How a capture goes: a live line on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .capture import Capture

#: Seconds between two lines.
INTERVAL = 5.0

#: Seconds between two lines that say the same.
QUIET_INTERVAL = 60.0


class Progress:
    """Shows a capture while it runs; `shown` is to be called several times a second."""

    def __init__(self, capture: Capture, console: Console) -> None:
        self._capture = capture
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._since = self._said = time.monotonic()
        self._events = 0
        self._rate = 0.0
        self._last = ""

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def shown(self) -> None:
        """Show how it goes, if it is time to."""
        now = time.monotonic()
        if now - self._since < (1.0 if self._live is not None else INTERVAL):
            return
        events = self._capture.recorder.tally.events
        self._rate, self._since, self._events = (events - self._events) / (now - self._since), now, events
        line = self.line()
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif line != self._last or now - self._said >= QUIET_INTERVAL:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._said, self._last = now, line

    def line(self) -> str:
        """Return how it goes, in a line."""
        capture, tally = self._capture, self._capture.recorder.tally
        parts = [f"{self._rate:,.0f} events/s", f"{tally.events:,} in all"]
        if self._rate:
            parts.append(f"lag {tally.lag:,.1f} s")
        if capture.backlog is not None:
            parts.append(f"{capture.backlog:,} messages in the queue")
        parts += [f"{count:,} {what}" for what, count in (("malformed", tally.malformed), ("refused", tally.refused)) if count]
        if capture.trouble:
            parts.append("waiting: " + capture.trouble)
        return ", ".join(parts)

    def summary(self) -> str:
        """Return what there was, in a line."""
        tally = self._capture.recorder.tally
        parts = [f"{tally.events:,} events", f"{tally.facts:,} recorded", f"{tally.witnessed:,} witnesses of what was recorded first-hand"]
        parts += [f"{count:,} {what}" for what, count in (("malformed", tally.malformed), ("refused", tally.refused)) if count]
        return ", ".join(parts)
