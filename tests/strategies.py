"""Hypothesis strategies: any event, as strange as users' data can be, and small histories for the folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from celery_journal.journal.codec import COLUMNS
from celery_journal.journal.emitter import identify
from celery_journal.journal.events import (
    KINDS,
    ChordFailed,
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupDeleted,
    GroupExpired,
    GroupSaved,
    TaskErased,
    TaskExpired,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskLost,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplaced,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    TaskWitnessed,
    UnknownEvent,
)
from celery_journal.journal.workers import WorkerForgotten, WorkerHeartbeat, WorkerOffline, WorkerOnline

Fields = dict[str, Any]

TASK_IDS = ("task-1", "task-2", "task-3")
GROUP_IDS = ("group-1", "group-2")
WORKERS = ("worker-1", "worker-2")

#: What datetimes are drawn between; hypothesis takes these without a zone.
_EARLY, _LATE = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001

#: The first that a fact can have happened at, wherever.
_EPOCH = datetime(1970, 1, 2)  # noqa: DTZ001

_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9))])

#: When every history begins. Long ago, so its events share the default partition whatever the week of the run.
BEGINNING = datetime(2024, 2, 28, 23, 59, 58, tzinfo=UTC)


# What users put into events


def texts(min_size: int = 0) -> SearchStrategy[str]:
    """Any str, with NUL and lone surrogates more often than chance."""
    letters = st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from('\0\\"{},x0'))
    return st.text(letters, min_size=min_size, max_size=6)


def payloads() -> SearchStrategy[object]:
    """Any value that msgpack holds exactly, and integers of any size."""
    moments = st.datetimes(_EARLY, _LATE, timezones=st.just(UTC))
    integers = st.integers() | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400])
    leaves = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | texts() | st.binary(max_size=4) | moments
    keys = st.none() | st.booleans() | integers | texts() | st.binary(max_size=4)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2), max_leaves=4)


def moments() -> SearchStrategy[datetime]:
    """Aware moments, in UTC and elsewhere, the partitioned weeks and the default partition alike."""
    return st.datetimes(_EARLY, _LATE, timezones=_ZONES)


def _integers(from_zero: bool = False) -> SearchStrategy[int]:
    edges = [0, 2**31 - 1, 2**31, 2**80] if from_zero else [0, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**80]
    return st.sampled_from(edges) | st.integers(min_value=0 if from_zero else None)


#: A strategy for each field that some kind of event has.
_FIELDS: Mapping[str, SearchStrategy[object]] = {
    **dict.fromkeys(("name", "args_content_type", "queue", "root_id", "parent_id", "group_id", "periodic_task_name"), texts()),
    **dict.fromkeys(
        ("worker", "content_type", "content_encoding", "state", "traceback", "task_id", "reason", "author", "source", "run"), texts()
    ),
    **dict.fromkeys(("action", "embedded_content_type", "label", "replay"), texts()),
    **dict.fromkeys(("eta", "expires"), moments()),
    #: How long after what the clock said.
    "ordered_at": st.timedeltas(timedelta(microseconds=1), timedelta(days=36500)),
    "time_limit": st.floats(allow_nan=False) | st.integers(0, 2**60).map(float),
    **dict.fromkeys(("callback_content_type",), texts()),
    **dict.fromkeys(("args", "kwargs", "meta", "result", "callback", "embedded", "signature"), st.binary(max_size=6)),
    **dict.fromkeys(("group_index", "size"), _integers(from_zero=True)),
    "pid": _integers(),
    "guessed": st.booleans(),
    **dict.fromkeys(("members", "errbacks", "destination"), st.lists(texts(), max_size=3).map(tuple)),
    "stamps": st.dictionaries(texts(), payloads(), max_size=2),
    **dict.fromkeys(
        ("request", "definition", "message", "options", "counts"),
        st.dictionaries(st.integers() | texts() | st.none(), payloads(), max_size=2),
    ),
}


def _every_event() -> dict[str, SearchStrategy[Any]]:
    return {
        "event_id": st.uuids(),
        "stream": texts(min_size=1),
        "schema_version": st.integers(1, 32767),
        "attempt": st.integers(0, 3) | st.just(2**31 - 1),
        "occurred_at": st.datetimes(_EPOCH, _LATE, timezones=_ZONES),
    }


def unknown_fields(model: type[Event]) -> SearchStrategy[Fields]:
    """Fields that `model` does not have: of any name, of the name of a column, None among their values."""
    columns = sorted({*COLUMNS, "transaction", "position", "recorded_at", "\0exact"} - set(model.model_fields))
    # pydantic takes no lone surrogates in the name of a field.
    names = st.sampled_from(columns) | st.text(st.characters(codec="utf-8"), max_size=4)
    return st.dictionaries(names.filter(lambda name: name not in model.model_fields), payloads(), max_size=3)


def events_of(model: type[Event]) -> SearchStrategy[Event]:
    """Any event of one kind."""
    always, perhaps = _every_event(), {}
    for name, info in model.model_fields.items():
        if name in always or name == "kind" or (name == "state" and not info.is_required()):
            continue
        if info.is_required():
            always[name] = _FIELDS[name]
        else:
            perhaps[name] = st.none() | _FIELDS[name]
    known = st.fixed_dictionaries(always, optional=perhaps)
    return st.builds(lambda fields, unknown: model.model_validate({**unknown, **_in_order(fields)}), known, unknown_fields(model))


def _in_order(fields: Fields) -> Fields:
    """Return the fields, the place in time reckoned from the clock."""
    return fields | {"ordered_at": fields["occurred_at"] + fields["ordered_at"]} if fields.get("ordered_at") else fields


def unknown_events() -> SearchStrategy[Event]:
    """Events of a kind that this version does not know."""
    kinds = st.sampled_from(["task-teleported", "audit-noted"]) | texts(min_size=1).filter(lambda kind: kind not in KINDS)
    known = st.fixed_dictionaries({**_every_event(), "kind": kinds})
    return st.builds(lambda fields, unknown: UnknownEvent.model_validate({**unknown, **fields}), known, unknown_fields(UnknownEvent))


def events() -> SearchStrategy[Event]:
    """Any event of any kind."""
    return st.one_of(unknown_events(), *map(events_of, KINDS.values()))


# Histories


@dataclass(frozen=True, slots=True)
class _Draft:
    """An event that has no place in its history yet; what it carries tells it from the others there."""

    model: type[Event]
    stream: str
    attempt: int
    #: Seconds on the clock of the emitter, which does not agree with the order of the history.
    clock: int
    #: Seconds by which that clock has gone back since its emitter told something of the stream.
    behind: int | None
    fields: Fields = field(default_factory=dict)
    #: Fields that hold the number of the event in its history.
    numbered: frozenset[str] = frozenset()


_NUMBERED: Mapping[str, Callable[[int], object]] = {
    "args": lambda number: f"[{number}]".encode(),
    "kwargs": lambda number: f'{{"n": {number}}}'.encode(),
    "meta": lambda number: f'{{"children": [{number}]}}'.encode(),
    "result": lambda number: f"{number}".encode(),
    "traceback": lambda number: f"line {number}",
    "pid": lambda number: number + 1,  # a process has no other
}

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "name": ("add", "mul"),
    "worker": WORKERS,
    "run": ("run-1", "run-2"),
    "source": ("backend", "broadcast"),
    "queue": ("celery", "slow"),
    "root_id": TASK_IDS[:1],
    "parent_id": TASK_IDS[:2],
    "group_id": GROUP_IDS[:1],
    "periodic_task_name": ("nightly",),
    "content_type": ("application/json",),
    "content_encoding": ("utf-8",),
    "args_content_type": ("application/json",),
    "reason": ("because",),
}

_KNOWN_OF_A_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "eta": tuple(BEGINNING + timedelta(seconds=second) for second in (1, 2, 9)),
    "expires": (BEGINNING, BEGINNING + timedelta(seconds=9)),
    "time_limit": (0.0, 10.0, 2.5),
}

#: What a worker says of itself: all of it, some of it, what is no such thing.
_OF_A_WORKER = (
    b'{"software": "py-celery", "version": "5.7.0", "system": "Linux", "pool": "prefork", "concurrency": 4, "queues": ["b", "a"],'
    b' "freq": 2.0, "active": 1, "processed": 70000000000}',
    b'{"software": "py-celery", "queues": [], "freq": 0.5}',
    b'{"software": "py-celery", "tasks": ["b", "a"], "freq": 0.5}',
    b'{"tasks": []}',
    b'{"tasks": null}',
    b"[]",
    b"\x00",
)

#: Seconds of the emitters' clocks; the last is one that is far ahead of the database's.
_CLOCKS = (0, 1, 2, 3, 6_000_000_000)

_BEHIND = (1, 2, 3, 6_000_000_000)

_REPORTS: tuple[type[Event], ...] = (
    TaskSent,
    TaskReceived,
    TaskStarted,
    TaskProgress,
    TaskRetried,
    TaskRejected,
    TaskRevoked,
    TaskFailed,
    TaskSucceeded,
    TaskIgnored,
    TaskReplaced,
)
_TASK_ENDS: tuple[type[Event], ...] = (TaskForgotten, TaskExpired, TaskErased, TaskLost, TaskLost, TaskReplayed, TaskWitnessed)
_WORKERS: tuple[type[Event], ...] = (WorkerOnline, WorkerHeartbeat, WorkerHeartbeat, WorkerOffline, WorkerForgotten)


def _drafts(models: tuple[type[Event], ...], streams: tuple[str, ...], last_attempt: int = 0) -> SearchStrategy[_Draft]:
    return st.sampled_from(models).flatmap(lambda model: _drafts_of(model, streams, last_attempt))


def _drafts_of(model: type[Event], streams: tuple[str, ...], last_attempt: int) -> SearchStrategy[_Draft]:
    chosen: dict[str, SearchStrategy[Any]] = {
        name: st.none() | st.sampled_from(values)
        for known in (_KNOWN, _KNOWN_OF_A_MESSAGE)
        for name, values in known.items()
        if name in model.model_fields
    }
    if model is TaskProgress:
        chosen["state"] = st.sampled_from(["PROGRESS", "HALF"])
    if model is ChordPartReturned:
        chosen |= {"state": st.sampled_from(["SUCCESS", "FAILURE", "REVOKED"]), "task_id": st.sampled_from(TASK_IDS)}
        chosen["group_index"] = st.none() | st.integers(0, 2)
    if model is TaskWitnessed:
        chosen["state"] = st.sampled_from(["STARTED", "SUCCESS"])
    if model in _WORKERS and model is not WorkerForgotten:
        chosen["meta"] = st.none() | st.sampled_from(_OF_A_WORKER)
    if model in {ChordStarted, ChordUnlocked, ChordFailed, TaskReplayed}:
        chosen["task_id"] = st.none() | st.sampled_from(["body-1", "body-2"])
    if model is GroupSaved:
        chosen["members"] = st.none() | st.lists(st.sampled_from(TASK_IDS), max_size=3, unique=True).map(tuple)
    if model is ChordStarted:
        chosen |= {"size": st.none() | st.integers(0, 3), "result": st.none() | st.sampled_from([b"[]", b"[1, 2]"])}
    numbered = sorted(set(_NUMBERED) & set(model.model_fields) - set(chosen))
    return st.builds(
        _Draft,
        model=st.just(model),
        stream=st.sampled_from(streams),
        attempt=st.integers(0, last_attempt),
        clock=st.sampled_from(_CLOCKS),
        behind=st.none() | st.sampled_from(_BEHIND),
        fields=st.fixed_dictionaries(chosen),
        numbered=st.frozensets(st.sampled_from(numbered)) if numbered else st.just(frozenset()),
    )


def _size_drafts() -> SearchStrategy[_Draft]:
    """`set_chord_size` tells the size, `add_to_chord` one more member."""
    sizes: SearchStrategy[Fields] = st.fixed_dictionaries({"size": st.integers(0, 3)})
    members: SearchStrategy[Fields] = st.fixed_dictionaries({"task_id": st.sampled_from(TASK_IDS)})
    return st.builds(
        _Draft,
        st.just(ChordSizeSet),
        st.sampled_from(GROUP_IDS),
        st.just(0),
        st.integers(0, 3),
        st.none() | st.sampled_from(_BEHIND),
        sizes | members,
    )


def _numbered(draft: _Draft, number: int) -> Event:
    occurred_at = BEGINNING + timedelta(seconds=draft.clock)
    kind = cast("str", draft.model.model_fields["kind"].default)
    return draft.model(
        event_id=identify(occurred_at, draft.stream, kind, draft.attempt, "history", number),
        stream=draft.stream,
        attempt=draft.attempt,
        occurred_at=occurred_at,
        ordered_at=None if draft.behind is None else occurred_at + timedelta(seconds=draft.behind),
        **draft.fields,
        **{name: _NUMBERED[name](number) for name in draft.numbered},
    )


def histories(min_size: int = 0, max_size: int = 12) -> SearchStrategy[list[Event]]:
    """Facts about a few tasks, groups, chords and workers, in the order they are recorded, each with an id of its own.

    Several attempts, every kind that a view folds and some it does not; `occurred_at` is of clocks that disagree with
    the order and tie. What two events carry in `args`, `result`, `pid`, ... differs, so that a wrong winner shows.
    """
    tasks = _drafts(_REPORTS, TASK_IDS[:2], last_attempt=2)
    drafts = st.one_of(
        tasks,
        tasks,
        _drafts(_TASK_ENDS, TASK_IDS[:2], last_attempt=2),
        _drafts((GroupSaved, GroupDeleted, GroupExpired), GROUP_IDS),
        _drafts(_WORKERS, WORKERS),
        _drafts((ChordStarted, ChordPartReturned, ChordPartReturned, ChordUnlocked, ChordFailed), GROUP_IDS),
        _size_drafts(),
    )
    return st.lists(drafts, min_size=min_size, max_size=max_size).map(
        lambda history: [_numbered(draft, number) for number, draft in enumerate(history)]
    )
