"""What identifies a fact, and who says it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar
from uuid import UUID, uuid4

from .events import Event

E = TypeVar("E", bound=Event)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)

#: Streams of which an emitter knows what it told last, by kind: far more than a process runs at a time.
KNOWN = 4096


def identify(occurred_at: datetime, stream: str, kind: str, attempt: int, emitter: str, sequence: int) -> UUID:
    """Return the event id of a fact: a UUID version 8 (RFC 9562), 48 bits of milliseconds and a hash of the rest."""
    milliseconds = min(max((occurred_at - _EPOCH) // _MILLISECOND, 0), 2**48 - 1)  # a float would be one less now and then
    facts = "\0".join((stream, kind, str(attempt), emitter, str(sequence)))
    digest = int.from_bytes(hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=10).digest())
    high, low = digest >> 68, digest & (2**62 - 1)
    return UUID(int=milliseconds << 80 | 8 << 76 | high << 64 | 2 << 62 | low)


@dataclass(slots=True)
class _Identity:
    """What an emitter is in one process."""

    pid: int
    name: str
    sequence: count[int] = field(default_factory=count)
    #: Where in time the last fact of a stream and kind stands.
    last: OrderedDict[tuple[str, str], datetime] = field(default_factory=OrderedDict)

    def place(self, stream: str, kind: str, moment: datetime) -> datetime | None:
        """Return the place in time of the next fact: None, if it is `moment`; after the last, if the clock has not gone on since."""
        before = self.last.pop((stream, kind), None)
        later = None if before is None or moment > before else _after(before)
        self.last[stream, kind] = later or moment
        if len(self.last) > KNOWN:
            with suppress(KeyError):  # another thread was faster
                self.last.popitem(last=False)
        return later


def _after(moment: datetime) -> datetime:
    try:
        return moment + _MICROSECOND
    except OverflowError:  # the last that there is
        return moment


class Emitter:
    """Makes the events of one process, each with an id that no other process and no other call makes.

    What it tells of a stream is in the order of its own calls, also where the clock stands still or goes back between them.
    """

    def __init__(self, name: str | None = None) -> None:
        self._given = name
        self._identity = self._identify_process()

    @property
    def name(self) -> str:
        """What tells this emitter from any other: host, process, and chance."""
        return self._of_this_process().name

    def emit(self, kind: type[E], stream: str, *, attempt: int = 0, occurred_at: datetime | None = None, **fields: Any) -> E:
        """Return a new event of the model `kind`, at `occurred_at` (now, unless given)."""
        identity = self._of_this_process()
        name: str = kind.model_fields["kind"].default
        moment = occurred_at or datetime.now(UTC)
        event_id = identify(moment, stream, name, attempt, identity.name, next(identity.sequence))
        if (later := identity.place(stream, name, moment)) is not None:
            fields["ordered_at"] = later
        return kind(event_id=event_id, stream=stream, attempt=attempt, occurred_at=moment, **fields)

    def _of_this_process(self) -> _Identity:
        identity = self._identity
        if identity.pid != os.getpid():  # a forked child is another emitter; one assignment, so it needs no lock
            self._identity = identity = self._identify_process()
        return identity

    def _identify_process(self) -> _Identity:
        pid = os.getpid()
        made = f"{socket.gethostname()}:{pid}:{uuid4().hex[:8]}"
        name, self._given = self._given or made, None  # a child of ours needs a name of its own
        return _Identity(pid, name)
