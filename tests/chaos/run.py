"""A run: everything is started, things die and come back as the schedule says, and when all is quiet the journal is asked."""

from __future__ import annotations

import heapq
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from celery_journal.consumers.spool import spools_in
from celery_journal.journal import migrate
from celery_journal.projections import verify
from tests.consumers.scene import url_of
from tests.consumers.servers import Server, make_folder, postgresql

from . import checks, record, truth
from .broker import Broker, rabbitmq
from .fleet import Fleet, Member
from .record import Record
from .schedule import Blow, Plan
from .truth import Diary, Truth

#: Seconds between two looks whether all is quiet, how many of them in a row have to find it so, and how long to look at most.
LOOK, LOOKS, PATIENCE = 2.0, 3, 300.0

#: Messages that a capture may have in its hands, because workers broadcast heartbeats for as long as they live.
FLOW = 20

#: The last words of a worker of which a child was killed while its pool started: Celery ends it then, with our code or without.
CELERYS_OWN = "Could not start worker processes"

#: What a database needs here that a test's own does not.
SETTINGS = {"fsync": "on", "shared_buffers": "64MB", "max_connections": "200"}

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    violations: list[str] = field(default_factory=list)
    truth: Truth = field(default_factory=Truth)
    record: Record = field(default_factory=Record)
    lost: dict[str, str] = field(default_factory=dict)
    #: What died on purpose, and how often.
    blows: Counter[str] = field(default_factory=Counter)
    #: Seconds: sending, until all was quiet, and looking.
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Stage:
    """The servers and the fleet of a run, while it goes on."""

    plan: Plan
    say: Say
    broker: Broker
    server: Server
    fleet: Fleet
    outcome: Outcome = field(default_factory=Outcome)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _began: float = 0.0

    def act(self) -> None:
        """Send everything, and let die what the schedule says."""
        self._began = self.fleet.produce()
        for blow in self.plan.blows():
            self._at(blow.at, lambda blow=blow: self._strike(blow))  # type: ignore[misc]
        while self._due or any(producer.runs for producer in self.fleet.producers):
            while self._due and self._due[0][0] <= time.time() - self._began:
                heapq.heappop(self._due)[2]()
            self._notice()
            time.sleep(0.05)

    def quiet(self) -> None:
        """Wait until nothing moves any more."""
        deadline, still, before = time.monotonic() + PATIENCE, 0, -1
        while still < LOOKS:
            time.sleep(LOOK)
            self._notice()
            written, queues = truth.size(self.fleet.truth), self.broker.queues()
            waiting = sum(spool.status().waiting for spool in spools_in(self.fleet.spool))
            left = {
                name: counts for name, counts in queues.items() if sum(counts) > (FLOW if "capture" in name else 0) and "pidbox" not in name
            }
            still = still + 1 if written == before and not left and not waiting else 0
            before = written
            if time.monotonic() > deadline:
                for member in self.fleet.workers:
                    self.fleet.ask_where(member)
                self.outcome.violations.append(
                    f"not quiet after {PATIENCE:g} s: messages ready and unacknowledged {left}, {waiting} facts in the spool"
                )
                return

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (seconds, next(self._numbers), action))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._at(time.time() - self._began + seconds, action)

    def _strike(self, blow: Blow) -> None:
        match blow.target:
            case "broker":
                self._restart_broker(blow.pause)
            case "database":
                self._restart_database(blow.pause)
            case _:
                members = self.fleet.captures if blow.target == "capture" else self.fleet.workers
                member = members[blow.victim]
                if not member.runs:
                    self.outcome.blows[f"{blow.target}, dead already"] += 1
                    return
                self.outcome.blows[blow.target] += 1
                self._note(f"kill {blow.target} of {member.name}")
                if blow.target == "child":
                    self.fleet.kill_child(member, blow.child)
                    return
                self.fleet.kill_main(member) if blow.target == "main" else self.fleet.kill_whole(member)
                self._later(blow.pause, member.start)

    def _restart_broker(self, pause: float) -> None:
        self.outcome.blows["broker"] += 1
        self._note(f"stop the broker for {pause:.1f} s")
        down = time.time()
        self.broker.stop()

        def start() -> None:
            self.broker.start()
            self.broker.wait()
            self.fleet.diary.write("broker", down=down, up=time.time())
            self._note("the broker is back")

        self._later(pause, start)

    def _restart_database(self, pause: float) -> None:
        self.outcome.blows["database"] += 1
        self._note(f"{'kill' if self.plan.crash else 'stop'} the database for {pause:.1f} s")
        self.server.kill() if self.plan.crash else self.server.stop()

        def start() -> None:
            self.server.start()
            self._note("the database is back")

        self._later(pause, start)

    def _notice(self) -> None:
        for member in self.fleet.ended_by_themselves():
            status = member.process.returncode if member.process else None
            what = f"{member.name} ended by itself with status {status}; see {member.log.name}"
            if member.name == "foreign" or CELERYS_OWN in member.said()[-4000:]:  # a casualty as any other
                self._note(what)
            else:
                self.outcome.violations.append(what)
            member.expected_dead = True
            if member.lasting:
                member.start()

    def _note(self, text: str) -> None:
        self.say(f"{time.time() - self._began:6.1f} s  {text}")


