"""What can be wrong with a replay.

ReplayError
 +-- CannotReplay        this task cannot be sent again
      +-- NotRecorded    nobody has recorded how it was sent
 +-- NothingToReplay     this task need not be sent again
 +-- ReplayRefused       the replay as a whole is not possible as asked for
 +-- BrokerAway          no broker answers
      +-- NotSent        it went away, and nothing of the batch has been sent
      +-- Uncertain      it went away, and nobody can know what of the batch has been sent
"""

from __future__ import annotations

from celery_journal.consumers.words import shown
from celery_journal.journal.errors import JournalError


class ReplayError(JournalError):
    """Something is wrong with a replay; the text is one sentence, fit for a terminal."""

    def __init__(self, sentence: str) -> None:
        super().__init__(shown(sentence))


class CannotReplay(ReplayError):
    """The task cannot be sent again; the text says why."""


class NotRecorded(CannotReplay):
    """It is not recorded how the task was sent; perhaps it never was, and goes along with what comes before it."""


class NothingToReplay(ReplayError):
    """The task has succeeded, or is on its way to; the text says so."""


class ReplayRefused(ReplayError):
    """There is no such replay, it runs already, or it cannot be as it was asked for."""


class BrokerAway(ReplayError):
    """No broker answers."""


class NotSent(BrokerAway):
    """The broker went away before it was told to take the batch: none of it was sent."""


class Uncertain(BrokerAway):
    """The broker went away while it was told to take the batch."""
