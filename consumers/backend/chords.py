"""Chords by their parts: each part is a fact, and who brings the last one sends the body, exactly once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from celery import states
from celery.app.task import Context
from celery.canvas import group, maybe_signature
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import GroupResult as CeleryGroupResult
from celery.result import allow_join_result
from celery.utils import uuid
from celery.utils.functional import _regen
from kombu.exceptions import EncodeError
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils import json
from kombu.utils.functional import maybe_list

from celery_journal import sql
from celery_journal.consumers.request import attempt_of, is_run_here
from celery_journal.journal import PayloadTooLarge
from celery_journal.journal import events as kinds
from celery_journal.journal.codec import escape
from celery_journal.projections import ChordCounter, ChordPart, GroupResult, TaskResult

from .base import JournalBase, ResultTooLarge
from .connection import JournalUnavailable
from .members import ends_of, members_of, tasks_of

logger = logging.getLogger(__name__)


class Chords(JournalBase):
    """The part of the backend that Celery's chords call. Never `celery.chord_unlock`, which polls."""

    def apply_chord(self, header_result_args: Any, body: Any, **_kwargs: Any) -> None:
        """Record that a chord starts: its header, and the body to send. A header that is known to be empty sends it at once."""
        self.ensure_chords_allowed()
        group_id, results = _header(header_result_args)
        body = maybe_signature(body, app=self.app)
        content_type, _, callback = dumps(dict(body), serializer=self.app.conf.task_serializer)
        sub_tasks = None if results is None else json.dumps([result.as_tuple() for result in results]).encode()
        fields = {
            "result": sub_tasks,
            "content_type": None if sub_tasks is None else "application/json",
            "content_encoding": None if sub_tasks is None else "utf-8",
            "size": 0 if results == [] else body.get("chord_size"),
            "task_id": _result_id(body),
            "callback": callback.encode() if isinstance(callback, str) else callback,
            "callback_content_type": content_type,
        }
        started = self.emitter.emit(kinds.ChordStarted, group_id, **fields)
        query, chord = sql.query("chord.sql", "has ended", self.journal.schema), {"chord": escape(group_id)}
        if self.append_and_ask(started, query, chord):
            self._start_anew(group_id, fields)
        if results == [] and not self.outage.away:  # or else the sweep sends it
            self._claim_and_send(group_id)

    def _start_anew(self, group_id: str, fields: dict[str, Any]) -> None:
        """Begin another run of a chord that ran before under the same ids: a frozen signature that is applied again.

        The parts and the end of the earlier run leave the views, a saved group of that id stays.
        """
        saved = self._rows(GroupResult, [group_id], fresh=True).get(group_id)
        events: list[kinds.Event] = [self.emitter.emit(kinds.GroupExpired, group_id)]
        if saved is not None and saved.result is not None:
            kept = saved.model_dump(include={"members", "result", "content_type", "content_encoding"})
            events.append(self.emitter.emit(kinds.GroupSaved, group_id, **kept))
        self.append(*events, self.emitter.emit(kinds.ChordStarted, group_id, **fields))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Record how many parts the chord has; the first of them may have returned by now."""
        self._after(self.emitter.emit(kinds.ChordSizeSet, group_id, size=chord_size), parts=0)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Record one more member, which a member that is still running adds."""
        self._after(self.emitter.emit(kinds.ChordSizeSet, group_id, task_id=result.id), parts=0)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_kwargs: Any) -> None:
        """Record that a member has ended, in one round trip; send the body if it was the last."""
        task_id, group_id = getattr(request, "id", None), getattr(request, "group", None)
        if not task_id or not group_id:
            return
        callback = getattr(request, "chord", None)
        if state != states.SUCCESS and not is_run_here(request):
            # Told by another process: the one that ran it may have stored its success, and died before it said so here.
            row = self._row_unless_away(TaskResult, str(task_id))
            if row is not None and row.status == states.SUCCESS:
                part = self._stored_part(str(group_id), str(task_id), getattr(request, "group_index", None), row)
                self._after(part, parts=1, callback=callback)
                return
        try:
            part = self._part(request, state, result)
        except (EncodeError, TypeError, ValueError) as exc:  # the part has ended all the same
            part = self._part(request, states.FAILURE, exc)
        try:
            self._after(part, parts=1, callback=callback)
        except PayloadTooLarge as exc:  # nothing of it is recorded, and the body must not wait for ever
            too_large = ResultTooLarge(str(exc))
            self._after(self._part(request, states.FAILURE, too_large), parts=1, callback=callback)

    def _part(self, request: Any, state: str, result: Any) -> kinds.ChordPartReturned:
        return self.emitter.emit(
            kinds.ChordPartReturned,
            str(request.group),
            attempt=attempt_of(request),
            task_id=str(request.id),
            group_index=getattr(request, "group_index", None),
            state=state,
            worker=getattr(request, "hostname", None),
            **self._encoded(self.encode_result(result, state)),
        )

    def _stored_part(self, group_id: str, task_id: str, group_index: int | None, row: TaskResult) -> kinds.ChordPartReturned:
        """Return the part that a member owes which has ended as the row says."""
        return self.emitter.emit(
            kinds.ChordPartReturned,
            group_id,
            attempt=row.retries or 0,
            task_id=task_id,
            group_index=group_index,
            state=row.status,
            worker=row.worker,
            **row.model_dump(include={"result", "content_type", "content_encoding"}),
        )

    def mark_as_failure(
        self,
        task_id: Any,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Record that the task has failed, and with it what comes after it in its chain."""
        for task in _later(request):  # Celery fails it with this one, and does not say which canvas it is in
            task["options"] = {"root_id": getattr(request, "root_id", None) or task_id, **(task.get("options") or {})}
        # Celery returns the parts of tasks, but not those of the groups and chords of the chain, nor does it fail their tasks.
        complex_ones = [task for task in _later(request) if task.get("subtask_type")]
        self._return_parts_of(complex_ones, state, exc)
        super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
        if store_result and complex_ones:
            for end in self._open([end for task in complex_ones for end in ends_of(task)]):
                self.store_result(end["options"]["task_id"], exc, state, traceback=traceback)

    def mark_as_revoked(
        self, task_id: Any, reason: Any = "", request: Any = None, store_result: bool = True, state: str = states.REVOKED
    ) -> None:
        """Record that the task is revoked; a chord that waits for what comes after it in its chain hears of it too."""
        super().mark_as_revoked(task_id, reason, request, store_result, state)
        self._return_parts_of(_later(request), state, TaskRevokedError(reason))

    def return_parts(self, request: Any, state: str, exc: Any) -> None:
        """Return the part of a task that has ended, and of what comes after it in its chain and will never run."""
        if getattr(request, "chord", None):
            self.on_chord_part_return(request, state, exc)
        self._return_parts_of(_later(request), state, exc)

    def _return_parts_of(self, signatures: Iterable[Any], state: str, exc: Any) -> None:
        for signature in signatures:
            for member in members_of(signature):
                self.on_chord_part_return(member, state, exc)

    def sweep_is_ours(self) -> bool:
        """Return whether it is this process that sweeps now: one of all, once in `sweep_interval`."""
        query = sql.query("chord.sql", "begin sweep", self.journal.schema)
        sweep = {"claimant": self.emitter.name, "pause": self.options.sweep_interval}
        answered = self.database.run(lambda connection: connection.execute(query, sweep).fetchone())
        return answered == (True,)

    def sweep_chords(self) -> list[str]:
        """Return the parts of members that ended without, and send the bodies that were left unsent; return the ids of their groups."""
        self._return_parts_of_stragglers()
        query = sql.query("chord.sql", "open", self.journal.schema)
        found = self.database.run(lambda connection: [group_id for (group_id,) in connection.execute(query)])
        return [group_id for group_id in found if self._swept(group_id)]

    def _return_parts_of_stragglers(self) -> None:
        query = sql.query("chord.sql", "stragglers", self.journal.schema)
        silent = {"silent_for": self.options.sweep_interval}
        found = self.database.run(lambda connection: connection.execute(query, silent).fetchall())
        rows = self._rows(TaskResult, {told_by for *_, told_by in found}, fresh=True) if found else {}
        parts = [
            self._stored_part(group_id, task_id, index, rows[told_by]) for group_id, task_id, index, told_by in found if told_by in rows
        ]
        if parts:
            self.append(*parts)
            logger.warning("returned the parts of members that ended without", extra={"task_ids": [part.task_id for part in parts]})

    def _swept(self, group_id: str) -> bool:
        try:
            return self._claim_and_send(group_id)
        except Exception:  # such as a body that this process may not read: the other chords must not wait for it
            logger.exception("a chord was left open, and will be tried again after its lease", extra={"group_id": group_id})
            return False

    def _after(self, event: kinds.Event, *, parts: int, callback: Any = None) -> None:
        """Record the event of a chord and ask, in the same round trip, whether the body is ours to send."""
        query, claim = self._claim(event.stream, parts)
        answer = self.append_and_ask(event, query, claim)
        if answer == "unknown" and parts:
            logger.warning("a part returned to a chord that the journal does not know", extra={"group_id": event.stream})
        try:
            self._send_if_claimed(event.stream, answer, callback)
        except JournalUnavailable as exc:  # the part is recorded, and its task must not fail for what comes after
            logger.warning("a chord is left to the sweep: %s", exc, extra={"group_id": event.stream})

    def _claim_and_send(self, group_id: str) -> bool:
        query, claim = self._claim(group_id, 0)
        answered = self.database.run(lambda connection: connection.execute(query, claim).fetchone())
        return answered is not None and self._send_if_claimed(group_id, answered[0], None)

    def _claim(self, group_id: str, parts: int) -> tuple[bytes, dict[str, Any]]:
        """Return the query of a claim and its parameters; who claims has a name of its own, so asking again is no other claim."""
        claimant = f"{self.emitter.name}/{uuid()}"
        claim = {"chord": escape(group_id), "parts": parts, "claimant": claimant, "lease": self.options.chord_lease}
        return sql.query("chord.sql", "claim", self.journal.schema), claim

    def _send_if_claimed(self, group_id: str, answer: str | None, callback: Any) -> bool:
        if answer not in {"claimed", "taken over"}:
            return False
        body = maybe_signature(callback, app=self.app) if callback else self._recorded_body(group_id)
        # The body keeps its id, so one that was sent is recognised.
        body_id = _result_id(body) or body.options.setdefault("task_id", uuid())
        if answer == "taken over" and self._was_sent(body, body_id):
            self._end(kinds.ChordUnlocked, group_id, body_id)
            return True
        try:
            values = self._values(group_id)
            try:
                _publish(self.app, body, values)
            except Exception as exc:
                raise ChordError(f"Callback error: {exc!r}") from exc
        except ChordError as exc:
            logger.exception("Chord %r raised: %r", group_id, exc)
            self._fail(group_id, body, body_id, exc)
        else:
            self._end(kinds.ChordUnlocked, group_id, body_id)
        return True

    def fail_chord(self, group_id: str, reason: str) -> bool:
        """End a chord whose parts have all returned as a failure, instead of sending its body; return whether that was ours to do."""
        query, claim = self._claim(group_id, 0)
        (answer,) = self.database.run(lambda connection: connection.execute(query, claim).fetchone()) or (None,)
        if answer not in {"claimed", "taken over"}:
            return False
        body = self._recorded_body(group_id)
        body_id = _result_id(body) or body.options.setdefault("task_id", uuid())
        if self._was_sent(body, body_id):
            self._end(kinds.ChordUnlocked, group_id, body_id)
            return False
        try:
            raise ChordError(reason)  # Celery wants one that was raised
        except ChordError as exc:
            self._fail(group_id, body, body_id, exc)
        return True

    def open_chord(self, group_id: str) -> Any:
        """Return the body of a chord that has not ended; None if there is no such chord."""
        counter = self._rows(ChordCounter, [group_id], fresh=True).get(group_id)
        return self._recorded_body(group_id) if counter is not None and counter.state == "open" else None

    def _fail(self, group_id: str, body: Any, body_id: str, exc: ChordError) -> None:
        owed = list(members_of(body))  # before Celery, which fails a group by giving its tasks another one
        self._fail_body(body, exc)
        for member in owed:  # a body that is a member of an outer chord
            self.on_chord_part_return(member, states.FAILURE, exc)
        self._end(kinds.ChordFailed, group_id, body_id, reason=str(exc))

    def _fail_body(self, body: Any, exc: ChordError) -> None:
        """Fail the body, and whatever else holds its result: Celery knows of tasks, chains and, from 5.6 on, of groups."""
        ends = list(ends_of(body))
        self.chord_error_from_stack(body, exc)
        cause = exc.__cause__ if isinstance(body, group) and isinstance(exc.__cause__, Exception) else exc  # as Celery has it
        for end in self._open(ends):
            errbacks = maybe_list(end["options"].get("link_error")) or []
            request = Context(id=end["options"]["task_id"], task=end["task"], errbacks=errbacks, delivery_info={})
            self.mark_as_failure(request.id, cause, request=request)

    def _open(self, signatures: Iterable[Any]) -> list[Any]:
        """Return those of the frozen signatures whose tasks have not ended."""
        signatures = list(signatures)
        rows = self._rows(TaskResult, set(_ids(signatures)), fresh=True)
        ended = {task_id for task_id, row in rows.items() if row.status in states.READY_STATES}
        return [signature for signature in signatures if set(_ids([signature])) - ended]

    def _end(self, kind: type[kinds.ChordUnlocked] | type[kinds.ChordFailed], group_id: str, body_id: str, **fields: Any) -> None:
        release = sql.query("chord.sql", "release", self.journal.schema)
        event = self.emitter.emit(kind, group_id, task_id=body_id, **fields)
        self.append_and_ask(event, release, {"chord": escape(group_id)})

    def _values(self, group_id: str) -> list[Any]:
        """Return the values of the parts, in the order and the nesting of the header; raise ChordError if one failed."""
        parts = self.database.run(lambda connection: ChordPart.of(connection, group_id, self.journal.schema))
        try:
            values = [self._part_value(part) for part in parts]
            header = self._recorded_header(group_id)
            if any(children is not None for _, children in header):
                return self._nested(header, {part.task_id: value for part, value in zip(parts, values, strict=True)})
        except (ChordError, JournalUnavailable):
            raise
        except Exception as exc:
            raise ChordError(f"Join error: {exc!r}") from exc
        return values

    def _nested(self, header: list[Any], values: dict[str, Any]) -> list[Any]:
        """Return the values in the structure of a header that has groups in it."""
        nested = []
        for node, children in header:
            task_id = node[0] if isinstance(node, list | tuple) else node
            if children is not None:
                nested.append(self._nested(children, values))
            elif task_id in values:
                nested.append(values[task_id])
            else:  # it returned through another task, such as the body of a chord
                with allow_join_result():
                    nested.append(self.app.AsyncResult(task_id).get(timeout=self.app.conf.result_chord_join_timeout))
        return nested

    def _part_value(self, part: ChordPart) -> Any:
        value = self._decoded(part)
        if part.status in states.EXCEPTION_STATES:
            value = self.exception_to_python(value)
        if part.status in states.PROPAGATE_STATES:
            cause = value if isinstance(value, BaseException) else None
            raise ChordError(f"Dependency {part.task_id} raised {value!r}") from cause
        return value

    def _recorded_header(self, group_id: str) -> list[Any]:
        counter = self._rows(ChordCounter, [group_id], fresh=True).get(group_id)
        return json.loads(counter.sub_tasks) if counter is not None and counter.sub_tasks else []

    def _recorded_body(self, group_id: str) -> Any:
        """Return the body as the event that started the chord has it."""
        stream = self.database.run(lambda connection: self.journal.read_stream(connection, group_id))
        started = [recorded.event for recorded in stream if isinstance(recorded.event, kinds.ChordStarted)]
        if not started or started[-1].callback is None:
            raise ChordError(f"the journal has no body for chord {group_id}")
        body = loads(
            started[-1].callback,
            content_type=started[-1].callback_content_type,
            content_encoding="utf-8",
            accept=prepare_accept_content(self.app.conf.accept_content),
        )
        return maybe_signature(body, app=self.app)

    def _was_sent(self, body: Any, body_id: str) -> bool:
        """Return whether the journal knows any task of the body; that one was marked as lost says nothing of it."""
        rows = self._rows(TaskResult, {body_id, *_ids(tasks_of(body))}, fresh=True)
        return any(row.task_name or row.worker or row.status != states.PENDING for row in rows.values())


def _header(header_result_args: Any) -> tuple[str, list[Any] | None]:
    """Return the id of the header and its results; None for a generator, which must not be consumed."""
    if isinstance(header_result_args, CeleryGroupResult):
        return header_result_args.id, list(header_result_args.results)
    group_id, results, *_ = header_result_args
    return group_id, None if isinstance(results, _regen) else list(results)


def _result_id(body: Any) -> str | None:
    """Return the id under which people know the result of a chord's body."""
    return body.options.get("task_id") or next(_ids(ends_of(body)), None)


def _ids(signatures: Iterable[Any]) -> Iterator[str]:
    return (task_id for signature in signatures if (task_id := (signature.get("options") or {}).get("task_id")))


def _later(request: Any) -> list[Any]:
    """Return the signatures of what comes after the task in its chain."""
    chain = getattr(request, "chain", None)
    return chain if isinstance(chain, list) else []


def _publish(app: Any, body: Any, values: list[Any]) -> None:
    if hasattr(app.amqp, "_retry_publish"):  # since Celery 5.7
        app.amqp._retry_publish(body.delay, values)
    else:
        body.delay(values)
