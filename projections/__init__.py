"""The views: one module each, and how they are rebuilt and verified."""

from .chord_counter import ChordCounter, ChordPart
from .group_result import GroupResult
from .projection import PROJECTIONS, RowDoesNotExist
from .rebuild import rebuild
from .task_attempt import TaskAttempt
from .task_result import TaskResult
from .verify import Difference, Verification, verify
from .worker import Worker

__all__ = [
    "PROJECTIONS",
    "ChordCounter",
    "ChordPart",
    "Difference",
    "GroupResult",
    "RowDoesNotExist",
    "TaskAttempt",
    "TaskResult",
    "Verification",
    "Worker",
    "rebuild",
    "verify",
]
