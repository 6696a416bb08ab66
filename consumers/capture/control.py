"""Who asks for tasks to be revoked: the workers, who do it, are not told. A worker that starts reads what was asked before."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery.app.control import Control as StockControl

from celery_journal.journal import Emitter
from celery_journal.journal.events import OperatorActed

from .apps import recorder_of

logger = logging.getLogger(__name__)

_PATH = f"{__name__}:Control"

#: Celery's name of what revokes by stamps.
BY_STAMPS = "revoke_by_stamped_headers"

#: The stream of all that somebody has asked to revoke, where workers that start find it.
REVOKES = "control.revoke"

#: Tasks that one fact of it names.
BATCH = 500

_OF_TASKS = {"revoke", "terminate"}

_is_recorded: ContextVar[bool] = ContextVar("is_recorded", default=False)


def account() -> str:
    """Return who runs this process, as account@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # an id without an account, as containers have
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def recorded_otherwise() -> Iterator[None]:
    """Have nothing recorded of what is asked for in the block, by whoever records more than that."""
    token = _is_recorded.set(True)
    try:
        yield
    finally:
        _is_recorded.reset(token)


def requests(emitter: Emitter, task_ids: Sequence[str], **facts: Any) -> list[OperatorActed]:
    """Return the facts of a request to revoke: one in the stream of each task, and what workers that start find.

    That names the tasks, or the `stamps`; and the workers that are meant, its `destination`, unless that is all.
    """
    more = {name: facts.pop(name, None) for name in ("stamps", "destination")}
    batches: list[tuple[str, ...] | None] = [tuple(task_ids[start : start + BATCH]) for start in range(0, len(task_ids), BATCH)]
    if more["stamps"]:
        batches.append(None)
    return [
        *(emitter.emit(OperatorActed, task_id, **facts) for task_id in task_ids),
        *(emitter.emit(OperatorActed, REVOKES, members=batch, **more, **facts) for batch in batches),
    ]


class Control(StockControl):
    """Celery's remote control, which records who has tasks revoked or terminated."""

    def broadcast(self, command: str, arguments: Any = None, destination: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tell workers to do something, as Celery does; what they are to revoke is recorded before."""
        if command in _OF_TASKS or command == BY_STAMPS:
            _record(self.app, command, {**kwargs, **(arguments or {})}, destination, is_for_all=kwargs.get("pattern") is None)
        return super().broadcast(command, arguments, destination, *args, **kwargs)


def record_requests(app: Any) -> None:
    """Have the app's remote control record who asks; one of the user's own making is left alone."""
    if app.control_cls == StockControl.__module__ + ":Control":
        app.control_cls = _PATH
    if type(app.__dict__.get("control")) is StockControl:
        app.control = Control(app)


def _record(app: Any, command: str, arguments: Mapping[str, Any], destination: Any, *, is_for_all: bool) -> None:
    if _is_recorded.get():
        return
    action = "terminate" if command == "terminate" or arguments.get("terminate") else "revoke"
    try:
        if (recorder := recorder_of(app)) is not None:  # which workers a pattern is for, one that starts later does not know
            facts: dict[str, Any] = {"action": action, "author": account(), "source": "signal"}
            if command == BY_STAMPS:
                told = requests(recorder.emitter, (), stamps=_stamps_in(arguments.get("headers")), destination=destination or None, **facts)
            else:
                told = requests(recorder.emitter, _ids_in(arguments.get("task_id")), destination=destination or None, **facts)
            recorder.append(*(one for one in told if is_for_all or one.stream != REVOKES))
    except Exception:  # the request itself matters more
        logger.exception("it could not be recorded who asked to %s: %.200r", action, arguments)


def _ids_in(task_id: Any) -> list[str]:
    return [str(one) for one in ([task_id] if isinstance(task_id, str) or not hasattr(task_id, "__iter__") else task_id)]


def _stamps_in(headers: Any) -> dict[str, list[Any]]:
    """Return the stamps of each header, which Celery's command line gives as `header=stamp`."""
    given = headers if isinstance(headers, Mapping) else dict(one.split("=")[:2] for one in headers or ())
    return {str(name): list(of) if isinstance(of, list | tuple | set | frozenset) else [of] for name, of in given.items()}
