"""Reading a canvas from the journal, from any of its members: the members of what is known, until nothing is new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.replaced import first_names
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.events import TaskSent
from celery_journal.projections.group_result import task_ids_in

from .canvas import UNSENT, Canvas, Node, Way
from .steps import continue_with, embedded_in, ids_in

#: Tasks of a canvas that are read. Nobody looks at more of them at once.
MOST = 1000

Row = dict[str, Any]


def canvas_of(
    connection: Connection, subject: str, schema: str = sql.DEFAULT_SCHEMA, *, beside: str | None = None, most: int = MOST
) -> Canvas:
    """Return the canvas that the task, the group or the chord is a part of; one without nodes if nothing is known of it.

    Of a step that was not sent, the log is read for the task that is to send it, unless it is known to be in the canvas of `beside`.
    Of more than so many tasks it is cut.
    """
    found = _Found(connection, schema, most)
    found.look_for({subject} | ({beside} if beside else set()))
    if not beside and not (found.sent or found.chords or found.groups):
        query = sql.query("graph.sql", "embedding", schema)
        embedding = sorted(Journal(schema).look(connection, query, {"id": escape(subject)}), key=lambda row: row["position"])
        found.look_for({row["stream"] for row in embedding[:1]})
    canvas = found.canvas(subject)
    return canvas if subject in canvas.nodes else Canvas(subject)  # the id may stand anywhere in a message


class _Found:
    """What has been found so far."""

    def __init__(self, connection: Connection, schema: str, most: int) -> None:
        self._connection = connection
        self._most = most
        self._schema = schema
        self.tasks: dict[str, Row] = {}
        self.groups: dict[str, Row] = {}
        self.chords: dict[str, Row] = {}
        self.sent: dict[str, TaskSent] = {}
        self.is_cut = False
        self._asked: set[str] = set()

    def rows(self, name: str, **parameters: Any) -> list[Row]:
        """Return the rows of a query of graph.sql."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql.query("graph.sql", name, self._schema), parameters).fetchall()

    def look_for(self, names: set[str]) -> None:
        """Read what is known by the ids, be they of tasks, groups or chords, and by those that this leads to."""
        names = names | {row["group_id"] for row in self.rows("chords of bodies", ids=[escape(name) for name in names])}
        while (new := names - self._asked) and not self.is_cut:
            self._asked |= new
            ids = [escape(name) for name in new]
            tasks = self.rows("tasks", ids=ids, roots=ids, groups=ids, most=self._most + 1)
            fresh = {row["task_id"]: row for row in tasks if row["task_id"] not in self.tasks}
            for task_id, name in first_names(self._connection, fresh, self._schema).items():
                fresh[task_id]["name"] = name
            self.is_cut = len(self.tasks) + len(fresh) > self._most
            self.tasks |= dict(list(fresh.items())[: self._most - len(self.tasks)])
            chords, groups = self.rows("chords", groups=ids), self.rows("groups", groups=ids)
            self.chords |= {row["group_id"]: row for row in chords}
            self.groups |= {row["group_id"]: row for row in groups}
            names = set(self._led_to(fresh.values(), chords, groups))

    def _led_to(self, tasks: Iterable[Row], chords: Iterable[Row], groups: Iterable[Row]) -> Iterator[str]:
        streams = [row["task_id"] for row in tasks]
        recorded, _ = Journal(self._schema).read_transitions(self._connection, streams, ["task-sent"]) if streams else ([], 0)
        for event in (place.event for place in recorded):
            if isinstance(event, TaskSent) and event.embedded is not None:
                self.sent[event.stream] = event
                yield from ids_in(list(embedded_in(event).values()))
        for row in tasks:
            yield from (row[name] for name in ("root_id", "parent_id", "group_id") if row[name])
        for row in chords:
            yield from ([row["body_task_id"]] if row["body_task_id"] else [])
            yield from _ids_of_header(row["sub_tasks"])
        for row in groups:
            yield from row["members"] or ()

    def canvas(self, subject: str) -> Canvas:
        """Return the canvas of all that was found."""
        canvas = Canvas(subject, is_cut=self.is_cut)
        for row in self.tasks.values():
            task = Node(row["task_id"], "task", row["name"] or "", row["state"], row["worker"], lost_reason=row["lost_reason"])
            canvas.nodes[task.id] = task
        members = self._members()
        for group_id, those in members.items():
            chord = self.chords.get(group_id)
            canvas.nodes[group_id] = (
                Node(group_id, "chord", state=chord["state"], size=chord["size"], done=chord["done"])
                if chord
                else Node(group_id, "group", size=len(those))
            )
        self._join(canvas, members)
        return canvas

    def _members(self) -> dict[str, dict[str, None]]:
        """Return the members of each group and chord, in their order."""
        members: dict[str, dict[str, None]] = defaultdict(dict)
        for group_id, chord in self.chords.items():
            members[group_id] = dict.fromkeys(_ids_of_header(chord["sub_tasks"]))
        for group_id, group in self.groups.items():
            members[group_id] |= dict.fromkeys(group["members"] or ())
        for task_id, row in self.tasks.items():
            if row["group_id"]:
                members[row["group_id"]][task_id] = None
        return members

    def _join(self, canvas: Canvas, members: dict[str, dict[str, None]]) -> None:
        children: dict[str, dict[str, str]] = defaultdict(dict)
        targets = {task_id: self._sent_as(row, members) for task_id, row in self.tasks.items()}
        for task_id, row in self.tasks.items():
            if row["parent_id"] is not None:
                children[row["parent_id"]][row["name"] or ""] = targets[task_id]
        for group_id, chord in self.chords.items():
            if chord["body_task_id"]:
                _join_even_unsent(canvas, group_id, chord["body_task_id"], "body")
        for sent in self.sent.values():
            if sent.stream in canvas.nodes:
                continue_with(canvas, sent, children[sent.stream])
        before = {target: source for (source, target), way in canvas.edges.items() if way in {"then", "body"}}
        inside = {(group_id, step) for group_id in members for step in _within(group_id, members, before)}
        for group_id, those in members.items():
            for member in those:
                *_, first = _steps_to(member, before, group_id)
                _join_even_unsent(canvas, group_id, first, "member")
        led_to = {target for _, target in canvas.edges}
        for task_id, target in targets.items():
            parent = self.tasks[task_id]["parent_id"]
            if parent in canvas.nodes and target not in led_to and (target, parent) not in inside:
                canvas.join(parent, target, "called")

    def _sent_as(self, row: Row, members: dict[str, dict[str, None]]) -> str:
        """Return what was sent when the task was: itself, or the group that it came with; of a chain in a group only the first did."""
        group: str | None = row["group_id"]
        return row["task_id"] if group is None or row["parent_id"] in members[group] else group


def _join_even_unsent(canvas: Canvas, source: str, target: str, way: Way) -> None:
    if target not in canvas.nodes:
        canvas.nodes[target] = Node(target, "task", state=UNSENT)
    canvas.join(source, target, way)


def _within(group_id: str, members: Mapping[str, Iterable[str]], before: Mapping[str, str]) -> set[str]:
    """Return all that is inside a group: the steps of its members, and what is inside the chords among them."""
    found: set[str] = set()
    groups = [group_id]
    while groups:
        group = groups.pop()
        new = {step for member in members.get(group, ()) for step in _steps_to(member, before, group)} - found
        found |= new
        groups += new
    return found


def _steps_to(task_id: str, before: Mapping[str, str], group_id: str) -> list[str]:
    """Return the task, and the steps before it in its chain, a chord among them, the first one last; none that is before the group."""
    steps = [task_id]
    while (earlier := before.get(steps[-1])) is not None and earlier not in {*steps, group_id}:
        steps.append(earlier)
    return steps


def _ids_of_header(header: Any) -> list[str]:
    """Return the ids of a header's tasks; none of what somebody else has recorded as one."""
    try:
        return list(task_ids_in(header or []))
    except (TypeError, ValueError):
        return []
