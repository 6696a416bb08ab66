"""The folds in plain Python: the meaning of a history, one page to read, and what the SQL is measured against.

Every row of a view is a set of registers. A register takes its values from one fact, the greatest under the register's
key, and keys end in the position, so that there is always exactly one. What somebody forgot, that is, every fact of the
stream with a smaller position than the forgetting, is as if it had never been.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from celery_journal.journal.codec import RecordedEvent, escape

Row = dict[str, object]
Fact = RecordedEvent

FORGETS_A_TASK = {"task-forgotten", "task-expired", "task-erased"}
FORGETS_A_GROUP = {"group-deleted", "group-expired"}
FORGETS_A_CHORD = {"group-expired"}
FORGETS_A_WORKER = {"worker-forgotten"}

#: What a task's fact says about its state, the strongest last. "asked" is a revoke that no worker has effected.
CLASSES = (
    "task-sent",
    "task-received",
    "asked",
    "task-started",
    "task-progress",
    "task-retried",
    "task-rejected",
    "task-revoked",
    "task-ignored",
    "task-failed",
    "task-succeeded",
)
ENDS_A_TASK = {"task-succeeded", "task-failed", "task-revoked", "task-ignored"}

ABOUT_A_TASK = {*CLASSES, "task-replaced", "task-lost"} - {"asked"}
ABOUT_A_CHORD = {"chord-started", "chord-size-set", "chord-unlocked", "chord-failed"}
ABOUT_A_WORKER = {"worker-online", "worker-heartbeat", "worker-offline"}

ENDS_A_RUN = {"task-retried", "task-rejected", "task-revoked", "task-ignored", "task-failed", "task-succeeded", "task-replaced"}
ABOUT_A_RUN = {"task-sent", "task-received", "task-started"} | ENDS_A_RUN

#: What is recorded within this was recorded at once; what is recorded earlier than that before it happened, or later than that
#: after, was told by a clock that is wrong, or late.
AT_ONCE = timedelta(seconds=1)
LATE = timedelta(seconds=10)


@dataclass(slots=True)
class Views:
    """The rows that the views show, by their keys."""

    task_result: dict[str, Row] = field(default_factory=dict)
    group_result: dict[str, Row] = field(default_factory=dict)
    chord_counter: dict[str, Row] = field(default_factory=dict)
    chord_part: dict[tuple[str, str, int | None], Row] = field(default_factory=dict)
    task_attempt: dict[tuple[str, int, str | None], Row] = field(default_factory=dict)
    #: Without `alive`, which is of the moment of reading.
    worker: dict[str, Row] = field(default_factory=dict)


def fold(recorded: Iterable[RecordedEvent]) -> Views:
    """Return what the views show of these events, in whatever order they are given."""
    streams: dict[str, list[Fact]] = defaultdict(list)
    for fact in recorded:
        streams[_shown(fact.event.stream) or ""].append(fact)
    views = Views()
    for stream, facts in streams.items():
        if about := _remembered(facts, ABOUT_A_TASK, FORGETS_A_TASK):
            views.task_result[stream] = {"task_id": stream, **_task_result(about)}
            views.task_attempt |= _task_attempts(stream, about)
        if about := _remembered(facts, ABOUT_A_WORKER, FORGETS_A_WORKER):
            views.worker[stream] = {"worker": stream, **_worker(about)}
        views.chord_part |= _chord_parts(stream, facts)
    for stream, facts in streams.items():
        if about := _remembered(facts, {"group-saved"}, FORGETS_A_GROUP):
            views.group_result[stream] = {"group_id": stream, **_group_result(about, views.task_result)}
        if about := _remembered(facts, ABOUT_A_CHORD, FORGETS_A_CHORD):
            parts = [part for key, part in views.chord_part.items() if key[0] == stream]
            views.chord_counter[stream] = {"group_id": stream, **_chord_counter(about, parts)}
    return views


def _task_result(facts: Sequence[Fact]) -> Row:
    asked, run, outcome = (max(facts, key=key) for key in (_asked, _run, _outcome))
    started = [fact for fact in facts if fact.event.kind == "task-started"]
    last_attempt = max((fact.event.attempt for fact in started), default=None)
    is_done = outcome.event.kind in ENDS_A_TASK
    ended = _run_of(facts, outcome)
    starts = {fact.event.occurred_at for fact in started if fact.event.attempt == last_attempt}
    first_start, was_tried_later = min(starts, default=None), last_attempt is not None and last_attempt > outcome.event.attempt
    date_started = first_start
    if len(starts) > 1 or was_tried_later:
        date_started = (ended and _start_of(ended)) or (None if is_done else _newest_start(started, last_attempt)) or first_start
    told = asked
    if is_done and (_place_in_time(asked) > (first_start or outcome.event.occurred_at) or was_tried_later):
        began = (ended and _beginning(ended)) or _place_in_time(outcome)
        sendings = [
            fact
            for fact in facts
            if fact.event.kind == "task-sent"
            and fact.event.attempt == outcome.event.attempt
            and _get(fact, "args") is not None
            and fact.event.occurred_at <= began
        ]
        told = max(sendings, key=lambda fact: (fact.event.occurred_at, fact.position), default=asked)
    news = max(facts, key=_position)
    lost = news.event.kind == "task-lost" and outcome.event.kind not in ENDS_A_TASK
    return {
        "date_created": min(fact.event.occurred_at for fact in facts),
        "date_updated": max(fact.event.occurred_at for fact in facts),
        "task_name": _text(asked, "name"),
        "periodic_task_name": _text(asked, "periodic_task_name"),
        "args": _get(told, "args"),
        "kwargs": _get(told, "kwargs"),
        "args_content_type": _text(told, "args_content_type"),
        "queue": _first_known(_text(asked, "queue"), _greatest_text([fact for fact in facts if _get(fact, "worker") is not None], "queue")),
        "root_id": _text(asked, "root_id"),
        "parent_id": _text(asked, "parent_id"),
        "group_id": _text(asked, "group_id"),
        "args_json": json_or_none(_get(asked, "args")),
        "kwargs_json": json_or_none(_get(asked, "kwargs")),
        "worker": _text(run, "worker"),
        "pid": _get(run, "pid"),
        "date_started": date_started,
        "status": "PENDING" if outcome.event.kind == "task-replaced" else _text(outcome, "state") or "PENDING",
        "retries": outcome.event.attempt,
        "date_done": outcome.event.occurred_at if is_done else None,
        **_encoded(outcome),
        "traceback": _text(outcome, "traceback"),
        "meta": _get(outcome, "meta"),
        "meta_json": json_or_none(_get(outcome, "meta")),
        "date_sent": max((fact.event.occurred_at for fact in facts if fact.event.kind == "task-sent"), default=None),
        "recorded_at": max(fact.recorded_at for fact in facts),
        "lost_reason": _text(news, "reason") or "" if lost else None,
        **_doubled(facts, outcome, first_start, last_attempt, is_restarted=len(starts) > 1),
    }


def _doubled(
    facts: Sequence[Fact], outcome: Fact, first_start: datetime | None, last_attempt: int | None, *, is_restarted: bool
) -> dict[str, Any]:
    """How often it was started, and whether one run began while another was at work, that had not sent it."""
    told: dict[tuple[int, str], list[Fact]] = defaultdict(list)
    for fact in _about_runs(facts):
        told[fact.event.attempt, _run_name(fact)].append(fact)
    began = {key: moment for key, about in told.items() if (moment := _start_of(about)) is not None}
    overlaps = False
    for (attempt, run), start in began.items():
        ends = [fact for fact in told[attempt, run] if fact.event.kind in ENDS_A_RUN]
        if ends:
            end = max(ends, key=_end_of_a_run)
            sent = {"RETRY": attempt + 1, "REPLACED": attempt}.get(_text(end, "state") or "")
            others = [(key[0], moment) for key, moment in began.items() if key != (attempt, run)]
            overlaps |= any(start <= moment < end.event.occurred_at and number != sent for number, moment in others)
    again = outcome.event.attempt > 0 or (last_attempt or 0) > 0 or is_restarted
    took = outcome.event.occurred_at - first_start if outcome.event.kind in ENDS_A_TASK and first_start else None
    odd = is_restarted or (last_attempt is not None and last_attempt > outcome.event.attempt)
    return {
        "runs": len(began),
        "overlap": again and overlaps,
        "ran_again": again,
        "ran_long": odd or (None if took is None else took >= timedelta(seconds=10)),
    }


def _run_of(facts: Sequence[Fact], outcome: Fact) -> list[Fact] | None:
    """Return what is told of the run that has ended with this outcome; None if that is the end of no run."""
    told = [fact for fact in _about_runs(facts) if fact.event.attempt == outcome.event.attempt and _run_name(fact) == _run_name(outcome)]
    ends = [fact for fact in told if fact.event.kind in ENDS_A_RUN]
    return told if ends and max(ends, key=_end_of_a_run) is outcome else None


def _about_runs(facts: Sequence[Fact]) -> list[Fact]:
    return [
        fact for fact in facts if fact.event.kind in ABOUT_A_RUN and (fact.event.kind != "task-revoked" or _get(fact, "worker") is not None)
    ]


def _run_name(fact: Fact) -> str:
    return _text(fact, "run") or ""


def _end_of_a_run(fact: Fact) -> tuple[object, ...]:
    """Of the ends of a run the strongest; that it has put another task in its place is as strong as to be ignored."""
    return CLASSES.index("task-ignored" if fact.event.kind == "task-replaced" else fact.event.kind), *_latest(fact)


def _start_of(run: Sequence[Fact]) -> datetime | None:
    return min((fact.event.occurred_at for fact in run if fact.event.kind == "task-started"), default=None)


def _newest_start(started: Sequence[Fact], attempt: int | None) -> datetime | None:
    """Return when the newest run of the attempt has started."""
    first: dict[str, datetime] = {}
    for fact in started:
        if fact.event.attempt == attempt:
            moment = fact.event.occurred_at
            first[_run_name(fact)] = min(first.get(_run_name(fact), moment), moment)
    return max(first.values(), default=None)


def _beginning(run: Sequence[Fact]) -> datetime | None:
    """Return the first that is told of a run, by whoever ran it."""
    return min((fact.event.occurred_at for fact in _ran(run)), default=None)


def _ran(run: Sequence[Fact]) -> list[Fact]:
    """Return what is told of a run itself; of its ends only the one that counts."""
    ends = [fact for fact in run if fact.event.kind in ENDS_A_RUN]
    end = max(ends, key=_end_of_a_run, default=None)
    return [fact for fact in run if fact.event.kind in {"task-received", "task-started"} or fact is end]


def _asked(fact: Fact) -> tuple[object, ...]:
    """The fullest account of what was asked, then the newest attempt, then the sender's own."""
    fullness = 2 if _get(fact, "args") is not None else 1 if _get(fact, "name") is not None else 0
    return fact.event.kind != "task-lost", fullness, fact.event.attempt, fact.event.kind == "task-sent", *_latest(fact)


