"""The demo shows everything it promises, and leaves nothing behind, however it ends."""

from __future__ import annotations

import itertools
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "celery_journal.consumers.cli", "demo"]

DEADLINE = 120.0


def running(directory: Path) -> list[psutil.Process]:
    """The processes that have the directory in their command line or environment, or work in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            facts = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if process.pid != os.getpid() and any(f"{directory}/celery-journal-demo-" in fact for fact in facts):
                found.append(process)
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A temporary directory for the demo to make its own in; short, as a socket has to fit into its path."""
    with tempfile.TemporaryDirectory(prefix="cj-") as directory:
        yield Path(directory)
        for process in running(Path(directory)):
            process.kill()


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """An environment that would lead Celery elsewhere, if the demo let it."""
    return {
        **{name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}},
        "TMPDIR": str(directory),
        "TERM": "xterm",
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "BROKER_URL": "redis://127.0.0.1:1/0",
        "CELERY_RESULT_BACKEND": "cache+memory://",
        "CELERY_JOURNAL_SCHEMA": "elsewhere",
        "PYTHONWARNINGS": "default",
    }


def leftovers(directory: Path) -> list[str]:
    return [*map(str, running(directory)), *map(str, directory.iterdir())]


def test_the_demo_shows_what_it_promises_and_leaves_nothing(directory: Path, environment: dict[str, str]) -> None:
    """Piped, the demo prints plain text with every step in it, ends well, and is gone without a trace."""
    demo = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE)

    assert (demo.returncode, demo.stderr) == (0, "")
    assert "\x1b" not in demo.stdout
    assert max(map(len, demo.stdout.splitlines())) <= 100
    for task in (
        "add(2, 3)",
        "divide(1, 0)",
        "flaky()",
        "crawl(3)",
        "unusual: NUL",
        "chain of 3",
        "group of 10",
        "chord of 10",
        "failing part",
    ):
        assert task in demo.stdout
    for state in ("SUCCESS", "FAILURE", "RETRY", "PROGRESS x 3", "REVOKED", "unlocked", "failed"):
        assert state in demo.stdout
    assert re.findall(r"chord-part-returned +part .* (\d+) *$", demo.stdout, re.MULTILINE) == [str(left) for left in range(9, -1, -1)]
    assert re.findall(r"task-(started|retried|succeeded) +[A-Z]+ +(\d) +demo@", demo.stdout) == [
        *(("started", "0"), ("retried", "0"), ("started", "1"), ("retried", "1")),
        *(("started", "2"), ("succeeded", "2")),
    ]
    assert "update of event is refused" in demo.stdout
    assert "delete of event is refused" in demo.stdout
    assert re.search(r"^task_result +42 +0 +42 +(\w+) +\1 *$", demo.stdout, re.MULTILINE)
    assert re.fullmatch(r"\d+ rows .* identical\.", demo.stdout.splitlines()[-1])
    assert leftovers(directory) == []


def test_a_terminal_shows_the_progress(directory: Path, environment: dict[str, str]) -> None:
    """On a terminal the demo says what it is waiting for while it waits, and removes that again."""
    terminal, theirs = pty.openpty()
    demo = subprocess.Popen(COMMAND, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)

    shown = everything_on(terminal)

    assert demo.wait(DEADLINE) == 0
    for progress in ("starting PostgreSQL", "starting the worker", "tasks ended", "\x1b["):
        assert progress in shown
    assert "identical" in shown.splitlines()[-1]
    assert leftovers(directory) == []


def everything_on(terminal: int) -> str:
    shown, deadline = b"", time.monotonic() + DEADLINE
    with suppress(OSError):  # the end of a terminal, on Linux
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0] and (piece := os.read(terminal, 4096)):
            shown += piece
    os.close(terminal)
    return shown.decode()


@pytest.mark.parametrize(
    ("signum", "moment"),
    [
        pytest.param(signal.SIGINT, "A PostgreSQL and a Celery worker", id="while-the-server-starts"),
        pytest.param(signal.SIGINT, "runs, with an empty journal", id="while-the-worker-starts"),
        pytest.param(signal.SIGTERM, "celery worker runs", id="while-tasks-run"),
    ],
)
def test_an_interrupted_demo_leaves_nothing(directory: Path, environment: dict[str, str], signum: signal.Signals, moment: str) -> None:
    """A demo that is told to end while it works stops the worker and the server, and removes its directory."""
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        assert any(moment in line for line in demo.stdout)

        demo.send_signal(signum)
        demo.stdout.read()

        assert demo.wait(DEADLINE) != 0
    assert leftovers(directory) == []


def test_nothing_keeps_running_after_a_demo_that_was_killed(directory: Path, environment: dict[str, str]) -> None:
    """The worker and the server of a demo that had no time to stop them end by themselves."""
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("celery worker runs" in line for line in demo.stdout)
        assert running(directory)

        demo.kill()

    until(lambda: not running(directory))


def test_a_demo_that_is_kept_names_commands_that_work(directory: Path, environment: dict[str, str]) -> None:
    """Each as it is printed, while the demo waits; Ctrl-C then ends it well, and removes everything."""
    with subprocess.Popen([*COMMAND, "--keep"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        assert any("Try it" in line for line in demo.stdout)
        lines = (line.strip() for line in demo.stdout)
        commands = list(itertools.islice((line for line in lines if " list" in line or " journal " in line or "--dsn" in line), 5))

        programs = Path(sys.executable).parent
        ended = [
            subprocess.run(
                command,
                shell=True,  # as a user types it
                env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
            )
            for command in commands
        ]
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()

    assert len(commands) == 5
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * 5
    assert "square" in ended[0].stdout
    assert "ZeroDivisionError" in ended[3].stdout
    assert "would send" in ended[4].stdout
    assert (demo.returncode, "nothing is left running" in rest) == (0, True)
    assert leftovers(directory) == []


def worker_of(demo: subprocess.Popen[str]) -> list[int]:
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(demo.pid).children() if "worker" in child.cmdline()]
    return []


def test_a_worker_that_ends_is_one_clear_sentence(directory: Path, environment: dict[str, str]) -> None:
    """When the worker dies the demo says so, with the end of the worker's log, and leaves nothing."""
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        until(lambda: worker_of(demo))
        os.kill(worker_of(demo)[0], signal.SIGKILL)

        _, said = demo.communicate(timeout=DEADLINE)

        assert demo.returncode == 1
    assert re.fullmatch(r"Error: the worker ended by itself, with status -9; its log ends with: .*\n", said)
    assert leftovers(directory) == []
