"""The views: one module each, and how they are rebuilt and verified."""

from .aggregates import Avg, Count, Max, Min, Sum
from .aquery import AsyncQuerySet
from .chord_counter import ChordCounter, ChordPart
from .fields import FieldError
from .group_result import GroupResult
from .managers import TxIsolationWarning
from .projection import PROJECTIONS, NoJournal, RowDoesNotExist, SeveralRows
from .query import Q
from .queryset import QuerySet
from .rebuild import RebuildBlocked, rebuild
from .task_attempt import TaskAttempt
from .task_result import TaskResult
from .verify import Difference, Verification, VerifyRefused, verify
from .worker import Worker

__all__ = [
    "PROJECTIONS",
    "AsyncQuerySet",
    "Avg",
    "ChordCounter",
    "ChordPart",
    "Count",
    "Difference",
    "FieldError",
    "GroupResult",
    "Max",
    "Min",
    "NoJournal",
    "Q",
    "QuerySet",
    "RebuildBlocked",
    "RowDoesNotExist",
    "SeveralRows",
    "Sum",
    "TaskAttempt",
    "TaskResult",
    "TxIsolationWarning",
    "Verification",
    "VerifyRefused",
    "Worker",
    "rebuild",
    "verify",
]
