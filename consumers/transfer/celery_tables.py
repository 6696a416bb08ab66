"""The past of Celery's SQLAlchemy result backend: celery_taskmeta and celery_tasksetmeta."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo
from typing import Any

from kombu.serialization import registry

from .past import NOT_OURS, Decoder, ForeignError, Past, PastTask, Untaken, as_meta, encoded, encoded_arguments, group_of, in_zone
from .tables import named, rows_of

TASKS, GROUPS = "celery_taskmeta", "celery_tasksetmeta"


def read(url: str, decoder: Decoder, serializer: str, zone: tzinfo) -> Iterator[Past]:
    """Yield what the tables hold, as the `serializer` of that backend made it, or as pickles where it is older than Celery 5.7."""
    for table, row in rows_of(url, TASKS, GROUPS):
        try:
            yield _task(row, decoder, serializer, zone) if table == TASKS else _group(row, decoder, serializer, zone)
        except ForeignError as exc:
            yield Untaken(named(row, "task_id" if table == TASKS else "taskset_id"), str(exc))
        except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError, RecursionError) as exc:
            yield Untaken(named(row, "task_id" if table == TASKS else "taskset_id"), NOT_OURS.format(type(exc).__name__))


def _task(row: dict[str, Any], decoder: Decoder, serializer: str, zone: tzinfo) -> PastTask:
    result, content_type, content_encoding = (
        encoded(_value(row["result"], decoder, serializer)) if row["result"] is not None else (None,) * 3
    )
    args, kwargs, children, stamps = (_value(row.get(name), decoder, serializer) for name in ("args", "kwargs", "children", "stamps"))
    return PastTask(
        task_id=row["task_id"],
        status=row["status"],
        date_done=in_zone(row["date_done"], zone),
        name=row.get("name"),  # columns of result_extended
        worker=row.get("worker"),
        queue=row.get("queue"),
        retries=row.get("retries") or 0,
        result=result,
        content_type=content_type,
        content_encoding=content_encoding,
        traceback=row["traceback"],
        meta=as_meta(children, stamps.get("stamps") if isinstance(stamps, dict) else None),
        **encoded_arguments(args, kwargs),
    )


def _group(row: dict[str, Any], decoder: Decoder, serializer: str, zone: tzinfo) -> Past:
    value = _value(row["result"], decoder, serializer)
    if value is None:
        raise ForeignError("it has no members")
    return group_of(row["taskset_id"], value.as_tuple() if hasattr(value, "as_tuple") else value, in_zone(row["date_done"], zone))


def _value(payload: Any, decoder: Decoder, serializer: str) -> Any:
    if payload is None:
        return None
    content_type = registry.name_to_type[serializer]
    if isinstance(payload, bytes) and payload[:1] == b"\x80" and serializer != "msgpack":
        content_type = registry.name_to_type["pickle"]  # as SQLAlchemy's PickleType stores it
    return decoder.loads(payload, content_type)
