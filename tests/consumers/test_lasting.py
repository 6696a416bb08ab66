"""What goes on by itself, `tail --follow` and `top`: it outlasts an outage of the database, and ends when it is told to."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
from psycopg.conninfo import conninfo_to_dict

from celery_journal.journal.events import TaskSent

from .commanding import STYLES
from .lostscene import Log
from .proxy import Proxy
from .test_cli import as_url

MAIN = [sys.executable, "-m", "celery_journal.consumers.cli"]


@contextmanager
def running(*arguments: str, dsn: str) -> Iterator[subprocess.Popen[str]]:
    """The command, with pipes."""
    environment = {**os.environ, "CELERY_JOURNAL_DSN": dsn, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*MAIN, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(stream: IO[str] | None) -> str:
    """Return the next line, which must come soon."""
    assert stream is not None
    assert select.select([stream], [], [], 30)[0], "nothing came"
    return stream.readline()


def test_a_follower_outlasts_an_outage_and_skips_nothing(log: Log, embedded_database: str) -> None:
    """It says once that the database went away, and goes on from its place when it is back: nothing is skipped, nothing told twice."""
    proxy = Proxy(embedded_database)
    port = int(conninfo_to_dict(proxy.dsn)["port"] or 0)
    with running("tail", "--follow", "--jsonl", dsn=proxy.dsn) as process:
        log.sent("before")
        told = [json.loads(line_of(process.stdout))["stream"]]

        proxy.close()
        away = line_of(process.stderr)
        log.sent("meanwhile")
        time.sleep(2.5)  # in which it tries again, and does not say so
        proxy = Proxy(embedded_database, port)
        told.append(json.loads(line_of(process.stdout))["stream"])
        log.sent("after")
        told.append(json.loads(line_of(process.stdout))["stream"])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    proxy.close()

    assert told == ["before", "meanwhile", "after"]
    assert away.startswith("the database went away: ")
    assert (process.returncode, out, err) == (0, "", "the database is back\n")


def test_a_follower_whose_session_is_ended_opens_another(log: Log, embedded_database: str) -> None:
    """As by pg_terminate_backend, or a restart."""
    with running("tail", "--follow", "--jsonl", dsn=as_url(embedded_database)) as process:
        log.sent("before")
        line_of(process.stdout)

        log.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'celery-journal' and datname = current_database()"
        )
        log.sent("after")

        assert json.loads(line_of(process.stdout))["stream"] == "after"
        assert "went away" in line_of(process.stderr)


def test_a_follower_that_never_found_its_database_ends(log: Log) -> None:
    """Whoever mistypes an address hears of it at once."""
    with running("tail", "--follow", dsn="postgresql://me@127.0.0.1:1/app") as process:
        _, err = process.communicate(timeout=30)

    assert process.returncode == 3
    assert "no PostgreSQL answers" in err


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=lambda ending: ending.name)
def test_what_a_follower_has_told_is_whole_json(ending: signal.Signals, log: Log, embedded_database: str) -> None:
    """However it is ended, and however much is just being printed."""
    log.journal.append(log.connection, *(log.emitter.emit(TaskSent, f"t{number}") for number in range(3000)))
    with running("tail", "--follow", "-n", "3000", "--json", dsn=as_url(embedded_database)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = line_of(process.stdout)
        process.send_signal(ending)
        out, err = first + process.stdout.read(), process.stderr.read()

    assert (process.wait(), err) == (0, "")
    told = json.loads(out)
    assert told[0]["stream"] == "t0"
    assert len(told) < 3000  # and not first all that was read


def test_a_follower_in_an_outage_ends_when_it_is_told_to(log: Log, embedded_database: str) -> None:
    """While it waits for the database."""
    proxy = Proxy(embedded_database)
    with running("tail", "--follow", "--json", dsn=proxy.dsn) as process:
        log.sent("before")
        line_of(process.stdout)
        proxy.close()
        line_of(process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        out = process.stdout.read()

    assert process.returncode == 0
    assert out.endswith("]\n")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=lambda ending: ending.name)
def test_top_shows_an_outage_and_goes_on(ending: signal.Signals, log: Log, embedded_database: str) -> None:
    """What was seen last stays, with a line above that it is old; at the end the terminal is as it was."""
    proxy = Proxy(embedded_database)
    port = int(conninfo_to_dict(proxy.dsn)["port"] or 0)
    log.sent("t")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"CELERY_JOURNAL_DSN": proxy.dsn, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        os.execv(MAIN[0], [*MAIN, "top", "--interval", "0.2"])

    def read_until(pattern: str) -> None:
        read, deadline = "", time.monotonic() + 30
        while not re.search(pattern, STYLES.sub("", read), re.DOTALL):
            assert time.monotonic() < deadline, read
            if select.select([terminal], [], [], 1)[0]:
                read += os.read(terminal, 65536).decode(errors="replace")

    read_until("1 waiting")
    proxy.close()
    read_until("the database went away.*1 waiting.*app.send")
    proxy = Proxy(embedded_database, port)
    log.sent("u")
    read_until("2 waiting")
    os.kill(pid, ending)
    read_until(r"\x1b\[\?1049l")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    proxy.close()
