"""Why a server refuses a connection: its SQLSTATE, which libpq keeps to itself.

libpq has error fields for the answers to statements, and for a failed login only a text, in the server's language. It
writes down the messages themselves when it is asked to trace them, so the login is tried once more, and its end traced.
"""

from __future__ import annotations

import re
import selectors
import tempfile
import time
from typing import NamedTuple

import psycopg
from psycopg import pq

#: An error as PQtrace writes it: its fields, each a letter and a text in quotes, which is not escaped.
_ERROR = re.compile(
    rb'^B\t\d+\tErrorResponse\t.*? C "(?P<state>[0-9A-Z]{5})" M "(?P<said>.*?)" '
    rb'(?:F "[^"]*" L "\d+" R "(?P<routine>\w+)"|[A-Z] "|\\x00)',
    re.MULTILINE | re.DOTALL,
)

_EVENTS: dict[int, int] = {pq.PollingStatus.READING: selectors.EVENT_READ, pq.PollingStatus.WRITING: selectors.EVENT_WRITE}


class Refusal(NamedTuple):
    """Why a server refuses a connection: its SQLSTATE, its sentence, and which of its routines says so."""

    state: str
    said: str
    routine: str


def asked(conninfo: str, seconds: float = 2.0) -> Refusal | None:
    """Return why the server refuses a connection; None if it does not say, or lets us in now."""
    with tempfile.TemporaryFile() as trace:  # nobody else's: what a login sends is in it
        try:
            pgconn = pq.PGconn.connect_start(conninfo.encode())
            pgconn.trace(trace.fileno())
            pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
            _finish(pgconn, time.monotonic() + seconds)
            pgconn.untrace()
            pgconn.finish()
        except psycopg.Error:  # a libpq that does not trace, or one that has found no server
            return None
        trace.seek(0)
        errors = list(_ERROR.finditer(trace.read()))
    if not errors:
        return None
    said = errors[-1]["said"].decode(errors="replace").partition("\n")[0]
    return Refusal(errors[-1]["state"].decode(), said, (errors[-1]["routine"] or b"").decode())


def _finish(pgconn: pq.abc.PGconn, until: float) -> None:
    """Have the attempt come to its end, one way or the other."""
    while (status := pgconn.connect_poll()) in _EVENTS and time.monotonic() < until:
        with selectors.DefaultSelector() as selector:
            selector.register(pgconn.socket, _EVENTS[status])
            selector.select(max(0.0, until - time.monotonic()))
