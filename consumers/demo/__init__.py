"""The demo: real tasks on a real worker become events, the events become views, and the views are proved to be the log."""

from .demo import run
from .worker import DemoFailed

__all__ = ["DemoFailed", "run"]
