"""A program that uses the spool of a journal: puts facts there, drains it and dies in the middle, holds it, or forks."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from celery_journal.consumers.drain import drain
from celery_journal.consumers.spool import Spool, packed, spool_of
from celery_journal.journal import Connection, Emitter, Journal, connect
from celery_journal.journal.events import TaskSucceeded
from tests.consumers.scene import new_app


def main(dsn: str, folder: str, what: str, name: str = "") -> None:
    """Do it."""
    spool = spool_of(dsn, "celery_journal", Path(folder))
    if what == "put":
        emitter = Emitter()
        for number in range(50):
            spool.put(packed(emitter.emit(TaskSucceeded, f"{name}-{number}")))
    if what == "die":
        with connect(dsn) as connection:

            def append_and_die(work: Callable[[Connection], object]) -> None:
                work(connection)
                os.kill(os.getpid(), signal.SIGKILL)

            drain(spool, Journal(), append_and_die)
    if what == "hold":
        with spool.draining() as ours:
            print(ours, flush=True)
            sys.stdin.readline()
    if what == "fork":
        fork(dsn, folder)
    if what == "fork busily":
        fork_busily(spool)


def fork_busily(spool: Spool) -> None:
    """Fork while other threads use the spool, which the children use as well; print how many of them hung."""
    spool.put(b"fact")

    def use() -> None:
        while True:
            spool.length()

    for _ in range(2):
        threading.Thread(target=use, daemon=True).start()
    hung = 0
    for _ in range(20):
        if not (child := os.fork()):
            signal.alarm(5)
            spool.length()
            os._exit(0)
        hung += os.waitpid(child, 0)[1] != 0
    print(hung, flush=True)


def fork(dsn: str, folder: str) -> None:
    """Store, fork, and store in the child; print how often each has tried in vain to write."""
    tries: list[str] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "trying again" in record.getMessage():
                tries.append(record.getMessage())

    backend = new_app(f"journal+{dsn}", result_backend_transport_options={"retry_budget": 0.3, "spool": folder}).backend
    logging.getLogger("celery_journal").addHandler(Counter())
    backend.store_result("a", 1, "SUCCESS")
    print(len(tries), flush=True)
    tries.clear()
    if not (child := os.fork()):
        backend.store_result("b", 1, "SUCCESS")
        print(len(tries), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
