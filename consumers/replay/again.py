"""Sending one task again, from Python: `AsyncResult.replay()`, `TaskResult.replay()`."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from kombu.utils import json

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.capture.control import account
from celery_journal.journal.command import command

from .errors import BrokerAway, CannotReplay, NothingToReplay, ReplayRefused, Uncertain
from .order import Order, Wishes
from .record import Record, begin
from .replay import Replay


def send_again(
    backend: JournalBackend,
    task_id: str,
    *,
    reason: str | None = None,
    set: Mapping[str, object] | None = None,  # noqa: A002  as the command calls it
    same_id: bool = False,
    also_succeeded: bool = False,
    also_unfinished: bool = False,
    resend_doubtful: bool = False,
    guess_routing: bool = False,
) -> str:
    """Send the recorded task again as it was published, or what stands for it in its chain or chord; return its new id.

    Of a step that comes after the one where its chain failed, and of the body of a chord, that is the id under which it will run.
    `set` puts values into the arguments: {"kwargs.amount": 3, "args.0": 5}. Raises CannotReplay, NothingToReplay if it has succeeded,
    BrokerAway, and Uncertain if nobody can know whether it was sent; what another replay may have sent takes `resend_doubtful`,
    and what nobody has recorded the sending of `guess_routing`: it goes where the app would send it today.
    """
    try:
        edits = tuple(f"{place}={json.dumps(value)}" for place, value in (set or {}).items())
    except (TypeError, ValueError) as exc:
        raise ReplayRefused(f"arguments can be set to what Celery's JSON has a form for only: {exc}") from exc
    wishes = Wishes(edits, same_id, also_succeeded, also_unfinished, resend_doubtful, guess_routing)
    order = Order(uuid4().hex, wishes, account(), reason)
    with backend.database.lend() as connection:
        begin(connection, backend.journal, backend.emitter, order, [task_id])
        record = Record.of(connection, backend.journal, order.replay_id)
        # A pooler may lend the connection, which could not hold a lock; and nobody else knows this replay yet.
        summary = Replay(connection, backend.journal, backend.app, record, backend.emitter, is_shared=False).run()
    for _, why in summary.refused:
        raise CannotReplay(f"{task_id} cannot be sent again: {why}")
    for _, why in summary.skipped:
        raise NothingToReplay(f"{task_id} need not be sent again: {why}")
    if summary.doubtful:
        why, to_know = summary.stopped or "the broker went away", f"{command('replay --resume')} {order.replay_id}"
        raise Uncertain(f"{task_id} may have been sent again, and may not: {why}; to find out: {to_know}")
    if summary.stopped:
        raise BrokerAway(summary.stopped)
    return summary.sent.get(task_id) or summary.later.get(task_id) or next(iter(summary.sent.values()))
