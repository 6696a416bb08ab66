"""What in the settings and in the database will surprise, each with what to do."""

from . import database, privileges, running, settings, tasks  # noqa: F401  each registers its checks
from .examination import APP_CHECKS, CHECKS, Finding, Subject, examine
from .mending import give_partitions, weeks_taken
from .payloads import unreadable

__all__ = ["APP_CHECKS", "CHECKS", "Finding", "Subject", "examine", "give_partitions", "unreadable", "weeks_taken"]
