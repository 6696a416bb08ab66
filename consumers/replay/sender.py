"""What hands batches to a broker, and says of each whether it was sent, as far as the broker lets one know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kombu.exceptions import OperationalError

from celery_journal.consumers.words import first_line
from celery_journal.journal.dsn import masked

from .errors import BrokerAway
from .message import Outgoing

#: Seconds for one attempt to connect.
CONNECT = 5.0


class Sender(Protocol):
    """A way to the broker."""

    #: The most tasks that leave together.
    batch: int
    #: Whether what is not found to be sent after a process was killed was not sent.
    is_certain: bool

    def open(self) -> None:
        """Connect, after every earlier connection of the replay is gone; raise BrokerAway if no broker answers."""

    def check(self, outgoing: Outgoing) -> None:
        """Raise CannotReplay if the message has nowhere to go."""

    def found(self, unknown: Mapping[str, str | None]) -> set[str]:
        """Return those new ids, each with the queue that it was to go to, of which the broker can tell that they were sent."""

    def ready(self) -> None:
        """Connect again if that has to be; raise BrokerAway if no broker answers."""

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Send them; raise NotSent if none was, Uncertain if nobody knows."""

    def confirm(self) -> None:
        """Forget what was sent: it is recorded."""

    def finish(self) -> None:
        """Leave nothing behind: the replay has ended."""

    def close(self) -> None:
        """Disconnect."""


def connect(connection: Any) -> None:
    """Connect, within seconds."""
    connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=2 * CONNECT)


def errors_of(connection: Any) -> tuple[type[Exception], ...]:
    """Return what a connection to this broker may raise."""
    return (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)


@contextmanager
def in_one_sentence(connection: Any) -> Iterator[None]:
    """Say in one sentence that no broker answers."""
    try:
        yield
    except errors_of(connection) as exc:
        raise BrokerAway(f"no broker answers at {masked(connection.as_uri())}: {first_line(exc)}") from exc
