"""Tells others what goes wrong: each failure and loss that the log has, and what goes on, when it begins and when it is over.

What is to be told is known before it is told, under an id that stays, and forgotten when it has arrived: the place in the log and the
open episodes are in the checkpoint of a subscription, those of this machine in a file beside its spool. So a process that is killed
tells at most the one alert again that was under way.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeVar

import psycopg
from psycopg import errors

from celery_journal.consumers.clock import now_of
from celery_journal.consumers.tail import Tail
from celery_journal.consumers.words import duration, first_line, shown
from celery_journal.journal import Connection, LocksHeld, RightsMissing, Subscription, role_name
from celery_journal.journal.subscription import Checkpoint

from .alert import Alert
from .deliveries import Delivery, Undelivered
from .episodes import Episodes
from .facts import Facts, Place
from .looks import Queues, Spooled, Workers
from .machine import Note

T = TypeVar("T")

#: Seconds between two looks at the log, and two attempts to take a subscription that another process has.
PAUSE = 1.0

#: Seconds between two attempts to deliver an alert: at first, and at most.
SHORTEST, LONGEST = 1.0, 60.0

#: Seconds after an outage, in which queues and workers are not judged: what there is to say of them is on its way.
SETTLING = 30.0


class Asking(Protocol):
    """Answers a question by a connection, whatever becomes of that meanwhile."""

    def __call__(self, question: Callable[[Connection], T]) -> T:
        """Return the answer."""


class _Overtaken(Exception):
    """Another process has moved the subscription."""


@dataclass(slots=True)
class Watcher:
    """One subscription, and those whom it tells. `pause` waits, and raises KeyboardInterrupt when the end is asked for."""

    subscription: Subscription
    deliveries: Sequence[Delivery]
    facts: Facts
    queues: Queues | None
    workers: Workers | None
    spooled: Spooled | None
    #: Seconds between two looks at what goes on.
    every: float
    say: Callable[[str], object]
    pause: Callable[[float], object]
    #: Make one pass, and end; what cannot be delivered at once is left to the next.
    once: bool = False
    #: Begin with the oldest fact of the log, and not with what comes now, at the first time.
    from_start: bool = False
    #: Is said as soon as nothing that happens from then on is missed.
    greeting: str = ""
    #: How many alerts were delivered.
    delivered: int = 0

    _asking: Asking = field(init=False, repr=False)
    #: The connection by which the subscription is ours.
    _mine: Connection | None = None
    _checkpoint: Checkpoint | None = None
    _next_look: float = 0.0
    _next_look_here: float = 0.0
    _settled_at: float = 0.0
    #: What of this machine could not be written down.
    _unwritten: Episodes | None = None
    _trouble: str | None = None

    def run(self, asking: Asking) -> None:
        """Go on until the end is asked for, or for one pass. Raises Undelivered where that could not deliver something."""
        self._asking = asking
        while True:
            try:
                self.look_here()
                is_all = self._turn()
            except _Overtaken:
                self.say(f"another process has gone on with the subscription {self.subscription.name}")
                self._checkpoint, is_all = None, False
            if self.once and is_all:
                return
            self.pause(PAUSE if is_all else 0)

    def look_here(self) -> None:
        """Look at the spool of this machine, if it is time: also while the database is away, which is when something waits there."""
        if self.spooled is None or time.monotonic() < self._next_look_here:
            return
        self._next_look_here = time.monotonic() + self.every
        note = Note.beside(self.spooled.spool, self.subscription.name)
        try:
            with note.ours() as ours:
                if ours:
                    self._tell_spooled(self.spooled, note)
        except (sqlite3.Error, OSError) as exc:
            self._say_once(f"the spool of this machine cannot be looked at: {shown(first_line(exc))}")

    def _tell_spooled(self, spooled: Spooled, note: Note) -> None:
        before = self._unwritten or note.read()
        episodes = before.seen("spool", spooled.look(), datetime.now(UTC), self.subscription.name)
        if episodes != before:
            self._write(note, episodes)
        for alert in episodes.untold:
            self._deliver(alert)
            episodes = episodes.told(alert)
            self._write(note, episodes)

    def _turn(self) -> bool:
        """Tell what there is to tell; return whether that was all."""
        if self._checkpoint is None:
            self._checkpoint = self._ask(self._begun)
            self._greet()
        self._tell_episodes()
        page = self._ask(partial(self.facts.after, place=self._checkpoint.place))
        for place, alert in page.alerts:
            self._deliver(alert)
            self._move(place)
        self._move(page.place)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.every
            self._move(episodes=self._ask(self._seen))
            self._tell_episodes()
        return page.is_all

    def _greet(self) -> None:
        if self.greeting:
            self.say(self.greeting)
        self.greeting = ""

    def _seen(self, connection: Connection) -> Episodes:
        """Return the episodes after a look at what goes on, as soon as that can be judged."""
        episodes, watch = self._episodes, self.subscription.name
        if time.monotonic() < self._settled_at:
            return episodes
        now = now_of(connection, self.subscription.journal.schema)
        if self.queues is not None:
            episodes = episodes.seen("queue-age", self.queues.look(connection), now, watch)
        if self.workers is not None:
            episodes = episodes.seen("heartbeat", self.workers.look(connection, now), now, watch)
        return episodes

    def _tell_episodes(self) -> None:
        for alert in (episodes := self._episodes).untold:
            self._deliver(alert)
            episodes = episodes.told(alert)
            self._move(episodes=episodes)

    @property
    def _episodes(self) -> Episodes:
        return Episodes.read(self._checkpoint.state if self._checkpoint else None)

    def _deliver(self, alert: Alert) -> None:
        """Return when it has arrived everywhere; with `once`, raise Undelivered if it has not."""
        left, pause = list(self.deliveries), SHORTEST
        while True:
            self.pause(0)
            for delivery in list(left):
                try:
                    delivery.deliver(alert)
                    left.remove(delivery)
                except Undelivered as exc:
                    if self.once:
                        raise
                    self.say(f"{exc}; {alert.kind} {alert.id} is delivered again in {duration(pause)}")
            if not left:
                self.delivered += 1
                return
            self.pause(pause)
            pause = min(2 * pause, LONGEST)

    def _move(self, place: Place | None = None, episodes: Episodes | None = None) -> None:
        """Write down how far it has come, and what is to be remembered; raise _Overtaken if somebody else has done so."""
        before = self._checkpoint
        if before is None:
            raise _Overtaken
        after = Checkpoint(place or before.place, before.state if episodes is None else episodes.written())
        if after != before and not self._ask(partial(self.subscription.move, before=before, after=after)):
            raise _Overtaken
        self._checkpoint = after

    def _ask(self, question: Callable[[Connection], T]) -> T:
        """Return the answer, after it was seen to that the subscription is ours."""

        def asked(connection: Connection) -> T:
            try:
                self._take(connection)
                return question(connection)
            except errors.QueryCanceled:
                raise  # by a time limit that somebody has set, and would be again
            except psycopg.OperationalError:
                connection.close()  # whatever it is, such as a full disk, it is waited for as an outage
                raise

        return self._asking(asked)

    def _take(self, connection: Connection) -> None:
        if connection is self._mine:
            return
        is_said = False
        while not self.subscription.take(connection):
            if self.once:
                raise LocksHeld(f"another process has the subscription {self.subscription.name} at the moment; nothing was told")
            if not is_said:
                self.say(f"another process has the subscription {self.subscription.name}; waiting for its end")
            is_said = True
            self.pause(PAUSE)
        if self._mine is not None:
            self._settled_at = time.monotonic() + SETTLING
        self._mine = connection

    def _begun(self, connection: Connection) -> Checkpoint:
        schema = self.facts.schema
        beginning = (0, 0) if self.from_start else Tail(connection, schema).last(0).place
        try:
            return self.subscription.begin(connection, beginning)
        except errors.InsufficientPrivilege as exc:
            role = role_name(connection, "auditor", schema)
            raise RightsMissing(
                f"{exc.diag.message_primary}, and that is where a watch keeps its place; "
                f"give the login {connection.info.user} the role of an auditor: grant {role} to {connection.info.user}"
            ) from exc

    def _write(self, note: Note, episodes: Episodes) -> None:
        try:
            note.write(episodes)
            self._unwritten = None
        except OSError as exc:
            self._unwritten = episodes
            self._say_once(f"{shown(note.path)} cannot be written ({exc.strerror}); what is told of the spool may be told again")

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self.say(trouble)
        self._trouble = trouble
