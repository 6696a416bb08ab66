"""Replays: recorded tasks are sent again, each at most once in one replay, however often that is interrupted and resumed.

What is planned, and each batch before it leaves, are facts in the log, as is that it has left. Of a batch in between the broker is asked
when the replay is resumed; rabbitmq.py and onebyone.py say what it can know. What nobody can know is in doubt: it is listed, and not
sent again, neither by this replay nor by another.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from celery.utils.time import rate as per_second
from kombu.utils.limits import TokenBucket

from celery_journal import sql
from celery_journal.consumers.words import first_line, shown
from celery_journal.journal import Connection, Emitter, Journal, is_pooled
from celery_journal.journal.codec import escape
from celery_journal.journal.events import ChordStarted, OperatorActed
from celery_journal.journal.replays import ReplayDoubted, ReplayFinished, ReplaySending

from .broker import sender_for
from .errors import BrokerAway, CannotReplay, NothingToReplay, NotRecorded, NotSent, ReplayError, ReplayRefused, Uncertain
from .past import DOUBTED
from .record import Record
from .sender import Sender
from .steps import Step, Steps

#: Tasks that are looked at at a time.
LOOK = 200

#: Seconds between two looks whether to stop.
BLINK = 0.2

#: Why it stopped, where somebody asked for that.
INTERRUPTED = "it was interrupted"


@dataclass(slots=True)
class Summary:
    """What has become of the tasks of a replay."""

    replay_id: str
    planned: int
    #: The new ids of what was sent, by the old ones; what was sent before it was interrupted included.
    sent: dict[str, str] = field(default_factory=dict)
    #: The same of what comes after it: the later steps of its chain, the body of its chord.
    later: dict[str, str] = field(default_factory=dict)
    #: Of the tasks of which nobody has recorded how they were sent, where this app sends them today: a queue, or an exchange and its key.
    guessed: dict[str, str] = field(default_factory=dict)
    #: Of a preview, how many messages there would be of each task's name, and where they would go.
    going: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    #: Tasks that another one stands for: a failed step stands for the rest of its chain.
    along: int = 0
    #: Tasks that need not be sent, and those that cannot be, each with the reason.
    skipped: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    #: Tasks of which nobody can know whether they were sent.
    doubtful: list[str] = field(default_factory=list)
    #: Why it stopped before its end, and how many tasks were not looked at.
    stopped: str | None = None
    left: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        listed = ("sent", "skipped", "refused", "doubtful")
        return {**{name: len(getattr(self, name)) for name in listed}, "along": self.along}


@dataclass(slots=True)
class Replay:
    """One replay, in this process."""

    connection: Connection
    journal: Journal
    app: Any
    record: Record
    emitter: Emitter = field(default_factory=Emitter)
    #: Whether another process may know it, and resume it.
    is_shared: bool = True
    #: Told how many of the planned tasks are dealt with.
    on_progress: Callable[[int], None] = lambda _done: None
    #: Asked whether to stop.
    is_stopped: Callable[[], bool] = lambda: False
    #: What went on, or was taken by another replay, just before it was sent: tasks, and chords, with what was wrong.
    gone: dict[str, ReplayError] = field(default_factory=dict)

    def run(self, *, resend_doubtful: bool = False) -> Summary:
        """Send what is left to send, and return what has become of all."""
        sender = sender_for(self.app, self.record.order.replay_id)
        with self._alone():
            self._read_again()
            summary, steps = self._summary(), self._steps()
            try:
                sender.open()
                self._settle(steps, sender)
                if resend_doubtful:
                    self.record.doubted.clear()
                self._send_all(steps, sender, summary)
                if summary.stopped is None:
                    self._tell_end(summary)
                    with suppress(BrokerAway):  # all is sent, and what is left behind goes when it is resumed
                        sender.finish()
            finally:
                sender.close()
        return summary

    def preview(self) -> Summary:
        """Return what would become of all, without sending anything; queues are not looked at."""
        summary, steps = self._summary(), self._steps()
        for found in self._found(steps, summary, lambda _step: None):
            summary.sent |= {step.old_id: step.outgoing.new_id for step in found if step.outgoing}
            summary.going.update((step.outgoing.name, step.outgoing.way) for step in found if step.outgoing)
        return summary

    def _read_again(self) -> None:
        """Read how far it got once nobody else can send: another process may have, since it was read."""
        order = self.record.order  # perhaps with another rate than the log has
        self.record = Record.of(self.connection, self.journal, order.replay_id)
        self.record.order = order

    def _summary(self) -> Summary:
        planned = len(self.record.planned)
        return Summary(self.record.order.replay_id, planned, left=planned)

    def _steps(self) -> Steps:
        return Steps(self.connection, self.journal, self.emitter, self.app, self.record.order, self.record.planned)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have no other process of this replay send during the block, as far as that can be had.

        A pooler lends no session that would keep the lock: there, whoever is the last to begin goes on, and the other one stops
        before its next batch.
        """
        if not self.is_shared or is_pooled(self.connection):
            yield
            return
        parameters = {"replay": self.record.order.replay_id}
        if self._ask("try lock", parameters) != [(True,)]:
            raise ReplayRefused(f"another process runs the replay {self.record.order.replay_id}")
        try:
            yield
        finally:
            if not self.connection.broken:
                self._ask("unlock", parameters)

    def _ask(self, name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql.query("replay.sql", name, self.journal.schema), parameters).fetchall()

    def _settle(self, steps: Steps, sender: Sender) -> None:
        """Find out what has become of the batch that an earlier process was about to send, and of what is in doubt."""
        steps.pasts.load({*self.record.batch, *self.record.doubted})
        unknown = {old for old in {*self.record.batch, *self.record.doubted} if not steps.is_sent(old)}
        found = self._found_sent(steps, sender, unknown)
        lost = set(self.record.batch) & unknown - found - self.record.doubted
        if lost and not sender.is_certain:
            self._doubt(steps, lost, "the process was killed while it was sent, and the broker cannot tell")
        self.record.doubted &= unknown - found

    def _found_sent(self, steps: Steps, sender: Sender, unknown: Collection[str]) -> set[str]:
        """Return those of the tasks of which it can be found out that they were sent, after it is recorded."""
        if not unknown:
            return set()
        new = {steps.new_id(old): old for old in unknown}
        since = min(self.record.sending[old] for old in unknown)
        query = sql.query("replay.sql", "seen", self.journal.schema)
        told = self.journal.look(self.connection, query, {"task_ids": [escape(one) for one in new], "since": since})
        seen = {row["stream"] for row in told}
        queues = {one: steps.queue_of(old) for one, old in new.items()}
        found = {old for one, old in new.items() if escape(one) in seen} | {new[one] for one in sender.found(queues)}
        self._tell_sent(steps, found)
        sender.confirm()
        return found

    def _send_all(self, steps: Steps, sender: Sender, summary: Summary) -> None:
        batch: list[Step] = []
        pace = Pace(self.record.order.wishes.rate, sender.batch, self.is_stopped)
        try:
            for found in self._found(steps, summary, lambda step: sender.check(step.outgoing) if step.outgoing else None):
                for step in found:
                    batch.append(step)
                    if len(batch) >= pace.batch and pace.wait(len(batch)):
                        self._send(steps, sender, batch, summary)
                        batch = []
            if summary.stopped is None and batch:
                if pace.wait(len(batch)):
                    self._send(steps, sender, batch, summary)
                    batch = []
                else:
                    summary.stopped = INTERRUPTED
        except BrokerAway as exc:
            summary.stopped = str(exc)
        summary.left += sum(step.old_id not in self.record.doubted for step in batch)
        summary.doubtful += sorted(self.record.doubted - set(summary.doubtful))

    def _found(self, steps: Steps, summary: Summary, check: Callable[[Step], None]) -> Iterator[list[Step]]:
        """Yield the messages that are left to send, task by task, and count the others."""
        planned = list(self.record.planned)
        count = len(planned)
        rate = self.record.order.wishes.rate
        steps.check = check
        look = LOOK if rate is None else max(1, min(LOOK, round(per_second(rate))))
        for place, task_id in enumerate(planned):
            if self.is_stopped():
                summary.stopped = INTERRUPTED
                return
            if place % look == 0:  # what stands in the views changes while this goes on
                steps.pasts.forget()
                steps.pasts.load(planned[place : place + look])
            try:
                found = steps.of(task_id)
            except NothingToReplay as exc:
                summary.skipped.append((task_id, str(exc)))
                continue
            except CannotReplay as exc:
                if isinstance(exc, NotRecorded) and place < count:  # it may go along with another one
                    planned.append(task_id)
                else:
                    summary.refused.append((task_id, str(exc)))
                continue
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
                # What the log has of one may be odd: the others are sent all the same.
                summary.refused.append((task_id, shown(f"what is recorded of it cannot be sent again: {first_line(exc)}")))
                continue
            finally:
                summary.left = len(planned) - place - 1
                self.on_progress(count - summary.left)
            summary.along += not found
            summary.later |= {old: steps.new_id(old) for step in found for old in step.along}
            summary.sent |= {step.old_id: steps.new_id(step.old_id) for step in found if step.outgoing is None}
            summary.guessed |= {step.old_id: step.outgoing.way for step in found if step.outgoing and step.guessed}
            yield [step for step in found if step.outgoing is not None and step.old_id not in self.record.doubted]

    def _send(self, steps: Steps, sender: Sender, batch: Sequence[Step], summary: Summary) -> None:
        """Send the batch; raise BrokerAway if that is not possible, which leaves none of it unrecorded."""
        for last_try in (False, True):
            sender.ready()  # before it is recorded: what fails here is in no doubt
            if not (batch := self._claimed(steps, batch, summary)):
                return
            members = tuple(step.old_id for step in batch)
            try:
                sender.send([step.outgoing for step in batch if step.outgoing])
            except NotSent:
                if last_try:
                    raise
            except Uncertain as exc:
                self._doubt(steps, members, str(exc))
                self.record.sending = Record.of(self.connection, self.journal, summary.replay_id).sending
                sender.open()
                self.record.doubted -= (found := self._found_sent(steps, sender, members))
                summary.sent |= {old: steps.new_id(old) for old in found}
                return
            else:
                break
        self._tell_sent(steps, members)
        sender.confirm()
        summary.sent |= {old: steps.new_id(old) for old in members}

    def _claimed(self, steps: Steps, batch: Sequence[Step], summary: Summary) -> Sequence[Step]:
        """Record that these are about to be sent, but for those that have gone on since they were found; return them."""
        with self.connection.transaction():
            self._ask("claim", {})
            last = self._ask("last batch", {"replay": escape(summary.replay_id)})
            if last != ([] if self.record.last is None else [(self.record.last,)]):
                raise ReplayRefused(f"another process has gone on with the replay {summary.replay_id}")
            begun = {step.chord for step in batch if step.facts}
            gone = steps.gone([step for step in batch if step.chord is None or step.chord in begun])
            self.gone |= {step.chord or step.old_id: gone[step.old_id] for step in batch if step.old_id in gone}
            kept = [step for step in batch if (step.chord or step.old_id) not in self.gone]
            facts = [fact for step in kept for fact in step.facts]
            if kept:
                members = tuple(step.old_id for step in kept)
                sending = self.emitter.emit(ReplaySending, summary.replay_id, source="operator", members=members)
                self.journal.append(self.connection, *facts, sending)
                self.record.last = sending.event_id
        for step in batch:
            if (wrong := self.gone.get(step.chord or step.old_id)) is not None:
                told = summary.skipped if isinstance(wrong, NothingToReplay) else summary.refused
                told.append((step.old_id, str(wrong)))
        for fact in facts:
            if isinstance(fact, ChordStarted):
                self._count_parts(fact.stream)
        return kept

    def _count_parts(self, group_id: str) -> None:
        """Have the parts counted that a new chord begins with; or else only the sweep of a worker would see that it is complete."""
        query, claimant = sql.query("chord.sql", "claim", self.journal.schema), self.emitter.name
        self.connection.execute(query, {"chord": escape(group_id), "parts": 0, "claimant": claimant, "lease": 0})

    def _tell_sent(self, steps: Steps, members: Collection[str]) -> None:
        """Record that these were sent, and with them what comes after them in their chains."""
        steps.pasts.load(members)
        sent = {old: new for member in members for old, new in {member: steps.new_id(member), **steps.later(member)}.items()}
        if sent:
            self.journal.append(self.connection, *(steps.told(old, new) for old, new in sent.items()))

    def _doubt(self, steps: Steps, members: Collection[str], reason: str) -> None:
        """Record that nobody can know whether these were sent."""
        order, source = self.record.order, "operator"
        doubted = self.emitter.emit(ReplayDoubted, order.replay_id, source=source, members=tuple(sorted(members)), reason=reason)
        noted: dict[str, Any] = {"action": DOUBTED, "label": order.replay_id, "author": order.author, "reason": reason, "source": source}
        notes = (self.emitter.emit(OperatorActed, one, task_id=steps.new_id(one), **noted) for one in sorted(members))
        self.journal.append(self.connection, doubted, *notes)
        self.record.doubted |= set(members)

    def _tell_end(self, summary: Summary) -> None:
        if self.record.counts != summary.counts:
            counts = summary.counts
            self.journal.append(self.connection, self.emitter.emit(ReplayFinished, summary.replay_id, source="operator", counts=counts))


class Pace:
    """How fast tasks are sent."""

    def __init__(self, rate: str | None, batch: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        fill = None if rate is None else per_second(rate)
        #: Tasks that leave together: no more than are due in half a second.
        self.batch = batch if fill is None else max(1, min(batch, int(fill / 2)))
        self._bucket = None if fill is None else TokenBucket(fill, capacity=self.batch)
        self._is_stopped = is_stopped

    def wait(self, count: int) -> bool:
        """Wait until so many may be sent; return whether they may: not if it is to stop before that."""
        while self._bucket is not None and not self._bucket.can_consume(count):
            if self._is_stopped():
                return False
            time.sleep(min(BLINK, self._bucket.expected_time(count)))
        return True
