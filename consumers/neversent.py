"""The last steps of chains that were cut off before: whoever waits for the result of such a chain waits for ever."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import decode, escape
from celery_journal.journal.events import TaskSent


class NeverSent(NamedTuple):
    """The last step of a chain, of which an earlier one was revoked or has expired."""

    task_id: str
    name: str | None
    #: The step that was revoked, and when that was heard of.
    before: str
    recorded_at: datetime


def never_sent(connection: Connection, grace: float, schema: str, limit: int) -> list[NeverSent]:
    """Return the last steps of which nobody has heard, behind what was revoked for `grace` seconds at least, and a day at most."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.query("unsent.sql", "revoked", schema), {"grace": grace, "limit": limit}).fetchall()
        if not rows:
            return []
        revoked = {row["task_id"]: row["recorded_at"] for row in rows}
        chained = {"task_ids": list(revoked), "since": min(row["since"] for row in rows)}
        messages = cursor.execute(sql.query("unsent.sql", "chained", schema), chained, prepare=False).fetchall()
    found: dict[str, NeverSent] = {}
    for event in (decode(row).event for row in messages):
        if isinstance(event, TaskSent) and event.embedded is not None and (last := _last_step(event)) is not None:
            task_id, name = last
            found[escape(task_id)] = NeverSent(task_id, name, event.stream, revoked[escape(event.stream)])
    heard = _heard_of(connection, found, schema)
    return [one for key, one in found.items() if key not in heard]


def _last_step(sent: TaskSent) -> tuple[str, str | None] | None:
    """Return the id and the name of the last step that comes after the task in its chain."""
    from .graph.steps import embedded_in, ids_in  # which stand on much that looks for what is lost

    chain: Any = embedded_in(sent).get("chain")
    last = chain[0] if isinstance(chain, list | tuple) and chain else None  # the next one is the last
    if not isinstance(last, dict):
        return None
    name = last.get("task")
    task_id = next(ids_in({"options": last.get("options")}), None)
    if task_id is None or name in {"celery.group", "celery.chain", "celery.chord"}:
        return None
    return task_id, name if isinstance(name, str) else None


def _heard_of(connection: Connection, keys: Iterable[str], schema: str) -> set[str]:
    rows = connection.execute(sql.query("unsent.sql", "heard of", schema), {"ids": list(keys)}).fetchall()
    return {task_id for (task_id,) in rows}
