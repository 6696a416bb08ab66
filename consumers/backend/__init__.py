"""The Celery result backend: `result_backend = "journal+postgresql://..."`."""

from . import endings  # noqa: F401  connects to the signals of the worker
from .backend import JournalBackend
from .base import ResultTooLarge
from .connection import JournalUnavailable

__all__ = ["JournalBackend", "JournalUnavailable", "ResultTooLarge"]
