"""Which messages a task stands for: its own, that of the step where its chain failed, or those of its chord's header that failed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from celery import states

from celery_journal import sql
from celery_journal.consumers.request import ACKNOWLEDGES_LATE, CANCELLED_FOR_GOOD
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskReplayed

from .canvas import chain_of, chord_of, embedded_of, ids_in, new_id, next_of, tasks_in
from .chord import Chord
from .edits import Edit
from .errors import CannotReplay, NothingToReplay, ReplayError
from .guess import Guesses
from .message import Outgoing, compose
from .order import Order
from .past import Past, Pasts


@dataclass(frozen=True, slots=True)
class Step:
    """One message to be sent again."""

    old_id: str
    #: None if this replay has sent it before.
    outgoing: Outgoing | None
    #: Facts that must be recorded before it is sent: its new chord.
    facts: tuple[Event, ...] = ()
    #: The group of the chord that is begun anew with it.
    chord: str | None = None
    #: What comes after it, and nobody has sent yet.
    along: frozenset[str] = frozenset()
    #: Whether nobody recorded how it was sent.
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Anew:
    """A chord that is begun anew."""

    chord: Chord
    #: Its members that need not be sent again, and the others, or the failed steps of the chains whose ends they are.
    returned: set[str]
    leading: list[Past]
    #: Whether that is recorded already: the replay was interrupted.
    is_begun: bool


class Steps:
    """Finds the messages of one replay."""

    def __init__(
        self, connection: Connection, journal: Journal, emitter: Emitter, app: Any, order: Order, planned: Collection[str] = ()
    ) -> None:
        self.pasts = Pasts(connection, journal)
        self._connection = connection
        self._journal = journal
        self._emitter = emitter
        self._app = app
        self._order = order
        self._wishes = order.wishes
        self._planned = frozenset(planned)
        self._guesses = Guesses(connection, journal, emitter, app, order.wishes.guess_routing)
        self._edits = [Edit.of(text) for text in order.wishes.set]
        #: Tasks that nobody has sent yet, and that go along with those of which the messages were found.
        self._along: set[str] = set()
        #: Chords, and tasks, of which the messages were looked for already, and what was wrong with them.
        self._seen: dict[str, ReplayError | None] = {}
        #: Raises CannotReplay for a message that has nowhere to go.
        self.check: Callable[[Step], None] = lambda _step: None

    def of(self, task_id: str) -> list[Step]:
        """Return the messages that the task stands for; none if they were found for another one before.

        Where a replay of it is planned as well, the last one counts. Raises CannotReplay, or NothingToReplay if it has succeeded.
        """
        past = self.pasts[task_id]
        if past.erased:
            raise CannotReplay("its payload was erased")
        if past.sent is None and task_id in self._along:
            return []
        chord = self._chord_of(past)
        if past.sent is None and chord is None:
            if (leading := self._leading_to(past)) is not None:
                past, chord = leading, self._chord_of(leading)
            elif (chord := Chord.with_body(self._connection, self._journal, task_id)) is None:
                if past.replayed_in(self._order.replay_id):
                    return [Step(task_id, None)] if self._guesses.is_one(past) else []
                if (copy := next((one for one in self._lineage(past) if one.sent), None)) is not None:
                    return self.of(copy.task_id)
                guessed = self._guesses.of(past)
                return self._once(task_id, lambda: [self._step(guessed)])
        if chord is not None:
            return self._of_chord(chord, task_id)
        failed = self._failed_of_chain(past)
        if isinstance(failed, Chord):
            return self._of_chord(failed, failed.counter.group_id)
        if (last := self._last_planned(failed)) is not failed:
            return self.of(last.task_id)
        return self._once(failed.task_id, lambda: [self._step(failed)])

    def gone(self, steps: Sequence[Step]) -> dict[str, ReplayError]:
        """Return the tasks that have gone on since they were found, or that another replay has taken, with what is wrong with them."""
        found, self.pasts = self.pasts, Pasts(self._connection, self._journal)
        gone: dict[str, ReplayError] = {}
        try:
            self.pasts.load(step.old_id for step in steps)
            for step in steps:
                try:
                    self._check(self.pasts[step.old_id])
                except ReplayError as exc:
                    gone[step.old_id] = exc
        finally:
            self.pasts = found
        return gone

    def new_id(self, old_id: str) -> str:
        """Return the id under which a task or a group is sent again."""
        return old_id if self._wishes.same_id else new_id(self._order.replay_id, old_id)

    def _once(self, found: str, steps: Callable[[], list[Step]]) -> list[Step]:
        """Return the steps the first time that they are found, none afterwards; what was wrong is wrong for all who lead there."""
        if found in self._seen:
            if (wrong := self._seen[found]) is not None:
                raise wrong
            return []
        self._seen[found] = None
        try:
            found_steps = steps()
            for step in found_steps:
                self.check(step)
            self._along.update(*(step.along for step in found_steps))
            return found_steps
        except ReplayError as exc:
            self._seen[found] = exc
            raise

    def _last_planned(self, past: Past) -> Past:
        """Return the last one that was sent of those that are planned, of the task and its replays; or else the task."""
        planned = [one for one in self._lineage(self._first(past)) if one.task_id in self._planned and one.sent]
        return max(planned, key=lambda one: one.sent.occurred_at.timestamp() if one.sent else 0, default=past)

    def _chord_of(self, past: Past) -> Chord | None:
        """Return the chord that the task is a part of, or whose body or group it is."""
        if past.sent is None:
            return Chord.of(self._connection, self._journal, past.task_id)
        group_id = chord_of(past.sent, self._embedded(past))
        return None if group_id is None else self._chord(group_id)

    def _chord(self, group_id: str) -> Chord:
        if (chord := Chord.of(self._connection, self._journal, group_id)) is None:
            raise CannotReplay(f"its chord {group_id} has left the views")
        return chord

    def _of_chord(self, chord: Chord, asked: str) -> list[Step]:
        """Return the failed tasks of its header; its body, if that has run. Where it was begun anew, the last time counts.

        One that is inside of another one goes on with that.
        """
        if (outer := chord.around(self._app.conf.accept_content)) is not None:
            return self._of_chord(self._chord(outer), asked)
        group_id = chord.counter.group_id
        if not self._wishes.also_succeeded and (later := self._begun_again(chord)) is not None:
            replay, renewed = later
            return self._of_chord(renewed, new_id(replay, asked))
        body = self.pasts[chord.counter.body_task_id] if chord.counter.body_task_id else None
        if chord.counter.state == "unlocked" and not (self._wishes.also_succeeded and body and body.done):
            if body is None or body.sent is None:
                inner = body and Chord.with_body(self._connection, self._journal, body.task_id)
                if inner and inner.counter.group_id != group_id:  # its body is a chord
                    return self._of_chord(inner, asked)
                if all(self._done_of(self.pasts[one]) for one in chord.ends(self._app.conf.accept_content)):
                    raise NothingToReplay(f"its chord {group_id} has begun its body, which has succeeded")
                raise CannotReplay(f"the body of its chord {group_id} was sent, and it is not recorded how")
            if asked not in {group_id, body.task_id}:
                raise NothingToReplay(f"it has succeeded, and its chord has begun its body {body.task_id}")
            return self.of(body.task_id)
        return self._once(group_id, lambda: self._header_of(chord))

    def _begun_again(self, chord: Chord) -> tuple[str, Chord] | None:
        """Return the last earlier replay that has begun the chord anew, and that chord; None if there is none."""
        body_id = chord.counter.body_task_id
        told = [event for one in (*chord.members, *([body_id] if body_id else [])) for event in self.pasts[one].replayed]
        for replay in reversed(list(dict.fromkeys(event.replay for event in told if event.replay))):
            if replay != self._order.replay_id:
                group_id = new_id(replay, chord.counter.group_id)
                if (renewed := Chord.of(self._connection, self._journal, group_id)) is not None:
                    return replay, renewed
        return None

    def _header_of(self, chord: Chord) -> list[Step]:
        """Return the tasks of the header that have not succeeded, the first with the facts that begin a new chord, and those inside."""
        group_id = chord.counter.group_id
        if self._wishes.same_id:
            raise CannotReplay(f"it is in the chord {group_id}, which can only be sent again under a new id, without --same-id")
        accept, anew = self._app.conf.accept_content, self._anew(chord)
        bodies, keys = [one.chord.body(accept) for one in anew], self._app.backend.options.signing_keys
        ids = {*(one.chord.counter.group_id for one in anew), *ids_in(bodies)}
        leading = [past for one in anew for past in one.leading]
        renewal = {old: self.new_id(old) for old in ids.union(*map(self._ids, leading))}
        steps = [replace(self._step(past, renewal), chord=group_id) for past in leading]
        steps[0] = replace(steps[0], along=steps[0].along | ids_in(bodies))
        if not anew[0].is_begun:
            facts = [fact for one in anew for fact in one.chord.begun_anew(renewal, one.returned, self._emitter, accept, keys)]
            facts += [self.told(old, renewal[old]) for old in sorted(tasks_in(bodies))]
            steps[0] = replace(steps[0], facts=tuple(facts))
        return steps

    def _anew(self, chord: Chord) -> list[Anew]:
        """Return how the chord is begun anew, and then the chords inside of it whose bodies were never sent."""
        group_id = chord.counter.group_id
        renewed = Chord.of(self._connection, self._journal, self.new_id(group_id))
        returned = renewed.returned if renewed else {part.task_id for part in chord.succeeded}
        members = [member for member in chord.members if member not in returned]
        if not members:
            if not self._wishes.also_succeeded:
                raise NothingToReplay(f"all tasks of its chord {group_id} have succeeded")
            returned, members = set(), chord.members
        self.pasts.load(members)
        leading, inside = list[Past](), list[Anew]()
        for member in members:
            past = self.pasts[member]
            inner = None if past.sent or past.erased else Chord.with_body(self._connection, self._journal, member)
            failed = inner or self._failed_of_chain(self._sent_for(member))
            if isinstance(failed, Chord):
                inside += self._anew(failed)
            else:
                leading.append(failed)
        return [Anew(chord, returned, leading, renewed is not None), *inside]

    def _sent_for(self, member: str) -> Past:
        """Return the member itself, or the task where the chain stopped whose end it is."""
        past = self.pasts[member]
        found = past if past.sent is not None or past.erased else self._leading_to(past)
        if found is None:
            raise CannotReplay(f"it is not recorded how {member} was sent, which its chord waits for")
        return found

    def _leading_to(self, past: Past) -> Past | None:
        """Return the task where the chain stopped that the one which was never sent is in; None if there is none."""
        if past.root_id is None or past.root_id == past.task_id:
            return None
        leading = [one for one in self.pasts.of_root(past.root_id) if past.task_id in tasks_in(self._embedded(one).get("chain"))]
        stopped = [one for one in leading if not one.done] or leading
        return max(stopped, key=lambda one: one.sent.occurred_at.timestamp() if one.sent else 0, default=None)

    def _failed_of_chain(self, past: Past) -> Past | Chord:
        """Return the task itself, or if it has succeeded the first after it in its chain that has not, which may be a chord."""
        while not past.replayed_in(self._order.replay_id) and (done := self._done_of(past)) is not None:
            embedded = self._embedded(done)
            if all(self._done_of(self.pasts[one]) is not None for one in chain_of(embedded)):
                break
            following, group_id = next_of(embedded)
            later = self.pasts[following]
            if group_id is not None:
                if (chord := Chord.of(self._connection, self._journal, group_id)) is None:
                    raise CannotReplay(f"the group {group_id} comes after it in its chain; replay that, or its tasks")
                body = self.pasts[chord.counter.body_task_id] if chord.counter.body_task_id else None
                if chord.counter.state != "unlocked" or body is None or body.sent is None:
                    return chord
                later = body
            elif later.sent is None and self._done_of(later) is None:
                raise CannotReplay(f"{later.task_id}, which comes after it in its chain, was never sent")
            past = later
        return past

    def _done_of(self, past: Past) -> Past | None:
        """Return the task, or that as which it was sent again, that has succeeded; None if none has."""
        return next((one for one in self._lineage(past) if one.done), None)

    def _step(self, past: Past, renewal: Mapping[str, str] | None = None) -> Step:
        """Return the message of the task; raise CannotReplay or NothingToReplay."""
        if past.replayed_in(self._order.replay_id):
            return Step(past.task_id, None)
        self._check(past)
        if self._wishes.same_id and past.status == states.REVOKED:
            raise CannotReplay("it was revoked, and workers discard what comes under its id; send it without --same-id")
        sent, embedded = past.sent, self._embedded(past)
        if sent is None:
            raise CannotReplay("its payload was erased" if past.erased else "it is not recorded how it was sent")
        if renewal is None:
            renewal = {} if self._wishes.same_id else {old: self.new_id(old) for old in self._ids(past)}
        outgoing = compose(
            self._app,
            sent,
            embedded,
            new_id=self.new_id(past.task_id),
            renewal=renewal,
            replay_id=self._order.replay_id,
            edits=self._edits,
            now=datetime.now(UTC),
        )
        return Step(past.task_id, outgoing, along=frozenset(ids_in(embedded.get("chain"))), guessed=past.guessed)

    def later(self, task_id: str) -> dict[str, str]:
        """Return what goes along with the task, because it comes after it in its chain: its new ids by its old ones."""
        later = tasks_in(self._embedded(self.pasts[task_id]).get("chain"))
        return {} if self._wishes.same_id else {old: self.new_id(old) for old in sorted(later)}

    def is_sent(self, task_id: str) -> bool:
        """Return whether it is recorded that this replay has sent the task."""
        return self.pasts[task_id].replayed_in(self._order.replay_id)

    def queue_of(self, task_id: str) -> str | None:
        """Return the queue that the task is sent to; None where an exchange decides."""
        message = self._guesses.message_of(self.pasts[task_id]) or {}
        return None if message.get("exchange") else message.get("routing_key")

    def told(self, old_id: str, new_id: str) -> TaskReplayed:
        """Return the fact that a task was sent again."""
        order = self._order
        told: dict[str, Any] = {"replay": order.replay_id, "author": order.author, "reason": order.reason, "source": "operator"}
        told["guessed"] = (self._wishes.guess_routing and self._guesses.is_one(self.pasts[old_id])) or None
        return self._emitter.emit(TaskReplayed, old_id, task_id=new_id, **told)

    def _ids(self, past: Past) -> set[str]:
        """Return what gets a new id with the task: itself, and what it will send."""
        embedded = self._embedded(past)
        return {past.task_id} | ids_in([embedded.get(name) for name in ("callbacks", "errbacks", "chain")])

    def _embedded(self, past: Past) -> dict[str, Any]:
        return {} if past.sent is None else embedded_of(past.sent, self._app.conf.accept_content)

    def _check(self, past: Past) -> None:
        """Raise NothingToReplay if it has succeeded, CannotReplay if it goes on by itself; unless these are wanted too."""
        own = list(self._lineage(past))
        for one in own:
            # Without ids: those who read it want to see the same reason of many tasks once.
            first = one is past
            if self._is_done(one) and not self._wishes.also_succeeded:
                raise NothingToReplay("it has succeeded" if first else "it has succeeded since, in an earlier replay")
            if (doing := self._doing(one, sent_again=not first)) is not None:
                again = self._given_back(one) or f"it is {doing}"
                raise CannotReplay(f"{'it' if first else 'an earlier replay of it'} has not ended: {again}")
            if (doubted := self._doubted(one)) and not self._wishes.also_doubtful:
                told = f"the replay {doubted[0]} may have sent it, and may not"
                raise CannotReplay(f"{told}; --resume that one to find out, or say --resend-doubtful, and it may run twice")
        origin = self._first(past)
        for one in self._lineage(origin):
            if one in own:
                continue
            since = past.sent is not None and one.ended_at is not None and one.ended_at > past.sent.occurred_at
            if since and self._is_done(one) and not self._wishes.also_succeeded:
                raise NothingToReplay("it has succeeded since, under another id")
            if (doing := self._doing(one, sent_again=one is not origin)) is not None:
                raise CannotReplay(f"under another id it has not ended: it is {doing}")

    def _doing(self, past: Past, *, sent_again: bool) -> str | None:
        """Return the state of a task that has not ended; None where it has, nobody has heard of it, or these are wanted too."""
        # Of what was just sent again nothing may be recorded yet.
        status = past.status or (states.PENDING if sent_again else None)
        return None if past.ended or self._wishes.also_unfinished else status

    def _given_back(self, past: Past) -> str | None:
        """Return that the broker has the message of the task again, as it has where a worker died that had not acknowledged it."""
        words = {"late": ACKNOWLEDGES_LATE, "cancelled": CANCELLED_FOR_GOOD}
        query = sql.query("lost.sql", "given back", self._journal.schema)
        row = next(self._journal.look(self._connection, query, {"task_ids": [escape(past.task_id)], **words}), None)
        if row is None:
            return None
        waits = f"its message was given back to the broker when {row['worker']} was gone, and waits for a worker of {row['queue']}"
        return f"{waits}; with --also-unfinished it is sent all the same, and may run twice"

    def _first(self, past: Past) -> Past:
        """Return the task that it was sent again of, or that of which that one was, and so on."""
        seen = {past.task_id}
        while past.origin is not None and past.origin not in seen:
            seen.add(past.origin)
            past = self.pasts[past.origin]
        return past

    def _lineage(self, past: Past) -> Iterator[Past]:
        """Yield the task, and those as which it was sent again, and again."""
        seen, left = {past.task_id}, [past]
        while left:
            yield (one := left.pop())
            copies = {event.task_id for event in one.replayed if event.task_id and event.replay != self._order.replay_id}
            copies |= {copy for replay in self._others(one) if self.pasts[copy := new_id(replay, one.task_id)].known}
            copies -= seen
            seen |= copies
            left += [self.pasts[copy] for copy in sorted(copies)]

    def _doubted(self, past: Past) -> list[str]:
        """Return the other replays that may have sent the task, and of which nothing was heard."""
        return sorted(replay for replay in self._others(past) if not self.pasts[new_id(replay, past.task_id)].known)

    def _others(self, past: Past) -> frozenset[str]:
        return past.doubted - {self._order.replay_id}

    def _is_done(self, past: Past) -> bool:
        """Return whether it has succeeded, and all that comes after it in its chain."""
        return past.done and all(self._done_of(self.pasts[one]) is not None for one in chain_of(self._embedded(past)))
