"""A message of the broadcast, from its arrival to its acknowledgement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that arrived, and how much of what it says is not recorded yet."""

    message: Any
    #: By the monotonic clock.
    arrived: float
    #: How many testimonies of it are not recorded; None before it is read.
    open: int | None = None

    @property
    def done(self) -> bool:
        """Whether all of it is recorded."""
        return self.open == 0

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.message.body or b"")

    def events(self) -> list[object]:
        """Return the events in it, of which a busy worker sends many at once; raise whatever keeps it from being read."""
        message = self.message
        if message.content_type == "application/json" and message.content_encoding == "utf-8" and "compression" not in message.headers:
            body = json.loads(message.body)  # kombu's would look for dates in every mapping
        else:
            body = message.decode()
        return body if isinstance(body, list) else [body]
