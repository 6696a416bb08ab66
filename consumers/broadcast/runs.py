"""Which run of a task an event is about: only what was received says its attempt, and what follows has to be told by its order.

The order is not what it seems. A retry may be received, and even be started, before the worker says that the attempt before it
is retried: the message of the retry is sent first. And a worker that died never says how its runs ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery import states

#: What ends a run.
ENDS = frozenset({states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.REJECTED, states.IGNORED})


@dataclass(slots=True)
class Run:
    """A delivery of the message of an attempt to one worker, and how far it has come."""

    received_at: datetime
    attempt: int
    #: Its name; None where only a witness of it is at hand.
    name: str | None = None
    started: bool = False
    ended: bool = False

    def reach(self, state: str) -> None:
        """Take in that it has come to that state."""
        self.started = self.started or state == states.STARTED
        self.ended = self.ended or state in ENDS


def run_of(runs: Sequence[Run], state: str, occurred_at: datetime) -> Run | None:
    """Return the run of which a worker says that it came to that state at that moment, of those that it received."""
    before = [run for run in runs if run.received_at <= occurred_at]
    if len(before) < 2:
        return before[0] if before else None
    open_runs = [run for run in before if not run.ended] or before
    if state == states.STARTED:
        return _newest([run for run in open_runs if not run.started] or open_runs)
    started = [run for run in open_runs if run.started]
    if state == states.RETRY and started:
        # Of an attempt that has not ended yet, the oldest: the next one is there already.
        ended = {run.attempt for run in before if run.ended}
        attempts = {run.attempt for run in started} - ended or {run.attempt for run in started}
        return _newest([run for run in started if run.attempt == min(attempts)])
    return _newest(started or open_runs)


def _newest(runs: Iterable[Run]) -> Run:
    return max(runs, key=lambda run: (run.attempt, run.received_at))
