"""A module of the suite runs in a process of its own, which may do what it likes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.consumers.scene import until

from .run import WHOLE, Run, run
from .suite import PYTEST_INI, Suite

JOURNAL = "journal+postgresql://postgres@/results"


def run_source(folder: Path, source: str, left_out: tuple[str, ...] = (), broker: str = "redis://127.0.0.1:6379/1") -> Run:
    """Run a module with this source."""
    (folder / "t" / "integration").mkdir(parents=True)
    (folder / "pytest.ini").write_text(PYTEST_INI)
    (folder / "t" / "integration" / "test_it.py").write_text(source)
    return run(Suite("5.6.3", folder), "test_it", left_out, broker, JOURNAL, folder / "test_it.log")


def test_a_module_is_told_what_to_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite meets our backend and the chosen broker, whatever the user has set for apps of theirs."""
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://")
    source = f"""
import os, shutil, sys

def test_settings():
    assert os.environ["TEST_BROKER"] == "redis://127.0.0.1:6379/1"
    assert os.environ["TEST_BACKEND"] == "{JOURNAL}"
    assert "CELERY_RESULT_BACKEND" not in os.environ
    assert os.path.dirname(shutil.which("celery")) == os.path.dirname(sys.executable)
"""

    assert run_source(tmp_path, source).outcomes == {"test_it.py::test_settings": "passed"}


@pytest.mark.parametrize(
    ("broker", "left"), [pytest.param("redis://", {"c"}, id="redis"), pytest.param("pyamqp://", {"b", "c"}, id="rabbitmq")]
)
def test_what_is_left_out_is_not_run(tmp_path: Path, broker: str, left: set[str]) -> None:
    """Neither what the list names, nor what Celery marks as needing RabbitMQ where there is Redis."""
    source = "import pytest\n\ndef test_a(): pass\n\n@pytest.mark.amqp\ndef test_b(): pass\n\ndef test_c(): pass\n"

    done = run_source(tmp_path, source, ("test_it.py::test_a",), broker)

    assert done.outcomes == {f"test_it.py::test_{name}": "passed" for name in left}


def test_a_process_that_dies_is_a_failure(tmp_path: Path) -> None:
    """What it found out before counts, and that it did not end is told."""
    done = run_source(tmp_path, "import os\n\ndef test_a(): pass\n\ndef test_b(): os._exit(0)\n")

    assert done.outcomes == {"test_it.py::test_a": "passed", f"test_it.py::{WHOLE}": "failed"}


def test_nothing_of_a_module_runs_on(tmp_path: Path) -> None:
    """A worker that a test started and forgot does not take the messages of the next module."""
    pid = tmp_path / "pid"
    source = f"""
import subprocess, sys

def test_leaves_a_child():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({str(pid)!r}, "w").write(str(child.pid))
"""

    assert run_source(tmp_path, source).count("passed") == 1

    until(lambda: is_over(int(pid.read_text())))


def is_over(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_module_without_tests_has_no_outcomes(tmp_path: Path) -> None:
    """Some helpers of the suite are called test_*.py, and are no line of the table."""
    assert run_source(tmp_path, "DEBUG = True\n").outcomes == {}
