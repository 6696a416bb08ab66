"""The command line, many times and quickly: a process that has imported it forks for each command, with pipes or on a terminal."""

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
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .scene import ROOT

#: Seconds after which a command that does not end is killed.
LONGEST = 120

#: What sets colours and styles, and nothing else.
STYLES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it printed; on a terminal both outputs are one."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything that it printed."""
        return self.out + self.err

    @property
    def text(self) -> str:
        """The same, without colours."""
        return STYLES.sub("", self.said)


@dataclass(frozen=True, slots=True)
class Commands:
    """The process that forks."""

    process: subprocess.Popen[str]

    def run(self, *arguments: str, dsn: str | None = None, terminal: bool = False, interrupt_at: str = "", **environment: str) -> Ended:
        """Run `celery-journal` and return how it ended; on a terminal, Ctrl-C is pressed when it has printed what `interrupt_at` says."""
        if dsn is not None:
            environment["CELERY_JOURNAL_DSN"] = dsn
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([arguments, environment, terminal, interrupt_at]) + "\n")
        self.process.stdin.flush()
        return Ended(*json.loads(self.process.stdout.readline()))


def drawn_by(command: list[str], environment: dict[str, str]) -> bytes:
    """Return what a program that starts anew prints on a terminal; it must end well."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TERM": "xterm", **environment}, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        (printed,) = _read([ours])
    assert process.returncode == 0, printed
    return printed


@contextmanager
def commanding() -> Iterator[Commands]:
    """The process, until the end of the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_JOURNAL_DSN")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.consumers.commanding"],
        cwd=ROOT,
        env={**environment, "TERM": "xterm", "COLUMNS": "160", "LINES": "50", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Commands(process)


def _serve() -> None:
    from celery_journal.consumers.cli import main

    for line in sys.stdin:
        arguments, environment, terminal, interrupt_at = json.loads(line)
        if terminal:
            code, out, err = _on_terminal(main, arguments, environment, interrupt_at.encode())
        else:
            code, out, err = _in_pipes(main, arguments, environment)
        sys.stdout.write(json.dumps([code, out.decode(errors="replace"), err.decode(errors="replace")]) + "\n")
        sys.stdout.flush()


def _on_terminal(main: Any, arguments: list[str], environment: dict[str, str], interrupt_at: bytes) -> tuple[int, bytes, bytes]:
    pid, terminal = pty.fork()
    if pid == 0:
        _be(main, arguments, environment)
    printed = _read([terminal], interrupt_at)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed[0].replace(b"\r\n", b"\n"), b""


def _in_pipes(main: Any, arguments: list[str], environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for end, place in ((nothing, 0), (out_end, 1), (err_end, 2)):
            os.dup2(end, place)
        for end in (nothing, out, out_end, err, err_end):
            os.close(end)
        _be(main, arguments, environment)
    os.close(out_end)
    os.close(err_end)
    printed = _read([out, err])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed[0], printed[1]


def _be(main: Any, arguments: list[str], environment: dict[str, str]) -> None:
    """Be the command, and end as Python would."""
    code: Any = 1
    try:
        signal.alarm(LONGEST)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
        os.environ.update(environment)
        main(args=arguments, prog_name="celery-journal")
        code = 0
    except SystemExit as exc:
        code = exc.code or 0
    except BaseException:  # noqa: BLE001  as Python does with whatever nobody has caught
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _read(ends: list[int], interrupt_at: bytes = b"") -> list[bytes]:
    printed = dict.fromkeys(ends, b"")
    open_ends = set(ends)
    is_interrupted = False
    deadline = time.monotonic() + 2 * LONGEST
    while open_ends and time.monotonic() < deadline:
        ready = select.select(list(open_ends), [], [], 1)[0]
        if is_interrupted and not ready:  # it came just before Python began to wait for input, which then waits on: people press again
            os.write(ends[0], b"\x03")
        for end in ready:
            try:
                chunk = os.read(end, 65536)
            except OSError:  # the other end of the terminal is closed
                chunk = b""
            printed[end] += chunk
            if interrupt_at and interrupt_at in printed[end]:
                os.write(end, b"\x03")
                interrupt_at, is_interrupted = b"", True
            if not chunk:
                open_ends.discard(end)
    for end in ends:
        os.close(end)
    return list(printed.values())


if __name__ == "__main__":
    _serve()