def _run(fact: Fact) -> tuple[object, ...]:
    """That of the outcome, where the process that ran it tells the end; else the newest attempt that a worker is known for."""
    kind = fact.event.kind
    if kind == "task-lost":  # the worker that it names is the one that was lost
        return False, False, -1, 0, *_latest(fact)
    is_known = _get(fact, "worker") is not None
    is_told = is_known and _get(fact, "pid") is not None
    told = CLASSES.index(kind) if kind in ENDS_A_TASK and is_told else int(kind == "task-started")
    return is_known and is_told and kind == "task-succeeded", is_known, fact.event.attempt, told, *_latest(fact)


def _outcome(fact: Fact) -> tuple[object, ...]:
    """SUCCESS is final; else the newest attempt, and in it the strongest class. To be sent or received again says less than RETRY."""
    kind, attempt = fact.event.kind, fact.event.attempt
    if kind in {"task-lost", "task-replaced"}:
        return False, -1, -1, *_latest(fact)
    if kind in {"task-sent", "task-received"} and attempt > 0:
        return False, 0, -1, *_latest(fact)
    if kind == "task-revoked" and _get(fact, "worker") is None:
        weight = "asked"
    elif _get(fact, "state") == "ABORTED":  # asked for from outside: what the task tells of itself does not hide it
        weight = "task-retried"
    elif kind == "task-progress" and _get(fact, "worker") is None:  # told from outside, perhaps before the start: the later is shown
        weight = "task-started"
    else:
        weight = kind
    return kind == "task-succeeded", attempt, CLASSES.index(weight), *_latest(fact)


