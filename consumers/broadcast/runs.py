"""Which run of a task an event is about: only what was received says its attempt, and what follows has to be told by its order.

The order is not what it seems. A retry may be received, and even be started, before the worker says that the attempt before it
is retried: the message of the retry is sent first. And a worker that died never says how its runs ended.

Where several captures share a queue none of them knows all of that in time. Then it goes by the time alone, and a retry that
overtakes may be taken for the end of the attempt that it begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
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
    #: Whether the broadcast has told that it was received; one that is known first-hand is not received again by that.
    heard: bool = False
    #: Whether its worker journals it by itself.
    first_hand: bool = False
    #: How the broadcast tells that it ended.
    ends: set[str] = field(default_factory=set)

    def reach(self, state: str) -> None:
        """Take in that it has come to that state."""
        self.started = self.started or state == states.STARTED
        self.ends |= ENDS & {state}

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return bool(self.ends)


def run_of(runs: Sequence[Run], state: str, occurred_at: datetime, over: Collection[int] | None = ()) -> Run | None:
    """Return the run of which a worker says that it came to that state at that moment, of those that it received.

    `over` are the attempts of which any worker has said how they ended; None if others may have heard what we did not.
    """
    before = [run for run in runs if run.received_at <= occurred_at]
    if len(before) < 2:
        return before[0] if before else None
    if over is None:
        return _newest((state != states.STARTED and [run for run in before if run.started and not run.ended]) or before)
    going_on = [run for run in before if not run.ended] or before
    if state in {states.STARTED, states.RETRY}:
        # It may be behind: of those that can come to that, the oldest attempt, for the next may be there already.
        able = [run for run in going_on if run.started == (state == states.RETRY)] or going_on
        attempts = {run.attempt for run in able}
        return _newest([run for run in able if run.attempt == min(attempts.difference(over) or attempts)])
    return _newest([run for run in going_on if run.started] or going_on)


def _newest(runs: Iterable[Run]) -> Run:
    return max(runs, key=lambda run: (run.attempt, run.received_at))
