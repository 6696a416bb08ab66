"""What is to be sent after a task, as its message says: the rest of its chain, its callbacks, the body of its chord."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery import states

from celery_journal.consumers.contents import read
from celery_journal.journal.events import TaskSent

from .canvas import UNSENT, Canvas, Node, Way


def embedded_in(sent: TaskSent) -> Mapping[str, Any]:
    """Return the signatures in a message; none where they cannot be read safely."""
    embedded = read(sent.embedded, sent.embedded_content_type)
    return embedded if isinstance(embedded, Mapping) else {}


def ids_in(signature: object) -> Iterator[str]:
    """Yield the ids of a signature and of all within it."""
    if isinstance(signature, Mapping):
        options = signature.get("options")
        if isinstance(options, Mapping):
            yield from (options[name] for name in ("task_id", "group_id") if isinstance(options.get(name), str))
        yield from ids_in(signature.get("kwargs"))
        yield from (found for name in ("tasks", "header", "body") for found in ids_in(signature.get(name)))
    elif isinstance(signature, list | tuple):
        yield from (found for one in signature for found in ids_in(one))


def continue_with(canvas: Canvas, sent: TaskSent, children: Mapping[str, str]) -> None:
    """Put what is to come after the task into the canvas; what was sent already is joined.

    A callback gets its id when it is sent: `children` are those that the task has sent, by the names of their tasks.
    """
    embedded, before = embedded_in(sent), sent.stream
    state = canvas.nodes[before].state
    for signature in reversed(_signatures(embedded.get("chain"))):  # the next one is the last
        before = _put(canvas, signature, before, "then")
    body = embedded.get("chord")
    if isinstance(body, Mapping) and sent.group_id in canvas.nodes:
        _put(canvas, body, sent.group_id, "body")
    ways: tuple[tuple[str, Way, bool], ...] = (
        ("callbacks", "callback", state not in states.PROPAGATE_STATES),
        ("errbacks", "error", state != states.SUCCESS),
    )
    for name, way, is_due in ways:
        for signature in _signatures(embedded.get(name)):
            child = children.get(str(signature.get("task")))
            if _id(signature) is None and child is not None:
                canvas.join(sent.stream, child, way)
            elif is_due:
                _put(canvas, signature, sent.stream, way)


def _put(canvas: Canvas, signature: Mapping[str, Any], before: str, way: Way) -> str:
    """Put a signature after what is before it, and return what the next step comes after."""
    inner = signature.get("kwargs")
    kwargs: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    own = _id(signature) or f"{before} > {len(canvas.nodes)}"
    match signature.get("task"):
        case "celery.chain":
            for step in _signatures(kwargs.get("tasks")):
                before, way = _put(canvas, step, before, way), "then"
            return before
        case "celery.group":
            return _put_group(canvas, Node(own, "group"), _signatures(kwargs.get("tasks")), before, way)
        case "celery.chord":
            header, body = kwargs.get("header"), kwargs.get("body")
            is_group = isinstance(header, Mapping)
            tasks = _signatures((header.get("kwargs") or {}).get("tasks")) if isinstance(header, Mapping) else _signatures(header)
            group = (_id(header) if is_group and isinstance(header, Mapping) else None) or f"{own} header"
            _put_group(canvas, Node(group, "chord"), tasks, before, way)
            return _put(canvas, body, group, "body") if isinstance(body, Mapping) else group
    known, name = canvas.nodes.get(own), str(signature.get("task") or "")
    if known is None or not known.name:  # one that failed with the step before it has no name of its own
        canvas.nodes[own] = replace(known, name=name) if known else Node(own, "task", name, UNSENT)
    canvas.join(before, own, way)
    return own


def _put_group(canvas: Canvas, node: Node, members: Sequence[Mapping[str, Any]], before: str, way: Way) -> str:
    if node.id not in canvas.nodes:
        canvas.nodes[node.id] = Node(node.id, node.kind, state=UNSENT, size=len(members))
    canvas.join(before, node.id, way)
    for member in members:
        _put(canvas, member, node.id, "member")
    return node.id


def _signatures(given: object) -> list[Mapping[str, Any]]:
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list | tuple) else []


def _id(signature: Mapping[str, Any]) -> str | None:
    options = signature.get("options")
    found = options.get("task_id") if isinstance(options, Mapping) else None
    return found if isinstance(found, str) else None