def _task_attempts(task_id: str, facts: Sequence[Fact]) -> dict[tuple[str, int, str | None], Row]:
    """The runs of each attempt, with what was told of its sending; that alone where nobody is known to have run it."""
    told: dict[tuple[int, str], list[Fact]] = defaultdict(list)
    for fact in _about_runs(facts):
        told[fact.event.attempt, _run_name(fact)].append(fact)
    rows = {}
    for (attempt, run), about in told.items():
        known = any(_get(fact, "worker") is not None or fact.event.kind in ENDS_A_RUN for fact in about)
        began = [_beginning(others) for (number, other), others in told.items() if other and number == attempt]
        sendings = _sendings(about)
        is_answered = bool(began) if len(sendings) < 2 else any(moment is not None and moment >= max(sendings) for moment in began)
        if run or known or not is_answered:
            row = _task_attempt(about, told.get((attempt, ""), []))
            rows[task_id, attempt, run or None] = {"task_id": task_id, "attempt": attempt, "run": run or None, **row}
    return rows


def _task_attempt(facts: Sequence[Fact], apart: Sequence[Fact]) -> Row:
    """What is told of a run; what its message said, where the run does not say so, by what is told of the attempt apart."""
    ran = max(facts, key=_who_ran)
    ends = [fact for fact in facts if fact.event.kind in ENDS_A_RUN]
    end = max(ends, key=_end_of_a_run, default=None)
    received, started = (_first(facts, kind) for kind in ("task-received", "task-started"))
    sendings, began = _sendings(apart) or _sendings(facts), _beginning(facts)
    before = [moment for moment in sendings if began is None or moment <= began]
    # By a clock that is ahead of the worker's, the first is none before it.
    sent_at = max(before) if before else min(sendings, default=None)
    sent = None if sent_at is None else (sent_at, sendings[sent_at])
    done = None if end is None else end.event.occurred_at
    status = "STARTED" if started else "RECEIVED" if received else "PENDING"
    sending = [fact for fact in facts if fact.event.kind in {"task-sent", "task-received"}]
    sending_apart = [fact for fact in apart if fact.event.kind in {"task-sent", "task-received"}]
    eta, expires = _greatest(sending, "eta"), _greatest(facts, "expires")
    if len(sendings) < 2 or received is None:  # who has received one of several says all that its own message does
        eta, expires = eta or _greatest(sending_apart, "eta"), expires or _greatest(apart, "expires")
    return {
        "worker": _text(ran, "worker"),
        "pid": _get(ran, "pid"),
        "status": status if end is None else _text(end, "state"),
        "date_sent": sent and sent[0],
        "date_received": received and received[0],
        "date_started": started and started[0],
        "date_done": done,
        "queue": _greatest_text(facts, "queue") or _greatest_text(apart, "queue"),
        "eta": eta,
        "expires": expires,
        "time_limit": _first_known(_greatest(facts, "time_limit"), _greatest(apart, "time_limit")),
        "queue_wait": started and sent and _queue_wait(sent, started, eta),
        "run_time": max(done - started[0], timedelta(0)) if done and started else None,
        "traceback": None if end is None else _text(end, "traceback"),
        "recorded_at": max(fact.recorded_at for fact in facts),
        "sent_recorded_at": sent and sent[1],
    }


