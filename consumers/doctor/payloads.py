"""Payloads that cannot be read any more: a serializer that is no longer accepted, or bytes that are not what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads, prepare_accept_content
from psycopg.rows import dict_row

from celery_journal import sql

from .examination import Finding, Subject

#: Rows that are read at a time, in short statements.
PAGE = 1000


def unreadable(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each task of the view whose result or arguments do not decode."""
    accept = prepare_accept_content(subject.app.conf.accept_content if subject.app is not None else ["json"])
    after, wrong, looked_at = "", 0, 0
    while rows := _page(subject, after):
        for row in rows:
            for what, why, advice in _wrong(row, accept):
                wrong += 1
                yield Finding("payloads", "warn", f"{what} of {row['task_id']} cannot be read: {why}", advice)
        looked_at += len(rows)
        after = rows[-1]["task_id"]
    if not wrong:
        yield Finding("payloads", "ok", f"those of {looked_at:,} tasks can be read")


def _page(subject: Subject, after: str) -> list[dict[str, Any]]:
    with subject.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.query("doctor.sql", "payloads", subject.schema), {"after": after, "page": PAGE}).fetchall()


def _wrong(row: dict[str, Any], accept: Any) -> Iterator[tuple[str, str, str]]:
    encoded = [
        ("the result", row["result"], row["content_type"], row["content_encoding"]),
        ("the arguments", row["args"], row["args_content_type"] or "application/json", "utf-8"),
        ("the keyword arguments", row["kwargs"], row["args_content_type"] or "application/json", "utf-8"),
    ]
    for what, payload, content_type, content_encoding in encoded:
        if payload is None or content_type is None:
            continue
        try:
            loads(payload, content_type=content_type, content_encoding=content_encoding or "utf-8", accept=accept)
        except ContentDisallowed:
            trust = "add its serializer to accept_content, if you trust whoever can write to the journal"
            yield what, f"accept_content does not allow {content_type}", trust
        except Exception as exc:  # noqa: BLE001  whatever a serializer raises is what is asked for
            why = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else content_type}"
            yield what, why, f"look at it with: celery-journal show {row['task_id']}"
