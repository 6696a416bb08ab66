"""Who asks for a task to be revoked: the workers, who do it, are not told."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from typing import Any

from celery.app.control import Control as StockControl

from celery_journal.journal.events import OperatorActed

from .apps import recorder_of

logger = logging.getLogger(__name__)

_PATH = f"{__name__}:Control"


def account() -> str:
    """Return who runs this process, as account@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # an id without an account, as containers have
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Control(StockControl):
    """Celery's remote control, which records who has a task revoked or terminated."""

    def revoke(self, task_id: Any, destination: Any = None, terminate: bool = False, signal: str = "SIGTERM", **kwargs: Any) -> Any:
        """Tell workers to revoke a task, or several, as Celery does."""
        _record(self.app, task_id, "terminate" if terminate else "revoke")
        return super().revoke(task_id, destination=destination, terminate=terminate, signal=signal, **kwargs)


def record_requests(app: Any) -> None:
    """Have the app's remote control record who asks; one of the user's own making is left alone."""
    if app.control_cls == StockControl.__module__ + ":Control":
        app.control_cls = _PATH
    if type(app.__dict__.get("control")) is StockControl:
        app.control = Control(app)


def _record(app: Any, task_id: Any, action: str) -> None:
    task_ids = [task_id] if isinstance(task_id, str) or not hasattr(task_id, "__iter__") else list(task_id)
    try:
        if (recorder := recorder_of(app)) is not None:
            author = account()
            recorder.append(
                *(recorder.emitter.emit(OperatorActed, str(one), action=action, author=author, source="signal") for one in task_ids)
            )
    except Exception:  # the request itself matters more
        logger.exception("it could not be recorded who asked to %s %s", action, task_ids[:10])
