"""The sweep over chords: members that ended without returning their part, and bodies that nobody has sent."""

from __future__ import annotations

import logging
from typing import Any

from kombu.utils.functional import LRUCache

from celery_journal import sql
from celery_journal.journal import events as kinds
from celery_journal.projections import TaskResult

from .chords import Chords
from .connection import JournalUnavailable

logger = logging.getLogger(__name__)


class SweptChords(Chords):
    """The part of the backend that the sweep of a worker calls. A chord that makes no sense never keeps another from its end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Chords that could not be swept, and of which the log of the worker was told.
        self._told = LRUCache(limit=1000)

    def sweep_is_ours(self) -> bool:
        """Return whether it is this process that sweeps now: one of all, once in `sweep_interval`."""
        query = sql.query("chord.sql", "begin sweep", self.journal.schema)
        sweep = {"claimant": self.emitter.name, "pause": self.options.sweep_interval}
        answered = self.database.run(lambda connection: connection.execute(query, sweep).fetchone())
        return answered == (True,)

    def sweep_chords(self) -> list[str]:
        """Return the parts of members that ended without, and send the bodies that were left unsent; return the ids of their groups."""
        returned = set[str]()
        try:
            returned = self._return_parts_of_stragglers()
        except JournalUnavailable:
            raise
        except Exception:  # what is complete must not wait for them
            logger.exception("members that ended without their parts could not be looked for")
        query = sql.query("chord.sql", "open", self.journal.schema)
        found = self.database.run(lambda connection: [group_id for (group_id,) in connection.execute(query)])
        # Also those that wait for others: a claim counts the parts, so that whoever brings the last one will find it to be the last.
        return [group_id for group_id in (*found, *sorted(returned.difference(found))) if self._swept(group_id)]

    def _return_parts_of_stragglers(self) -> set[str]:
        query = sql.query("chord.sql", "stragglers", self.journal.schema)
        silent = {"silent_for": self.options.sweep_interval}
        found = self.database.run(lambda connection: connection.execute(query, silent).fetchall())
        rows = self._rows(TaskResult, {told_by for *_, told_by in found}, fresh=True) if found else {}
        owed = [one for one in found if one[-1] in rows]
        try:
            parts = [self._stored_part(group_id, task_id, index, rows[told_by]) for group_id, task_id, index, told_by in owed]
            if parts:
                self.append(*parts)
        except JournalUnavailable:
            raise
        except Exception:  # noqa: BLE001  one of them makes no sense, and the others must not wait for it
            parts = [part for group_id, task_id, index, told_by in owed for part in self._returned(group_id, task_id, index, rows[told_by])]
        if parts:
            logger.warning("returned the parts of members that ended without", extra={"task_ids": [part.task_id for part in parts]})
        return {part.stream for part in parts}

    def _returned(self, group_id: str, task_id: str, index: int | None, row: TaskResult) -> list[kinds.ChordPartReturned]:
        """Return the part, which is recorded now; none where it cannot be."""
        try:
            part = self._stored_part(group_id, task_id, index, row)
            self.append(part)
        except JournalUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001
            self._tell(group_id, exc)
            return []
        return [part]

    def _swept(self, group_id: str) -> bool:
        try:
            return self._claim_and_send(group_id)
        except JournalUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001  such as a body that this process may not read: the other chords must not wait
            self._tell(group_id, exc)
            return False

    def _tell(self, group_id: str, exc: Exception) -> None:
        """Say once why a chord is left open; it is tried again after its lease, by one that may know how."""
        if group_id not in self._told:
            self._told[group_id] = True
            logger.error("chord %s is left open, and will be tried again: %s", group_id, exc, extra={"group_id": group_id}, exc_info=exc)
