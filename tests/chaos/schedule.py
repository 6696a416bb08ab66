"""Everything that chance decides in a run, drawn from its seed before anything begins: what is sent when, and what is killed when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Target = Literal["worker", "main", "child", "capture", "broker", "database"]

#: What is ordered, how often among a hundred or so orders, and how many tasks an order is.
KINDS: dict[str, tuple[float, int, int]] = {
    "quick": (30, 1, 1),
    "quiet": (8, 1, 1),
    "fail": (7, 1, 1),
    "persist": (7, 1, 1),
    "exhaust": (2, 1, 1),
    "later": (5, 1, 1),
    "late": (8, 1, 1),
    "sleep": (9, 1, 1),
    "progress": (4, 1, 1),
    "ignore": (2, 1, 1),
    "reject": (1, 1, 1),
    "revoke": (2, 1, 1),
    "expire": (2, 1, 1),
    "limit": (0.5, 1, 1),
    "soft": (0.5, 1, 1),
    "group": (3, 3, 6),
    "chord": (3, 3, 5),
    "chain": (4, 2, 4),
    "foreign": (4, 1, 1),
}

#: The worker that does not load our code, and its queue.
FOREIGN = "foreign"

#: What a blow hits, and how often: a whole worker as when a machine dies, only its main process, or only a child.
HITS: dict[Target, float] = {"worker": 5, "main": 2, "child": 3}


@dataclass(frozen=True, slots=True)
class Order:
    """A task or a canvas that a producer sends."""

    number: int
    #: Seconds after the beginning.
    at: float
    kind: str
    #: The ids of its tasks; the last is the body of a chord.
    ids: tuple[str, ...]
    #: A number from 0 to 1 for whatever else is to be chosen, such as how long it sleeps.
    dice: float


@dataclass(frozen=True, slots=True)
class Blow:
    """Something dies, and comes back after a pause."""

    #: Seconds after the beginning.
    at: float
    target: Target
    #: Which of them, and which child.
    victim: int
    child: int
    #: Seconds until it is started again.
    pause: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is; with the seed, all that a schedule depends on."""

    seed: int
    #: Tasks to send at least.
    tasks: int = 10_000
    #: Seconds over which they are sent.
    seconds: float = 200.0
    workers: int = 3
    captures: int = 2
    #: Seconds between two blows at workers, on average; and at captures. 0 is never.
    worker_interval: float = 7.0
    capture_interval: float = 30.0
    #: Whether broker and database are restarted, once each.
    restarts: bool = True
    #: Whether the database does not get to say goodbye.
    crash: bool = False
    #: Whether there is a worker that knows nothing of the journal.
    foreign: bool = True
    producers: int = 2

    def orders(self) -> list[Order]:
        """Return what is sent, in order."""
        chance = random.Random(f"orders {self.seed}")
        kinds = {kind: odds for kind, (odds, _, _) in KINDS.items() if kind != "foreign" or self.foreign}
        drawn: list[tuple[str, tuple[str, ...], float]] = []
        tasks = 0
        while tasks < self.tasks:
            kind = chance.choices(list(kinds), list(kinds.values()))[0]
            size = chance.randint(*KINDS[kind][1:])
            ids = tuple(str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(size))
            drawn.append((kind, ids, chance.random()))
            tasks += size
        return [Order(number, self.seconds * number / len(drawn), *order) for number, order in enumerate(drawn)]

    def blows(self) -> list[Blow]:
        """Return what is killed, in order."""
        chance = random.Random(f"blows {self.seed}")
        first = list(HITS)  # so that none is left out
        chance.shuffle(first)
        blows = [
            self._blow(chance, at, first.pop() if first else chance.choices(list(HITS), list(HITS.values()))[0])
            for at in self._moments(chance, self.worker_interval)
        ]
        if self.captures:
            blows += [self._blow(chance, at, "capture") for at in self._moments(chance, self.capture_interval)]
        if self.restarts:
            servers: list[Target] = ["broker", "database"]
            chance.shuffle(servers)
            for part, server in enumerate(servers):
                at = self.seconds * (0.3 + 0.35 * part + chance.uniform(0, 0.15))
                blows.append(Blow(at, server, 0, 0, chance.uniform(2, 10)))
        return sorted(blows, key=lambda blow: blow.at)

    def _moments(self, chance: random.Random, interval: float) -> Iterator[float]:
        at = chance.uniform(0.3, 1) * interval
        while interval and at < self.seconds:
            yield at
            at += chance.uniform(0.3, 1.7) * interval

    def _blow(self, chance: random.Random, at: float, target: Target) -> Blow:
        victims = self.captures if target == "capture" else self.workers + self.foreign
        return Blow(at, target, chance.randrange(victims), chance.randrange(100), chance.uniform(0.5, 6))
