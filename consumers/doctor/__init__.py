"""What in the settings and in the database will surprise, each with what to do."""

from . import database, settings, tasks  # noqa: F401  each registers its checks
from .examination import APP_CHECKS, CHECKS, Finding, Subject, examine
from .payloads import unreadable

__all__ = ["APP_CHECKS", "CHECKS", "Finding", "Subject", "examine", "unreadable"]
