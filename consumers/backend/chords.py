"""Chords by their parts: each part is a fact, and who brings the last one sends the body, exactly once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from celery import states
from celery.app.task import Context
from celery.canvas import group, maybe_signature
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import allow_join_result
from celery.utils import uuid
from kombu.exceptions import EncodeError
from kombu.serialization import dumps
from kombu.utils import json
from kombu.utils.functional import LRUCache, maybe_list

from celery_journal import sql
from celery_journal.consumers.request import attempt_of, is_run_here
from celery_journal.journal import PayloadTooLarge, RecordedEvent
from celery_journal.journal import events as kinds
from celery_journal.journal.codec import escape
from celery_journal.projections import ChordCounter, ChordPart, GroupResult, TaskResult

from .base import JournalBase, ResultTooLarge, named
from .bodies import is_pickle, publish, read_body, signed
from .connection import JournalUnavailable
from .errbacks import call_once
from .members import ends_of, header_of, ids_of, later_of, members_of, result_id_of, revoked_last, tasks_of, unsent_request

logger = logging.getLogger(__name__)

#: The tasks that Celery is to fail, and of which it does not say more than their ids; it leaves those that it has failed out.
_unfailed: ContextVar[dict[str, Context] | None] = ContextVar("unfailed", default=None)


class Chords(JournalBase):
    """The part of the backend that Celery's chords call. Never `celery.chord_unlock`, which polls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The bodies of chords that this process has started and whose size it has not told yet: these need not be read from the log.
        self._bodies = LRUCache(limit=100)

    def apply_chord(self, header_result_args: Any, body: Any, **_kwargs: Any) -> None:
        """Record that a chord starts: its header, and the body to send. A header that is known to be empty sends it at once."""
        self.ensure_chords_allowed()
        group_id, results = header_of(header_result_args)
        body = maybe_signature(body, app=self.app)
        content_type, _, callback = dumps(dict(body), serializer=self.app.conf.task_serializer)
        sub_tasks = None if results is None else json.dumps([result.as_tuple() for result in results]).encode()
        fields = {
            "result": sub_tasks,
            "content_type": None if sub_tasks is None else "application/json",
            "content_encoding": None if sub_tasks is None else "utf-8",
            "size": 0 if results == [] else body.get("chord_size"),
            "task_id": result_id_of(body),
            "callback": callback.encode() if isinstance(callback, str) else callback,
            "callback_content_type": content_type,
        }
        started = self._started(group_id, fields)
        query, chord = sql.query("chord.sql", "has ended", self.journal.schema), {"chord": escape(group_id)}
        if self.append_and_ask(started, query, chord):
            self._start_anew(group_id, fields)
        if results == [] and not self.outage.away:  # or else the sweep sends it
            self._claim_and_send(group_id, body)
        else:
            self._bodies[group_id] = body

    def _started(self, group_id: str, fields: dict[str, Any]) -> kinds.ChordStarted:
        return signed(self.emitter.emit(kinds.ChordStarted, group_id, **fields), self.options.signing_keys)

    def _start_anew(self, group_id: str, fields: dict[str, Any]) -> None:
        """Begin another run of a chord that ran before under the same ids: a frozen signature that is applied again.

        The parts and the end of the earlier run leave the views, a saved group of that id stays.
        """
        saved = self._rows(GroupResult, [group_id], fresh=True).get(group_id)
        events: list[kinds.Event] = [self.emitter.emit(kinds.GroupExpired, group_id)]
        if saved is not None and saved.result is not None:
            kept = saved.model_dump(include={"members", "result", "content_type", "content_encoding"})
            events.append(self.emitter.emit(kinds.GroupSaved, group_id, **kept))
        self.append(*events, self._started(group_id, fields))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Record how many parts the chord has; the first of them may have returned by now."""
        body = self._bodies.pop(group_id, None)
        self._after(self.emitter.emit(kinds.ChordSizeSet, named(group_id, "group_id"), size=chord_size), parts=0, callback=body)

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
            errbacks=getattr(request, "errbacks_called", None),
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
        if request is None and (unfailed := _unfailed.get()) is not None:
            request = unfailed.pop(task_id, None)
        # Celery fails them with this one, and does not say which canvas they are in.
        for task in (inner for step in later_of(request) for inner in (step, *tasks_of(step))):
            task["options"] = {"root_id": getattr(request, "root_id", None) or task_id, **(task.get("options") or {})}
        # Celery returns the parts of tasks, but not those of the groups and chords of the chain, nor does it fail their tasks.
        complex_ones = [task for task in later_of(request) if task.get("subtask_type")]
        self._return_parts_of(complex_ones, state, exc)
        super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
        if store_result and complex_ones:
            for end in self._open([end for task in complex_ones for end in ends_of(task)]):
                self.store_result(end["options"]["task_id"], exc, state, traceback=traceback, request=unsent_request(end))

    def mark_as_revoked(
        self, task_id: Any, reason: Any = "", request: Any = None, store_result: bool = True, state: str = states.REVOKED
    ) -> None:
        """Record that the task is revoked; a chord that waits for what comes after it in its chain hears of it too."""
        super().mark_as_revoked(task_id, reason, request, store_result, state)
        self._return_parts_of(later_of(request), state, TaskRevokedError(reason))

    def return_parts(self, request: Any, state: str, exc: Any) -> None:
        """Return the part of a task that has ended, and of what comes after it in its chain and will never run."""
        if getattr(request, "chord", None):
            self.on_chord_part_return(request, state, exc)
        self._return_parts_of(later_of(request), state, exc)

    def _return_parts_of(self, signatures: Iterable[Any], state: str, exc: Any) -> None:
        for signature in signatures:
            for member in members_of(signature):
                self.on_chord_part_return(member, state, exc)

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

    def _claim_and_send(self, group_id: str, body: Any = None) -> bool:
        """Send the body, of a chord that is swept the recorded one, if it is ours to send; return whether it was."""
        query, claim = self._claim(group_id, 0)
        answered = self.database.run(lambda connection: connection.execute(query, claim).fetchone())
        return answered is not None and self._send_if_claimed(group_id, answered[0], body)

    def _claim(self, group_id: str, parts: int) -> tuple[bytes, dict[str, Any]]:
        """Return the query of a claim and its parameters; who claims has a name of its own, so asking again is no other claim."""
        claimant = f"{self.emitter.name}/{uuid()}"
        claim = {"chord": escape(group_id), "parts": parts, "claimant": claimant, "lease": self.options.chord_lease}
        return sql.query("chord.sql", "claim", self.journal.schema), claim

    def _send_if_claimed(self, group_id: str, answer: str | None, callback: Any) -> bool:
        if answer not in {"claimed", "taken over"}:
            return False
        try:
            body = maybe_signature(callback, app=self.app) if callback else self._recorded_body(group_id)
        except ChordError as exc:
            self._fail_unread(group_id, exc)
            return True
        # The body keeps its id, so one that was sent is recognised.
        body_id = result_id_of(body) or body.options.setdefault("task_id", uuid())
        if answer == "taken over" and self._was_sent(body, body_id):
            self._end(kinds.ChordUnlocked, group_id, body_id)
            return True
        try:
            values = self._values(group_id, swept=not callback)
            try:
                publish(self.app, body, values)
            except Exception as exc:
                raise ChordError(f"Callback error: {exc!r}") from exc
        except ChordError as exc:
            logger.exception("Chord %r raised: %r", group_id, exc)
            self._fail(group_id, body, body_id, exc)
        else:
            self._end(kinds.ChordUnlocked, group_id, body_id)
        return True

    def fail_chord(self, group_id: str, reason: str) -> bool:
        """End a chord whose parts have all returned as a failure, instead of sending its body; return whether that was ours to do.

        It names the first member that has failed, and the reason where none has.
        """
        query, claim = self._claim(group_id, 0)
        (answer,) = self.database.run(lambda connection: connection.execute(query, claim).fetchone()) or (None,)
        if answer not in {"claimed", "taken over"}:
            return False
        try:
            body = self._recorded_body(group_id)
        except ChordError as exc:
            return self._fail_unread(group_id, exc)
        body_id = result_id_of(body) or body.options.setdefault("task_id", uuid())
        if self._was_sent(body, body_id):
            self._end(kinds.ChordUnlocked, group_id, body_id)
            return False
        try:
            self._raise_failed(group_id)  # what a member has failed with says more
            raise ChordError(reason)  # Celery wants one that was raised
        except ChordError as exc:
            self._fail(group_id, body, body_id, exc)
        return True

    def open_chord(self, group_id: str) -> Any:
        """Return the body of a chord that has not ended; None if there is no such chord."""
        counter = self._rows(ChordCounter, [group_id], fresh=True).get(group_id)
        return self._recorded_body(group_id) if counter is not None and counter.state == "open" else None

    def _fail_unread(self, group_id: str, exc: ChordError) -> bool:
        """End a chord whose body must not be sent or cannot be read, unless it was sent; return whether that is a failure.

        An outer chord that its result is a part of hears of it by the sweep.
        """
        counter = self._rows(ChordCounter, [group_id], fresh=True).get(group_id)
        body_id = None if counter is None else counter.body_task_id
        if body_id is not None and self._is_known({body_id}):
            self._end(kinds.ChordUnlocked, group_id, body_id)
            return False
        logger.error("Chord %r raised: %r", group_id, exc)
        if body_id is not None:
            self.mark_as_failure(body_id, exc)
        self._end(kinds.ChordFailed, group_id, body_id, reason=str(exc))
        return True

    def _fail(self, group_id: str, body: Any, body_id: str, exc: ChordError) -> None:
        owed = list(members_of(body))  # before Celery, which fails a group by giving its tasks another one
        called = call_once(body, lambda: (recorded.event for recorded in self._stream(group_id)))
        self._fail_body(body, exc)
        for member in owed:  # a body that is a member of an outer chord
            member.errbacks_called = called
            self.on_chord_part_return(member, states.FAILURE, exc)
        self._end(kinds.ChordFailed, group_id, body_id, reason=str(exc))

    def _fail_body(self, body: Any, exc: ChordError) -> None:
        """Fail the body, and whatever else holds its result: Celery knows of tasks, chains and, from 5.6 on, of groups."""
        ends = list(ends_of(body))
        tasks = (body, *tasks_of(body), *ends)  # what of them has no name of its own comes first
        unfailed = {task_id: unsent_request(task) for task in tasks for task_id in ids_of([task])}
        token = _unfailed.set(unfailed)
        try:
            self.chord_error_from_stack(body, exc)
        finally:
            _unfailed.reset(token)
        cause = exc.__cause__ if isinstance(body, group) and isinstance(exc.__cause__, Exception) else exc  # as Celery has it
        # What waits in the spool by now, the views do not show.
        for end in self._open(end for end in ends if unfailed.keys() & ids_of([end])):
            request = unsent_request(end)
            request.errbacks = maybe_list(end["options"].get("link_error")) or []
            self.mark_as_failure(request.id, cause, request=request)

    def _handle_group_chord_error(self, group_callback: Any, backend: Any, exc: Any = None) -> None:
        """Fail the tasks of a group that is a body, and have them revoked, as Celery does; the failures first, as from Celery 5.7 on."""
        with revoked_last(group_callback):
            super()._handle_group_chord_error(group_callback, backend, exc)

    def fail_from_current_stack(self, task_id: str | None, exc: Any = None) -> Any:
        """Fail the task with what was raised, as Celery does; none where there is no id, as of a chain before Celery 5.6."""
        return super().fail_from_current_stack(task_id, exc=exc) if task_id else None

    def _open(self, signatures: Iterable[Any]) -> list[Any]:
        """Return those of the frozen signatures whose tasks have not ended."""
        signatures = list(signatures)
        rows = self._rows(TaskResult, set(ids_of(signatures)), fresh=True)
        ended = {task_id for task_id, row in rows.items() if row.status in states.READY_STATES}
        return [signature for signature in signatures if set(ids_of([signature])) - ended]

    def _end(self, kind: type[kinds.ChordUnlocked] | type[kinds.ChordFailed], group_id: str, body_id: str | None, **fields: Any) -> None:
        release = sql.query("chord.sql", "release", self.journal.schema)
        event = self.emitter.emit(kind, group_id, task_id=body_id, **fields)
        self.append_and_ask(event, release, {"chord": escape(group_id)})

    def _values(self, group_id: str, *, swept: bool) -> list[Any]:
        """Return the values of the parts, in the order and the nesting of the header; raise ChordError if one failed.

        A sweep opens no pickle: it runs in the main process of a worker, and anybody may have written that.
        """
        parts = self.database.run(lambda connection: ChordPart.of(connection, group_id, self.journal.schema))
        if swept and (pickled := [part.task_id for part in parts if part.result is not None and is_pickle(part.content_type)]):
            raise ChordError(f"Dependency {pickled[0]} has returned a pickle, which a sweep does not open")
        try:
            values = [self._part_value(part) for part in parts]
            header = self._recorded_header(group_id)
            if any(children is not None for _, children in header):
                return self._nested(header, {part.task_id: value for part, value in zip(parts, values, strict=True)}, swept=swept)
        except (ChordError, JournalUnavailable):
            raise
        except Exception as exc:
            raise ChordError(f"Join error: {exc!r}") from exc
        return values

    def _nested(self, header: list[Any], values: dict[str, Any], *, swept: bool) -> list[Any]:
        """Return the values in the structure of a header that has groups in it."""
        nested = []
        for node, children in header:
            task_id = node[0] if isinstance(node, list | tuple) else node
            if children is not None:
                nested.append(self._nested(children, values, swept=swept))
            elif task_id in values:
                nested.append(values[task_id])
            else:  # it returned through another task, such as the body of a chord
                if (
                    swept
                    and (row := self._rows(TaskResult, [task_id], fresh=True).get(task_id)) is not None
                    and is_pickle(row.content_type)
                ):
                    raise ChordError(f"Dependency {task_id} has returned a pickle, which a sweep does not open")
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

    def _raise_failed(self, group_id: str) -> None:
        for part in self.database.run(lambda connection: ChordPart.of(connection, group_id, self.journal.schema)):
            if part.status in states.PROPAGATE_STATES and not is_pickle(part.content_type):
                self._part_value(part)

    def _recorded_header(self, group_id: str) -> list[Any]:
        counter = self._rows(ChordCounter, [group_id], fresh=True).get(group_id)
        return json.loads(counter.sub_tasks) if counter is not None and counter.sub_tasks else []

    def _recorded_body(self, group_id: str) -> Any:
        """Return the body as the events that started the chord have it; raise ChordError where it must not be sent."""
        started = [recorded.event for recorded in self._stream(group_id) if isinstance(recorded.event, kinds.ChordStarted)]
        return maybe_signature(read_body(group_id, started, self.app.conf.accept_content, self.options.signing_keys), app=self.app)

    def _stream(self, group_id: str) -> list[RecordedEvent]:
        return self.database.run(lambda connection: self.journal.read_stream(connection, group_id))

    def _was_sent(self, body: Any, body_id: str) -> bool:
        """Return whether the journal knows any task of the body; that one was marked as lost says nothing of it."""
        return self._is_known({body_id, *ids_of(tasks_of(body))})

    def _is_known(self, task_ids: set[str]) -> bool:
        rows = self._rows(TaskResult, task_ids, fresh=True)
        return any(row.task_name or row.worker or row.status != states.PENDING for row in rows.values())
