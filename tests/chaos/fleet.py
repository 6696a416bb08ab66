"""Workers, captures and producers: real processes that are killed, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.consumers.scene import ROOT

from .children import end_with_us
from .schedule import FOREIGN, Plan
from .truth import Diary

#: What makes the journal notice in seconds what it otherwise notices in minutes.
QUICK = {
    "CELERY_JOURNAL_HEARTBEAT_INTERVAL": "1",
    "CELERY_JOURNAL_SWEEP_INTERVAL": "2",
    "CELERY_JOURNAL_CHORD_LEASE": "5",
    "CELERY_JOURNAL_RETRY_BUDGET": "3",
}

#: Processes that a worker runs tasks in.
CONCURRENCY = 3


@dataclass
class Member:
    """A process that is to run, except while it is dead on purpose."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    #: Whether it has to be there at all times; a producer may end.
    lasting: bool = True
    process: subprocess.Popen[bytes] | None = None
    expected_dead: bool = True

    @property
    def runs(self) -> bool:
        """Whether it does."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, in a session of its own, which can be killed as a whole."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_us(signal.SIGKILL),  # noqa: PLW1509 - nothing else starts here
            )
        self.expected_dead = False

    def family(self) -> list[psutil.Process]:
        """Return the main process and its children."""
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid if self.process else 0)
            return [main, *main.children(recursive=True)]
        return []

    def said(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Fleet:
    """All processes of a run but the servers."""

    plan: Plan
    folder: Path
    broker_url: str
    backend_url: str
    dsn: str
    diary: Diary
    workers: list[Member] = field(default_factory=list)
    captures: list[Member] = field(default_factory=list)
    producers: list[Member] = field(default_factory=list)
    #: Those whose parent was killed.
    orphans: list[psutil.Process] = field(default_factory=list)

    @property
    def truth(self) -> Path:
        """Where the diaries are."""
        return self.folder / "truth"

    @property
    def spool(self) -> Path:
        """Where facts wait for the database."""
        return self.folder / "spool"

    def conf(self, foreign: bool = False) -> dict[str, Any]:
        """Return the settings of the app, or of one without our code."""
        ours = {} if foreign else {"result_backend": self.backend_url, "result_extended": True, "task_track_started": True}
        return {
            "broker_url": self.broker_url,
            "broker_transport_options": {"confirm_publish": True},
            "broker_connection_retry_on_startup": True,
            "broker_connection_max_retries": None,
            "task_default_queue": FOREIGN if foreign else "chaos",
            "task_send_sent_event": True,
            "worker_send_task_events": True,
            **ours,
        }

    def start(self) -> None:
        """Start workers and captures, and wait until all are ready."""
        for number in range(self.plan.workers):
            self.workers.append(self._worker(f"w{number + 1}", foreign=False))
        if self.plan.foreign:
            self.workers.append(self._worker("foreign", foreign=True))
        command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", self.dsn, "capture", "--broker", self.broker_url]
        self.captures = [self._member(f"capture{number + 1}", command, {}) for number in range(self.plan.captures)]
        for member in (*self.captures, *self.workers):
            member.start()
        deadline = time.monotonic() + 60
        while not all(" ready." in worker.said() for worker in self.workers):
            broken = [member for member in (*self.captures, *self.workers) if not member.runs]
            assert not broken, f"{broken[0].name} did not start: {broken[0].said()[-4000:]}"
            assert time.monotonic() < deadline, "the workers did not start"
            time.sleep(0.1)

    def produce(self) -> float:
        """Start the producers, and return when the schedule begins."""
        began = time.time() + 2
        environment = {"CHAOS_CONF": json.dumps(self.conf()), "CHAOS_PLAN": json.dumps(asdict(self.plan))}
        for share in range(self.plan.producers):
            command = [sys.executable, "-m", "tests.chaos.producer", str(share), str(began)]
            producer = self._member(f"producer{share + 1}", command, environment)
            producer.lasting = False
            producer.start()
            self.producers.append(producer)
        return began

    def kill_whole(self, member: Member) -> None:
        """Kill the process and all its children at once, as when the machine dies."""
        family = member.family()
        member.expected_dead = True
        self._write(member, family)
        if member.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(member.process.pid, signal.SIGKILL)
            member.process.wait()
        self._kill(family)

    def kill_main(self, member: Member) -> None:
        """Kill the main process only; on Linux, Celery has the kernel kill its children then."""
        family = member.family()
        member.expected_dead = True
        self._write(member, family)
        self.orphans += family[1:]
        self._kill(family[:1])
        if member.process is not None:
            member.process.wait()

    def kill_child(self, member: Member, number: int) -> bool:
        """Kill one of the children, and return whether there was one."""
        _, *children = member.family() or [None]
        if not children:
            return False
        chosen = children[number % len(children)]
        self._write(member, [chosen])
        self._kill([chosen])
        return True

    def stop(self, members: Sequence[Member], seconds: float = 40) -> list[str]:
        """Stop them as an operator does; return in one line each which of them did not end by themselves."""
        for member in members:
            member.expected_dead = True
            if member.runs and member.process is not None:
                member.process.terminate()
        deadline, stubborn = time.monotonic() + seconds, []
        for member in members:
            if member.process is not None:
                try:
                    member.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    stubborn.append(
                        f"{member.name} did not stop within {seconds:g} s of SIGTERM; {member.log.name} ends with where it stands"
                    )
                    self.ask_where(member)
                    self.kill_whole(member)
        return stubborn

    def ask_where(self, member: Member) -> None:
        """Have the member's processes log where each of their threads stands."""
        for process in member.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGUSR2)
                time.sleep(0.5)  # one after the other, in one file

    def end(self) -> None:
        """Leave nothing running."""
        for member in (*self.producers, *self.workers, *self.captures):
            with suppress(psutil.Error, OSError):
                if member.runs:
                    self.kill_whole(member)
        self._kill(self.orphans)

    def ended_by_themselves(self) -> list[Member]:
        """Return those that are dead though nobody killed them."""
        lasting = (*self.workers, *self.captures)
        failed = [producer for producer in self.producers if producer.process is not None and producer.process.poll()]
        return [member for member in (*lasting, *failed) if not member.runs and not member.expected_dead]

    def _worker(self, name: str, *, foreign: bool) -> Member:
        command = [sys.executable, "-m", "celery", "-A", "tests.chaos.tasks", "worker", "-n", f"{name}@chaos", "-c", str(CONCURRENCY)]
        command += ["-E", "-l", "INFO", "--without-gossip", "--without-mingle"]
        return self._member(name, command, {"CHAOS_CONF": json.dumps(self.conf(foreign))})

    def _member(self, name: str, command: Sequence[str], environment: dict[str, str]) -> Member:
        common = {"CHAOS_TRUTH": str(self.truth), "CELERY_JOURNAL_SPOOL": str(self.spool), "PYTHONUNBUFFERED": "1", **QUICK}
        return Member(name, command, {**common, **environment}, self.folder / f"{name}.log")

    def _write(self, member: Member, killed: Sequence[psutil.Process]) -> None:
        for process in killed:
            self.diary.write("killed", victim=process.pid, member=f"{member.name}@chaos")

    @staticmethod
    def _kill(processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # psutil sees to it that it is still the same process
                process.kill()
