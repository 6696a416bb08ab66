"""The command line: `celery-journal`."""

from .main import main

__all__ = ["main"]
