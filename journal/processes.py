"""What connections need where threads are green, and where a process forks after it has opened some."""

from __future__ import annotations

import inspect
import os
import select
import selectors
import socket
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg import waiting

_opened: WeakSet[psycopg.Connection[Any]] = WeakSet()


def cooperate() -> None:
    """Have psycopg wait the green way where gevent or eventlet has replaced `select`.

    psycopg looks for gevent only, and only when it is imported; its own waiting would hold up every other green thread.
    """
    if not inspect.isbuiltin(select.select):
        waiting.wait = waiting.wait_poll if hasattr(select, "poll") else waiting.wait_select
        waiting.DefaultSelector = selectors.DefaultSelector  # type: ignore[attr-defined]  # captured by name at its import


def remember(connection: psycopg.Connection[Any]) -> None:
    """See to it that a child forked off cannot use the connection, nor end its session by closing it."""
    _opened.add(connection)


def _disarm() -> None:
    # Green threads go on in the child, and would read what the server sends to the parent. A dead socket in its place
    # tells them, and whatever closes the connection politely closes nothing.
    dead, other = socket.socketpair()
    other.close()
    for connection in list(_opened):
        with suppress(psycopg.Error, OSError):
            os.dup2(dead.fileno(), connection.fileno(), inheritable=False)
    dead.close()


os.register_at_fork(after_in_child=_disarm)
