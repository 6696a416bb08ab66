"""A program that returns the last part of a chord, and stalls before or after it sends the body, until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from celery_journal.consumers.backend import JournalBackend
from tests.consumers.scene import Mailbox, delivered, new_app


def stall(said: str) -> None:
    """Say where we are, and stay there."""
    print(said, flush=True)
    time.sleep(600)


class StallsBeforeSending(JournalBackend):
    """Claims the body, and never sends it."""

    def _send_if_claimed(self, group_id: str, answer: str | None, callback: Any) -> bool:
        stall(str(answer))
        return False


class StallsAfterSending(JournalBackend):
    """Sends the body, and never records that it did."""

    def _end(self, kind: Any, group_id: str, body_id: str | None, **fields: Any) -> None:
        stall(kind.model_fields["kind"].default)


def main(url: str, folder: str, where: str, lease: str) -> None:
    """Return the part."""
    app = new_app(url, result_backend_transport_options={"chord_lease": float(lease)}, **Mailbox(Path(folder)).conf)
    backend = {"before": StallsBeforeSending, "after": StallsAfterSending}[where](app, url=url.removeprefix("journal+"))
    body = app.signature("scene.sum", task_id="body")
    backend.on_chord_part_return(delivered(app, task_id="last", group_id="g", group_index=1, chord=body), "SUCCESS", 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
