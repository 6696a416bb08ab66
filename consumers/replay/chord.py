"""A chord that is begun anew: what of its header has succeeded counts, the rest is sent again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu.serialization import dumps, loads, registry

from celery_journal.consumers.backend.bodies import is_signed, signed, without_pickle
from celery_journal.consumers.backend.members import ends_of, members_of
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, ChordStarted, Event
from celery_journal.projections import ChordCounter, ChordPart
from celery_journal.projections.group_result import task_ids_in

from .canvas import options_of, renewed
from .errors import CannotReplay


@dataclass(frozen=True, slots=True)
class Chord:
    """What is known of a chord."""

    counter: ChordCounter
    parts: list[ChordPart]
    started: ChordStarted | None

    @classmethod
    def of(cls, connection: Connection, journal: Journal, group_id: str) -> Chord | None:
        """Return the chord of that group; None if there is none."""
        counter = ChordCounter.get_many(connection, [group_id], journal.schema).get(group_id)
        if counter is None:
            return None
        events, _ = journal.read_transitions(connection, [group_id], ["chord-started"])
        started = [recorded.event for recorded in events if isinstance(recorded.event, ChordStarted)]
        return cls(counter, ChordPart.of(connection, group_id, journal.schema), started[-1] if started else None)

    @classmethod
    def with_body(cls, connection: Connection, journal: Journal, task_id: str) -> Chord | None:
        """Return the chord whose body that is; None if there is none. Where the body is a chord itself, the one that began last."""
        found = ChordCounter.all_objects.using(connection, journal.schema).filter(body_task_id=task_id).order_by("-date_created")
        return next((cls.of(connection, journal, row["group_id"]) for row in found.values("group_id")[:1]), None)

    @property
    def succeeded(self) -> list[ChordPart]:
        """The parts that need not be sent again."""
        return [part for part in self.parts if part.status == "SUCCESS"]

    @property
    def returned(self) -> set[str]:
        """The members that have returned."""
        return {part.task_id for part in self.parts}

    @property
    def members(self) -> list[str]:
        """The ids of the header's tasks, or of the ends of its chains; raise CannotReplay if they are not all known."""
        if self.counter.sub_tasks:
            return list(task_ids_in(json.loads(self.counter.sub_tasks)))
        if self.counter.size is None or len(self.parts) < self.counter.size:
            raise CannotReplay(f"not all tasks of its chord {self.counter.group_id} are known")
        return [part.task_id for part in self.parts]

    def around(self, accept: Any) -> str | None:
        """Return the group of the chord that waits for the body; None if there is none, or nobody knows."""
        if self.started is None or self.started.callback is None:
            return None
        return next((str(member.group) for member in members_of(self.body(accept)) if member.group), None)

    def ends(self, accept: Any) -> list[str]:
        """Return the ids of the tasks that end the body: of a group those in it."""
        return [str(options_of(end)["task_id"]) for end in ends_of(self.body(accept)) if options_of(end).get("task_id")]

    def body(self, accept: Any) -> Any:
        """Return the signature of the body; raise CannotReplay if it is not there."""
        group_id = self.counter.group_id
        if self.started is None or self.started.callback is None:
            raise CannotReplay(f"the body of its chord {group_id} is not recorded")
        try:
            return loads(self.started.callback, self.started.callback_content_type, "utf-8", accept=without_pickle(accept))
        except Exception as exc:
            raise CannotReplay(f"the body of its chord {group_id} cannot be decoded here; perhaps accept_content refuses it") from exc

    def begun_anew(
        self, renewal: Mapping[str, str], returned: Collection[str], emitter: Emitter, accept: Any, keys: Sequence[bytes]
    ) -> list[Event]:
        """Return the facts that a chord with new ids has started, and that these of its members have returned already.

        Raises CannotReplay where there are keys and none of them has signed the body: to begin it anew would sign it.
        """
        if self.started is None:
            raise CannotReplay(f"the start of its chord {self.counter.group_id} is not recorded")
        if keys and not is_signed(self.started, keys):
            raise CannotReplay(f"the body of its chord {self.counter.group_id} is not signed with the app's signing_key")
        content_type = self.started.callback_content_type
        _, _, callback = dumps(renewed(self.body(accept), renewal), serializer=registry.type_to_name.get(content_type, "json"))
        group_id = renewal[self.counter.group_id]
        sub_tasks = self.counter.sub_tasks and json.dumps(_replaced(json.loads(self.counter.sub_tasks), renewal)).encode()
        started = emitter.emit(
            ChordStarted,
            group_id,
            size=self.counter.size,
            task_id=renewal.get(self.counter.body_task_id or "", self.counter.body_task_id),
            callback=callback.encode() if isinstance(callback, str) else callback,
            callback_content_type=content_type,
            result=sub_tasks,
            content_type="application/json" if sub_tasks else None,
            content_encoding="utf-8" if sub_tasks else None,
            source="operator",
        )
        parts = [
            emitter.emit(
                ChordPartReturned,
                group_id,
                task_id=part.task_id,
                state=part.status,
                source="operator",
                **part.model_dump(include={"group_index", "result", "content_type", "content_encoding"}),
            )
            for part in self.succeeded
            if part.task_id in returned
        ]
        return [signed(started, keys), *parts]


def _replaced(value: Any, renewal: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, renewal) for item in value]
    return renewal.get(value, value) if isinstance(value, str) else value
