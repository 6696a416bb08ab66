"""Error callbacks of the bodies of nested chords: Celery links one to the inner and to the outer body, and it is to be called once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kombu.utils import json
from kombu.utils.functional import maybe_list

from celery_journal.journal.events import ChordPartReturned, Event

from .members import ends_of, tasks_of

#: The options of a signature that say where it is sent from, and not what it is.
_WHERE = {"task_id", "root_id", "parent_id", "group_id", "reply_to"}


def call_once(body: Any, events: Callable[[], Iterable[Event]]) -> list[str] | None:
    """Take from a body that fails the errbacks that inner bodies have called, as the events of its chord say.

    Returns marks of all that are called by then, for the part that the body owes to an outer chord; None if there are none.
    """
    marks = {_mark(errback) for signature in (body, *ends_of(body)) for errback in _errbacks(signature)}
    if not marks:
        return None
    called = {mark for event in events() if isinstance(event, ChordPartReturned) for mark in event.errbacks or ()}
    for signature in (body, *tasks_of(body)):
        if any(_mark(errback) in called for errback in _errbacks(signature)):
            signature["options"]["link_error"] = [errback for errback in _errbacks(signature) if _mark(errback) not in called]
    return sorted(called | marks)


def _errbacks(signature: Any) -> Iterator[Any]:
    yield from maybe_list((signature.get("options") or {}).get("link_error")) or ()


def _mark(errback: Any) -> str:
    options = {name: value for name, value in (errback.get("options") or {}).items() if name not in _WHERE}
    what = [errback.get("task"), errback.get("args") or [], errback.get("kwargs") or {}, options]
    try:
        text = json.dumps(what, sort_keys=True)
    except (TypeError, ValueError):  # what JSON has no form for
        text = repr(what)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
