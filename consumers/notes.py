"""What we note of Celery's requests, beside them: in `self.request` and in what `inspect` answers, users see nothing of ours.

A note lives as long as its request. The name of a run is known by the delivery's own `delivery_info`, that very dict: a worker's Request,
and every Context made of it, hold the same one, and no other run of the task does. To a child of a prefork pool the name travels in the
pickled request, which is the plain dict that Celery sends when it arrives.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, finalize

from celery.app.task import Context

from celery_journal.journal.events import TaskEvent

#: The runs that this process knows, and the queue that each came from, by the `id()` of their `delivery_info`; each goes with the request
#: that holds it.
_runs: dict[int, tuple[str, str | None]] = {}

#: The `delivery_info`, the run and the queue of what came last by a pipe: a child of a pool runs one task after another.
_arrived: tuple[object, str | None, str | None] = (None, None, None)

_next_attempts: WeakKeyDictionary[Any, datetime | None] = WeakKeyDictionary()
_cancelled: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_ends: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_told: WeakKeyDictionary[Any, TaskEvent] = WeakKeyDictionary()

#: Eager tasks whose next attempt is the next thing that happens, and the requests of such attempts.
_followed: set[str] = set()
_following: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class _Parcel(dict[str, Any]):
    """A request as it is sent to a child, with its run and its queue; unpickled it is a plain dict."""

    def __init__(self, request: dict[str, Any], run: str, queue: str | None) -> None:
        super().__init__(request)
        self._run = run
        self._queue = queue

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (dict(self), self._run, self._queue)


def _unpack(request: dict[str, Any], run: str, queue: str | None) -> dict[str, Any]:
    global _arrived  # noqa: PLW0603
    _arrived = request["delivery_info"], run, queue
    return request


def begin_run(request: Any, queue: str | None = None) -> str | None:
    """Give the delivery that a worker has received a name of its own, and return it; None if the request is not one of Celery's.

    The queue is the one that it came from, if the worker knows.
    """
    sent = getattr(request, "_request_dict", None)  # what it sends to the process that runs the task
    if not isinstance(sent, dict):
        return None
    run = secrets.token_hex(8)
    note_run(request, run, queue)
    request._request_dict = _Parcel(sent, run, queue)  # `request_dict` can only be read
    return run


def note_run(request: Any, run: str | None, queue: str | None = None) -> None:
    """Note which run of its task the request is of, and which queue it came from."""
    delivery = getattr(request, "delivery_info", None)
    if run is None or not isinstance(delivery, dict):
        return
    _runs[id(delivery)] = run, queue
    finalize(request, _runs.pop, id(delivery), None).atexit = False


def run_of(request: Any) -> str | None:
    """Return the delivery that this is a request of; None where nobody has named it."""
    return _run_and_queue(request)[0]


def noted_queue(request: Any) -> str | None:
    """Return the queue that the worker had this delivery from; None where it has not noted that."""
    return _run_and_queue(request)[1]


def _run_and_queue(request: Any) -> tuple[str | None, str | None]:
    delivery = getattr(request, "delivery_info", None)
    known, run, queue = _arrived
    return (run, queue) if delivery is known and run is not None else _runs.get(id(delivery), (None, None))


def note_next_attempt(request: Any, eta: datetime | None) -> None:
    """Note that the task has sent itself again, and when it is due: what stores the retry is not told."""
    _note(_next_attempts, request, eta)


def next_attempt_of(request: Any) -> datetime | None:
    """Return when the next attempt of the task is due, as far as that is known here."""
    eta = _noted(_next_attempts, request)
    return eta if isinstance(eta, datetime) else None


def note_cancelled(request: Any, why: str) -> None:
    """Note that the worker itself has given up the run of a task: what is stored of the retry would not say."""
    _note(_cancelled, request, why)


def cancelled(request: Any) -> str | None:
    """Return why the worker has given up the run; None if it has not."""
    why = _noted(_cancelled, request)
    return why if isinstance(why, str) else None


def note_end(request: Any, state: str) -> bool:
    """Note that a run has come to this end, as the main process of a worker tells it; return whether that was noted before.

    Celery tells it twice where a hard time limit has passed: when it is noticed, and when the process is gone.
    """
    told = bool(_noted(_ends, request) == state)
    _note(_ends, request, state)
    return told


def note_told(request: Any, told: TaskEvent) -> None:
    """Note the state that the task has stored itself."""
    if isinstance(request, Context):
        _told[request] = told


def told_by(request: Any) -> TaskEvent | None:
    """Return the last state that the task has stored itself; None if it has stored none."""
    told = _noted(_told, request)
    return told if isinstance(told, TaskEvent) else None


def has_told(request: Any) -> bool:
    """Return whether the task has stored a state itself, in this attempt or in an eager one before."""
    if told_by(request) is None and _noted(_following, request) is None and (task_id := getattr(request, "id", None)) in _followed:
        _followed.discard(task_id)
        _note(_following, request, True)
    return told_by(request) is not None or _noted(_following, request) is not None


def note_followed(request: Any) -> None:
    """Note that a task which has stored a state itself runs again at once, as an eager one does that retries."""
    _followed.add(request.id)


def _note(notes: WeakKeyDictionary[Any, Any], request: Any, note: object) -> None:
    with suppress(TypeError):  # not one of Celery's own
        notes[request] = note


def _noted(notes: WeakKeyDictionary[Any, Any], request: Any) -> object:
    try:
        return notes.get(request)
    except TypeError:  # not one of Celery's own
        return None
