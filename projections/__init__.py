"""The views: one module each, and how they are rebuilt and verified."""

from .aquery import AsyncQuerySet
from .chord_counter import ChordCounter, ChordPart
from .fields import FieldError
from .group_result import GroupResult
from .managers import TxIsolationWarning
from .projection import PROJECTIONS, NoJournal, RowDoesNotExist, SeveralRows
from .query import Q
from .queryset import QuerySet
from .rebuild import rebuild
from .task_attempt import TaskAttempt
from .task_result import TaskResult
from .verify import Difference, Verification, verify
from .worker import Worker

__all__ = [
    "PROJECTIONS",
    "AsyncQuerySet",
    "ChordCounter",
    "ChordPart",
    "Difference",
    "FieldError",
    "GroupResult",
    "NoJournal",
    "Q",
    "QuerySet",
    "RowDoesNotExist",
    "SeveralRows",
    "TaskAttempt",
    "TaskResult",
    "TxIsolationWarning",
    "Verification",
    "Worker",
    "rebuild",
    "verify",
]
