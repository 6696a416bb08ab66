"""Payloads that cannot be read any more: a serializer that is no longer accepted, or bytes that are not what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kombu.exceptions import ContentDisallowed
from kombu.serialization import prepare_accept_content
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.contents import SAFE, UNOPENED
from celery_journal.consumers.payloads import opened
from celery_journal.consumers.transfer.settled import stream
from celery_journal.journal.codec import DEFAULT_MAX_PAYLOAD_BYTES
from celery_journal.journal.command import command

from .examination import Finding, Subject

#: Rows that are read at a time, in short statements.
PAGE = 1000


def unreadable(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each task of the view whose result or arguments do not decode."""
    accept = _accepted(subject)
    after, wrong, looked_at = "", 0, 0
    page = PAGE
    while page == PAGE:
        page = 0
        for row in _page(subject, after):
            for what, why, advice in _wrong(row, accept):
                wrong += 1
                yield Finding("payloads", "warn", f"{what} of {row['task_id']} cannot be read: {why}", advice)
            page, after = page + 1, row["task_id"]
        looked_at += page
    if not wrong:
        yield Finding("payloads", "ok", f"those of {looked_at:,} tasks can be read")


def _accepted(subject: Subject) -> dict[str, Any]:
    """Return the content types that results, and arguments, may have: what the app says, or else what makes only plain values."""
    if subject.app is None:
        return {"result": SAFE, "arguments": SAFE}
    conf = subject.app.conf
    given = {"result": conf.result_accept_content or conf.accept_content, "arguments": conf.accept_content}
    return {name: prepare_accept_content(names) for name, names in given.items()}


def _page(subject: Subject, after: str) -> Iterator[dict[str, Any]]:
    """Yield the rows one by one: a page of large results need not fit into memory."""
    with subject.connection.cursor(row_factory=dict_row) as cursor:
        yield from stream(cursor, sql.query("doctor.sql", "payloads", subject.schema), {"after": after, "page": PAGE})


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
            if content_type not in UNOPENED:  # by which a few bytes may stand for any number of values
                opened(payload, content_type, content_encoding or "utf-8", accepted, DEFAULT_MAX_PAYLOAD_BYTES)
        except ContentDisallowed:
            setting = "result_accept_content or accept_content" if what == "the result" else "accept_content"
            trust = f"add its serializer to {setting}, if you trust whoever can write to the journal"
            yield what, f"{content_type} is not accepted", trust
        except Exception as exc:  # noqa: BLE001  whatever a serializer raises is what is asked for
            why = f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else content_type}"
            yield what, why, f"look at it with: {command('show')} {row['task_id']}"
