"""Celery's event broadcast into the log: what workers tell that do not load our code."""

from .broker import Broker
from .capture import Capture, Unrecorded
from .recorder import Recorder, Tally
from .translator import Malformed, Testimony, translate

__all__ = ["Broker", "Capture", "Malformed", "Recorder", "Tally", "Testimony", "Unrecorded", "translate"]
