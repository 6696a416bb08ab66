"""That somebody waits for a result that is ignored: the log of who waits says so, and the journal, for those who look there."""

from __future__ import annotations

import logging
import threading
import time

from celery_journal.consumers.capture.control import account
from celery_journal.journal.events import OperatorActed

from .base import JournalBase

logger = logging.getLogger(__name__)

#: Seconds before it is said again of tasks of the same name.
AGAIN = 3600.0


class Waited:
    """What a process has said of waits for results that are ignored."""

    def __init__(self, backend: JournalBase) -> None:
        self._backend = backend
        self._said_at: dict[str | None, float] = {}

    def tell(self, task_id: str, name: str | None) -> None:
        """Say that somebody has waited for that result; nobody waits for this."""
        now = time.monotonic()
        if now - self._said_at.get(name, -AGAIN) < AGAIN:
            return
        self._said_at[name] = now
        logger.warning("somebody waits for the result of %s (%s), which is ignored, and gets None", task_id, name)
        threading.Thread(target=self._record, args=[task_id], name="celery-journal-waited", daemon=True).start()

    def _record(self, task_id: str) -> None:
        emit, why, mark = self._backend.emitter.emit, "its result is ignored", b'{"waited": true}'
        try:
            self._backend.append_now(emit(OperatorActed, task_id, author=account(), action="wait", reason=why, meta=mark, source="backend"))
        except Exception as exc:  # noqa: BLE001  who may only read waits as well
            logger.debug("a wait for an ignored result is not recorded: %s", exc)
