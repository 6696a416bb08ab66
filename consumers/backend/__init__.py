"""The Celery result backend: `result_backend = "journal+postgresql://..."`."""

from .backend import JournalBackend
from .base import ResultTooLarge
from .connection import JournalUnavailable

__all__ = ["JournalBackend", "JournalUnavailable", "ResultTooLarge"]
