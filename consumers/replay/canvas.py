"""What comes with a task in its message, callbacks, the rest of its chain and its chord, under new ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery.utils.time import maybe_iso8601
from kombu.serialization import loads

from celery_journal.consumers.backend.bodies import without_pickle
from celery_journal.consumers.backend.members import ends_of, members_of
from celery_journal.journal.events import TaskSent

from .errors import CannotReplay

#: The header of a message that says which task it is sent again of, and that which says in which replay.
REPLAY_OF = "journal_replay_of"
REPLAY = "journal_replay"

#: The options of a signature that name tasks and groups.
_IDS = ("task_id", "group_id", "root_id", "parent_id")

#: The options that hold signatures.
_SIGNATURES = ("link", "link_error", "chain", "chord")

#: The arguments of Celery's own tasks for canvases that hold signatures.
_INNER = ("tasks", "header", "body")

Ids = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Passed:
    """The time between the message and its replay."""

    sent_at: datetime
    now: datetime

    def moved(self, moment: Any) -> Any:
        """Return the moment of an `expires`: one that has passed is moved, to be as long after the replay as it was after the message.

        One that had passed when the message was sent is None: as it was, nobody would ever run it.
        """
        try:
            at = maybe_iso8601(moment)
        except (TypeError, ValueError):
            return moment
        if not isinstance(at, datetime):  # seconds, which count from the sending
            return moment
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        if at <= self.sent_at:
            return None
        return (at + (self.now - self.sent_at)).isoformat() if at <= self.now else moment


def new_id(replay_id: str, old_id: str) -> str:
    """Return the id under which the replay sends a task or a group again: always the same, so nothing is sent under two."""
    return str(uuid5(NAMESPACE_URL, f"celery-journal:{replay_id}:{old_id}"))


def embedded_of(sent: TaskSent, accept: Any) -> dict[str, Any]:
    """Return the callbacks, the chain and the chord of a message; raise CannotReplay if they are not all there."""
    if sent.embedded is None:
        return {}
    try:
        embedded = loads(sent.embedded, sent.embedded_content_type, "utf-8", accept=without_pickle(accept))
    except Exception as exc:
        what = sent.embedded_content_type
        raise CannotReplay(f"its callbacks, chain or chord cannot be decoded here ({what}); perhaps accept_content refuses them") from exc
    if embedded is None:
        raise CannotReplay("its callbacks, chain or chord were not captured: no serializer took them")
    if not isinstance(embedded, dict):
        raise CannotReplay("its callbacks, chain or chord are recorded in a form that this version does not know")
    for signature in _all(list(embedded.values())):
        if {"argsrepr", "kwargsrepr"} & options_of(signature).keys():
            raise CannotReplay("the arguments of what comes after it were hidden by the caller (argsrepr, kwargsrepr)")
    return embedded


def chord_of(sent: TaskSent, embedded: Mapping[str, Any]) -> str | None:
    """Return the group of the chord that waits for the task, or for the end of its chain."""
    if embedded.get("chord"):
        return sent.group_id
    members = (member for signature in embedded.get("chain") or () for member in members_of(signature))
    return next((str(member.group) for member in members if member.group), None)


def chain_of(embedded: Mapping[str, Any]) -> list[str]:
    """Return the ids of the tasks that come after the task in its chain, the next first; of a chord or a group there, those that end it."""
    ends = (end for signature in reversed(embedded.get("chain") or ()) for end in ends_of(signature))
    return [str(task_id) for end in ends if (task_id := options_of(end).get("task_id"))]


def next_of(embedded: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the id of what comes next in the chain, which is not at its end, and the group of that if it is a chord or a group."""
    signature = embedded["chain"][-1]
    header = (signature.get("kwargs") or {}).get("header") if signature.get("subtask_type") == "chord" else signature
    if isinstance(header, Mapping):
        groups = _ids(header, "task_id") if header.get("subtask_type") == "group" else set()
    else:  # a header's group is named by its tasks only
        groups = {group for member in _all(header, ()) for group in _ids(member, "group_id")}
    return str(options_of(signature).get("task_id")), next(iter(groups), None)


def tasks_in(value: Any) -> set[str]:
    """Return the ids of all tasks that the signatures in it stand for, those of groups left out."""
    return {task_id for one in _all(value, _SIGNATURES[:-1]) if not _is_canvas(one) for task_id in _ids(one, "task_id")}


def ids_in(value: Any) -> set[str]:
    """Return the ids of all tasks and groups that the signatures in it stand for; not of a chord that waits for them."""
    found: set[str] = set()
    for signature in _all(value, _SIGNATURES[:-1]):
        found |= _ids(signature, "task_id")
        if signature.get("subtask_type") == "chord":  # its header's group is named by its tasks only
            for member in _all((signature.get("kwargs") or {}).get("header"), ()):
                found |= _ids(member, "group_id")
    return found


def renewed(value: Any, new: Ids, passed: Passed | None = None) -> Any:
    """Return the signatures with new ids for old, each with a header that says which it was."""
    if isinstance(value, list | tuple):
        return [renewed(item, new, passed) for item in value]
    if not isinstance(value, Mapping) or "task" not in value:
        return value
    options = dict(options_of(value))
    task_id = options.get("task_id")
    options |= {name: new.get(str(options[name]), options[name]) for name in _IDS if options.get(name)}
    options |= {name: renewed(options[name], new, passed) for name in _SIGNATURES if options.get(name)}
    if passed is not None and options.get("expires") is not None:
        options["expires"] = passed.moved(options["expires"])
    if task_id and str(task_id) in new and not value.get("subtask_type"):
        options["headers"] = {**(options.get("headers") or {}), REPLAY_OF: str(task_id)}
    kept = {**value, "options": options}
    if _is_canvas(value):
        kwargs = value.get("kwargs") or {}
        kept["kwargs"] = {**kwargs, **{name: renewed(kwargs[name], new, passed) for name in _INNER if kwargs.get(name)}}
    return kept


def options_of(signature: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a signature."""
    options = signature.get("options")
    return options if isinstance(options, Mapping) else {}


def _all(value: Any, names: tuple[str, ...] = _SIGNATURES) -> Iterator[Mapping[str, Any]]:
    """Yield every signature in it, those inside of others included."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _all(item, names)
    elif isinstance(value, Mapping) and "task" in value:
        yield value
        for name in names:
            yield from _all(options_of(value).get(name), names)
        for inner in _inner(value):
            yield from _all(inner, names)


def _ids(signature: Mapping[str, Any], name: str) -> set[str]:
    return {str(options_of(signature)[name])} if options_of(signature).get(name) else set()


def _is_canvas(signature: Mapping[str, Any]) -> bool:
    return signature.get("subtask_type") in {"chain", "group", "chord"}


def _inner(signature: Mapping[str, Any]) -> list[Any]:
    if not _is_canvas(signature):
        return []
    kwargs = signature.get("kwargs") or {}
    return [kwargs[name] for name in _INNER if kwargs.get(name)]