def _sendings(facts: Sequence[Fact]) -> dict[datetime, Any]:
    """Return when it was sent, by the clock of the sender, and when that was recorded first."""
    sent: dict[datetime, Any] = {}
    for fact in facts:
        if fact.event.kind == "task-sent":
            moment = fact.event.occurred_at
            sent[moment] = min(sent.get(moment, fact.recorded_at), fact.recorded_at)
    return sent


def _who_ran(fact: Fact) -> tuple[object, ...]:
    """Who is known to have started it, then whoever else is known."""
    known = _get(fact, "worker") is not None
    return known, known and fact.event.kind == "task-started", *_latest(fact)


Moments = tuple[Any, Any]


def _first(facts: Sequence[Fact], kind: str) -> Moments | None:
    """Return the first moment of that kind by the clock of who tells, and the first by that of the database."""
    of_kind = [fact for fact in facts if fact.event.kind == kind]
    return (min(fact.event.occurred_at for fact in of_kind), min(fact.recorded_at for fact in of_kind)) if of_kind else None


def _queue_wait(sent: Moments, started: Moments, eta: Any) -> timedelta:
    sooner, later = sorted([sent[1] - sent[0], started[1] - started[0]])
    wrong = started[0] < sent[0] or sooner < -AT_ONCE or (sooner < AT_ONCE and later > LATE)
    begin, end = (sent[1], started[1]) if wrong else (sent[0], started[0])
    wait: timedelta = end - (begin if eta is None else max(begin, eta))
    return max(wait, timedelta(0))


