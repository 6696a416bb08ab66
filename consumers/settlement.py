"""What has not ended and is settled all the same: people have noted that it is resolved, or it was sent again and that has succeeded."""

from __future__ import annotations

from collections.abc import Sequence

from celery_journal import sql
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape


def settled_in(connection: Connection, task_ids: Sequence[str], schema: str = sql.DEFAULT_SCHEMA) -> dict[str, str]:
    """Return why those of the tasks that are settled are so, by their ids as the views have them."""
    from .replay.past import Pasts  # which stands on much that looks for what is lost

    if not task_ids:
        return {}
    keys = [escape(task_id) for task_id in task_ids]
    query = sql.query("lost.sql", "resolved", schema)
    why = {task_id: "resolved" for (task_id,) in connection.execute(query, {"task_ids": keys}, prepare=False).fetchall()}
    if connection.execute(sql.query("lost.sql", "any replay", schema), prepare=False).fetchone() != (True,):
        return why
    pasts = Pasts(connection, Journal(schema))
    left = [task_id for task_id in task_ids if escape(task_id) not in why]
    pasts.load(left)
    for task_id in left:
        if (copy := pasts.succeeded_as(task_id)) is not None:
            why[escape(task_id)] = f"replayed as {copy}, which has succeeded"
    return why
