"""One module of the suite in a process of its own, and what became of its tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .expected import Outcome
from .suite import Suite

#: Seconds until a module is given up; pytest-timeout sees to each test, but not to a process that does not end.
PATIENCE = 3600.0

#: Where the suite's own tasks talk to its tests, whatever broker and backend there are; these are the names that it has for it.
REDIS_HOST, REDIS_PORT = os.environ.get("REDIS_HOST", "127.0.0.1"), os.environ.get("REDIS_PORT", "6379")

#: The test that stands for the module itself: it fails where the process ended before its tests did.
WHOLE = "the module"


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the tests of a module."""

    module: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    #: Of those that failed or were skipped, the line that says why.
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """Return how many tests ended so."""
        return list(self.outcomes.values()).count(outcome)


def run(suite: Suite, module: str, left_out: Iterable[str], broker: str, backend: str, log: Path) -> Run:
    """Run a module in a process of its own: state that one leaves behind makes tests of another fail.

    `log` takes what pytest prints; pytest's report, one line of JSON a test, goes beside it.
    """
    report = log.with_suffix(".jsonl")
    report.unlink(missing_ok=True)
    # pytest-celery's plugin, where it is installed, wants Docker; the one that these tests use is Celery's.
    plugins = ["-p", "no:celery", "-p", "celery.contrib.pytest"]
    deselected = [f"--deselect=t/integration/{test}" for test in left_out]
    if not broker.startswith("pyamqp"):
        deselected += ["-m", "not amqp"]  # Celery's own mark of what needs RabbitMQ
    command = [sys.executable, "-m", "pytest", *plugins, *deselected, f"--report-log={report}", "-ra", f"t/integration/{module}.py"]
    # A test may start `celery`, which is then the one under test; what the user has set for other apps is not for these.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "PYTEST_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"TEST_BROKER": broker, "TEST_BACKEND": backend, "REDIS_HOST": REDIS_HOST, "REDIS_PORT": REDIS_PORT}
    environment["CELERY_JOURNAL_SPOOL"] = str(suite.folder / "spool")  # never in somebody's home
    environment["WORKER_LOGLEVEL"] = "INFO"  # two tests look for what the worker says when it receives a task
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=suite.folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the children of a worker that was not stopped, too
            process.wait()
    text = report.read_text("utf-8") if report.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may have been cut short
    return read_report(module, map(json.loads, lines), time.monotonic() - began)


def read_report(module: str, reports: Iterable[dict[str, Any]], seconds: float = 0.0) -> Run:
    """Return what pytest's report log says of a module's tests; what has failed once has failed."""
    run, ended = Run(module, seconds=seconds), False
    for report in reports:
        ended = ended or report["$report_type"] == "SessionFinish"
        test = report.get("nodeid", "").removeprefix("t/integration/")
        for outcome in _outcome(report):
            if run.outcomes.get(test) != "failed":
                run.outcomes[test] = outcome
                run.reasons[test] = _reason(report)
    if not ended:
        test = f"{module}.py::{WHOLE}"
        run.outcomes[test], run.reasons[test] = "failed", "the process ended, or had to be ended, before its tests did"
    return run


def _outcome(report: dict[str, Any]) -> Iterator[Outcome]:
    """Yield what a line of the report says of its test: nothing, if it is one of setting up, and that went well."""
    expected_to_fail = "wasxfail" in report
    match report["$report_type"], report.get("outcome"):
        case "CollectReport" | "TestReport" | "SubTestReport", "failed":
            yield "failed"
        case "CollectReport" | "TestReport", "skipped":
            yield "xfailed" if expected_to_fail else "skipped"
        case "TestReport", "passed" if report["when"] == "call":
            yield "xpassed" if expected_to_fail else "passed"


def _reason(report: dict[str, Any]) -> str:
    match report.get("longrepr"):
        case {"reprcrash": {"message": str(message)}}:
            return message.partition("\n")[0]
        case [_, _, str(message)]:
            return message.removeprefix("Skipped: ")
        case str(message):
            return message.strip().rpartition("\n")[2]
    return ""
