"""What people type to find tasks: `state:FAILURE,RETRY name:billing.* -worker:w3 since:2h args.user_id:42`.

Q = parse(["state:FAILURE", "since:2h"], datetime.now(UTC))
TaskResult.objects.using(connection).filter(Q)
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import NoReturn, TypeVar
from uuid import UUID

from celery import states

from celery_journal.consumers.words import shown
from celery_journal.journal.errors import JournalError
from celery_journal.projections.lookups import at, is_place
from celery_journal.projections.query import Q

T = TypeVar("T")

#: What each word is for, with an example; also the text of the help.
WORDS = {
    "state": "state:FAILURE,RETRY",
    "name": "name:billing.*",
    "id": "id:2f1c6c3a*",
    "worker": "worker:w3",
    "queue": "queue:mail",
    "since": "since:2h, since:2026-01-31, since:2026-01-31T08:00",
    "until": "until:30min",
    "args": "args.user_id:42, args.0:42",
    "kwargs": "kwargs.user_id:42",
    "result": "result.total:5",
    "error": "error:timeout",
    "took": "took:>10s",
    "retries": "retries:>2",
    "lost": "lost:yes",
    "resolved": "resolved:no",
    "hidden": "hidden:yes",
    "replayed": "replayed:no, replayed:failed",
    "settled": "settled:no",
    "runs": "runs:>1",
    "overlap": "overlap:yes",
    "root": "root:ID",
    "parent": "parent:ID",
    "group": "group:ID",
    "periodic": "periodic:nightly",
}

_ALIASES = {"status": "state", "task": "name", "task_name": "name", "task_id": "id", "traceback": "error"}
_TEXTS = {
    "id": "task_id",
    "queue": "queue",
    "root": "root_id",
    "parent": "parent_id",
    "group": "group_id",
    "periodic": "periodic_task_name",
}
_STATES = states.ALL_STATES | {states.IGNORED, states.REJECTED}
_COMPARISONS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt", "=": "exact", "": "exact"}
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1, "ms": 0.001}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:w|d|h|min|ms|m|s))+")
_PART_OF_SPAN = re.compile(r"(\d+(?:\.\d+)?)(w|d|h|min|ms|m|s)")


class BadQuery(JournalError, ValueError):
    """A word that means nothing, in one sentence that says what does; fit for a terminal."""

    def __init__(self, sentence: str) -> None:
        super().__init__(shown(sentence))


def parse(words: Sequence[str], now: datetime) -> Q:
    """Return the condition that all of these words hold; raise BadQuery if one means nothing.

    A word with a hyphen before it must not hold; one without a colon is a part of the name, or the beginning of the id, or with `*` or
    `?` the whole of either. Spans such as `2h` are counted back from `now`; dates and moments without a zone are in UTC.
    """
    condition = Q()
    for word in words:
        condition &= _negated(word, now) if word.startswith("-") else _condition(word, now)
    return condition


def doubts(words: Sequence[str], now: datetime) -> Iterator[str]:
    """Yield what may be wrong with words that mean something and have found nothing, in a sentence each, fit for a terminal."""
    for word in words:
        given, _, value = word.removeprefix("-").partition(":")
        key = _ALIASES.get(given, given)
        if key == "state":
            for one in value.split(","):
                if one and not fnmatch.filter(_STATES, one.upper()):
                    nearest = difflib.get_close_matches(one.upper(), _STATES, n=1)
                    hint = f"perhaps you mean {nearest[0]}" if nearest else f"they are {', '.join(sorted(_STATES))}"
                    yield shown(f"{one} is none of Celery's states; {hint}")
        if key == "since" and moment(value, now) > now:
            yield shown(f"{word} is in the future: it is {now:%Y-%m-%dT%H:%M} now, in UTC")


def example_of(name: str) -> str | None:
    """Return how the word of that name is written; None if there is none."""
    example = WORDS.get(_ALIASES.get(name, name))
    return example and example.partition(", ")[0]


def split(text: str) -> list[str]:
    """Return the words of a text as a shell takes it apart: `name:'a task' state:FAILURE`; raise BadQuery if a quote does not end."""
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise BadQuery(f"{text!r} cannot be taken apart into words: a quotation mark is missing") from exc


def span(text: str) -> timedelta:
    """Return how long `2h`, `1h30min` or `250ms` is; raise BadQuery if it is no span."""
    if not _SPAN.fullmatch(text):
        raise BadQuery(f"{text!r} is no span of time; write 10s, 30min, 2h, 1d or 1w")
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART_OF_SPAN.findall(text)))
    except OverflowError as exc:
        raise BadQuery(f"{text!r} is longer than time is reckoned") from exc


def moment(text: str, now: datetime) -> datetime:
    """Return when that was: a span ago, or the date or moment itself, in UTC unless it says otherwise; raise BadQuery if it is none."""
    if _SPAN.fullmatch(text):
        try:
            return now - span(text)
        except OverflowError as exc:
            raise BadQuery(f"{text!r} ago is before time is reckoned") from exc
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise BadQuery(f"{text!r} is no moment; write a span such as 2h or 1d, a date such as 2026-01-31, or 2026-01-31T08:00") from exc


def _negated(word: str, now: datetime) -> Q:
    if len(word) == 1:
        raise BadQuery("'-' alone means nothing; write -worker:w3 for what must not be so")
    return ~_condition(word[1:], now)


def _condition(word: str, now: datetime) -> Q:
    given, colon, value = word.partition(":")
    if not colon:
        if not word:
            raise BadQuery("an empty word means nothing")
        key, equals, _ = word.partition("=")
        if equals and _ALIASES.get(key, key).partition(".")[0] in WORDS:
            raise BadQuery(f"{word!r} means nothing; write {word.replace('=', ':', 1)}")
        if "*" in word or "?" in word:
            return Q(task_name__glob=word) | Q(replaced_name__glob=word) | Q(task_id__glob=word)
        return Q(task_name__icontains=word) | Q(replaced_name__icontains=word) | Q(task_id__startswith=word)
    key, _, path = given.partition(".")
    key = _ALIASES.get(key, key)
    if key not in WORDS:
        _refuse(word, given)
    if not value:
        raise BadQuery(f"{word!r} has no value; write {WORDS[key]}")
    if key in {"args", "kwargs", "result"}:
        return _in_json(key, path, value)
    if path:
        _refuse(word, given)
    return _OF[key](value, now) if key in _OF else _any_of(value, lambda one: _like(_TEXTS[key], one))


def _refuse(word: str, given: str) -> NoReturn:
    nearest = difflib.get_close_matches(given.lower(), WORDS, n=1)
    hint = f", perhaps {nearest[0]}:" if nearest else f"; for text with a colon write 'name:*{word}*'"
    raise BadQuery(f"{word!r} means nothing: there is no {given}:{hint}. There are {', '.join(f'{known}:' for known in WORDS)}")


def _any_of(value: str, condition: Callable[[str], Q]) -> Q:
    """Return the condition that one of the values with commas holds."""
    given = [one for one in value.split(",") if one]
    if not given:
        raise BadQuery(f"{value!r} has no value between its commas")
    return reduce(or_, map(condition, given))


def _like(field: str, value: str) -> Q:
    return Q(**{f"{field}__glob" if "*" in value or "?" in value else field: value})


def _name(value: str, _now: datetime) -> Q:
    """Return the condition on the name: one that has put another task in its place is found by the names of both."""
    return _any_of(value, lambda one: _like("task_name", one) | _like("replaced_name", one))


def _state(value: str, _now: datetime) -> Q:
    return _any_of(value, lambda one: _like("status", one.upper() if fnmatch.filter(_STATES, one.upper()) else one))


def _worker(value: str, _now: datetime) -> Q:
    """Return the condition on the worker: its whole name, or what stands on one side of its `@`."""

    def is_it(one: str) -> Q:
        whole = _like("worker", one)
        return whole if "@" in one or "*" in one else whole | Q(worker__startswith=f"{one}@") | Q(worker__glob=f"*@{one}")

    return _any_of(value, is_it)


def _since(value: str, now: datetime) -> Q:
    """Return the condition that it ended since then; or was created since then, if it has not ended."""
    at = moment(value, now)
    return Q(date_done__gte=at) | Q(date_done__isnull=True, date_created__gte=at)


def _until(value: str, now: datetime) -> Q:
    at = moment(value, now)
    return Q(date_done__lt=at) | Q(date_done__isnull=True, date_created__lt=at)


def _error(value: str, _now: datetime) -> Q:
    # What the worker tells in the place of a task, such as its time limit, comes without a traceback.
    failed = Q(status__in=sorted(states.EXCEPTION_STATES))
    untraced = failed & Q(traceback__isnull=True, result__contains=value)
    # What is said twice of it is how its index is found.
    return (failed | Q(traceback__isnull=False)) & (Q(traceback__icontains=value) | untraced)


def _lost(value: str, _now: datetime) -> Q:
    # What has ended is not lost: of what has not there is an index.
    return Q(date_done__isnull=True, lost_reason__isnull=False) if _is_yes("lost", value) else Q(lost_reason__isnull=True)


def _resolved(value: str, _now: datetime) -> Q:
    return Q(resolved=_is_yes("resolved", value))


def _hidden(value: str, _now: datetime) -> Q:
    return Q(hidden=_is_yes("hidden", value))


def _replayed(value: str, _now: datetime) -> Q:
    if value == "failed":
        return Q(replay_failed=True)
    if value not in {"yes", "no"}:
        raise BadQuery(f"'replayed:{value}' means nothing; write replayed:yes, replayed:no or replayed:failed")
    return Q(replayed=value == "yes")


def _settled(value: str, _now: datetime) -> Q:
    return Q(settled=_is_yes("settled", value))


def _overlap(value: str, _now: datetime) -> Q:
    return Q(overlap=_is_yes("overlap", value))


def _is_yes(key: str, value: str) -> bool:
    if value not in {"yes", "no"}:
        raise BadQuery(f"'{key}:{value}' means nothing; write {key}:yes or {key}:no")
    return value == "yes"


def _retries(value: str, _now: datetime) -> Q:
    return _count("retries", value)


def _runs(value: str, _now: datetime) -> Q:
    return _count("runs", value)


def _count(key: str, value: str) -> Q:
    sign, number = _compared(value)
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise BadQuery(f"'{key}:{value}' means nothing; write {key}:2 or {key}:>2")
    return Q(**{f"{key}__{_COMPARISONS[sign]}": int(number)})


def _took(value: str, _now: datetime) -> Q:
    sign, length = _compared(value)
    if sign not in {">", ">=", "<", "<="}:
        raise BadQuery(f"'took:{value}' means nothing; write took:>10s or took:<1min")
    return Q(**{f"run_time__{_COMPARISONS[sign]}": span(length)})


def _compared(value: str) -> tuple[str, str]:
    """Return the sign of comparison, and what follows it."""
    sign = next((sign for sign in _COMPARISONS if value.startswith(sign)), "")
    return sign, value.removeprefix(sign).strip()


def _in_json(key: str, path: str, value: str) -> Q:
    """Return the condition on a value inside the arguments or the result: as JSON if it is some, as text, or as a type that it spells."""
    steps = [step for step in path.split(".") if step]
    if key == "args" and steps and not is_place(steps[0]):
        key = "kwargs"
    found = reduce(or_, (Q(**{f"{key}__path": at(steps, read)}) for read in _readings(value)))
    # Looking for the letters first spares most rows their decoding; JSON may write other values in several ways.
    is_plain = value.isascii() and value.isalnum() and (not value[0].isdigit() or value.isdigit())
    found = Q(**{f"{key}__contains": value.encode()}) & found if is_plain else found
    typed = (Q(**{f"{key}__contains": letters, f"{key}__path": at(steps, read)}) for letters, read in _typed_readings(value))
    return reduce(or_, typed, found)


def _readings(value: str) -> list[object]:
    """Return what may be meant: 42 is a number, and may be the text "42"; "42" in quotes is text for sure."""
    try:
        read = json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return [value]
    return [read] if isinstance(read, str | dict | list) else [read, value]


def _typed_readings(value: str) -> Iterator[tuple[str, object]]:
    """Yield what else may be meant, with the letters that it is stored by: what kombu's JSON keeps the type of.

    A moment without a zone is one in UTC too, as it is elsewhere.
    """
    for read in (
        _read(UUID, value) if len(value) in {32, 36} else None,
        _read(date.fromisoformat, value),
        _read(time.fromisoformat, value),
    ):
        if isinstance(read, UUID):
            yield read.hex, read
        elif read is not None and not value.isalnum():  # 20260504 and 10 are numbers
            yield read.isoformat(), read
    if (at_moment := _read(datetime.fromisoformat, value)) is not None and len(value) > len("2026-05-04"):
        yield at_moment.isoformat(), at_moment
        if at_moment.tzinfo is None:
            yield at_moment.replace(tzinfo=UTC).isoformat(), at_moment.replace(tzinfo=UTC)
    if (number := _read(Decimal, value)) is not None and number.is_finite():
        yield str(number), number


def _read(made: Callable[[str], T], value: str) -> T | None:
    try:
        return made(value)
    except (ValueError, ArithmeticError):
        return None


def _no_json(name: str) -> NoReturn:
    raise ValueError(name)


_OF: dict[str, Callable[[str, datetime], Q]] = {
    "name": _name,
    "state": _state,
    "worker": _worker,
    "since": _since,
    "until": _until,
    "error": _error,
    "lost": _lost,
    "resolved": _resolved,
    "hidden": _hidden,
    "replayed": _replayed,
    "settled": _settled,
    "runs": _runs,
    "overlap": _overlap,
    "retries": _retries,
    "took": _took,
}