@contextmanager
def stage(plan: Plan, folder: Path, say: Say) -> Iterator[Stage]:
    """Servers and a fleet in the folder until the end of the block; then nothing of them runs."""
    for name in ("broker", "truth", "spool"):
        (folder / name).mkdir()
    with rabbitmq(folder / "broker") as broker, postgresql(make_folder(folder / "database"), **SETTINGS) as server:
        server.tell("create database chaos")
        dsn = make_conninfo(server.dsn, dbname="chaos")
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        fleet = Fleet(plan, folder, broker.url, url_of(dsn), dsn, Diary(folder / "truth"))
        try:
            fleet.start()
            yield Stage(plan, say, broker, server, fleet)
        finally:
            fleet.end()


def run(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Make a run in the folder, and return what came of it."""
    with stage(plan, folder, say) as stage_:
        outcome, clock = stage_.outcome, time.monotonic()

        def lap(name: str) -> None:
            nonlocal clock
            outcome.seconds[name] = time.monotonic() - clock
            clock = time.monotonic()

        stage_.act()
        lap("sending")
        say("all is sent; waiting until nothing moves any more")
        stage_.quiet()
        lap("until quiet")
        outcome.lost = find_lost(stage_.fleet, outcome)
        outcome.violations += stage_.fleet.stop([*stage_.fleet.workers, *stage_.fleet.captures])
        outcome.truth, outcome.record = truth.read(folder / "truth", folder.glob("*.log")), record.read(stage_.fleet.dsn)
        outcome.violations += checks.check(outcome.truth, outcome.record, outcome.lost)
        outcome.violations += unspooled(stage_.fleet)
        with psycopg.connect(stage_.fleet.dsn, autocommit=True) as connection:
            outcome.violations += [f"a view is not what the log says: {difference}" for difference in verify(connection).differences]
        lap("looking")
    return outcome


def find_lost(fleet: Fleet, outcome: Outcome) -> dict[str, str]:
    """Return what `celery-journal lost` says: tasks and chords, and why they are lost."""
    done = journal_command(fleet, "lost", "--json", "--grace", "5")
    (fleet.folder / "lost.json").write_text(done.stdout)
    try:
        said: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        outcome.violations.append(f"celery-journal lost ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return {}
    return {str(each.get("task_id") or each.get("group_id")): str(each["reason"]) for each in said}


def unspooled(fleet: Fleet) -> list[str]:
    """Return in one line each which spools hold anything."""
    return [
        f"{status.waiting} facts wait in the spool, {status.refused} were refused"
        for status in _statuses(fleet)
        if status.waiting or status.refused
    ]


def journal_command(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `celery-journal` on the run's journal."""
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", fleet.dsn, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _statuses(fleet: Fleet) -> list[Any]:
    return [spool.status() for spool in spools_in(fleet.spool)]


__all__ = ["Member", "Outcome", "Stage", "run", "stage"]
