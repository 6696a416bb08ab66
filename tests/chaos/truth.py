"""What really happened, told by the processes themselves into files of their own, past the journal.

A line is one write to a file opened for appending: what a process had written before it was killed is there.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What a worker logs of a message that it takes.
RECEIVED = re.compile(r"Task \S+\[(\S+)\] received$", re.MULTILINE)


class Diary:
    """Writes what a process does into a file of its own; a forked child gets another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, int] = {}

    def write(self, what: str, **facts: Any) -> None:
        """Write a line."""
        pid = os.getpid()
        if pid not in self._files:
            path = self._folder / f"{pid}-{time.time_ns()}.jsonl"
            self._files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(self._files[pid], json.dumps({"what": what, "at": time.time(), "pid": pid, **facts}).encode() + b"\n")


@dataclass(slots=True)
class Execution:
    """A time that the code of a task really ran."""

    task_id: str
    name: str
    attempt: int
    pid: int
    worker: str
    began: float
    #: How the code ended: `returned`, or the name of what it raised; None if it never did.
    outcome: str | None = None
    ended: float | None = None
    #: The state that Celery gave it, once it had stored that; None if it did not come so far.
    state: str | None = None
    told: float | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that the broker has confirmed."""

    task_id: str
    name: str
    attempt: int
    at: float
    pid: int


@dataclass(slots=True)
class Truth:
    """All that the diaries say."""

    executions: dict[str, list[Execution]] = field(default_factory=lambda: defaultdict(list))
    sendings: dict[str, list[Sending]] = field(default_factory=lambda: defaultdict(list))
    #: Of each id that a producer was to send, the kind of its order.
    orders: dict[str, str] = field(default_factory=dict)
    #: Numbers of the orders that a producer could not send, or not whole, and why.
    refused: dict[int, str] = field(default_factory=dict)
    #: When each process was killed.
    killed: dict[int, float] = field(default_factory=dict)
    #: When something of each worker was killed.
    deaths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: How often a worker has said that it received the task.
    deliveries: Counter[str] = field(default_factory=Counter)
    #: From when until when the broker was down.
    broker_down: list[tuple[float, float]] = field(default_factory=list)
    #: Ids that somebody asked to revoke.
    revoked: set[str] = field(default_factory=set)

    def died(self, pid: int | None, after: float, seconds: float) -> bool:
        """Return whether the process was killed within so many seconds after that moment."""
        return pid in self.killed and after - 0.1 <= self.killed[pid] <= after + seconds


def read(folder: Path, logs: Iterable[Path] = ()) -> Truth:
    """Return what the diaries in the folder say, and of deliveries the logs of the workers."""
    truth = Truth()
    for log in logs:
        truth.deliveries.update(RECEIVED.findall(log.read_text(errors="replace")))
    for path in sorted(folder.glob("*.jsonl")):
        running: Execution | None = None
        for line in _lines(path):
            running = _take(truth, line, running)
    for executions in truth.executions.values():
        executions.sort(key=lambda execution: execution.began)
    return truth


def size(folder: Path) -> int:
    """Return how much has been written; as long as that grows, something happens."""
    return sum(path.stat().st_size for path in folder.glob("*.jsonl"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)


def _take(truth: Truth, line: dict[str, Any], running: Execution | None) -> Execution | None:
    """Take in a line of a process that runs this execution, and return which it runs then."""
    match line["what"]:
        case "begin":
            running = Execution(line["id"], line["name"], line["attempt"], line["pid"], line["worker"], line["at"])
            truth.executions[running.task_id].append(running)
        case "end" if running is not None:
            running.outcome, running.ended = line["outcome"], line["at"]
        case "told" if running is not None and running.task_id == line["id"] and line["state"]:
            running.state, running.told = line["state"], line["at"]
            return None
        case "sent":
            truth.sendings[line["id"]].append(Sending(line["id"], line["name"], line["attempt"], line["at"], line["pid"]))
        case "ordered":
            truth.orders.update(dict.fromkeys(line["ids"], line["kind"]))
        case "refused":
            truth.refused[line["number"]] = line["why"]
        case "revoked":
            truth.revoked.add(line["id"])
        case "broker":
            truth.broker_down.append((line["down"], line["up"]))
        case "killed":
            truth.killed[line["victim"]] = line["at"]
            truth.deaths[line["member"]].append(line["at"])
    return running
