"""Those who use both the log and the views: the Celery result backend, the command line, the demo."""

from .results import install

__all__ = ["install"]
