"""The figures of the journal, each as a ratio within one interleaved run: `python -m tests.bench [NAME ...]`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg

from celery_journal.consumers import embedded
from celery_journal.journal import migrate
from tests.bench import append, backlog, batch, capture, latency, push, rebuild, size, waits, words

BENCHMARKS: dict[str, Callable[[str], None]] = {
    "append": append.run,
    "backlog": backlog.run,
    "batch": batch.run,
    "capture": capture.run,
    "latency": latency.run,
    "push": push.run,
    "rebuild": rebuild.run,
    "size": size.run,
    "waits": waits.run,
    "words": words.run,
}


def main(names: list[str]) -> None:
    """Run the benchmarks named, or all, each in a database of its own on one embedded server."""
    with tempfile.TemporaryDirectory(prefix="celery-journal-bench-") as directory:
        server = embedded.use(Path(directory) / "journal")
        for name in names or BENCHMARKS:
            print(f"== {name}: {(BENCHMARKS[name].__doc__ or sys.modules[BENCHMARKS[name].__module__].__doc__ or '').splitlines()[0]}")
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"create database bench_{name}".encode())
            dsn = psycopg.conninfo.make_conninfo(server, dbname=f"bench_{name}")
            with psycopg.connect(dsn, autocommit=True) as connection:
                migrate(connection)
            BENCHMARKS[name](dsn)
        embedded.leave(Path(directory) / "journal")


if __name__ == "__main__":
    main(sys.argv[1:])
