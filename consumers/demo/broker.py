"""Celery's `filesystem://` broker, whose readers never see a message that is half written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """A channel that writes a message beside its place, and then renames it."""

    def _put(self, queue: str, payload: Any, **_kwargs: Any) -> None:  # type: ignore[override]  # kombu's classes disagree on the names
        folder, name = Path(self.data_folder_out), f"{time.monotonic_ns():020}_{uuid4()}"
        (folder / name).write_text(dumps(payload))
        (folder / name).rename(folder / f"{name}.{queue}.msg")


class Transport(filesystem.Transport):
    """The transport of these channels."""

    Channel = Channel
