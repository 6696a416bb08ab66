"""Payloads that cannot be read any more: a serializer that is no longer accepted, or bytes that are not what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads, prepare_accept_content
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.contents import SAFE

from .examination import Finding, Subject

#: Rows that are read at a time, in short statements.
PAGE = 1000


def unreadable(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each task of the view whose result or arguments do not decode."""
    accept = _accepted(subject)
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


def _accepted(subject: Subject) -> dict[str, Any]:
    """Return the content types that results, and arguments, may have: what the app says, or else what makes only plain values."""
    if subject.app is None:
        return {"result": SAFE, "arguments": SAFE}
    conf = subject.app.conf
    given = {"result": conf.result_accept_content or conf.accept_content, "arguments": conf.accept_content}
    return {name: prepare_accept_content(names) for name, names in given.items()}


def _page(subject: Subject, after: str) -> list[dict[str, Any]]:
    with subject.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.query("doctor.sql", "payloads", subject.schema), {"after": after, "page": PAGE}).fetchall()


def _wrong(row: dict[str, Any], accept: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    encoded = [
        ("the result", row["result"], row["content_type"], row["content_encoding"]),
        ("the arguments", row["args"], row["args_content_type"] or "application/json", "utf-8"),
        ("the keyword arguments", row["kwargs"], row["args_content_type"] or "application/json", "utf-8"),
    ]
    for what, payload, content_type, content_encoding in encoded:
        if payload is None or content_type is None:
            continue
        accepted = accept["result" if what == "the result" else "arguments"]
        try:
            loads(payload, content_type=content_type, content_encoding=content_encoding or "utf-8", accept=accepted)
        except ContentDisallowed:
            setting = "result_accept_content or accept_content" if what == "the result" else "accept_content"
            trust = f"add its serializer to {setting}, if you trust whoever can write to the journal"
            yield what, f"{content_type} is not accepted", trust
        except Exception as exc:  # noqa: BLE001  whatever a serializer raises is what is asked for
            why = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else content_type}"
            yield what, why, f"look at it with: celery-journal show {row['task_id']}"