def _greatest(facts: Sequence[Fact], name: str) -> Any:
    values: list[Any] = [value for fact in facts if (value := _get(fact, name)) is not None]
    return max(values, default=None)


def _greatest_text(facts: Sequence[Fact], name: str) -> str | None:
    return max((value for fact in facts if (value := _text(fact, name)) is not None), default=None)


def _first_known(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _worker(facts: Sequence[Fact]) -> Row:
    seen = max(facts, key=_position)
    online = max((fact for fact in facts if fact.event.kind == "worker-online"), key=_position, default=None)
    offset = seen.event.occurred_at - seen.recorded_at
    meta = _said(seen)
    queues = meta.get("queues")
    since = facts if online is None else [fact for fact in facts if _position(fact) >= _position(online)]
    told = max((fact for fact in since if "tasks" in _said(fact)), key=_position, default=None)
    tasks = None if told is None else _said(told)["tasks"]
    return {
        "offline": seen.event.kind == "worker-offline",
        "first_seen": min(fact.recorded_at for fact in facts),
        "online_since": None if online is None else online.recorded_at,
        "last_seen": seen.recorded_at,
        "clock_offset": max(offset, timedelta(0)) if _text(seen, "source") == "broadcast" else offset,
        "pid": _get(seen, "pid"),
        "queues": sorted(queues) if queues else None,
        "source": _text(seen, "source"),
        "tasks": tasks if isinstance(tasks, list) else None,
        **{name: meta.get(name) for name in ("software", "version", "system", "pool")},
        **{
            name: value if isinstance(value := meta.get(name), int | float) else None
            for name in ("concurrency", "freq", "active", "processed", "visibility_timeout")
        },
    }


def _said(fact: Fact) -> dict[str, Any]:
    """What a worker says of itself."""
    said = json_or_none(_get(fact, "meta"))
    return said if isinstance(said, dict) else {}


def _group_result(facts: Sequence[Fact], tasks: dict[str, Row]) -> Row:
    saved = max(facts, key=_latest)
    members: Any = _get(saved, "members")
    shown = None if members is None else [escape(member) for member in members]
    ended: list[Any] = [tasks[member]["date_done"] if member in tasks else None for member in shown or ()]
    return {
        "date_created": min(fact.event.occurred_at for fact in facts),
        "date_saved": _place_in_time(saved),
        "date_done": max(ended) if ended and None not in ended else None,
        "members": shown,
        **_encoded(saved),
        "recorded_at": max(fact.recorded_at for fact in facts),
    }


def _chord_parts(stream: str, facts: Sequence[Fact]) -> dict[tuple[str, str, int | None], Row]:
    """A member's part is its success, if there is one, and else what it returned first."""
    returned: dict[tuple[str, str, int | None], list[Fact]] = defaultdict(list)
    for fact in _remembered(facts, {"chord-part-returned"}, FORGETS_A_CHORD):
        index: Any = _get(fact, "group_index")
        returned[stream, _text(fact, "task_id") or "", index].append(fact)
    return {key: _chord_part(key, min(told, key=_first_success)) for key, told in returned.items()}


def _first_success(fact: Fact) -> tuple[object, ...]:
    return _get(fact, "state") != "SUCCESS", fact.position


def _chord_part(key: tuple[str, str, int | None], part: Fact) -> Row:
    group_id, task_id, group_index = key
    return {
        "group_id": group_id,
        "task_id": task_id,
        "group_index": group_index,
        "position": part.position,
        "date_done": part.event.occurred_at,
        "status": _text(part, "state"),
        **_encoded(part),
    }


def _chord_counter(facts: Sequence[Fact], parts: Sequence[Row]) -> Row:
    started = max((fact for fact in facts if fact.event.kind == "chord-started"), key=_latest, default=None)
    sized = max((fact for fact in facts if _get(fact, "size") is not None), key=_latest, default=None)
    ended = max((fact for fact in facts if fact.event.kind in {"chord-unlocked", "chord-failed"}), key=_end, default=None)
    added = {_get(fact, "task_id") for fact in facts if fact.event.kind == "chord-size-set"} - {None}
    header = None if started is None else json_or_none(_get(started, "result"))
    size: Any = None if sized is None else _get(sized, "size")
    if size is not None:
        size += len(added)
    elif isinstance(header, list):
        size = len(header)
    return {
        "sub_tasks": header,
        "size": size,
        "done": len(parts),
        "failed": sum(part["status"] != "SUCCESS" for part in parts),
        "count": None if size is None else max(size - len(parts), 0),
        "date_created": min(fact.event.occurred_at for fact in facts),
        "date_done": None if ended is None else ended.event.occurred_at,
        "state": "open" if ended is None else "unlocked" if ended.event.kind == "chord-unlocked" else "failed",
        "body_task_id": (ended and _text(ended, "task_id")) or (started and _text(started, "task_id")),
        "recorded_at": max(fact.recorded_at for fact in facts),
    }


def _position(fact: Fact) -> int:
    return fact.position


def _end(fact: Fact) -> tuple[object, ...]:
    """The body that was sent stands, whoever thinks that the chord has failed."""
    return fact.event.kind == "chord-unlocked", *_latest(fact)


def _latest(fact: Fact) -> tuple[object, ...]:
    return _place_in_time(fact), fact.position


def _place_in_time(fact: Fact) -> datetime:
    """What its clock said; where that went back, where its emitter has put it."""
    return fact.event.ordered_at or fact.event.occurred_at


def _remembered(facts: Sequence[Fact], about: set[str], forgetting: set[str]) -> list[Fact]:
    """Return the facts `about` a row that stand behind the last forgetting in the log."""
    forgotten = _last(facts, forgetting)
    return [fact for fact in facts if fact.event.kind in about and fact.position > forgotten]


def _last(facts: Sequence[Fact], kinds: set[str]) -> int:
    return max((fact.position for fact in facts if fact.event.kind in kinds), default=0)


def _encoded(fact: Fact) -> Row:
    result = _get(fact, "result")
    return {
        "content_type": _text(fact, "content_type"),
        "content_encoding": _text(fact, "content_encoding"),
        "result": result,
        "result_json": json_or_none(result),
    }


def _get(fact: Fact, name: str) -> object:
    return getattr(fact.event, name, None)


def _text(fact: Fact, name: str) -> str | None:
    return _shown(_get(fact, name))


def _shown(text: object) -> str | None:
    """Return the text as PostgreSQL can show it."""
    return escape(text) if isinstance(text, str) else None


def json_or_none(encoded: object) -> object:
    """Return the value of the JSON text; None if it is none, or not one that PostgreSQL can hold."""
    if not isinstance(encoded, bytes):
        return None
    try:
        value: object = json.loads(encoded.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if _fits(value) else None


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _fits(value: object) -> bool:
    match value:
        case str():
            return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case list():
            return all(map(_fits, value))
        case dict():
            return all(_fits(key) and _fits(item) for key, item in value.items())
        case _:
            return True


def differences(expected: Views, found: Views) -> list[str]:
    """Return a line for each column in which two sets of views differ."""
    return [line for view in fields(Views) for line in _differences(view.name, getattr(expected, view.name), getattr(found, view.name))]


def _differences(view: str, expected: dict[Any, Row], found: dict[Any, Row]) -> Iterator[str]:
    for key in sorted(expected.keys() | found.keys(), key=str):
        if key not in found:
            yield f"{view} {key}: missing, {expected[key]} expected"
        elif key not in expected:
            yield f"{view} {key}: shown, none expected: {found[key]}"
        else:
            left, right = expected[key], found[key]
            for column in sorted(left.keys() | right.keys()):
                if left.get(column, "no column") != right.get(column, "no column"):
                    yield f"{view} {key}.{column}: {left.get(column)!r} expected, {right.get(column)!r} shown"
