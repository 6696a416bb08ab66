"""What happens in the processes and no result backend is told of: published, received, run without a result, alive.

Celery's signals tell it. They are connected when this is imported, which whatever attaches does: the construction of
the backend, `install(app)`, and the worker's bootstep.
"""

from . import published, running, workers  # noqa: F401  connect to the signals
from .apps import Recorder
from .attach import CaptureStep, attach
from .buffer import Buffer

__all__ = ["Buffer", "CaptureStep", "Recorder", "attach"]
