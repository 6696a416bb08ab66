"""The past of django-celery-results: its tables of task and group results."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import tzinfo
from typing import Any

from celery_journal.consumers.request import as_bytes

from .past import NOT_OURS, OPEN_CHORD, Decoder, ForeignError, Past, PastTask, Untaken, as_meta, encoded_arguments, group_of, in_zone
from .reprs import args_in, kwargs_in
from .tables import named, rows_of

TASKS, GROUPS = "django_celery_results_taskresult", "django_celery_results_groupresult"

#: Has those chords only that have not ended.
CHORDS = "django_celery_results_chordcounter"


def read(url: str, decoder: Decoder, zone: tzinfo) -> Iterator[Past]:
    """Yield what the tables hold. Arguments are there as what they look like: most often the JSON texts of their reprs."""
    for table, row in rows_of(url, TASKS, GROUPS, CHORDS):
        if table == CHORDS:
            yield Untaken(named(row, "group_id"), OPEN_CHORD)
            continue
        try:
            yield _task(row, decoder, zone) if table == TASKS else _group(row, decoder, zone)
        except ForeignError as exc:
            yield Untaken(named(row, "task_id" if table == TASKS else "group_id"), str(exc))
        except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError, RecursionError) as exc:
            yield Untaken(named(row, "task_id" if table == TASKS else "group_id"), NOT_OURS.format(type(exc).__name__))


def _task(row: dict[str, Any], decoder: Decoder, zone: tzinfo) -> PastTask:
    is_binary = row["content_encoding"] == "binary"
    return PastTask(
        task_id=row["task_id"],
        status=row["status"],
        date_done=in_zone(row["date_done"], zone),
        date_started=in_zone(row.get("date_started"), zone),  # columns that older versions have not
        date_created=in_zone(row.get("date_created"), zone),
        name=row["task_name"] or None,
        periodic_task_name=row.get("periodic_task_name") or None,
        worker=row.get("worker") or None,
        result=_stored(row, "result"),
        content_type=row["content_type"] or None,
        content_encoding=row["content_encoding"] or None,
        traceback=row["traceback"] or None,
        meta=as_meta(decoder.loads(_stored(row, "meta"), *_encoding(row)).get("children"))
        if is_binary and row["meta"]
        else _stored(row, "meta"),
        **_arguments(row, decoder),
    )


def _arguments(row: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
    """Return the arguments, where the texts of the columns say what they were, and else those texts."""
    columns = ("task_args", "task_kwargs")  # which older versions have not
    if row["content_encoding"] != "binary":
        args, kwargs = (row.get(column) or None for column in columns)
        return encoded_arguments(args_in(args), kwargs_in(kwargs))
    stored = [_stored(row, column) for column in columns]
    try:
        args, kwargs = (payload and decoder.loads(payload, *_encoding(row)) for payload in stored)
    except ForeignError:  # whoever reads them may accept them
        return {"args": stored[0], "kwargs": stored[1], "args_content_type": row["content_type"]}
    return encoded_arguments(args_in(args), kwargs_in(kwargs))


def _group(row: dict[str, Any], decoder: Decoder, zone: tzinfo) -> Past:
    if row["result"] is None:
        raise ForeignError("it has no members")
    return group_of(row["group_id"], decoder.loads(_stored(row, "result"), *_encoding(row)), in_zone(row["date_created"], zone))


def _encoding(row: dict[str, Any]) -> tuple[str, str]:
    return row["content_type"], row["content_encoding"]


def _stored(row: dict[str, Any], column: str) -> Any:
    """Return the column as the serializer made it: what is binary stands in a text column as base64."""
    text = row.get(column)
    if not text:
        return None
    return base64.b64decode(text) if row["content_encoding"] == "binary" else as_bytes(text)
