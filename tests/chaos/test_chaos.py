"""A small chaos run, so that the large one (`make chaos`) is known to work."""

from __future__ import annotations

import psutil
import pytest

from tests.conftest import require
from tests.consumers.servers import folder_of_servers

from .broker import can_run
from .run import run
from .schedule import Plan


@pytest.mark.timeout(120)
def test_nothing_is_untrue_after_a_worker_was_killed() -> None:
    """150 tasks on three workers, of which something is killed every other second; afterwards nothing runs any more."""
    require("RabbitMQ server", can_run())
    plan = Plan(seed=4, tasks=150, seconds=8, captures=0, foreign=False, worker_interval=3, restarts=False)
    said: list[str] = []

    with folder_of_servers() as folder:
        outcome = run(plan, folder, said.append)
        left = [process for process in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(process.info["cmdline"] or [])]

    assert outcome.violations == []
    assert sum(outcome.blows.values()) > 0
    assert len(outcome.truth.executions) > 100
    assert len(outcome.record.rows) >= len(outcome.truth.sendings) > 100
    assert left == []
