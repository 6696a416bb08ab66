"""The past of Celery's Redis result backend: a key for each task and each saved group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from celery.utils.time import maybe_iso8601
from kombu.serialization import registry

from .past import (
    NOT_OURS,
    OPEN_CHORD,
    Decoder,
    ForeignError,
    Past,
    PastTask,
    Untaken,
    as_meta,
    encoded,
    encoded_arguments,
    group_of,
    in_zone,
)

TASKS, GROUPS = "celery-task-meta-", "celery-taskset-meta-"

#: What the keys of an open chord end with: its size, its parts and their number, who sends its body, that it is done.
_SIZE, _OF_CHORD = ".s", (".s", ".j", ".t", ".c", ".d")

#: How Celery has in its URLs what redis-py calls `none`, `optional` and `required`.
_TLS = re.compile(r"(?<=ssl_cert_reqs=)CERT_(NONE|OPTIONAL|REQUIRED)\b")

#: Keys that are asked for at once.
PAGE = 500


def read(url: str, decoder: Decoder, serializer: str, key_prefix: str = "") -> Iterator[Past]:
    """Yield what the keys hold, as the `serializer` of that backend made it.

    `key_prefix` is its `global_keyprefix`. Raises ForeignError where redis-py is missing, or no Redis answers.
    """
    try:
        import redis
    except ModuleNotFoundError as exc:
        raise ForeignError("reading Redis needs redis-py; run: pip install 'celery[redis]'") from exc

    prefix = key_prefix if not key_prefix or key_prefix[-1] in ":_-." else f"{key_prefix}_"  # as Celery does
    try:
        with redis.Redis.from_url(_TLS.sub(lambda found: found[1].lower(), url)) as client:
            for kind in (TASKS, GROUPS):
                keys = client.scan_iter(match=f"{_literal(prefix + kind)}*", count=PAGE)
                while page := list(islice(keys, PAGE)):
                    for key, payload in zip(page, client.mget(page), strict=True):
                        name = key.decode("utf-8", "surrogateescape").removeprefix(prefix + kind)
                        of_chord = kind == GROUPS and name.endswith(_OF_CHORD) and not name.endswith(_SIZE)
                        if payload is not None and not of_chord:  # None: it has expired meanwhile
                            yield _read(name, kind, payload, decoder, serializer)
    except (TypeError, ValueError) as exc:  # TypeError: for what it does not know in the query of the URL
        if isinstance(exc, ForeignError):
            raise
        raise ForeignError("the URL cannot be read; write it as redis://host:6379/0") from exc
    except redis.RedisError as exc:
        raise ForeignError(f"Redis fails: {str(exc).partition(chr(10))[0]}") from exc


def _read(name: str, kind: str, payload: bytes, decoder: Decoder, serializer: str) -> Past:
    if kind == GROUPS and name.endswith(_SIZE):
        return Untaken(name.removesuffix(_SIZE), OPEN_CHORD)
    try:
        meta = decoder.loads(payload, registry.name_to_type[serializer])
        return _task(name, meta) if kind == TASKS else group_of(name, meta["result"], None)
    except ForeignError as exc:
        return Untaken(name, str(exc))
    except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError, RecursionError) as exc:
        return Untaken(name, NOT_OURS.format(type(exc).__name__))


def _task(task_id: str, meta: dict[str, Any]) -> PastTask:
    result, content_type, content_encoding = encoded(meta["result"])
    stamps = {name: meta.get(name) for name in meta.get("stamped_headers") or ()}
    return PastTask(
        task_id=task_id,
        status=meta["status"],
        date_done=_moment(meta.get("date_done")),
        name=meta.get("name"),  # what result_extended adds
        worker=meta.get("worker"),
        queue=meta.get("queue"),
        retries=meta.get("retries") or 0,
        parent_id=meta.get("parent_id"),
        group_id=meta.get("group_id"),
        result=result,
        content_type=content_type,
        content_encoding=content_encoding,
        traceback=meta.get("traceback"),
        meta=as_meta(meta.get("children"), stamps),
        **encoded_arguments(meta.get("args"), meta.get("kwargs")),
    )


def _moment(written: Any) -> datetime | None:
    moment: datetime | None = maybe_iso8601(written)
    return in_zone(moment)


def _literal(text: str) -> str:
    """Return the text as a pattern of Redis that only it matches."""
    return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in text)
